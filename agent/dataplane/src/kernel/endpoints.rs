//! Endpoint records and interfaces: who is behind which interface, and what stands at its hooks.

mod attach;
mod guard;
mod interfaces;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_common::{ENDPOINT_REDIRECTABLE, Endpoint};
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, Transaction};
use felid_model::ResourceKey;

pub(crate) use attach::Attach;

use super::guard::Contests;
use super::links::{Foreign, Links, Role};
use super::mirror::Mirror;
use crate::error::{KernelError, Result};
use crate::link::LinkState;

/// An endpoint of this node, and what stands at its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// The index of its record, and its id.
    pub id: EndpointId,
    /// The resource that it comes from.
    pub key: ResourceKey,
    /// The name of its host-side interface.
    pub interface: Arc<str>,
    /// The index of that interface; `None` while there is none of this name.
    pub ifindex: Option<u32>,
    /// Whether its programs stand at both hooks of its interface.
    pub attached: bool,
    /// Whether packets are redirected straight into it.
    pub redirectable: bool,
    /// The endpoint that has its interface, if another one has.
    pub conflict: Option<ResourceKey>,
    /// The programs of others at its interface.
    pub foreign: Foreign,
    /// The generations of its egress and of its ingress policy.
    pub generations: [u32; 2],
}

/// Records, interfaces and links together.
pub(crate) struct Endpoints {
    records: Mirror<u32, Endpoint>,
    /// Indexes of the interfaces at which this version's programs stand: what comes in there and
    /// was seen by none of them is dropped at netfilter's hook `prerouting`.
    guarded: Mirror<u32, u32>,
    links: Links,
    /// Interfaces of the host, by index.
    interfaces: BTreeMap<u32, LinkState>,
    by_name: BTreeMap<Arc<str>, u32>,
    /// Endpoints whose programs are in force.
    live: BTreeMap<EndpointId, EndpointPlan>,
    /// Who wants an interface: the least key gets it.
    claims: BTreeMap<Arc<str>, BTreeMap<ResourceKey, EndpointId>>,
    foreign: BTreeMap<u32, Foreign>,
    contests: Contests,
    /// Interfaces outside the prefixes where an earlier run's programs stood when this one began to
    /// enforce, and that no endpoint has claimed since: they stay closed, for the record may be
    /// missing by mistake.
    unclaimed: BTreeSet<u32>,
    prefixes: Vec<String>,
    /// Whether a transaction has been applied: before that inherited links are left alone.
    synced: bool,
    /// Whether the interfaces of the host are known: likewise.
    known: bool,
}

impl Endpoints {
    pub(crate) fn new(
        records: Mirror<u32, Endpoint>,
        guarded: Mirror<u32, u32>,
        links: Links,
        prefixes: Vec<String>,
    ) -> Self {
        Self {
            records,
            guarded,
            links,
            interfaces: BTreeMap::new(),
            by_name: BTreeMap::new(),
            live: BTreeMap::new(),
            claims: BTreeMap::new(),
            foreign: BTreeMap::new(),
            contests: Contests::default(),
            unclaimed: BTreeSet::new(),
            prefixes,
            synced: false,
            known: false,
        }
    }

    /// Records in use.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u32, &Endpoint)> {
        self.records
            .actual()
            .iter()
            .filter(|(_, record)| record.id != 0)
            .map(|(index, record)| (*index, record))
    }

    pub(crate) const fn table(&self) -> &Mirror<u32, Endpoint> {
        &self.records
    }

    pub(crate) const fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn commit(&mut self) {
        self.records.commit();
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.records.flush()
    }

    /// Records as they were at the last commit. One that was not there becomes a free one: an array
    /// keeps its elements.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.records.roll_back(Some(Endpoint::default()));
        self.records.flush()
    }

    /// After the switch: the endpoints of `transaction` are (or are not) in force from now on.
    pub(crate) fn switch(&mut self, transaction: &Transaction, attach: &Attach<'_>) -> Vec<KernelError> {
        let mut names = BTreeSet::new();
        for (&id, change) in &transaction.endpoints {
            let old = self.live.remove(&id);
            if let (Some(old), EndpointChange::Set(plan)) = (&old, change)
                && old.endpoint.interface_name == plan.endpoint.interface_name
                && old.endpoint.key == plan.endpoint.key
            {
                self.live.insert(id, plan.clone());
                continue;
            }
            if let Some(old) = old {
                let name = Arc::clone(&old.endpoint.interface_name);
                if let Some(claims) = self.claims.get_mut(&name) {
                    claims.remove(&old.endpoint.key);
                    if claims.is_empty() {
                        self.claims.remove(&name);
                    }
                }
                names.insert(name);
            }
            if let EndpointChange::Set(plan) = change {
                let name = Arc::clone(&plan.endpoint.interface_name);
                self.claims
                    .entry(Arc::clone(&name))
                    .or_default()
                    .insert(plan.endpoint.key.clone(), id);
                self.live.insert(id, plan.clone());
                if let Some(ifindex) = self.by_name.get(&name) {
                    self.unclaimed.remove(ifindex);
                }
                names.insert(name);
            }
        }
        let first = !std::mem::replace(&mut self.synced, true);
        let interfaces: Vec<u32> = if first {
            // What a previous run guarded and nobody claims stays shut.
            self.unclaimed = self.find_unclaimed();
            self.interfaces
                .keys()
                .copied()
                .chain(self.links.interfaces())
                .collect::<BTreeSet<u32>>()
                .into_iter()
                .collect()
        } else {
            names
                .iter()
                .filter_map(|name| self.by_name.get(name).copied())
                .collect()
        };
        self.reconcile(&interfaces, attach)
    }

    /// Where every endpoint stands.
    pub(crate) fn states(&self) -> Vec<EndpointState> {
        self.live
            .iter()
            .map(|(&id, plan)| {
                let record = self.records.get(&id.index).copied().unwrap_or_default();
                let interface = Arc::clone(&plan.endpoint.interface_name);
                let conflict = self
                    .owner(&interface)
                    .filter(|(_, owner)| *owner != id)
                    .map(|(key, _)| key.clone());
                EndpointState {
                    id,
                    key: plan.endpoint.key.clone(),
                    ifindex: (record.ifindex != 0).then_some(record.ifindex),
                    attached: self.links.role(record.ifindex) == Some(Role::Stub(id)),
                    redirectable: record.flags & ENDPOINT_REDIRECTABLE != 0,
                    conflict,
                    foreign: self.foreign.get(&record.ifindex).cloned().unwrap_or_default(),
                    generations: [record.egress_generation, record.ingress_generation],
                    interface,
                }
            })
            .collect()
    }
}
