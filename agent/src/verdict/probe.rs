//! A packet and the two parties it goes between.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use felid_compile::reference::Packet;
use felid_model::ResourceKey;

/// Addresses of the node itself, where nobody knows others.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
/// See [`HOST_V4`].
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfdfe, 0x1d, 0, 0, 0, 0, 0, 1);

/// Who sends or receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    /// A workload of this node.
    Endpoint {
        /// Its record.
        key: ResourceKey,
        /// Its host-side interface.
        interface: Arc<str>,
    },
    /// Something outside.
    External,
    /// The node itself.
    Host,
}

/// The first packet of a flow.
#[derive(Debug, Clone)]
pub(crate) struct FirstPacket {
    pub(crate) from: Party,
    pub(crate) to: Party,
    pub(crate) packet: Packet,
}
