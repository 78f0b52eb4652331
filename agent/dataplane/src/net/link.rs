//! Links as netlink shows them.

use std::sync::Arc;

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::Net;

/// A link of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: Arc<str>,
    /// MAC address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// A veth.
    pub veth: bool,
    /// Index of the veth's other end, in its own namespace.
    pub peer_index: Option<u32>,
    /// This namespace's id of the namespace that the other end is in; `None` = this one.
    pub peer_namespace: Option<i32>,
    /// Queueing discipline.
    pub qdisc: String,
}

impl Link {
    /// Reads a message of the kernel; `None` if it has no name (never seen, but the protocol allows it).
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: "".into(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            veth: false,
            peer_index: None,
            peer_namespace: None,
            qdisc: String::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name.as_str().into(),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
                LinkAttribute::Qdisc(qdisc) => link.qdisc = qdisc.clone(),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// Packets may be redirected straight to the other end: a veth whose other end is in another namespace, without a queueing
    /// discipline that the redirect would bypass.
    pub fn redirectable(&self) -> bool {
        self.veth && self.peer_namespace.is_some() && (self.qdisc == "noqueue" || self.qdisc == "noop")
    }
}

impl Net {
    /// MAC address of a veth's other end, which may be in another namespace. `None` if it cannot be known.
    pub async fn peer_mac(&self, link: &Link) -> Option<[u8; 6]> {
        let mut request = self.handle.link().get().match_index(link.peer_index?);
        if let Some(namespace) = link.peer_namespace {
            request
                .message_mut()
                .attributes
                .push(LinkAttribute::IfNetnsId(namespace));
        }
        let peer = request.execute().try_next().await.ok()??;
        Link::from_message(&peer)?.mac
    }
}
