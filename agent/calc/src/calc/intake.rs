//! What one update changes: items, endpoints of this node, profiles and tiers.

use std::sync::Arc;

use felid_model::names::DEFAULT_INTERFACE_PREFIX;
use felid_model::{Kind, Resource, ResourceKey};

use super::{Calc, Work};
use crate::endpoints::with_interface;
use crate::labels::LabelledItem;
use crate::policies::PolicyContent;

impl Calc {
    /// Hands one update to the part of the calculation that it concerns. Policies are returned:
    /// they come after the endpoints.
    pub(super) fn dispatch(
        &mut self,
        key: &ResourceKey,
        resource: Option<Resource>,
        work: &mut Work,
    ) -> Option<PolicyContent> {
        match resource {
            Some(Resource::Policy(policy)) => return Some(PolicyContent::Good(policy)),
            Some(Resource::BadPolicy(bad)) => return Some(PolicyContent::Bad(bad)),
            Some(Resource::WorkloadEndpoint(endpoint)) => {
                let endpoint = if endpoint.node == self.node.name {
                    with_interface(endpoint, DEFAULT_INTERFACE_PREFIX, &self.node.pod_prefix)
                } else {
                    endpoint
                };
                self.put_item(key, Some(LabelledItem::Endpoint(endpoint)), work);
            }
            Some(Resource::NetworkSet(set)) => self.put_item(key, Some(LabelledItem::Networks(set)), work),
            Some(Resource::HostEndpoint(host)) => self.put_item(key, Some(LabelledItem::Host(host)), work),
            Some(Resource::EndpointSlice(slice)) => self.items.members.put_slice(key, Some(slice)),
            Some(Resource::Profile(profile)) => self.put_profile(key, Some(profile), work),
            Some(Resource::Tier(tier)) => self.put_tier(key, Some(&tier), work),
            Some(Resource::FelixConfiguration(record)) => {
                self.configuration.resources.put_felix(&key.name, Some(record))
            }
            Some(Resource::IpPool(pool)) => self.configuration.resources.put_pool(key, Some(&pool)),
            // An earlier version of the record may have had an effect.
            Some(Resource::Inert(_)) => return self.dispatch(key, None, work),
            None => match key.kind {
                Kind::WorkloadEndpoint | Kind::Pod | Kind::HostEndpoint | Kind::NetworkSet | Kind::GlobalNetworkSet => {
                    self.put_item(key, None, work);
                }
                Kind::Profile | Kind::Namespace | Kind::ServiceAccount => self.put_profile(key, None, work),
                Kind::EndpointSlice => self.items.members.put_slice(key, None),
                Kind::Tier => self.put_tier(key, None, work),
                Kind::FelixConfiguration => self.configuration.resources.put_felix(&key.name, None),
                Kind::IpPool => self.configuration.resources.put_pool(key, None),
                Kind::NetworkPolicy
                | Kind::GlobalNetworkPolicy
                | Kind::StagedNetworkPolicy
                | Kind::StagedGlobalNetworkPolicy
                | Kind::StagedKubernetesNetworkPolicy
                | Kind::KubernetesNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy
                | Kind::ClusterNetworkPolicy => {
                    work.resolve
                        .append(&mut self.policy.index.remove(key, &mut self.policy.sets));
                }
                Kind::Service => {}
            },
        }
        None
    }

    fn put_tier(&mut self, key: &ResourceKey, record: Option<&felid_model::Tier>, work: &mut Work) {
        if self.policy.tiers.put(&key.name, record) {
            work.resolve.append(&mut self.policy.index.in_tier(&key.name));
        }
    }

    fn put_profile(&mut self, key: &ResourceKey, record: Option<Arc<felid_model::Profile>>, work: &mut Work) {
        let mut concerned = self.policy.profiles.put(key, record);
        work.relabel.append(&mut concerned.labels);
        work.resolve.append(&mut concerned.rules);
    }

    /// Sets an endpoint or network set; `None` means that it is gone. An endpoint without addresses
    /// counts as gone.
    fn put_item(&mut self, key: &ResourceKey, item: Option<LabelledItem>, work: &mut Work) {
        let item = item.filter(|item| match item {
            LabelledItem::Endpoint(endpoint) => !endpoint.ip_networks.is_empty(),
            LabelledItem::Networks(_) | LabelledItem::Host(_) => true,
        });
        let known = self.items.ids.get(key).copied();
        let old = known.and_then(|id| self.items.members.item(id));
        if old == item.as_ref() {
            return;
        }
        let id = known.unwrap_or_else(|| self.items.numbers.take());
        let old_profiles = old.map(LabelledItem::profiles).unwrap_or_default();
        let new_profiles = item.as_ref().map(LabelledItem::profiles).unwrap_or_default();
        self.policy.profiles.inherit(id, &old_profiles, &new_profiles);
        let count = match key.kind {
            Kind::WorkloadEndpoint | Kind::Pod => {
                self.put_candidate(key, item.as_ref(), work);
                Some(&mut self.items.endpoints)
            }
            Kind::HostEndpoint => Some(&mut self.items.hosts),
            _ => None,
        };
        if let Some(count) = count {
            *count += usize::from(known.is_none());
            *count -= usize::from(item.is_none());
        }
        match &item {
            Some(_) => {
                self.items.ids.insert(key.clone(), id);
                work.relabel.insert(id);
            }
            None => {
                self.items.ids.remove(key);
                work.freed.push(id);
            }
        }
        self.items.members.put(id, item);
    }

    /// Notes an endpoint of this node, and that it claims its interface.
    fn put_candidate(&mut self, key: &ResourceKey, item: Option<&LabelledItem>, work: &mut Work) {
        if let Some(old) = self.local.candidates.remove(key) {
            self.local.interfaces.release(&old.interface_name.as_str().into(), key);
            work.changed.insert(key.clone());
        }
        if let Some(LabelledItem::Endpoint(endpoint)) = item
            && endpoint.node == self.node.name
        {
            self.local
                .interfaces
                .claim(&endpoint.interface_name.as_str().into(), key, false);
            self.local.candidates.insert(key.clone(), endpoint.clone());
            work.changed.insert(key.clone());
        }
    }
}
