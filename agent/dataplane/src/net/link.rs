//! Links as netlink shows them.

use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp};

use super::{Net, NetError};

/// A link of the host's network namespace, as netlink tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The index of the interface.
    pub index: u32,
    /// The name of the interface.
    pub name: Arc<str>,
    /// The MAC address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub lower_up: bool,
    /// Whether it carries Ethernet frames.
    pub is_ethernet: bool,
    /// The id of an XDP program that somebody else has attached.
    pub xdp: Option<u32>,
    /// Whether another link, such as a bridge, is its master.
    pub has_master: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// The index of the veth's other end, in that end's own namespace.
    pub peer_index: Option<u32>,
    /// This namespace's id of the namespace that the other end is in; `None` if it is this one.
    pub peer_namespace: Option<i32>,
    /// The name of its queueing discipline.
    pub qdisc: String,
}

impl Link {
    /// Reads a message of the kernel; `None` if it has no name (never seen, but the protocol allows
    /// it).
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: "".into(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            lower_up: message.header.flags.contains(LinkFlags::LowerUp),
            is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            xdp: None,
            has_master: false,
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
                LinkAttribute::Controller(index) => link.has_master = *index != 0,
                LinkAttribute::Xdp(xdp) => {
                    link.xdp = xdp.iter().find_map(|part| match part {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                LinkAttribute::Qdisc(qdisc) => link.qdisc = qdisc.clone(),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// Returns whether packets may be redirected straight to the other end: it is a veth whose
    /// other end is in another namespace, without a queueing discipline that the redirect would
    /// bypass.
    pub fn redirectable(&self) -> bool {
        self.veth && self.peer_namespace.is_some() && (self.qdisc == "noqueue" || self.qdisc == "noop")
    }
}

/// The links of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// The links that the kernel listed.
    pub list: Vec<Link>,
    /// Whether the list is whole: a link that was there all the time cannot be missing.
    pub whole: bool,
}

impl Net {
    /// Lists every link of the namespace. It fails if netlink does.
    pub async fn links(&self) -> Result<Links, NetError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let dump = self.dump("list links", &request).await?;
        Ok(Links {
            list: dump.messages.iter().filter_map(link).collect(),
            whole: dump.whole,
        })
    }

    /// Returns the link with this index, or `None` if there is none. It fails if netlink does.
    pub async fn link(&self, index: u32) -> Result<Option<Link>, NetError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let request = RouteNetlinkMessage::GetLink(request);
        let answer = self.ask(&format!("look at link {index}"), &request).await?;
        Ok(answer.as_ref().and_then(link))
    }

    /// Returns a veth's other end, which may be in another namespace, or `None` if it cannot be
    /// known.
    pub async fn other_end(&self, link: &Link) -> Option<Link> {
        let mut request = LinkMessage::default();
        request.header.index = link.peer_index?;
        request
            .attributes
            .extend(link.peer_namespace.map(LinkAttribute::IfNetnsId));
        let request = RouteNetlinkMessage::GetLink(request);
        let what = format!("look at the other end of {}", link.name);
        let answer = self.ask(&what, &request).await.ok()??;
        self::link(&answer)
    }
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Link::from_message(message),
        _ => None,
    }
}
