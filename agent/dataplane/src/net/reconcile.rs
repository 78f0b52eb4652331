//! Routes and static neighbours: desired against actual.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;

use super::{Net, NetError};

/// What an endpoint needs of its host-side interface. Without addresses it is an interface without
/// an endpoint, where all that is felid's goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointNet {
    /// The index of the host-side interface.
    pub ifindex: u32,
    /// The name of that interface, for messages.
    pub interface: Arc<str>,
    /// The workload's addresses, each of which gets a host route.
    pub addresses: Vec<IpAddr>,
    /// Its external addresses, each with the own address that it stands for, by way of which its
    /// route leads.
    pub nats: BTreeMap<IpAddr, IpAddr>,
    /// The workload's MAC address, with which each address gets a permanent neighbour.
    pub mac: Option<[u8; 6]>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// How many routes and neighbours were added or replaced.
    pub added: usize,
    /// How many routes and neighbours were deleted.
    pub deleted: usize,
    /// What failed; the rest was done.
    pub errors: Vec<NetError>,
    /// External addresses, with the addresses that they stand for, whose routes are not there
    /// because others to them are: see [`Net::take_over`].
    pub taken: BTreeMap<IpAddr, IpAddr>,
}

impl Reconciled {
    fn count(&mut self, done: Result<bool, NetError>, deleted: bool) {
        match done {
            Ok(true) if deleted => self.deleted += 1,
            Ok(true) => self.added += 1,
            Ok(false) => {}
            Err(error) => self.errors.push(error),
        }
    }
}

/// What of felid's stands at an interface, or seems to: routes with its protocol number and
/// permanent neighbours.
#[derive(Clone, Debug, Default)]
pub struct Present {
    routes: BTreeMap<IpAddr, RouteMessage>,
    neighbours: BTreeMap<IpAddr, ([u8; 6], NeighbourMessage)>,
}

pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

impl Net {
    /// Reads what stands at every interface, with one dump of routes and one of neighbours for each
    /// family, however many interfaces there are. It fails if netlink does.
    pub async fn present(&self) -> Result<BTreeMap<u32, Present>, NetError> {
        self.list(None).await
    }

    /// Makes the routes and neighbours of one interface what the endpoint needs, as
    /// [`Net::reconcile_from`] does, after reading what is there.
    pub async fn reconcile(&self, desired: &EndpointNet, up: bool) -> Reconciled {
        match self.list(Some(desired)).await {
            Ok(mut present) => {
                let present = present.remove(&desired.ifindex).unwrap_or_default();
                self.reconcile_from(desired, up, present).await
            }
            Err(error) => Reconciled {
                errors: vec![error],
                ..Reconciled::default()
            },
        }
    }

    /// Makes the routes and neighbours of one interface what the endpoint needs, given what is
    /// there. The interface must be up for routes to be accepted; while it is down (`up` false)
    /// they wait for the event that it is up.
    pub async fn reconcile_from(&self, desired: &EndpointNet, up: bool, present: Present) -> Reconciled {
        let mut report = Reconciled::default();
        self.reconcile_routes(desired, up, present.routes, &mut report).await;
        self.reconcile_neighbours(desired, up, present.neighbours, &mut report)
            .await;
        report
    }

    async fn list(&self, only: Option<&EndpointNet>) -> Result<BTreeMap<u32, Present>, NetError> {
        let of = only.map_or_else(String::new, |only| format!(" of {}", only.interface));
        let mut present: BTreeMap<u32, Present> = BTreeMap::new();
        for family in FAMILIES {
            for (index, address, message) in self.routes(&format!("list routes{of}"), only, family).await? {
                present.entry(index).or_default().routes.insert(address, message);
            }
            let what = format!("list neighbours{of}");
            for (index, address, neighbour) in self.permanent_neighbours(&what, only, family).await? {
                present.entry(index).or_default().neighbours.insert(address, neighbour);
            }
        }
        Ok(present)
    }

    async fn dump_or_gone(
        &self,
        what: &str,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        match self.dump(what, request).await {
            Ok(dump) => Ok(dump.messages),
            // The interface is gone, and what is asked for with it.
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn reconcile_routes(
        &self,
        desired: &EndpointNet,
        up: bool,
        mut actual: BTreeMap<IpAddr, RouteMessage>,
        report: &mut Reconciled,
    ) {
        // The workload's own first: the others lead by way of them.
        let own = desired.addresses.iter().map(|address| (*address, None));
        let external = desired
            .nats
            .iter()
            .map(|(external, internal)| (*external, Some(*internal)));
        for (address, via) in own.chain(external).filter(|_| up) {
            let present = actual.remove(&address);
            if present.as_ref().is_some_and(|present| gateway(present) == via) {
                continue;
            }
            // An external address may be anything, the host's gateway included: no route of others
            // makes way for it.
            let replace = via.is_none() || present.is_some();
            match (self.add_route(desired, address, via, replace).await, via) {
                (Err(error), Some(via)) if !replace && error.errno() == Some(libc::EEXIST) => {
                    report.taken.insert(address, via);
                }
                (added, _) => report.count(added, false),
            }
        }
        for (address, message) in actual {
            if !desired.addresses.contains(&address) && !desired.nats.contains_key(&address) {
                let what = format!("delete route {address} dev {}", desired.interface);
                let deleted = self.bounded(what, self.handle().route().del(message).execute());
                report.count(absent(deleted.await, &[libc::ESRCH, libc::ENODEV]), true);
            }
        }
    }

    async fn add_route(
        &self,
        desired: &EndpointNet,
        address: IpAddr,
        via: Option<IpAddr>,
        replace: bool,
    ) -> Result<bool, NetError> {
        let by = via.map_or_else(String::new, |via| format!(" via {via}"));
        let what = format!("add route {address}{by} dev {}", desired.interface);
        let request = self.handle().route().add(self.route(address, via, desired.ifindex));
        let request = if replace { request.replace() } else { request };
        absent(
            self.bounded(what, request.execute()).await,
            &[libc::ENODEV, libc::ENETDOWN],
        )
    }

    /// Replaces the routes of external addresses that have moved to this endpoint: what leads out
    /// of one of these `workloads` (interface indexes) with felid's protocol number is felid's.
    /// What is not felid's is left alone, which is an error. Returns what failed.
    pub async fn take_over(
        &self,
        desired: &EndpointNet,
        taken: &BTreeMap<IpAddr, IpAddr>,
        workloads: &BTreeSet<u32>,
    ) -> Vec<NetError> {
        let mut own = BTreeSet::new();
        for family in FAMILIES {
            if !taken
                .keys()
                .any(|address| address.is_ipv4() == (family == AddressFamily::Inet))
            {
                continue;
            }
            match self.routes("list routes", None, family).await {
                Ok(routes) => {
                    let routes = routes.into_iter().filter(|(index, ..)| workloads.contains(index));
                    own.extend(routes.map(|(_, address, _)| address));
                }
                Err(error) => return vec![error],
            }
        }
        let mut errors = Vec::new();
        for (&address, &via) in taken {
            if own.contains(&address) {
                errors.extend(self.add_route(desired, address, Some(via), true).await.err());
            } else {
                errors.push(NetError::Taken {
                    address,
                    via,
                    interface: desired.interface.clone(),
                });
            }
        }
        errors
    }

    /// Returns an error for each address of an endpoint that the host would send to somewhere else,
    /// although felid's routes are there: by routes of others with a lower metric, or by rules that
    /// lead to other tables. The host is asked where it would send to.
    pub async fn hidden(&self, desired: &EndpointNet) -> Vec<NetError> {
        let mut errors = Vec::new();
        for &address in desired.addresses.iter().chain(desired.nats.keys()) {
            let mut request = RouteMessage::default();
            let (family, whole, destination) = match address {
                IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
                IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
            };
            request.header.address_family = family;
            request.header.destination_prefix_length = whole;
            request.attributes.push(RouteAttribute::Destination(destination));
            let what = format!("ask for the route to {address}");
            // Without an answer there is nothing to say; the next look asks again.
            let Ok(Some(RouteNetlinkMessage::NewRoute(route))) =
                self.ask(&what, &RouteNetlinkMessage::GetRoute(request)).await
            else {
                continue;
            };
            let out = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if out != Some(desired.ifindex) {
                let out = out.map_or_else(|| "nowhere".to_owned(), |index| format!("interface {index}"));
                let interface = desired.interface.clone();
                errors.push(NetError::Hidden {
                    address,
                    interface,
                    out,
                });
            }
        }
        errors
    }

    /// Felid's own routes, with the interface that they lead out of and their destination.
    async fn routes(
        &self,
        what: &str,
        only: Option<&EndpointNet>,
        family: AddressFamily,
    ) -> Result<Vec<(u32, IpAddr, RouteMessage)>, NetError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.protocol = RouteProtocol::from(self.protocol);
        request
            .attributes
            .extend(only.map(|only| RouteAttribute::Oif(only.ifindex)));
        let messages = self
            .dump_or_gone(what, &RouteNetlinkMessage::GetRoute(request))
            .await?
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => Some(message),
                _ => None,
            });
        let whole = if family == AddressFamily::Inet { 32 } else { 128 };
        Ok(messages
            .filter(|message| {
                u8::from(message.header.protocol) == self.protocol
                    && message.header.kind == RouteType::Unicast
                    && message.header.table == RouteHeader::RT_TABLE_MAIN
                    && message.header.destination_prefix_length == whole
            })
            .filter_map(|message| {
                let index = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                })?;
                let destination = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                    _ => None,
                })?;
                Some((index, destination, message))
            })
            .filter(|(index, ..)| only.is_none_or(|only| only.ifindex == *index))
            .collect())
    }

    /// A route to one address. `via`: the next hop, for which the host asks although no route leads
    /// to a network that it is in.
    fn route(&self, address: IpAddr, via: Option<IpAddr>, ifindex: u32) -> RouteMessage {
        let protocol = RouteProtocol::from(self.protocol);
        match (address, via) {
            (IpAddr::V4(address), Some(IpAddr::V4(via))) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .gateway(via)
                .onlink()
                .output_interface(ifindex)
                .protocol(protocol)
                .build(),
            (IpAddr::V6(address), Some(IpAddr::V6(via))) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .gateway(via)
                .onlink()
                .output_interface(ifindex)
                .protocol(protocol)
                .build(),
            (IpAddr::V4(address), _) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .output_interface(ifindex)
                .scope(RouteScope::Link)
                .protocol(protocol)
                .build(),
            (IpAddr::V6(address), _) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
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
        mut actual: BTreeMap<IpAddr, ([u8; 6], NeighbourMessage)>,
        report: &mut Reconciled,
    ) {
        let wanted = |address: &IpAddr| desired.mac.filter(|_| desired.addresses.contains(address));
        for address in desired.addresses.iter().filter(|_| up) {
            let Some(mac) = wanted(address) else { continue };
            if actual.get(address).is_some_and(|(present, _)| *present == mac) {
                continue;
            }
            let request = self
                .handle()
                .neighbours()
                .add(desired.ifindex, *address)
                .link_layer_address(&mac)
                .state(NeighbourState::Permanent)
                .replace();
            let what = format!("add neighbour {address} dev {}", desired.interface);
            let added = self.bounded(what, request.execute()).await;
            report.count(absent(added, &[libc::ENODEV, libc::ENETDOWN]), false);
        }
        actual.retain(|address, _| wanted(address).is_none());
        for (address, (_, message)) in actual {
            let what = format!("delete neighbour {address} dev {}", desired.interface);
            let deleted = self.bounded(what, self.handle().neighbours().del(message).execute());
            report.count(absent(deleted.await, &[libc::ENOENT, libc::ENODEV]), true);
        }
    }

    /// Permanent neighbours, with their interface, address and MAC address.
    async fn permanent_neighbours(
        &self,
        what: &str,
        only: Option<&EndpointNet>,
        family: AddressFamily,
    ) -> Result<Vec<(u32, IpAddr, ([u8; 6], NeighbourMessage))>, NetError> {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        request
            .attributes
            .extend(only.map(|only| NeighbourAttribute::IfIndex(only.ifindex)));
        let messages = self
            .dump_or_gone(what, &RouteNetlinkMessage::GetNeighbour(request))
            .await?
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => Some(message),
                _ => None,
            });
        Ok(messages
            .filter(|message| message.header.state == NeighbourState::Permanent)
            .filter(|message| only.is_none_or(|only| only.ifindex == message.header.ifindex))
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
                Some((message.header.ifindex, address, (mac, message)))
            })
            .collect())
    }
}

/// The next hop of a route.
fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })
}

/// Whether it was done; `false` for answers that only say that the thing, or its interface, is not
/// there (any more).
pub(super) fn absent(done: Result<(), NetError>, harmless: &[i32]) -> Result<bool, NetError> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| harmless.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}
