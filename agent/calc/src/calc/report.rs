//! What can be asked of a calculation after a flush.

use std::collections::BTreeMap;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{Delta, LocalEndpoint, SetId};

use super::Calc;
use crate::policies::Content;
use crate::status::{Problem, Stats};

impl Calc {
    /// A local endpoint, as of the last flush.
    pub fn endpoint(&self, key: &ResourceKey) -> Option<&Arc<LocalEndpoint>> {
        self.said.get(key)
    }

    /// The local endpoints as of the last flush, by key.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<LocalEndpoint>> {
        self.said.values()
    }

    /// The sum of all deltas so far.
    pub fn snapshot(&self) -> Delta {
        let mut delta = Delta {
            endpoints: self
                .said
                .iter()
                .map(|(key, endpoint)| (key.clone(), Some(endpoint.clone())))
                .collect(),
            ..Delta::default()
        };
        self.members.snapshot(&mut delta);
        delta
    }

    /// The active sets in words, for people: a selector, a service, the name of a port.
    pub fn set_texts(&self) -> BTreeMap<SetId, String> {
        self.sets.texts()
    }

    /// The policies that select a local endpoint, in any direction and bad ones too, in the order in which they hold.
    pub fn policies_of(&self, endpoint: &ResourceKey) -> Vec<ResourceKey> {
        let Some(local) = self.locals.get(endpoint) else {
            return Vec::new();
        };
        self.sources()
            .in_order(local.id)
            .into_iter()
            .map(|(_, entry)| entry.key.clone())
            .collect()
    }

    /// Sizes.
    pub fn stats(&self) -> Stats {
        let members = self.members.counts();
        let (profiles, active_profiles) = self.profiles.counts();
        let mut stats = Stats {
            local_endpoints: self.said.len(),
            endpoints: self.endpoint_count,
            network_sets: self.items.len() - self.endpoint_count - self.host_count,
            active_profiles,
            profiles,
            tiers: self.tiers.count(),
            selectors: members.selectors,
            sets: self.sets.count(),
            prefixes: members.prefixes,
            named_ports: members.named_ports,
            ..Stats::default()
        };
        for (entry, endpoints) in self.policies.all() {
            let active = usize::from(endpoints > 0);
            stats.policies += 1;
            stats.active_policies += active;
            stats.staged_policies += active * usize::from(entry.content.is_staged());
        }
        stats
    }

    /// What is wrong in the records, as far as it concerns this node; sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (entry, endpoints) in self.policies.all() {
            let policy = entry.key.clone();
            match &entry.content {
                Content::Bad(bad) => problems.push(Problem::BadPolicy {
                    policy,
                    reason: bad.reason.clone(),
                    endpoints,
                }),
                Content::Good(good) if self.tiers.get(&good.tier).is_none() => {
                    problems.push(Problem::MissingTier {
                        policy,
                        tier: good.tier.clone(),
                        endpoints,
                    });
                }
                Content::Good(_) => {}
            }
        }
        for (key, candidate) in &self.candidates {
            let endpoint = || key.clone();
            let interface: Arc<str> = candidate.interface_name.as_str().into();
            if let Some(owner) = self.interfaces.winner(&interface).filter(|owner| *owner != key) {
                problems.push(Problem::InterfaceTaken {
                    endpoint: endpoint(),
                    interface,
                    owner: owner.clone(),
                });
                continue;
            }
            for (address, owner) in self.lost(candidate) {
                problems.push(Problem::AddressTaken {
                    endpoint: endpoint(),
                    address,
                    owner,
                });
            }
            for profile in &candidate.profiles {
                if self.profiles.get(profile).is_none_or(|entry| entry.record.is_none()) {
                    problems.push(Problem::MissingProfile {
                        endpoint: endpoint(),
                        profile: profile.clone(),
                    });
                }
            }
        }
        problems.sort();
        problems.dedup();
        problems
    }
}
