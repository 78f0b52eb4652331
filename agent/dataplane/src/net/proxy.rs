//! Proxy neighbours: addresses that the host answers ARP and neighbour discovery for, although they
//! are a workload's.
//!
//! Entries carry a protocol number of felid's own, by which it knows them again; those of others
//! are left alone: to add what is there already makes it felid's without a word from the kernel, so
//! that whose an entry is has to be known before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::reconcile::{FAMILIES, absent};
use super::{Net, NetError};

/// Marks felid's entries (NDA_PROTOCOL). No routing daemon has this number.
const PROTOCOL: u8 = 254;

/// An address that the host answers ARP and neighbour discovery for, and the index of the interface
/// on which it does.
pub type Proxy = (u32, IpAddr);

/// What there is.
#[derive(Debug, Default)]
struct Entries {
    own: BTreeSet<Proxy>,
    /// Those of others. Index 0 = on every interface.
    foreign: BTreeSet<Proxy>,
}

impl Net {
    /// Returns the networks that the host's interfaces are in, with the index of the interface. It
    /// fails if netlink does.
    pub async fn connected(&self) -> Result<Vec<(u32, IpNet)>, NetError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let listed = self.dump("list addresses", &request).await?;
        let network = |message: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                return None;
            };
            // On point-to-point links this is the other end's address, which the prefix belongs to.
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })?;
            let net = IpNet::new(address, message.header.prefix_len).ok()?;
            Some((message.header.index, net.trunc()))
        };
        if !listed.whole {
            return Err(NetError::Interrupted { what: "list addresses" });
        }
        Ok(listed.messages.into_iter().filter_map(network).collect())
    }

    /// Makes felid's entries these, on every interface, except where others have entries that do
    /// the same. Returns what failed, by the index of the interface.
    pub async fn follow_proxies(&self, desired: &BTreeSet<Proxy>) -> Vec<(u32, NetError)> {
        let Entries { own, foreign } = match self.proxies().await {
            Ok(entries) => entries,
            Err(error) => return vec![(0, error)],
        };
        let mut errors = Vec::new();
        for &(index, address) in own.difference(desired) {
            let request = self.handle().neighbours().del(message(index, address));
            let what = format!("delete proxy neighbour {address}");
            let deleted = self.bounded(what, request.execute()).await;
            let done = absent(deleted, &[libc::ENOENT, libc::ENODEV]);
            errors.extend(done.err().map(|error| (index, error)));
        }
        for &(index, address) in desired.difference(&own) {
            if foreign.contains(&(index, address)) || foreign.contains(&(0, address)) {
                continue;
            }
            let mut request = self.handle().neighbours().add(index, address);
            *request.message_mut() = message(index, address);
            let what = format!("add proxy neighbour {address}");
            let added = self.bounded(what, request.execute()).await;
            let done = absent(added, &[libc::EEXIST, libc::ENODEV]);
            errors.extend(done.err().map(|error| (index, error)));
        }
        errors
    }

    /// Sets the sysctls of an interface that answers for others. Returns what failed.
    pub fn configure_proxy(&self, interface: &str) -> Vec<NetError> {
        self.sysctls.proxy(interface)
    }

    async fn proxies(&self) -> Result<Entries, NetError> {
        const WHAT: &str = "list proxy neighbours";
        let mut entries = Entries::default();
        for family in FAMILIES {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            request.header.flags = NeighbourFlags::Proxy;
            let listed = self.dump(WHAT, &RouteNetlinkMessage::GetNeighbour(request)).await?;
            if !listed.whole {
                return Err(NetError::Interrupted { what: WHAT });
            }
            for (entry, is_own) in listed.messages.iter().filter_map(entry) {
                if is_own {
                    entries.own.insert(entry);
                } else {
                    entries.foreign.insert(entry);
                }
            }
        }
        Ok(entries)
    }
}

/// An entry, and whether it is felid's.
fn entry(message: &RouteNetlinkMessage) -> Option<(Proxy, bool)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if !message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let is_own = message.attributes.iter().any(
        |attribute| matches!(attribute, NeighbourAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL),
    );
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    Some(((message.header.ifindex, address), is_own))
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Proxy;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message
}
