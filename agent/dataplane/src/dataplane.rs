//! Both halves together: the kernel's objects and the host's network configuration.
//!
//! In: transactions, netlink events. Out: enforcement, and routes that lead to what is enforced. Routes follow programs: an interface
//! gets its routes only once its endpoint's programs are in force, and loses them when the endpoint goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use felid_compile::planner::Adopted;
use felid_compile::transaction::{EndpointChange, Transaction};
use felid_model::ResourceKey;

use crate::error::KernelError;
use crate::kernel::{self, Completed, Config, Flip, Kernel};
use crate::link::{LinkState, Peer};
use crate::net::{EndpointNet, Event, Events, Link, Net, NetError};

/// What [`Dataplane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel half.
    pub kernel: Config,
    /// Protocol number of felid's routes (`deviceRouteProtocol`).
    pub route_protocol: u8,
}

/// A failure of either half.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Maps, programs or links.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Routes, neighbours, addresses or sysctls.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// What came of events.
#[derive(Debug, Default)]
pub struct Handled {
    /// [`Dataplane::host_addresses`] is not what it was.
    pub host_addresses: bool,
    /// What went wrong; the rest was done, and is tried again by [`Dataplane::refresh`].
    pub errors: Vec<DataplaneError>,
}

/// What an endpoint needs of the host, by the name of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    key: ResourceKey,
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
}

/// What is known of a veth's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OtherEnd {
    /// Its index in its namespace, and this namespace's id of that.
    place: (u32, i32),
    mac: Option<[u8; 6]>,
}

/// The dataplane of one host.
pub struct Dataplane {
    kernel: Kernel,
    net: Net,
    events: Events,
    prefixes: Vec<String>,
    links: BTreeMap<u32, Link>,
    /// Other ends of veths, as far as they were asked for.
    peers: BTreeMap<u32, OtherEnd>,
    wanted: BTreeMap<Arc<str>, Wanted>,
    /// Interfaces that have had routes of ours, or may have from an earlier run.
    managed: BTreeSet<u32>,
    host_addresses: BTreeSet<IpAddr>,
    /// Standing failures of routes, neighbours and sysctls, by interface.
    problems: BTreeMap<Arc<str>, Vec<String>>,
    synced: bool,
}

impl Dataplane {
    /// Opens both halves in the network namespace of the calling thread, within a tokio runtime whose threads are in it too. Interfaces
    /// with the agent's prefix are closed when it returns, unless an earlier run left programs in force there.
    pub async fn open(options: &Options) -> Result<(Self, Adopted), DataplaneError> {
        let (net, events) = Net::open(options.route_protocol)?;
        let kernel = Kernel::open(&options.kernel)?;
        let adopted = kernel.adopt();
        let mut dataplane = Self {
            kernel,
            net,
            events,
            prefixes: options.kernel.interface_prefixes.clone(),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            wanted: BTreeMap::new(),
            managed: BTreeSet::new(),
            host_addresses: BTreeSet::new(),
            problems: BTreeMap::new(),
            synced: false,
        };
        let handled = dataplane.refresh().await;
        // Their routes are an earlier run's, whatever their names.
        dataplane.managed = dataplane.kernel.roles().into_keys().collect();
        for error in handled.errors {
            tracing::error!(%error, "while starting");
        }
        Ok((dataplane, adopted))
    }

    /// First half of a transaction: when it returns, the new state is enforced, and endpoints whose addresses or interfaces are new have
    /// their routes.
    pub async fn apply(&mut self, transaction: &Transaction) -> Result<(Flip, Vec<DataplaneError>), KernelError> {
        let flip = self.kernel.apply(transaction)?;
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        let gone = transaction.endpoints.values().filter_map(|change| match change {
            EndpointChange::Gone { key } => key.as_ref(),
            EndpointChange::Set(_) => None,
        });
        for key in gone {
            names.extend(self.forget(key, None));
        }
        for change in transaction.endpoints.values() {
            let EndpointChange::Set(plan) = change else { continue };
            let endpoint = &plan.endpoint;
            let wanted = Wanted {
                key: endpoint.key.clone(),
                addresses: endpoint.addresses.clone(),
                mac: endpoint.mac,
            };
            let name = &endpoint.interface_name;
            if self.wanted.get(name) == Some(&wanted) {
                continue;
            }
            // It may have had another interface.
            names.extend(self.forget(&endpoint.key, Some(name)));
            self.wanted.insert(name.clone(), wanted);
            names.insert(name.clone());
        }
        let first = !std::mem::replace(&mut self.synced, true);
        let interfaces: Vec<u32> = self
            .links
            .values()
            .filter(|link| first && self.concerns(link) || names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        let errors = self.reconcile(interfaces).await;
        Ok((flip, errors))
    }

    /// Waits until no packet is under way that saw the state before the switch.
    pub async fn grace() -> Result<(), KernelError> {
        kernel::grace().await
    }

    /// Second half of a transaction, after [`Dataplane::grace`]; tell the planner afterwards.
    pub fn complete(&mut self, transaction: &Transaction) -> Result<Completed, KernelError> {
        self.kernel.complete(transaction)
    }

    /// The next thing that changed on the host; `None` when netlink is closed.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Acts on an event, and on those that have come meanwhile.
    pub async fn handle(&mut self, event: Event) -> Handled {
        let mut handled = Handled::default();
        let (mut changed, mut dirty) = (BTreeSet::new(), BTreeSet::new());
        let (mut addresses, mut resync) = (false, false);
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Link(link) => {
                    let index = link.index;
                    let concerns = self.concerns(&link) || self.links.get(&index).is_some_and(|old| self.concerns(old));
                    let old = self.links.insert(index, link);
                    if old.as_ref() != self.links.get(&index) {
                        changed.insert(index);
                        dirty.extend(concerns.then_some(index));
                        // A problem is told by the name that the interface has.
                        if let Some(old) = old {
                            self.problems.remove(&old.name);
                        }
                    }
                }
                Event::LinkGone(index) => {
                    if let Some(old) = self.links.remove(&index) {
                        self.problems.remove(&old.name);
                    }
                    self.peers.remove(&index);
                    self.managed.remove(&index);
                    changed.remove(&index);
                    dirty.remove(&index);
                    handled
                        .errors
                        .extend(self.kernel.link_gone(index).into_iter().map(DataplaneError::from));
                }
                Event::Addresses => addresses = true,
                Event::Routes(index) => {
                    if self.managed.contains(&index) {
                        dirty.insert(index);
                    }
                }
                Event::Resync => resync = true,
            }
            next = self.events.try_next();
        }
        if resync {
            return self.refresh().await;
        }
        // Closing comes first; other ends are asked for afterwards.
        handled.errors.extend(self.tell_kernel(&changed));
        let found = self.find_peers(&changed).await;
        handled.errors.extend(self.tell_kernel(&found));
        if addresses {
            self.refresh_addresses(&mut handled).await;
        }
        handled.errors.extend(self.reconcile(dirty).await);
        handled
    }

    /// Other prefixes of workload interfaces from now on: interfaces that have become unknown are closed, others let go.
    pub async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Handled {
        self.prefixes.clone_from(&prefixes);
        let errors: Vec<KernelError> = self.kernel.set_interface_prefixes(prefixes);
        let mut handled = self.refresh().await;
        handled.errors.extend(errors.into_iter().map(DataplaneError::from));
        handled
    }

    /// Looks at everything again: links, addresses, sysctls, routes and neighbours.
    pub async fn refresh(&mut self) -> Handled {
        let mut handled = Handled::default();
        handled
            .errors
            .extend(self.net.enable_forwarding().into_iter().map(DataplaneError::from));
        match self.net.links().await {
            Ok(links) => {
                self.links = links.into_iter().map(|link| (link.index, link)).collect();
                let indexes: BTreeSet<u32> = self.links.keys().copied().collect();
                self.peers.retain(|index, _| indexes.contains(index));
                self.managed.retain(|index| indexes.contains(index));
                // Closing what is unknown comes before finding out about other ends.
                let states = self.links.values().map(|link| self.state(link)).collect();
                handled
                    .errors
                    .extend(self.kernel.set_links(states).into_iter().map(DataplaneError::from));
                let found = self.find_peers(&indexes).await;
                handled.errors.extend(self.tell_kernel(&found));
                let names: BTreeSet<Arc<str>> = self.links.values().map(|link| link.name.clone()).collect();
                self.problems.retain(|name, _| names.contains(name));
            }
            Err(error) => handled.errors.push(error.into()),
        }
        self.refresh_addresses(&mut handled).await;
        if self.synced {
            let all: Vec<u32> = self
                .links
                .values()
                .filter(|link| self.concerns(link))
                .map(|link| link.index)
                .collect();
            handled.errors.extend(self.reconcile(all).await);
        }
        handled
    }

    /// Addresses of the host itself.
    pub const fn host_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.host_addresses
    }

    /// Standing failures of routes, neighbours and sysctls, by interface.
    pub const fn problems(&self) -> &BTreeMap<Arc<str>, Vec<String>> {
        &self.problems
    }

    /// The kernel half.
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The kernel half.
    pub const fn kernel_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Whether a link is, or may be, a workload's.
    fn concerns(&self, link: &Link) -> bool {
        self.wanted.contains_key(&link.name)
            || self.managed.contains(&link.index)
            || self
                .prefixes
                .iter()
                .any(|prefix| link.name.starts_with(prefix.as_str()))
    }

    /// Takes the interfaces away that an endpoint had, but for one.
    fn forget(&mut self, key: &ResourceKey, but: Option<&Arc<str>>) -> Vec<Arc<str>> {
        let old: Vec<Arc<str>> = self
            .wanted
            .iter()
            .filter(|(name, wanted)| wanted.key == *key && but != Some(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &old {
            self.wanted.remove(name);
            self.problems.remove(name);
        }
        old
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

    fn state(&self, link: &Link) -> LinkState {
        let place = link.peer_index.zip(link.peer_namespace);
        let known = self.peers.get(&link.index).filter(|other| Some(other.place) == place);
        LinkState {
            ifindex: link.index,
            name: link.name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            peer: link.redirectable().then(|| Peer {
                mac: known.and_then(|other| other.mac),
            }),
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
    async fn reconcile(&mut self, interfaces: impl IntoIterator<Item = u32>) -> Vec<DataplaneError> {
        if !self.synced {
            return Vec::new();
        }
        let mut work = Vec::new();
        for index in interfaces {
            let Some(link) = self.links.get(&index) else { continue };
            let wanted = self.wanted.get(&link.name);
            let endpoint = EndpointNet {
                ifindex: index,
                interface: link.name.clone(),
                addresses: wanted.map(|wanted| wanted.addresses.clone()).unwrap_or_default(),
                mac: wanted.and_then(|wanted| wanted.mac),
            };
            work.push((endpoint, wanted.is_some(), link.up));
        }
        // One after the other: the kernel allows one dump a socket at a time.
        let mut errors = Vec::new();
        for (endpoint, wanted, up) in work {
            let mut failed = if wanted {
                self.net.configure_interface(&endpoint.interface)
            } else {
                Vec::new()
            };
            failed.extend(self.net.reconcile(&endpoint, up).await.errors);
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
            errors.extend(failed.into_iter().map(DataplaneError::from));
        }
        errors
    }
}

/// Removes everything felid has put into the kernel and the host's network configuration: links, programs, maps, pins, and the routes
/// and permanent neighbours of interfaces with its prefixes or its programs. Idempotent. What could not be removed is returned.
pub async fn cleanup(bpffs: &Path, prefixes: &[String], route_protocol: u8) -> Result<Vec<NetError>, DataplaneError> {
    let attached = kernel::attached(bpffs);
    kernel::cleanup(bpffs)?;
    let (net, _events) = Net::open(route_protocol)?;
    let mut errors = Vec::new();
    for link in net.links().await? {
        if attached.contains(&link.index) || prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str())) {
            let nothing = EndpointNet {
                ifindex: link.index,
                interface: link.name.clone(),
                addresses: Vec::new(),
                mac: None,
            };
            errors.extend(net.reconcile(&nothing, link.up).await.errors);
        }
    }
    Ok(errors)
}
