//! What changed on the host, as the kernel tells it.

use std::net::IpAddr;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::{AsyncSocket, SocketAddr};

use super::{Link, NetError};

/// Something on the host has changed, or has to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This link is new, or has changed.
    Link(Link),
    /// The link with this index is gone.
    LinkGone(u32),
    /// Addresses of the host have changed, and have to be listed again.
    Addresses,
    /// A route out of the interface with this index came, went away or changed. It leads to this
    /// address, if it leads to one alone.
    Routes(u32, Option<IpAddr>),
    /// Queueing disciplines or filters of the interface with this index have changed.
    Traffic(u32),
    /// Interfaces still wait to be looked at. This comes from the dataplane itself and not from the
    /// kernel.
    Backlog,
    /// It is time to look whether somebody has undone something. This comes from the dataplane
    /// itself and not from the kernel.
    Guard,
    /// Events were lost, and everything has to be looked at again.
    Resync,
}

/// The stream of what netlink tells of the host.
#[derive(Debug)]
pub struct Events {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

/// A burst of thousands of link changes must fit; the kernel caps it at `rmem_max` unless forced,
/// which root may.
const RECEIVE_BUFFER: usize = 8 << 20;

impl Events {
    pub(super) fn open() -> Result<Self, NetError> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Tc,
        ])
        .map_err(NetError::Open)?;
        // A smaller buffer only means that Resync comes sooner.
        if let Err(error) = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER) {
            tracing::debug!(%error, "netlink receive buffer stays at its default");
        }
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// Waits for the next event; `None` says that the socket is closed.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.messages.next().await?;
            if let Some(event) = translate(message.payload) {
                return Some(event);
            }
        }
    }

    /// Returns an event that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        while let Ok((message, _)) = self.messages.try_recv() {
            if let Some(event) = translate(message.payload) {
                return Some(event);
            }
        }
        None
    }
}

/// The destination of a route that leads to one address alone.
fn only_destination(route: &RouteMessage) -> Option<IpAddr> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let whole = if destination.is_ipv4() { 32 } else { 128 };
    (route.header.destination_prefix_length == whole).then_some(destination)
}

fn translate(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    match payload {
        // The bridge speaks of its ports in the same group: a port that leaves it is not gone, and
        // half of what a link is stays unsaid.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message))
            if message.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
            Link::from_message(&message).map(Event::Link)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
            Some(Event::LinkGone(message.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
            Some(Event::Addresses)
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message),
        ) => message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(Event::Routes(*index, only_destination(&message))),
            _ => None,
        }),
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewQueueDiscipline(message)
            | RouteNetlinkMessage::DelQueueDiscipline(message)
            | RouteNetlinkMessage::NewTrafficFilter(message)
            | RouteNetlinkMessage::DelTrafficFilter(message),
        ) => Some(Event::Traffic(message.header.index.cast_unsigned())),
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(Event::Resync),
        _ => None,
    }
}
