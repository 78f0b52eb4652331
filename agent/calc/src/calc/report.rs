//! What can be asked of a calculation after a flush.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::resolved::{Delta, LocalEndpoint, SetId};
use felid_model::{ResourceKey, WorkloadEndpoint, WorkloadSourceSpoofing};

use super::Calc;
use crate::labels::LabelledItem;
use crate::policies::PolicyContent;
use crate::status::{Inconsistency, Stats};

impl Calc {
    /// Returns a local endpoint as of the last flush.
    pub fn endpoint(&self, key: &ResourceKey) -> Option<&Arc<LocalEndpoint>> {
        self.published.endpoints.get(key)
    }

    /// Returns the local endpoints as of the last flush, in the order of their keys.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<LocalEndpoint>> {
        self.published.endpoints.values()
    }

    /// Returns the names of the nodes that workload endpoints are of, as of the last flush.
    pub fn nodes(&self) -> BTreeSet<String> {
        let items = self.items.ids.values().filter_map(|id| self.items.members.item(*id));
        let nodes = items.filter_map(|item| match item {
            LabelledItem::Endpoint(endpoint) => Some(endpoint.node.clone()),
            LabelledItem::Networks(_) | LabelledItem::Host(_) => None,
        });
        nodes.collect()
    }

    /// Returns the sum of all deltas so far.
    pub fn snapshot(&self) -> Delta {
        let mut delta = Delta {
            endpoints: self
                .published
                .endpoints
                .iter()
                .map(|(key, endpoint)| (key.clone(), Some(endpoint.clone())))
                .collect(),
            ..Delta::default()
        };
        self.items.members.snapshot(&mut delta);
        delta
    }

    /// Returns for each active set what it is, in words for people: a selector, a service, or the
    /// name of a port.
    pub fn set_texts(&self) -> BTreeMap<SetId, String> {
        self.policy.sets.texts()
    }

    /// Returns the policies that select a local endpoint, in whatever direction, bad ones included,
    /// in the order in which they are asked.
    pub fn policies_of(&self, endpoint: &ResourceKey) -> Vec<ResourceKey> {
        let Some(local) = self.local.owners.get(endpoint) else {
            return Vec::new();
        };
        self.sources()
            .in_order(local.id)
            .into_iter()
            .map(|(_, entry)| entry.key.clone())
            .collect()
    }

    /// Returns the sizes of the calculation's parts as of the last flush.
    pub fn stats(&self) -> Stats {
        let members = self.items.members.counts();
        let (profiles, active_profiles) = self.policy.profiles.counts();
        let mut stats = Stats {
            local_endpoints: self.published.endpoints.len(),
            endpoints: self.items.endpoints,
            network_sets: self.items.ids.len() - self.items.endpoints - self.items.hosts,
            active_profiles,
            profiles,
            tiers: self.policy.tiers.count(),
            selectors: members.selectors,
            sets: self.policy.sets.count(),
            prefixes: members.prefixes,
            named_ports: members.named_ports,
            ..Stats::default()
        };
        for (entry, endpoints) in self.policy.index.all() {
            let active = usize::from(endpoints > 0);
            stats.policies += 1;
            stats.active_policies += active;
            stats.staged_policies += active * usize::from(entry.content.is_staged());
        }
        stats
    }

    /// Returns what is wrong between resources, as far as it concerns this node, sorted.
    pub fn problems(&self) -> Vec<Inconsistency> {
        let mut problems = self.policy_problems();
        for (key, candidate) in &self.local.candidates {
            self.endpoint_problems(key, candidate, &mut problems);
        }
        problems.sort();
        problems.dedup();
        problems
    }

    /// Policies that are not enforced, or not as they say.
    fn policy_problems(&self) -> Vec<Inconsistency> {
        let mut problems = Vec::new();
        for (entry, endpoints) in self.policy.index.all() {
            let policy = entry.key.clone();
            match &entry.content {
                PolicyContent::Bad(bad) => problems.push(Inconsistency::BadPolicy {
                    policy,
                    reason: bad.reason.clone(),
                    endpoints,
                }),
                PolicyContent::Good(good) if self.policy.tiers.get(&good.tier).is_none() => {
                    problems.push(Inconsistency::MissingTier {
                        policy,
                        tier: good.tier.clone(),
                        endpoints,
                    });
                }
                PolicyContent::Good(_) => {}
            }
        }
        problems
    }

    /// What keeps one endpoint of this node from working as its resource says.
    fn endpoint_problems(&self, key: &ResourceKey, candidate: &WorkloadEndpoint, problems: &mut Vec<Inconsistency>) {
        let endpoint = || key.clone();
        let interface: Arc<str> = candidate.interface_name.as_str().into();
        if let Some(owner) = self.local.interfaces.winner(&interface).filter(|owner| *owner != key) {
            problems.push(Inconsistency::InterfaceTaken {
                endpoint: endpoint(),
                interface,
                owner: owner.clone(),
            });
            return;
        }
        for (address, owner) in self.lost(candidate) {
            problems.push(Inconsistency::AddressTaken {
                endpoint: endpoint(),
                address,
                owner,
            });
        }
        let spoofs = !candidate.allow_spoofed_source_prefixes.is_empty();
        if spoofs && self.node.source_spoofing == WorkloadSourceSpoofing::Disabled {
            problems.push(Inconsistency::SourceSpoofingDisabled { endpoint: endpoint() });
        }
        for (position, profile) in candidate.profiles.iter().enumerate() {
            if self
                .policy
                .profiles
                .get(profile)
                .is_some_and(|entry| entry.record.is_some())
            {
                continue;
            }
            let (endpoint, name) = (endpoint(), profile.clone());
            // Profiles behind one that is missing never decide, so only the last is without
            // consequence.
            let is_last = position + 1 == candidate.profiles.len();
            problems.push(if is_last && profile.starts_with("ksa.") {
                Inconsistency::MissingServiceAccount {
                    endpoint,
                    profile: name,
                }
            } else {
                Inconsistency::MissingProfile {
                    endpoint,
                    profile: name,
                }
            });
        }
    }
}
