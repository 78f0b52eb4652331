//! The host's side of routing: links, addresses, routes, static neighbours and sysctls, all through rtnetlink and one sysctl module.
//!
//! In: what each local endpoint needs of its host-side interface ([`EndpointNet`]). Out: links and the host's own addresses as they
//! are ([`Link`], [`Net::host_addresses`]), and [`Event`]s when they change. Only routes with felid's protocol number and permanent
//! neighbours on managed interfaces are ever deleted; everything else on the host is left alone.

mod link;
mod reconcile;
mod sysctl;
mod watch;

pub use link::Link;
pub use reconcile::{EndpointNet, Report};
pub use sysctl::Sysctls;
pub use watch::{Event, Events};

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::Handle;

/// What can go wrong between felid and the host's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The netlink socket cannot be opened.
    #[error("cannot open a route netlink socket: {0}")]
    Open(#[source] std::io::Error),
    /// A request failed.
    #[error("{what}: {source}")]
    Netlink {
        /// What felid wanted.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A sysctl cannot be read or written.
    #[error("sysctl {path} = {value}: {source}{hint}")]
    Sysctl {
        /// Its file.
        path: String,
        /// Wanted value.
        value: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
        /// What to do about it, if that is known.
        hint: &'static str,
    },
}

impl NetError {
    fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| NetError::Netlink { what, source }
    }

    /// The errno of a netlink answer, as a positive number.
    fn errno(&self) -> Option<i32> {
        match self {
            NetError::Netlink {
                source: rtnetlink::Error::NetlinkError(message),
                ..
            } => message.code.map(|code| -code.get()),
            _ => None,
        }
    }
}

/// A connection to the network configuration of the namespace that the calling thread is in.
#[derive(Clone, Debug)]
pub struct Net {
    handle: Handle,
    protocol: u8,
    sysctls: Sysctls,
}

impl Net {
    /// Opens the connection and the stream of events; must be called within a tokio runtime. `protocol` marks felid's routes
    /// (Felix's `deviceRouteProtocol`, 3 by default).
    pub fn open(protocol: u8) -> Result<(Self, Events), NetError> {
        // With strict checking the kernel filters dumps by interface.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(NetError::Open)?;
        tokio::spawn(connection);
        let events = Events::open()?;
        Ok((
            Self {
                handle,
                protocol,
                sysctls: Sysctls::default(),
            },
            events,
        ))
    }

    /// Every link of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetError::netlink("list links"))?;
        Ok(messages.iter().filter_map(Link::from_message).collect())
    }

    /// Addresses of the host itself, on any of its links.
    pub async fn host_addresses(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetError::netlink("list addresses"))?;
        // On point-to-point links IFA_ADDRESS is the other end's; IFA_LOCAL is the host's wherever it is there.
        Ok(messages
            .iter()
            .filter_map(|message| {
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                local.or_else(|| {
                    message.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
                })
            })
            .collect())
    }

    /// Lets the host forward between workloads and the world, as Felix does at start-up.
    pub fn enable_forwarding(&self) -> Vec<NetError> {
        self.sysctls.host()
    }

    /// Sysctls of a workload's host-side interface.
    pub fn configure_interface(&self, name: &str) -> Vec<NetError> {
        self.sysctls.interface(name)
    }
}
