//! Both halves together: the kernel's objects and the host's network configuration.
//!
//! In: transactions, netlink events. Out: enforcement, and routes that lead to what is enforced.
//! Routes follow programs: an interface gets its routes only once its endpoint's programs are in
//! force, and loses them when the endpoint goes.

mod cleanup;
mod guard;
mod host_events;
mod inspect;
mod nats;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use felid_compile::nat::HostUse;
use felid_compile::planner::Adopted;
use felid_compile::transaction::{EndpointChange, EndpointId, Transaction};
use felid_model::ResourceKey;

use crate::driver::{Enforcement, Grace, HostChanges, HostNetwork as _};
use crate::error::{DataplaneError, KernelError};
use crate::kernel::{self, Completed, Config, Kernel, Settings};
use crate::net::{Classifiers, Events, Link, Net, Present};
use guard::Guard;
use nats::Announcing;

pub use cleanup::cleanup;

/// What [`Dataplane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the kernel half is opened with.
    pub kernel: Config,
    /// The protocol number that marks felid's routes (Felix's `deviceRouteProtocol`).
    pub route_protocol: u8,
}

/// What an endpoint needs of the host, by the name of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndpointInterface {
    id: EndpointId,
    key: ResourceKey,
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
    /// It may send from addresses that are not its own.
    may_spoof: bool,
}

/// What is known of a veth's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OtherEnd {
    /// Its index in its namespace, and this namespace's id of that.
    place: (u32, i32),
    mac: Option<[u8; 6]>,
    /// It is a port of something else, a bridge say, so that its own MAC address is not that of who
    /// answers for the workload's addresses. Packets then take the host's stack, which asks.
    has_master: bool,
}

/// The host's links as netlink told of them, and what was found out about them.
#[derive(Default)]
struct HostLinks {
    /// How names of workload interfaces begin.
    prefixes: Vec<String>,
    links: BTreeMap<u32, Link>,
    /// Links that are said to be gone or renamed, of which the kernel could not be asked.
    suspect: BTreeSet<u32>,
    /// Other ends of veths, as far as they were asked for.
    peers: BTreeMap<u32, OtherEnd>,
    /// What others have attached by traffic control.
    classifiers: BTreeMap<u32, Classifiers>,
}

/// Routes, neighbours and sysctls of workload interfaces: what is needed, and how far it has come.
#[derive(Default)]
struct Routing {
    wanted: BTreeMap<Arc<str>, EndpointInterface>,
    /// Interfaces that have had routes of ours, or may have from an earlier run.
    managed: BTreeSet<u32>,
    /// Interfaces whose sysctls have been set, and whether for a workload that may send from
    /// addresses that are not its own.
    configured: BTreeMap<u32, bool>,
    /// Interfaces that are still to be looked at, with the routes and neighbours that a list of all
    /// of them showed.
    backlog: BTreeMap<u32, Present>,
    /// Standing failures of routes, neighbours and sysctls, by interface.
    problems: BTreeMap<Arc<str>, Vec<String>>,
}

/// Routes and proxy neighbours of external addresses: what has still to follow the table of
/// translations.
#[derive(Default)]
struct NatRoutes {
    /// Endpoints whose translations have changed, and whose routes have still to follow.
    rerouted: BTreeSet<EndpointId>,
    announcing: Announcing,
}

/// Addresses that the host itself needs where they are.
struct HostUses {
    addresses: BTreeMap<IpAddr, HostUse>,
    /// Routes or links have changed since they were listed.
    is_stale: bool,
    listed: Instant,
}

impl Default for HostUses {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            is_stale: false,
            listed: Instant::now(),
        }
    }
}

/// The dataplane of one host: the kernel's objects ([`Kernel`]) and the host's network
/// configuration.
///
/// Minimum kernel version: 6.6.
pub struct Dataplane {
    kernel: Kernel,
    net: Net,
    events: Events,
    host: HostLinks,
    routing: Routing,
    nat_routes: NatRoutes,
    guard: Guard,
    host_addresses: BTreeSet<IpAddr>,
    uses: HostUses,
    /// A transaction has been applied. Before that, what an earlier run left holds.
    synced: bool,
}

impl Dataplane {
    /// Opens both halves in the network namespace of the calling thread, within a tokio runtime
    /// whose threads are in it too. Returns the dataplane, and what an earlier run left in the
    /// kernel. Interfaces with the agent's prefix are closed when it returns, unless an earlier run
    /// left programs in force there.
    ///
    /// # Errors
    ///
    /// Those of [`Kernel::open`], and netlink that cannot be opened.
    ///
    /// Minimum kernel version: 6.6.
    pub async fn open(options: &Options) -> Result<(Self, Adopted), DataplaneError> {
        let (net, events) = Net::open(options.route_protocol)?;
        let kernel = Kernel::open(&options.kernel)?;
        let adopted = kernel.adopt();
        let mut dataplane = Self {
            kernel,
            net,
            events,
            host: HostLinks {
                prefixes: options.kernel.interface_prefixes.clone(),
                ..HostLinks::default()
            },
            routing: Routing::default(),
            nat_routes: NatRoutes::default(),
            guard: Guard::default(),
            host_addresses: BTreeSet::new(),
            uses: HostUses::default(),
            synced: false,
        };
        let mut changes = dataplane.refresh().await;
        while !dataplane.routing.backlog.is_empty() {
            changes.errors.extend(dataplane.work_off().await);
        }
        // Their routes are an earlier run's, whatever their names.
        dataplane.routing.managed = dataplane.kernel.roles().into_keys().collect();
        for error in changes.errors {
            tracing::error!(%error, "while starting");
        }
        Ok((dataplane, adopted))
    }

    /// Notes what the endpoints of a transaction need of the host. Returns the names of interfaces
    /// whose needs have changed.
    fn take_endpoints(&mut self, transaction: &Transaction) -> BTreeSet<Arc<str>> {
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
            let wanted = EndpointInterface {
                id: *id,
                key: endpoint.key.clone(),
                addresses: endpoint.addresses.clone(),
                mac: endpoint.mac,
                may_spoof: !endpoint.allow_spoofed_source_prefixes.is_empty(),
            };
            let name = &endpoint.interface_name;
            if self.routing.wanted.get(name) == Some(&wanted) {
                continue;
            }
            // It may have had another interface.
            names.extend(self.forget(&endpoint.key, Some(name)));
            self.routing.wanted.insert(name.clone(), wanted);
            names.insert(name.clone());
        }
        names
    }

    /// Returns the kernel half.
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Returns the kernel half, to be changed.
    pub const fn kernel_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Whether a link is, or may be, a workload's.
    fn concerns(&self, link: &Link) -> bool {
        self.routing.wanted.contains_key(&link.name)
            || self.routing.managed.contains(&link.index)
            || self
                .host
                .prefixes
                .iter()
                .any(|prefix| link.name.starts_with(prefix.as_str()))
    }

    /// Takes the interfaces away that an endpoint had, but for one.
    fn forget(&mut self, key: &ResourceKey, but: Option<&Arc<str>>) -> Vec<Arc<str>> {
        let old: Vec<Arc<str>> = self
            .routing
            .wanted
            .iter()
            .filter(|(name, wanted)| wanted.key == *key && but != Some(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &old {
            self.routing.wanted.remove(name);
            self.routing.problems.remove(name);
        }
        old
    }
}

impl Enforcement for Dataplane {
    async fn apply(&mut self, transaction: &Transaction) -> Result<HostChanges, KernelError> {
        let flip = self.kernel.apply(transaction)?;
        let names = self.take_endpoints(transaction);
        let announce = !self.nat_routes.rerouted.is_empty();
        let names: BTreeSet<Arc<str>> = names.into_iter().chain(self.take_rerouted()).collect();
        let first = !std::mem::replace(&mut self.synced, true);
        let interfaces: Vec<u32> = self
            .host
            .links
            .values()
            .filter(|link| first && self.concerns(link) || names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        let mut errors: Vec<DataplaneError> = flip.link_errors.into_iter().map(DataplaneError::from).collect();
        errors.extend(self.find_new_peers(&interfaces).await);
        errors.extend(self.reconcile(interfaces).await);
        if announce {
            errors.extend(self.announce().await);
        }
        Ok(HostChanges {
            host_addresses: false,
            host_uses: false,
            errors,
        })
    }

    fn grace(&self) -> Grace {
        Box::pin(kernel::grace())
    }

    fn complete(&mut self, transaction: &Transaction) -> Result<Completed, KernelError> {
        self.kernel.complete(transaction)
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), KernelError> {
        self.kernel.set_settings(settings)
    }
}
