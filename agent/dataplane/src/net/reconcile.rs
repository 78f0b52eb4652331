//! Routes and static neighbours: desired against actual.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Net, NetError};

/// What an endpoint needs of its host-side interface. Empty addresses = an interface without an endpoint: everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointNet {
    /// Index of the host-side interface.
    pub ifindex: u32,
    /// Its name, for messages.
    pub interface: Arc<str>,
    /// The workload's addresses: a host route for each.
    pub addresses: Vec<IpAddr>,
    /// The workload's MAC address: a permanent neighbour for each address.
    pub mac: Option<[u8; 6]>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Report {
    /// Routes and neighbours added or replaced.
    pub added: usize,
    /// Routes and neighbours deleted.
    pub deleted: usize,
    /// What failed; the rest was done.
    pub errors: Vec<NetError>,
}

impl Report {
    fn count(&mut self, done: Result<bool, NetError>, deleted: bool) {
        match done {
            Ok(true) if deleted => self.deleted += 1,
            Ok(true) => self.added += 1,
            Ok(false) => {}
            Err(error) => self.errors.push(error),
        }
    }
}

impl Net {
    /// Makes the routes and neighbours of one interface what the endpoint needs. The interface must be up for routes to be accepted;
    /// while it is down (`up` false) they wait for the event that it is up.
    pub async fn reconcile(&self, desired: &EndpointNet, up: bool) -> Report {
        let mut report = Report::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if let Err(error) = self.reconcile_routes(desired, up, family, &mut report).await {
                report.errors.push(error);
            }
            if let Err(error) = self.reconcile_neighbours(desired, up, family, &mut report).await {
                report.errors.push(error);
            }
        }
        report
    }

    async fn reconcile_routes(
        &self,
        desired: &EndpointNet,
        up: bool,
        family: AddressFamily,
        report: &mut Report,
    ) -> Result<(), NetError> {
        let mut actual = self.routes(desired, family).await?;
        for address in addresses(desired, family).filter(|_| up) {
            if actual.remove(&address).is_none() {
                let route = self.route(address, desired.ifindex);
                let added = self.handle.route().add(route).replace().execute().await;
                report.count(
                    absent(
                        added,
                        format!("add route {address} dev {}", desired.interface),
                        &[libc::ENODEV, libc::ENETDOWN],
                    ),
                    false,
                );
            }
        }
        let wanted: Vec<_> = addresses(desired, family).collect();
        for (address, message) in actual {
            if !wanted.contains(&address) {
                let deleted = self.handle.route().del(message).execute().await;
                let what = format!("delete route {address} dev {}", desired.interface);
                report.count(absent(deleted, what, &[libc::ESRCH, libc::ENODEV]), true);
            }
        }
        Ok(())
    }

    /// Felid's own routes out of an interface, by destination.
    async fn routes(
        &self,
        desired: &EndpointNet,
        family: AddressFamily,
    ) -> Result<BTreeMap<IpAddr, RouteMessage>, NetError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.attributes.push(RouteAttribute::Oif(desired.ifindex));
        let listed: Result<Vec<_>, _> = self.handle.route().get(request).execute().try_collect().await;
        let what = format!("list routes of {}", desired.interface);
        let messages = match listed.map_err(NetError::netlink(what)) {
            // The interface is gone, and its routes with it.
            Err(error) if error.errno() == Some(libc::ENODEV) => Vec::new(),
            other => other?,
        };
        Ok(messages
            .into_iter()
            .filter(|message| {
                u8::from(message.header.protocol) == self.protocol && message.header.kind == RouteType::Unicast
            })
            .filter(|message| message.attributes.contains(&RouteAttribute::Oif(desired.ifindex)))
            .filter_map(|message| {
                let destination = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                    _ => None,
                });
                let whole =
                    message.header.destination_prefix_length == if family == AddressFamily::Inet { 32 } else { 128 };
                destination.filter(|_| whole).map(|destination| (destination, message))
            })
            .collect())
    }

    fn route(&self, address: IpAddr, ifindex: u32) -> RouteMessage {
        let protocol = RouteProtocol::from(self.protocol);
        match address {
            IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .output_interface(ifindex)
                .scope(RouteScope::Link)
                .protocol(protocol)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .output_interface(ifindex)
                .protocol(protocol)
                .build(),
        }
    }

    async fn reconcile_neighbours(
        &self,
        desired: &EndpointNet,
        up: bool,
        family: AddressFamily,
        report: &mut Report,
    ) -> Result<(), NetError> {
        let mut actual = self.permanent_neighbours(desired, family).await?;
        let mut wanted: BTreeMap<IpAddr, [u8; 6]> = BTreeMap::new();
        if let Some(mac) = desired.mac {
            wanted.extend(addresses(desired, family).map(|address| (address, mac)));
        }
        for (address, mac) in wanted.iter().filter(|_| up) {
            if actual.get(address).is_some_and(|(present, _)| present == mac) {
                continue;
            }
            let added = self
                .handle
                .neighbours()
                .add(desired.ifindex, *address)
                .link_layer_address(mac)
                .state(NeighbourState::Permanent)
                .replace()
                .execute()
                .await;
            let what = format!("add neighbour {address} dev {}", desired.interface);
            report.count(absent(added, what, &[libc::ENODEV, libc::ENETDOWN]), false);
        }
        actual.retain(|address, _| !wanted.contains_key(address));
        for (address, (_, message)) in actual {
            let deleted = self.handle.neighbours().del(message).execute().await;
            let what = format!("delete neighbour {address} dev {}", desired.interface);
            report.count(absent(deleted, what, &[libc::ENOENT, libc::ENODEV]), true);
        }
        Ok(())
    }

    async fn permanent_neighbours(
        &self,
        desired: &EndpointNet,
        family: AddressFamily,
    ) -> Result<BTreeMap<IpAddr, ([u8; 6], NeighbourMessage)>, NetError> {
        let mut request = self.handle.neighbours().get().set_address_family(family);
        request
            .message_mut()
            .attributes
            .push(NeighbourAttribute::IfIndex(desired.ifindex));
        let listed: Result<Vec<_>, _> = request.execute().try_collect().await;
        let what = format!("list neighbours of {}", desired.interface);
        let messages = match listed.map_err(NetError::netlink(what)) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Vec::new(),
            other => other?,
        };
        Ok(messages
            .into_iter()
            .filter(|message| {
                message.header.ifindex == desired.ifindex && message.header.state == NeighbourState::Permanent
            })
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                    _ => None,
                })?;
                let mac = message.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                    _ => None,
                })?;
                Some((address, (mac, message)))
            })
            .collect())
    }
}

fn addresses(desired: &EndpointNet, family: AddressFamily) -> impl Iterator<Item = IpAddr> + '_ {
    desired
        .addresses
        .iter()
        .copied()
        .filter(move |address| address.is_ipv4() == (family == AddressFamily::Inet))
}

/// Whether it was done; `false` for answers that only say that the thing, or its interface, is not there (any more).
fn absent(done: Result<(), rtnetlink::Error>, what: String, harmless: &[i32]) -> Result<bool, NetError> {
    match done.map_err(NetError::netlink(what)) {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| harmless.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}
