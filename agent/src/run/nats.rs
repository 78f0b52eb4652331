//! Translations of the local endpoints: what is in force, what is not, and where workloads show their own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_compile::nat::{Claim, Conflict, Mappings, Resolved, resolve};
use felid_compile::transaction::{EndpointChange, EndpointId, Transaction};
use felid_model::ResourceKey;
use felid_model::resolved::LocalEndpoint;
use ipnet::IpNet;

use crate::config::{NatOutbound, Settings};

use super::dataplane::Dataplane;
use super::flows::full_name;
use super::pipeline::Pipeline;

/// What the pipeline knows of translations.
#[derive(Debug)]
pub(super) struct Nats {
    /// Something that decides which are in force is not what it was.
    changed: bool,
    /// Not in force, and why.
    pub(super) conflicts: BTreeMap<Claim, Conflict>,
    /// `IPPool` records.
    pools: BTreeMap<ResourceKey, IpNet>,
    /// The kernel does not have them all.
    pools_changed: bool,
    /// `awsElasticIPs`, of endpoints that have some.
    pub(super) elastic: BTreeMap<ResourceKey, Vec<IpAddr>>,
    /// Flows that began with a translation, when they were last counted.
    pub(super) counted: u64,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            changed: true,
            conflicts: BTreeMap::new(),
            pools: BTreeMap::new(),
            pools_changed: true,
            elastic: BTreeMap::new(),
            counted: 0,
        }
    }
}

impl Nats {
    /// Has translations decided anew at the next opportunity.
    pub(super) const fn look_again(&mut self) {
        self.changed = true;
    }

    /// Takes in a pool; `None` = it is gone.
    pub(super) fn set_pool(&mut self, key: &ResourceKey, cidr: Option<IpNet>) {
        let before = match cidr {
            Some(cidr) => self.pools.insert(key.clone(), cidr),
            None => self.pools.remove(key),
        };
        self.pools_changed |= before != cidr;
    }

    /// Takes in what is said of Elastic IPs; empty = nothing.
    pub(super) fn set_elastic(&mut self, key: &ResourceKey, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            self.elastic.remove(key);
        } else {
            self.elastic.insert(key.clone(), addresses.to_vec());
        }
    }

    /// Whether the kernel has still to be told of networks.
    pub(super) const fn cluster_changed(&self) -> bool {
        self.pools_changed
    }

    /// Says each conflict once, and when it is over.
    fn note(&mut self, conflicts: BTreeMap<Claim, Conflict>) {
        for (claim, conflict) in &conflicts {
            if self.conflicts.get(claim) != Some(conflict) {
                let endpoint = full_name(&claim.endpoint);
                tracing::warn!(external = %claim.external, internal = %claim.internal, endpoint, "not translated: {conflict}");
            }
        }
        for claim in self.conflicts.keys().filter(|claim| !conflicts.contains_key(*claim)) {
            let endpoint = full_name(&claim.endpoint);
            tracing::info!(external = %claim.external, internal = %claim.internal, endpoint, "the conflict is over, or nobody claims it any more");
        }
        self.conflicts = conflicts;
    }
}

impl<D: Dataplane> Pipeline<D> {
    /// Decides what these endpoints' translations are.
    fn resolve<'a>(&self, endpoints: impl Iterator<Item = (EndpointId, &'a LocalEndpoint)> + Clone) -> Resolved {
        if self.settings.floating_ips {
            resolve(endpoints, &self.dataplane.host_addresses())
        } else {
            Resolved::default()
        }
    }

    /// Ends the translations that a transaction leaves no ground for, before it frees or gives away what they lead to.
    pub(super) fn retire_nats(&mut self, transaction: &Transaction) -> Result<(), String> {
        if transaction.endpoints.is_empty() {
            return Ok(());
        }
        let kept = self.planner.in_force();
        let kept = kept.filter(|(id, _)| !transaction.endpoints.contains_key(id));
        let set = transaction.endpoints.iter().filter_map(|(id, change)| match change {
            EndpointChange::Set(plan) => Some((*id, &*plan.endpoint)),
            EndpointChange::Gone { .. } => None,
        });
        let wanted = self.resolve(kept.chain(set)).mappings;
        self.dataplane.retire_nats(&wanted)
    }

    /// Makes the translations of what is in force those in force, once it is time.
    pub(super) async fn follow_nats(&mut self) {
        if !self.nats.changed || !self.programmed || self.under_way.is_some() {
            return;
        }
        let resolved = self.resolve(self.planner.in_force());
        let Resolved {
            mappings,
            mut conflicts,
        } = resolved;
        match self.dataplane.set_nats(&mappings).await {
            Ok((crowded, seen)) => {
                let without_room = crowded
                    .iter()
                    .filter_map(|external| self.without_room(*external, &mappings));
                conflicts.extend(without_room);
                self.nats.note(conflicts);
                self.nats.changed = false;
                self.failures.clear("nat");
                self.take_seen(seen, false);
            }
            // It is tried again with the retry timer.
            Err(reason) => self.failures.set("nat", reason, &self.metrics),
        }
    }

    fn without_room(&self, external: IpAddr, mappings: &Mappings) -> Option<(Claim, Conflict)> {
        let mapping = mappings.get(&external)?;
        let (_, endpoint) = self.planner.in_force().find(|(id, _)| *id == mapping.endpoint)?;
        let claim = Claim {
            external,
            internal: mapping.internal,
            endpoint: endpoint.key.clone(),
        };
        Some((claim, Conflict::NoRoom))
    }

    /// Tells the kernel of the networks where workloads show their own addresses. `false`: it failed, and is tried again with the next
    /// step.
    pub(super) fn follow_cluster(&mut self, settings: &Settings) -> bool {
        let same = settings.ip_nat_outbound == self.settings.ip_nat_outbound
            && settings.ip_nat_cluster_cidrs == self.settings.ip_nat_cluster_cidrs;
        if same && self.told && !self.nats.pools_changed {
            return true;
        }
        let prefixes: BTreeSet<IpNet> = if settings.ip_nat_outbound == NatOutbound::External {
            let configured = settings.ip_nat_cluster_cidrs.0.iter();
            self.nats.pools.values().chain(configured).copied().collect()
        } else {
            BTreeSet::new()
        };
        match self.dataplane.set_cluster(&prefixes) {
            Ok(()) => {
                self.nats.pools_changed = false;
                self.failures.clear("cluster");
                true
            }
            Err(reason) => {
                self.nats.pools_changed = true;
                self.failures.set("cluster", reason, &self.metrics);
                false
            }
        }
    }
}
