//! The planner: from what the calculation says to transactions for the kernel.
//!
//! In: deltas, the host's addresses, and [`Planner::committed`] from the dataplane. Out:
//! [`Transaction`]s, one at a time. It assigns everything that has a number: slots (bits of class
//! rows), classes, endpoint ids, programs, counters. Never: I/O, the kernel.
//!
//! ```text
//!   Delta -> AddressTable, Sets, desired endpoints -> plan() -> Transaction
//!                                               |
//!        what is in force (Entries, Classes, Programs, endpoints)
//!        + what is staged for the transaction under way
//!                                               ^
//!        committed(): staged becomes in force  |  aborted(): staged is thrown away
//! ```
//!
//! Between a plan and its end nothing that was handed out is reused, and nothing that goes away is
//! freed:
//! - a *slot* belongs to a set as long as a loaded program tests the set. When the last one goes,
//!   the same transaction moves all members to classes without the bit, so that no row in force has
//!   it when the slot is free;
//! - a *class* is freed when no entry of either bank refers to it. Rows are written once, before
//!   anything refers to them;
//! - an endpoint's *index* is free when its record is; its *id* is never used again;
//! - a *program* is unloaded when no endpoint uses it in either bank, and its *counters* with it.
//!
//! A plan is made as a whole or not at all: when it fails, everything staged is rolled back, and
//! the changes wait for the next try. What does not fit into a table concerns the endpoints of the
//! policy at fault alone (`left_out`): they keep the policy in force, or are closed, and the plan
//! is made without it. Work is in proportion to what changed: a changed prefix concerns what it
//! covers, a set that gains or loses its slot concerns its members.

mod addresses;
mod classes;
mod compiler;
mod counters;
mod draft;
mod entries;
mod fallback;
mod ids;
mod left_out;
mod plan;
mod plan_entries;
mod policy;
mod programs;
mod query;
mod sets;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{Delta, LocalEndpoint};
use ipnet::IpNet;

pub use compiler::{Compiler, Ebpf};
pub use types::{Adopted, EndpointStatus, PlanError, PlannerOptions, PolicyFailure, Stats, identity};

use crate::transaction::{EndpointId, ProgramId, Transaction};
use crate::types::Direction;
use addresses::{AddressTable, NumbersCache};
use classes::Classes;
use draft::{Dirty, Fallback, InForce};
use entries::{Entries, EntriesAfter};
use ids::IdPool;
use left_out::LeftOut;
use policy::PolicyInterner;
use programs::Programs;
use sets::Sets;

/// What becomes in force when the transaction under way is complete.
#[derive(Debug)]
struct Outstanding {
    endpoints: BTreeMap<ResourceKey, Option<InForce>>,
    entries: EntriesAfter,
}

/// Plans what has to change in the kernel for it to hold what the calculation says. The
/// [module](self) says how.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Arc;
///
/// use felid_compile::planner::{Adopted, Planner, PlannerOptions};
/// use felid_model::resolved::{Delta, LocalEndpoint, ResolvedPolicy};
/// use felid_model::{Kind, ResourceKey};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = ResourceKey {
///     kind: Kind::WorkloadEndpoint,
///     namespace: Some("shop".into()),
///     name: "web".into(),
/// };
/// let policy = Arc::new(ResolvedPolicy::default());
/// let endpoint = LocalEndpoint {
///     key: key.clone(),
///     interface_name: "cali1".into(),
///     addresses: vec!["10.0.0.1".parse()?],
///     ingress: policy.clone(),
///     egress: policy,
///     // ... and nothing else.
///     allow_spoofed_source_prefixes: Vec::new(),
///     ip_nats: Vec::new(),
///     aws_elastic_ips: Vec::new(),
///     mac: None,
///     ipv4_gateway: None,
///     ipv6_gateway: None,
///     ports: Vec::new(),
///     profiles: Vec::new(),
/// };
/// let mut planner = Planner::new(PlannerOptions::default(), Adopted::default());
/// planner.update(&Delta {
///     endpoints: BTreeMap::from([(key.clone(), Some(Arc::new(endpoint)))]),
///     ..Delta::default()
/// });
///
/// let transaction = planner.plan()?.ok_or("there is something to do")?;
/// assert_eq!(transaction.endpoints.len(), 1);
/// assert!(!transaction.new_programs.is_empty(), "no policy denies everything");
/// // The dataplane carries it out, and says so.
/// planner.committed();
/// assert!(planner.endpoint(&key).is_some(), "its programs are in force");
/// assert!(planner.plan()?.is_none(), "nothing has changed since");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Planner<C = Ebpf> {
    compiler: C,
    options: PlannerOptions,
    // What the records say.
    desired: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    addresses: AddressTable,
    dirty: Dirty,
    // What is in force, and what is staged for the transaction under way.
    sets: Sets,
    classes: Classes,
    policies: PolicyInterner,
    programs: Programs,
    entries: Entries,
    endpoints: BTreeMap<ResourceKey, InForce>,
    indexes: IdPool,
    next_endpoint_id: u32,
    outstanding: Option<(Outstanding, Dirty)>,
    /// Records of a previous run, until the first transaction is complete.
    adopted: BTreeMap<[u32; 4], EndpointId>,
    /// No transaction was completed yet: every entry is written, whatever the maps hold.
    fresh: bool,
    refused: Option<PlanError>,
    /// Policies that do not fit.
    left_out: LeftOut,
    fallbacks: BTreeMap<(ResourceKey, Direction), Fallback>,
}

impl Planner {
    /// Returns a planner for maps of these sizes that hold what a previous run left.
    pub fn new(options: PlannerOptions, adopted: Adopted) -> Self {
        Self::with_compiler(options, adopted, Ebpf)
    }
}

impl<C: Compiler> Planner<C> {
    /// Returns a planner with another compiler, as tests need it.
    pub fn with_compiler(options: PlannerOptions, adopted: Adopted, compiler: C) -> Self {
        let words = options.words();
        let mut classes = Classes::new(words, options.max_classes);
        let entries = Entries::adopt(&adopted, &mut classes);
        let mut indexes = IdPool::new(1, options.max_endpoints);
        let mut next_endpoint_id = adopted.next_endpoint_id.max(1);
        for id in adopted.endpoints.values() {
            indexes.reserve(id.index);
            next_endpoint_id = next_endpoint_id.max(id.id.saturating_add(1));
        }
        Self {
            compiler,
            options,
            desired: BTreeMap::new(),
            addresses: AddressTable::default(),
            dirty: Dirty::default(),
            sets: Sets::new(options.max_slots),
            classes,
            policies: PolicyInterner::default(),
            programs: Programs::new(words, options.max_counters),
            entries,
            endpoints: BTreeMap::new(),
            indexes,
            next_endpoint_id,
            outstanding: None,
            adopted: adopted.endpoints,
            fresh: true,
            refused: None,
            left_out: LeftOut::default(),
            fallbacks: BTreeMap::new(),
        }
    }

    /// Takes in what the calculation changed. The next plan acts on it.
    pub fn update(&mut self, delta: &Delta) {
        let mut cache = NumbersCache::new();
        for (key, endpoint) in &delta.endpoints {
            self.update_endpoint(key, endpoint.as_ref());
        }
        for (prefix, list) in &delta.members {
            let prefix = prefix.trunc();
            if self
                .addresses
                .set_members(&mut self.sets, &mut cache, prefix, list.as_ref())
            {
                self.dirty.prefixes.insert(prefix);
                self.refused = None;
            }
        }
        for (&member, list) in &delta.named_ports {
            if self
                .addresses
                .set_named_port(&mut self.sets, &mut cache, member, list.as_ref())
            {
                self.dirty.named_ports.insert(member);
                self.refused = None;
            }
        }
    }

    fn update_endpoint(&mut self, key: &ResourceKey, endpoint: Option<&Arc<LocalEndpoint>>) {
        let old = match endpoint {
            Some(endpoint) => self.desired.insert(key.clone(), endpoint.clone()),
            None => self.desired.remove(key),
        };
        if old.as_ref() == endpoint {
            return;
        }
        let before = old
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .copied()
            .collect::<BTreeSet<IpAddr>>();
        let after = endpoint
            .into_iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .copied()
            .collect::<BTreeSet<IpAddr>>();
        for &address in before.difference(&after) {
            self.addresses.remove_owner(address, key);
            self.dirty.prefixes.insert(IpNet::from(address));
        }
        for &address in after.difference(&before) {
            self.addresses.add_owner(address, key);
            self.dirty.prefixes.insert(IpNet::from(address));
        }
        self.dirty.endpoints.insert(key.clone());
        self.refused = None;
    }

    /// Takes in the addresses of the host's own interfaces. The next plan acts on them.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        for address in self.addresses.set_hosts(addresses) {
            self.dirty.prefixes.insert(IpNet::from(address));
            self.refused = None;
        }
    }

    /// Returns the next transaction, or `None` if there is nothing to do or one is still under way.
    /// What arrives while one is under way is in the next.
    ///
    /// The first call decides what becomes of whatever a previous run left, so it must wait until
    /// the datastore is in sync.
    ///
    /// # Errors
    ///
    /// Something does not fit into a table, or there are no more ids. The state in force stays as
    /// it was, and the same error is given until something changes.
    pub fn plan(&mut self) -> Result<Option<Transaction>, PlanError> {
        if self.outstanding.is_some() {
            return Ok(None);
        }
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        self.readmit(&mut dirty);
        loop {
            match self.draft(&dirty) {
                Ok(Some((transaction, outstanding))) => {
                    self.outstanding = Some((outstanding, dirty));
                    return Ok(Some(transaction));
                }
                Ok(None) => {
                    self.commit();
                    return Ok(None);
                }
                Err(error) => {
                    self.rollback();
                    // Each turn leaves out a policy more, so this ends.
                    if self.leave_out(&error, &mut dirty) {
                        continue;
                    }
                    self.dirty.merge(dirty);
                    self.refused = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Notes that the transaction under way is complete: both banks are equal, and what waited for
    /// that may be used again.
    pub fn committed(&mut self) {
        let Some((outstanding, _)) = self.outstanding.take() else {
            return;
        };
        self.entries.commit(outstanding.entries, &mut self.classes);
        for (key, in_force) in outstanding.endpoints {
            let kept = in_force.as_ref().map(|in_force| in_force.id);
            let old = match in_force {
                Some(in_force) => self.endpoints.insert(key, in_force),
                None => self.endpoints.remove(&key),
            };
            if let Some(old) = old.filter(|old| Some(old.id) != kept) {
                self.indexes.give(old.id.index);
            }
        }
        if !self.adopted.is_empty() {
            let used: HashSet<EndpointId> = self.endpoints.values().map(|in_force| in_force.id).collect();
            for (_, id) in std::mem::take(&mut self.adopted)
                .into_iter()
                .filter(|(_, id)| !used.contains(id))
            {
                self.indexes.give(id.index);
            }
        }
        self.fresh = false;
        self.commit();
    }

    /// Notes that the transaction under way was given up and that whatever was written of it is
    /// undone: the kernel holds what it held before. If the kernel refused programs, `refused`
    /// gives the reason for each; their policies are treated like those that cannot be compiled,
    /// until [`Self::retry`].
    pub fn aborted(&mut self, refused: &BTreeMap<ProgramId, String>) {
        let Some((_, dirty)) = self.outstanding.take() else {
            return;
        };
        self.programs.reject(refused);
        self.rollback();
        self.dirty.merge(dirty);
    }

    /// Has the next plan try those policies again that have no program, since the kernel's reason
    /// for refusing it may have passed.
    pub fn retry(&mut self) {
        self.programs.forget_rejected(|_| false);
        self.left_out = LeftOut::default();
        self.dirty
            .endpoints
            .extend(self.fallbacks.keys().map(|(key, _)| key.clone()));
        self.refused = None;
    }

    fn commit(&mut self) {
        self.sets.commit();
        self.classes.commit();
        self.programs.commit();
        self.indexes.commit();
    }

    fn rollback(&mut self) {
        self.sets.rollback();
        self.classes.rollback();
        self.programs.rollback();
        self.indexes.rollback();
    }
}
