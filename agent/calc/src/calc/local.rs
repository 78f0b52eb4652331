//! Which endpoints of this node are in force, and what is published of each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::Delta;
use felid_model::{ResourceKey, WorkloadEndpoint};

use super::parts::Local;
use super::{Calc, Work};
use crate::endpoints::{PolicySources, addresses};
use crate::ids::ItemId;
use crate::labels::InheritedLabels;

impl Calc {
    /// Decides which candidates own their interface, and lets those claim their addresses.
    pub(super) fn recompute_locals(&mut self, work: &mut Work) {
        let mut affected = self.local.interfaces.take_touched();
        affected.append(&mut work.changed);
        affected.append(&mut self.local.moved);
        for key in affected {
            let old = self.local.owners.remove(&key);
            let old_addresses = old.as_ref().map(|old| addresses(&old.endpoint)).unwrap_or_default();
            let old_profiles = old
                .as_ref()
                .map(|old| old.endpoint.profiles.clone())
                .unwrap_or_default();
            let owns = |endpoint: &&Arc<WorkloadEndpoint>| {
                self.local.interfaces.winner(&endpoint.interface_name.as_str().into()) == Some(&key)
            };
            let now = self
                .local
                .candidates
                .get(&key)
                .filter(owns)
                .cloned()
                .zip(self.items.ids.get(&key).copied());
            let new_addresses = now
                .as_ref()
                .map(|(endpoint, _)| addresses(endpoint))
                .unwrap_or_default();
            for address in old_addresses.iter().filter(|address| !new_addresses.contains(address)) {
                self.local.addresses.release(address, &key);
            }
            let is_absent = now.as_ref().is_some_and(|(endpoint, _)| {
                let present = self.local.present.as_ref();
                present.is_some_and(|present| !present.contains(endpoint.interface_name.as_str()))
            });
            for address in &new_addresses {
                self.local.addresses.claim(address, &key, is_absent);
            }
            match now {
                Some((endpoint, id)) => {
                    self.policy.profiles.use_rules(id, &old_profiles, &endpoint.profiles);
                    if old.is_none() {
                        work.relabel.insert(id);
                    }
                    work.resolve.insert(id);
                    self.local.owners.insert(key, Local { id, endpoint });
                }
                None => {
                    if let Some(old) = old {
                        self.policy.profiles.use_rules(old.id, &old_profiles, &[]);
                        self.policy.index.place(old.id, None);
                        work.gone.insert(key);
                    }
                }
            }
        }
        let concerned = self.local.addresses.take_touched();
        work.resolve
            .extend(concerned.iter().filter_map(|key| Some(self.local.owners.get(key)?.id)));
    }

    pub(super) fn inherited(&self, id: ItemId) -> Option<InheritedLabels> {
        let item = self.items.members.item(id)?.clone();
        let profiles = self.policy.profiles.records(&item.profiles());
        Some(InheritedLabels { item, profiles })
    }

    pub(super) fn sources(&self) -> PolicySources<'_> {
        PolicySources {
            policies: &self.policy.index,
            profiles: &self.policy.profiles,
            tiers: &self.policy.tiers,
            source_spoofing: self.node.source_spoofing,
        }
    }

    /// Returns the addresses of an endpoint that another one owns, with their owner.
    pub(super) fn lost(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<IpAddr, ResourceKey> {
        let owner = |address: IpAddr| {
            let owner = self
                .local
                .addresses
                .winner(&address)
                .filter(|owner| **owner != endpoint.key)?;
            Some((address, owner.clone()))
        };
        addresses(endpoint).into_iter().filter_map(owner).collect()
    }

    /// Recomputes the local endpoints that may have changed, and adds those that did to the delta.
    pub(super) fn publish_endpoints(&mut self, mut work: Work, delta: &mut Delta) {
        if std::mem::take(&mut self.published.recompute_all) {
            work.resolve.extend(self.local.owners.values().map(|local| local.id));
        }
        let mut shared = std::mem::take(&mut self.published.shared);
        for id in work.resolve {
            let Some(local) = self
                .items
                .members
                .item(id)
                .and_then(|item| self.local.owners.get(item.key()))
            else {
                continue;
            };
            let lost = self.lost(&local.endpoint);
            let now = self.sources().local_endpoint(id, &local.endpoint, &lost, &mut shared);
            if self
                .published
                .endpoints
                .get(&now.key)
                .is_none_or(|published| **published != now)
            {
                let now = Arc::new(now);
                self.published.endpoints.insert(now.key.clone(), now.clone());
                delta.endpoints.insert(now.key.clone(), Some(now));
            }
        }
        for key in work.gone {
            if !self.local.owners.contains_key(&key) && self.published.endpoints.remove(&key).is_some() {
                delta.endpoints.insert(key, None);
            }
        }
        shared.sweep();
        self.published.shared = shared;
    }
}
