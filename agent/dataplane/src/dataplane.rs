//! Both halves together: the kernel's objects and the host's network configuration.
//!
//! In: transactions, netlink events. Out: enforcement, and routes that lead to what is enforced. Routes follow programs: an interface
//! gets its routes only once its endpoint's programs are in force, and loses them when the endpoint goes.

mod look;
mod nats;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use felid_compile::planner::Adopted;
use felid_compile::transaction::{EndpointChange, EndpointId, Transaction};
use felid_model::ResourceKey;

use crate::error::KernelError;
use crate::kernel::{self, Completed, Config, Flip, Kernel};
use crate::net::{Classifiers, EndpointNet, Events, Link, Net, NetError, Present};
use nats::Announcing;

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
    id: EndpointId,
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
    /// Links that are said to be gone or renamed, of which the kernel could not be asked.
    suspect: BTreeSet<u32>,
    /// Other ends of veths, as far as they were asked for.
    peers: BTreeMap<u32, OtherEnd>,
    /// What others have attached by traffic control.
    classifiers: BTreeMap<u32, Classifiers>,
    /// Interfaces that are still to be looked at, with the routes and neighbours that a list of all of them showed.
    backlog: BTreeMap<u32, Present>,
    wanted: BTreeMap<Arc<str>, Wanted>,
    /// Interfaces that have had routes of ours, or may have from an earlier run.
    managed: BTreeSet<u32>,
    host_addresses: BTreeSet<IpAddr>,
    /// Endpoints whose translations have changed, and whose routes have still to follow.
    rerouted: BTreeSet<EndpointId>,
    announcing: Announcing,
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
            suspect: BTreeSet::new(),
            peers: BTreeMap::new(),
            classifiers: BTreeMap::new(),
            backlog: BTreeMap::new(),
            wanted: BTreeMap::new(),
            managed: BTreeSet::new(),
            host_addresses: BTreeSet::new(),
            rerouted: BTreeSet::new(),
            announcing: Announcing::default(),
            problems: BTreeMap::new(),
            synced: false,
        };
        let mut handled = dataplane.refresh().await;
        while !dataplane.backlog.is_empty() {
            handled.errors.extend(dataplane.work_off().await);
        }
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
        for (id, change) in &transaction.endpoints {
            let EndpointChange::Set(plan) = change else { continue };
            let endpoint = &plan.endpoint;
            let wanted = Wanted {
                id: *id,
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
        let announce = !self.rerouted.is_empty();
        names.extend(self.take_rerouted());
        let first = !std::mem::replace(&mut self.synced, true);
        let interfaces: Vec<u32> = self
            .links
            .values()
            .filter(|link| first && self.concerns(link) || names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        let mut errors = self.reconcile(interfaces).await;
        if announce {
            errors.extend(self.announce().await);
        }
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
}

/// Removes everything felid has put into the kernel and the host's network configuration: links, programs, maps, pins, and the routes
/// and permanent neighbours of interfaces with its prefixes or its programs, and its proxy neighbours. Idempotent. What could not be removed is returned.
pub async fn cleanup(bpffs: &Path, prefixes: &[String], route_protocol: u8) -> Result<Vec<NetError>, DataplaneError> {
    let attached = kernel::attached(bpffs);
    kernel::cleanup(bpffs)?;
    let (net, _events) = Net::open(route_protocol)?;
    let mut errors: Vec<NetError> = net
        .follow_proxies(&BTreeSet::new())
        .await
        .into_iter()
        .map(|(_, error)| error)
        .collect();
    for link in net.links().await?.list {
        if attached.contains(&link.index) || prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str())) {
            let nothing = EndpointNet {
                ifindex: link.index,
                interface: link.name.clone(),
                addresses: Vec::new(),
                nats: BTreeMap::new(),
                mac: None,
            };
            errors.extend(net.reconcile(&nothing, link.up).await.errors);
        }
    }
    Ok(errors)
}
