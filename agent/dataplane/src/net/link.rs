//! Links as netlink shows them.

use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Net, NetError};

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
    /// It has a carrier.
    pub lower_up: bool,
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
            lower_up: message.header.flags.contains(LinkFlags::LowerUp),
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

/// The links of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// As they are.
    pub list: Vec<Link>,
    /// Whether none can be missing that was there all the time.
    pub whole: bool,
}

impl Net {
    /// Every link of the namespace.
    pub async fn links(&self) -> Result<Links, NetError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let dump = self.dump("list links", &request).await?;
        Ok(Links {
            list: dump.messages.iter().filter_map(link).collect(),
            whole: dump.whole,
        })
    }

    /// The link with this index; `None` = there is none.
    pub async fn link(&self, index: u32) -> Result<Option<Link>, NetError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let request = RouteNetlinkMessage::GetLink(request);
        let answer = self.ask(&format!("look at link {index}"), &request).await?;
        Ok(answer.as_ref().and_then(link))
    }

    /// MAC address of a veth's other end, which may be in another namespace. `None` if it cannot be known.
    pub async fn peer_mac(&self, link: &Link) -> Option<[u8; 6]> {
        let mut request = LinkMessage::default();
        request.header.index = link.peer_index?;
        request
            .attributes
            .extend(link.peer_namespace.map(LinkAttribute::IfNetnsId));
        let request = RouteNetlinkMessage::GetLink(request);
        let what = format!("look at the other end of {}", link.name);
        let answer = self.ask(&what, &request).await.ok()??;
        self::link(&answer)?.mac
    }
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Link::from_message(message),
        _ => None,
    }
}
