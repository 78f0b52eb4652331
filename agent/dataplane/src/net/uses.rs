//! Addresses that the host itself needs where they are: a record must not lead them to a workload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_compile::nat::HostUse;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};

use super::reconcile::FAMILIES;
use super::{Net, NetError};

/// Where resolvers stand: the file that programs read, and systemd-resolved's, which names what is
/// behind its own address.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// The routing table of the host's own addresses (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u8 = 255;
/// Where Kubernetes says the address of its API server to every container.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

impl Net {
    /// Returns the addresses that the host sends to, and what for: next hops of its routes,
    /// neighbours that it talks to now, its resolvers, and the API server. Neighbours and next hops
    /// at these `workloads` (interface indexes) do not count.
    pub async fn host_uses(&self, workloads: &BTreeSet<u32>) -> Result<BTreeMap<IpAddr, HostUse>, NetError> {
        let mut uses = BTreeMap::new();
        for family in FAMILIES {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let neighbours = self
                .dump("list neighbours", &RouteNetlinkMessage::GetNeighbour(request))
                .await?;
            let talked_to = neighbours.messages.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_in_use(neighbour, workloads),
                _ => None,
            });
            uses.extend(talked_to.map(|address| (address, HostUse::Neighbour)));
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let routes = self
                .dump("list routes", &RouteNetlinkMessage::GetRoute(request))
                .await?;
            for message in &routes.messages {
                if let RouteNetlinkMessage::NewRoute(route) = message
                    && route.header.table != LOCAL_TABLE
                {
                    uses.extend(
                        next_hops(route, workloads)
                            .into_iter()
                            .map(|hop| (hop, HostUse::NextHop)),
                    );
                }
            }
        }
        for file in RESOLVERS {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            uses.extend(resolvers(&text).map(|address| (address, HostUse::Resolver)));
        }
        let server = std::env::var(API_SERVER).ok().and_then(|address| address.parse().ok());
        uses.extend(server.map(|address| (address, HostUse::ApiServer)));
        Ok(uses)
    }
}

/// The address of a neighbour that has answered lately, or is being asked after it had. One that
/// was only heard of does not count: an external address that moves between hosts leaves such
/// entries behind.
fn neighbour_in_use(neighbour: &NeighbourMessage, workloads: &BTreeSet<u32>) -> Option<IpAddr> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable};
    let in_use = matches!(neighbour.header.state, Reachable | Delay | Probe | Permanent);
    if !in_use || workloads.contains(&neighbour.header.ifindex) {
        return None;
    }
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })
}

/// The next hops of a route that leads somewhere else than to a workload.
fn next_hops(route: &RouteMessage, workloads: &BTreeSet<u32>) -> Vec<IpAddr> {
    let out = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    if out.is_some_and(|index| workloads.contains(&index)) {
        return Vec::new();
    }
    let mut hops: Vec<IpAddr> = route.attributes.iter().filter_map(hop).collect();
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(paths) = attribute {
            let elsewhere = paths.iter().filter(|path| !workloads.contains(&path.interface_index));
            hops.extend(elsewhere.flat_map(|path| path.attributes.iter().filter_map(hop)));
        }
    }
    hops
}

fn hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some((*address).into())
        }
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        _ => None,
    }
}

/// Addresses of the lines `nameserver`, without the zone of a link-local one.
fn resolvers(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and_then(|_| words.next())?;
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read() {
        let text = "# nameserver 10.0.0.1\nsearch example.org\nnameserver 10.0.0.2\n nameserver\t2001:db8::53  \nnameserver fe80::1%eth0\nnameserver x\n";
        let found: Vec<String> = resolvers(text).map(|address| address.to_string()).collect();
        assert_eq!(found, ["10.0.0.2", "2001:db8::53", "fe80::1"]);
    }
}
