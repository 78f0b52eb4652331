//! Looking at the host: what came of an event, and everything again.
//!
//! The kernel half is told of all interfaces at once, since closing must not wait. The rest (other ends, sysctls, routes,
//! neighbours) is worked off a few interfaces at a time, so that hundreds of them do not hold up changes of policy.

use std::collections::{BTreeMap, BTreeSet};

use super::{Dataplane, DataplaneError, Handled, OtherEnd, Wanted};
use crate::error::KernelError;
use crate::link::{LinkState, Peer};
use crate::net::{EndpointNet, Event, Link, NetError, Present, Report};

/// Interfaces that are worked off in one go.
const AT_ONCE: usize = 16;
/// Interfaces from which on one list of everything costs less than a list for each.
const MANY: usize = 4;

/// What a burst of events asks for.
#[derive(Default)]
struct Burst {
    /// Links that are new, or not as they were.
    changed: BTreeSet<u32>,
    /// Interfaces to reconcile.
    dirty: BTreeSet<u32>,
    /// Links that are gone or renamed, if the events are not older than what is known already: the kernel has to say so.
    suspect: BTreeSet<u32>,
    /// Interfaces whose traffic control changed.
    traffic: BTreeSet<u32>,
    addresses: bool,
    /// A link that is no workload's is not as it was: the kernel drops the proxy neighbours of one that goes down.
    uplinks: bool,
    backlog: bool,
    resync: bool,
}

impl Dataplane {
    /// The next thing that changed on the host, or is still to be looked at; `None` when netlink is closed.
    pub async fn event(&mut self) -> Option<Event> {
        if !self.backlog.is_empty() {
            return Some(Event::Backlog);
        }
        self.events.next().await
    }

    /// Acts on an event, and on those that have come meanwhile.
    pub async fn handle(&mut self, event: Event) -> Handled {
        let mut handled = Handled::default();
        let mut burst = Burst {
            suspect: std::mem::take(&mut self.suspect),
            ..Burst::default()
        };
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Link(link) => self.take_link(link, &mut burst),
                Event::LinkGone(index) => {
                    burst.suspect.insert(index);
                }
                Event::Addresses => burst.addresses = true,
                Event::Routes(index) => {
                    if self.managed.contains(&index) {
                        burst.dirty.insert(index);
                    }
                }
                Event::Traffic(index) => {
                    burst.traffic.insert(index);
                }
                Event::Backlog => burst.backlog = true,
                Event::Resync => burst.resync = true,
            }
            next = self.events.try_next();
        }
        if burst.resync {
            return self.refresh().await;
        }
        self.verify(&mut burst, &mut handled).await;
        // Closing comes first; other ends are asked for afterwards.
        handled.errors.extend(self.tell_kernel(&burst.changed));
        let told = std::mem::take(&mut burst.changed);
        self.find_traffic(&mut burst, &mut handled).await;
        // A link that was asked about may have another name by now.
        self.verify(&mut burst, &mut handled).await;
        let mut found = self.find_peers(&(&told | &burst.changed)).await;
        found.append(&mut burst.changed);
        handled.errors.extend(self.tell_kernel(&found));
        if burst.addresses {
            self.refresh_addresses(&mut handled).await;
        }
        if burst.addresses || burst.uplinks {
            handled.errors.extend(self.announce().await);
        }
        handled.errors.extend(self.reconcile(burst.dirty).await);
        if burst.backlog {
            handled.errors.extend(self.work_off().await);
        }
        handled
    }

    fn take_link(&mut self, link: Link, burst: &mut Burst) {
        let index = link.index;
        let concerns = self.concerns(&link) || self.links.get(&index).is_some_and(|old| self.concerns(old));
        let name = link.name.clone();
        let carrier = link.lower_up;
        let old = self.links.insert(index, link);
        let same = old.as_ref() == self.links.get(&index);
        burst.uplinks |= !concerns && !same;
        // What a workload's other end comes and goes with changes nothing here.
        let old = old.map(|old| Link {
            lower_up: carrier,
            ..old
        });
        if old.as_ref() == self.links.get(&index) {
            return;
        }
        burst.changed.insert(index);
        burst.dirty.extend(concerns.then_some(index));
        if let Some(old) = old {
            // A problem is told by the name that the interface has.
            self.problems.remove(&old.name);
            if old.name != name {
                burst.suspect.insert(index);
            }
        }
    }

    /// Asks the kernel about links that are said to be gone or renamed. An event may be older than what was listed since, and the
    /// index may be another link's by now. What cannot be asked stays as it is, and is asked about again with the next event.
    async fn verify(&mut self, burst: &mut Burst, handled: &mut Handled) {
        for index in std::mem::take(&mut burst.suspect) {
            match self.net.link(index).await {
                Ok(Some(link)) => {
                    let concerns = self.concerns(&link);
                    self.take_link(link, burst);
                    // Even if it looks as before it may be another one, with none of felid's programs.
                    burst.changed.insert(index);
                    burst.dirty.extend(concerns.then_some(index));
                }
                Ok(None) => {
                    burst.changed.remove(&index);
                    burst.dirty.remove(&index);
                    self.forget_link(index);
                    let errors = self.kernel.link_gone(index);
                    handled.errors.extend(errors.into_iter().map(DataplaneError::from));
                }
                Err(error) => {
                    self.suspect.insert(index);
                    handled.errors.push(error.into());
                }
            }
        }
        burst.suspect.clear();
    }

    fn forget_link(&mut self, index: u32) {
        if let Some(old) = self.links.remove(&index) {
            self.problems.remove(&old.name);
        }
        self.peers.remove(&index);
        self.classifiers.remove(&index);
        self.managed.remove(&index);
        self.backlog.remove(&index);
    }

    /// Other prefixes of workload interfaces from now on: interfaces that have become unknown are closed, others let go.
    pub async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Handled {
        self.prefixes.clone_from(&prefixes);
        let errors: Vec<KernelError> = self.kernel.set_interface_prefixes(prefixes);
        let mut handled = self.refresh().await;
        handled.errors.extend(errors.into_iter().map(DataplaneError::from));
        handled
    }

    /// Looks at everything again: links, addresses, sysctls, routes and neighbours. What concerns single interfaces beside their
    /// programs follows with [`Event::Backlog`].
    pub async fn refresh(&mut self) -> Handled {
        let mut handled = Handled::default();
        handled
            .errors
            .extend(self.net.enable_forwarding().into_iter().map(DataplaneError::from));
        match self.list_links(&mut handled).await {
            Ok(links) => {
                // Those that are gone are not in the list, and of the others' programs the kernel half makes sure.
                self.suspect.clear();
                self.links = links;
                let there = |index: &u32| self.links.contains_key(index);
                self.peers.retain(|index, _| there(index));
                self.managed.retain(there);
                match self.net.classifiers(None).await {
                    Ok(classifiers) => self.classifiers = classifiers,
                    Err(error) => handled.errors.push(error.into()),
                }
                // Closing what is unknown comes before finding out about other ends.
                let states = self.links.values().map(|link| self.state(link)).collect();
                let errors = self.kernel.set_links(states);
                handled.errors.extend(errors.into_iter().map(DataplaneError::from));
                let names: BTreeSet<_> = self.links.values().map(|link| link.name.clone()).collect();
                self.problems.retain(|name, _| names.contains(name));
            }
            Err(error) => handled.errors.push(error.into()),
        }
        self.refresh_addresses(&mut handled).await;
        match self.net.present().await {
            Ok(mut present) => {
                let concerned = self.links.values().filter(|link| self.concerns(link));
                self.backlog = concerned
                    .map(|link| (link.index, present.remove(&link.index).unwrap_or_default()))
                    .collect();
            }
            Err(error) => handled.errors.push(error.into()),
        }
        handled.errors.extend(self.announce().await);
        handled
    }

    /// Every link. Those that were known, or have programs of ours, and are not in the list are asked for one by one: a list that was
    /// interrupted may lack what is there, and a live interface must not lose its programs over that.
    async fn list_links(&self, handled: &mut Handled) -> Result<BTreeMap<u32, Link>, NetError> {
        let listed = self.net.links().await?;
        let mut links: BTreeMap<u32, Link> = listed.list.into_iter().map(|link| (link.index, link)).collect();
        if !listed.whole {
            handled.errors.push(NetError::Interrupted { what: "list links" }.into());
        }
        let known: BTreeSet<u32> = self
            .links
            .keys()
            .copied()
            .chain(self.kernel.roles().into_keys())
            .collect();
        for index in known {
            if !links.contains_key(&index)
                && let Some(link) = self.net.link(index).await?
            {
                links.insert(index, link);
            }
        }
        Ok(links)
    }

    /// Looks at some of the interfaces that still wait for it.
    pub(super) async fn work_off(&mut self) -> Vec<DataplaneError> {
        let mut some = BTreeMap::new();
        while some.len() < AT_ONCE
            && let Some((index, present)) = self.backlog.pop_first()
        {
            some.insert(index, present);
        }
        let indexes: BTreeSet<u32> = some.keys().copied().collect();
        let found = self.find_peers(&indexes).await;
        let mut errors = self.tell_kernel(&found);
        errors.extend(self.reconcile_from(some).await);
        errors
    }

    /// Tells the kernel half of links that have changed: a burst of them in one call, which waits once and not for each.
    fn tell_kernel(&mut self, changed: &BTreeSet<u32>) -> Vec<DataplaneError> {
        let mut states = changed
            .iter()
            .filter_map(|index| self.links.get(index))
            .map(|link| self.state(link));
        let errors = match (states.next(), states.next()) {
            (None, _) => Vec::new(),
            (Some(state), None) => self.kernel.set_link(state),
            (Some(_), Some(_)) => self
                .kernel
                .set_links(self.links.values().map(|link| self.state(link)).collect()),
        };
        errors.into_iter().map(DataplaneError::from).collect()
    }

    /// Asks for the MAC addresses of veths' other ends in other namespaces; the links of which something new was learnt.
    async fn find_peers(&mut self, links: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for index in links {
            let Some(link) = self
                .links
                .get(index)
                .filter(|link| link.redirectable() && self.concerns(link))
                .cloned()
            else {
                continue;
            };
            let (Some(peer), Some(namespace)) = (link.peer_index, link.peer_namespace) else {
                continue;
            };
            let other = OtherEnd {
                place: (peer, namespace),
                mac: self.net.peer_mac(&link).await,
            };
            if self.peers.insert(*index, other) != Some(other) {
                found.insert(*index);
            }
        }
        found
    }

    /// Asks what others do to interfaces' packets.
    async fn find_traffic(&mut self, burst: &mut Burst, handled: &mut Handled) {
        for index in std::mem::take(&mut burst.traffic) {
            if !self.links.get(&index).is_some_and(|link| self.concerns(link)) {
                continue;
            }
            // The queueing discipline stands in what is said of the link.
            match (self.net.link(index).await, self.net.classifiers(Some(index)).await) {
                (Ok(Some(link)), Ok(mut classifiers)) => {
                    // Whatever else has become of it since: the event that says so will tell nothing new.
                    self.take_link(link, burst);
                    match classifiers.remove(&index) {
                        Some(now) => self.classifiers.insert(index, now),
                        None => self.classifiers.remove(&index),
                    };
                    burst.changed.insert(index);
                }
                // Its event is on the way.
                (Ok(None), _) => {}
                (Err(error), _) | (_, Err(error)) => handled.errors.push(error.into()),
            }
        }
    }

    fn state(&self, link: &Link) -> LinkState {
        let place = link.peer_index.zip(link.peer_namespace);
        let known = self.peers.get(&link.index).filter(|other| Some(other.place) == place);
        let classifiers = self.classifiers.get(&link.index);
        LinkState {
            ifindex: link.index,
            name: link.name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            // What skips the host's stack skips classifiers, too.
            peer: (link.redirectable() && classifiers.is_none()).then(|| Peer {
                mac: known.and_then(|other| other.mac),
            }),
            filters: classifiers.map(|found| found.filters.clone()).unwrap_or_default(),
        }
    }

    async fn refresh_addresses(&mut self, handled: &mut Handled) {
        match self.net.host_addresses().await {
            Ok(addresses) => {
                handled.host_addresses |= addresses != self.host_addresses;
                self.host_addresses = addresses;
            }
            Err(error) => handled.errors.push(error.into()),
        }
    }

    /// Sysctls, routes and neighbours of interfaces. Before the first transaction nothing is touched: what an earlier run left holds.
    pub(super) async fn reconcile(&mut self, interfaces: impl IntoIterator<Item = u32>) -> Vec<DataplaneError> {
        if !self.synced {
            return Vec::new();
        }
        let interfaces: BTreeSet<u32> = interfaces.into_iter().collect();
        if interfaces.len() >= MANY {
            let mut present = match self.net.present().await {
                Ok(present) => present,
                Err(error) => return vec![error.into()],
            };
            let some = interfaces.into_iter();
            let some = some.map(|index| (index, present.remove(&index).unwrap_or_default()));
            return self.reconcile_from(some.collect()).await;
        }
        let mut errors = Vec::new();
        for index in interfaces {
            let Some((endpoint, wanted, up)) = self.endpoint_net(index) else {
                continue;
            };
            let mut failed = self.sysctls(&endpoint, wanted);
            let report = self.net.reconcile(&endpoint, up).await;
            failed.extend(self.outcome(&endpoint, report).await);
            errors.extend(self.note(endpoint, wanted, failed));
        }
        errors
    }

    /// The same, given what stands at them.
    async fn reconcile_from(&mut self, interfaces: BTreeMap<u32, Present>) -> Vec<DataplaneError> {
        if !self.synced {
            return Vec::new();
        }
        let mut errors = Vec::new();
        for (index, present) in interfaces {
            let Some((endpoint, wanted, up)) = self.endpoint_net(index) else {
                continue;
            };
            let mut failed = self.sysctls(&endpoint, wanted);
            let report = self.net.reconcile_from(&endpoint, up, present).await;
            failed.extend(self.outcome(&endpoint, report).await);
            errors.extend(self.note(endpoint, wanted, failed));
        }
        errors
    }

    /// What failed. Routes to external addresses may still lead to the workloads that had them before.
    async fn outcome(&self, endpoint: &EndpointNet, report: Report) -> Vec<NetError> {
        let mut errors = report.errors;
        if !report.taken.is_empty() {
            let workloads = self.links.values().filter(|link| self.concerns(link));
            let workloads = workloads.map(|link| link.index).collect();
            errors.extend(self.net.take_over(endpoint, &report.taken, &workloads).await);
        }
        errors
    }

    /// What an interface needs, whether an endpoint has it, and whether it is up.
    fn endpoint_net(&self, index: u32) -> Option<(EndpointNet, bool, bool)> {
        let link = self.links.get(&index)?;
        let wanted: Option<&Wanted> = self.wanted.get(&link.name);
        let endpoint = EndpointNet {
            ifindex: index,
            interface: link.name.clone(),
            addresses: wanted.map(|wanted| wanted.addresses.clone()).unwrap_or_default(),
            nats: wanted.map(|wanted| self.kernel.nats_of(wanted.id)).unwrap_or_default(),
            mac: wanted.and_then(|wanted| wanted.mac),
        };
        Some((endpoint, wanted.is_some(), link.up))
    }

    fn sysctls(&self, endpoint: &EndpointNet, wanted: bool) -> Vec<NetError> {
        if wanted {
            self.net.configure_interface(&endpoint.interface)
        } else {
            Vec::new()
        }
    }

    /// Remembers what came of a reconciliation.
    fn note(&mut self, endpoint: EndpointNet, wanted: bool, failed: Vec<NetError>) -> Vec<DataplaneError> {
        // What was listed before is older than this.
        self.backlog.remove(&endpoint.ifindex);
        if wanted {
            self.managed.insert(endpoint.ifindex);
        } else {
            self.managed.remove(&endpoint.ifindex);
        }
        if failed.is_empty() {
            self.problems.remove(&endpoint.interface);
        } else {
            let told = failed.iter().map(ToString::to_string).collect();
            self.problems.insert(endpoint.interface, told);
        }
        failed.into_iter().map(DataplaneError::from).collect()
    }
}
