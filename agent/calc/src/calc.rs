//! Records in, changes out: the order in which one flush works.

mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::names::DEFAULT_INTERFACE_PREFIX;
use felid_model::resolved::{Delta, LocalEndpoint};
use felid_model::{Kind, Resource, ResourceKey, WorkloadEndpoint};

use crate::active::Versions;
use crate::claims::Claims;
use crate::config::{Config, ConfigRecords};
use crate::endpoints::{Shared, Sources, addresses, with_interface};
use crate::ids::{ItemId, Numbers};
use crate::labels::{Bearer, Inherited};
use crate::members::Members;
use crate::policies::{Content, Policies};
use crate::profiles::Profiles;
use crate::sets::Sets;
use crate::tiers::Tiers;

/// What the calculation must know from the start.
#[derive(Clone, Debug)]
pub struct CalcOptions {
    /// Name of this node.
    pub node: String,
}

/// What changed since the last flush: whole new values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Endpoints and memberships.
    pub delta: Delta,
    /// Merged configuration, if it changed. The first flush always gives it.
    pub config: Option<Config>,
}

/// An endpoint of this node that owns its interface.
#[derive(Debug)]
struct Local {
    id: ItemId,
    endpoint: Arc<WorkloadEndpoint>,
}

/// What a flush has still to look at.
#[derive(Debug, Default)]
struct Work {
    /// Items with other labels, or that were not there.
    relabel: BTreeSet<ItemId>,
    /// Local endpoints whose value may change.
    resolve: BTreeSet<ItemId>,
    /// Endpoints of this node whose record changed.
    changed: BTreeSet<ResourceKey>,
    /// Endpoints that were local.
    gone: BTreeSet<ResourceKey>,
    /// Numbers of items that went: they may not be used again before the flush is over.
    freed: Vec<ItemId>,
}

/// The calculation. See the crate's page.
#[derive(Debug)]
pub struct Calc {
    node: String,
    /// What the interfaces of pods begin with.
    pod_prefix: String,
    /// Updates since the last flush; `None` = deleted.
    pending: BTreeMap<ResourceKey, Option<Resource>>,
    config_records: ConfigRecords,
    config: Option<Config>,
    tiers: Tiers,
    profiles: Profiles,
    policies: Policies,
    sets: Sets,
    members: Members,
    items: HashMap<ResourceKey, ItemId>,
    numbers: Numbers<ItemId>,
    /// Items that are workload endpoints.
    endpoint_count: usize,
    /// Items that are host endpoints.
    host_count: usize,
    /// Endpoints of this node with addresses.
    candidates: BTreeMap<ResourceKey, Arc<WorkloadEndpoint>>,
    interfaces: Claims<Arc<str>>,
    addresses: Claims<IpAddr>,
    locals: BTreeMap<ResourceKey, Local>,
    said: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    shared: Shared,
    versions: Versions,
}

impl Calc {
    /// An empty calculation.
    pub fn new(options: CalcOptions) -> Self {
        Calc {
            node: options.node,
            pod_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            pending: BTreeMap::new(),
            config_records: ConfigRecords::default(),
            config: None,
            tiers: Tiers::new(),
            profiles: Profiles::default(),
            policies: Policies::new(),
            sets: Sets::default(),
            members: Members::new(),
            items: HashMap::new(),
            numbers: Numbers::new(),
            endpoint_count: 0,
            host_count: 0,
            candidates: BTreeMap::new(),
            interfaces: Claims::new(),
            addresses: Claims::new(),
            locals: BTreeMap::new(),
            said: BTreeMap::new(),
            shared: Shared::default(),
            versions: Versions::default(),
        }
    }

    /// Sets what the names of the host-side interfaces of pods begin with: the first `interfacePrefix`. A pod's record does not name its
    /// interface; `cali` unless said otherwise.
    pub fn set_pod_interface_prefix(&mut self, prefix: &str) {
        if self.pod_prefix == prefix {
            return;
        }
        self.pod_prefix = prefix.to_owned();
        for (key, endpoint) in self.candidates.iter().filter(|(key, _)| key.kind == Kind::Pod) {
            let again = || Some(Resource::WorkloadEndpoint(endpoint.clone()));
            self.pending.entry(key.clone()).or_insert_with(again);
        }
    }

    /// A resource is there, or has a new value. Only notes it: [`Calc::flush`] does the work.
    pub fn apply(&mut self, resource: Resource) {
        self.pending.insert(resource.key().clone(), Some(resource));
    }

    /// A resource is gone.
    pub fn delete(&mut self, key: &ResourceKey) {
        self.pending.insert(key.clone(), None);
    }

    /// Works everything out that was noted since the last flush, and returns what changed.
    pub fn flush(&mut self) -> Output {
        let mut work = Work::default();
        let mut policies = Vec::new();
        for (key, resource) in std::mem::take(&mut self.pending) {
            if let Some(content) = self.take_record(&key, resource, &mut work) {
                policies.push((key, content));
            }
        }
        self.settle_locals(&mut work);
        for id in work.relabel.iter().copied() {
            let local = self
                .members
                .bearer(id)
                .is_some_and(|bearer| self.locals.contains_key(bearer.key()));
            if local
                && let Some(labels) = self.inherited(id)
                && self.policies.place(id, Some(labels))
            {
                work.resolve.insert(id);
            }
        }
        for (key, content) in policies {
            work.resolve.append(&mut self.policies.put(&key, content));
        }
        self.profiles.settle(&mut self.sets, &mut self.versions);
        self.policies.settle(&mut self.sets, &mut self.versions);

        let (started, stopped) = self.sets.take_changes();
        self.members.stop(&stopped);
        for id in std::mem::take(&mut work.relabel) {
            if let Some(labels) = self.inherited(id) {
                self.members.relabel(id, labels);
            }
        }
        self.members.start(&started);

        let mut delta = Delta::default();
        self.members.flush(&mut delta);
        let freed = std::mem::take(&mut work.freed);
        self.say_endpoints(work, &mut delta);
        freed.into_iter().for_each(|id| self.numbers.free(id));
        let config = self.config_records.merged(&self.node);
        let config = (self.config.as_ref() != Some(&config)).then(|| self.config.insert(config).clone());
        Output { delta, config }
    }

    /// Puts one record where it belongs. Policies are given back: they come after the endpoints.
    fn take_record(&mut self, key: &ResourceKey, resource: Option<Resource>, work: &mut Work) -> Option<Content> {
        match resource {
            Some(Resource::Policy(policy)) => return Some(Content::Good(policy)),
            Some(Resource::BadPolicy(bad)) => return Some(Content::Bad(bad)),
            Some(Resource::WorkloadEndpoint(endpoint)) => {
                let endpoint = if endpoint.node == self.node {
                    with_interface(endpoint, &self.pod_prefix)
                } else {
                    endpoint
                };
                self.put_item(key, Some(Bearer::Endpoint(endpoint)), work);
            }
            Some(Resource::NetworkSet(set)) => self.put_item(key, Some(Bearer::Networks(set)), work),
            Some(Resource::HostEndpoint(host)) => self.put_item(key, Some(Bearer::Host(host)), work),
            Some(Resource::EndpointSlice(slice)) => self.members.put_slice(key, Some(slice)),
            Some(Resource::Profile(profile)) => self.put_profile(key, Some(profile), work),
            Some(Resource::Tier(tier)) => self.put_tier(key, Some(&tier), work),
            Some(Resource::FelixConfiguration(record)) => self.config_records.put(&key.name, Some(record)),
            // An earlier version of the record may have had an effect.
            Some(Resource::IpPool(_) | Resource::Inert(_)) => return self.take_record(key, None, work),
            None => match key.kind {
                Kind::WorkloadEndpoint | Kind::Pod | Kind::HostEndpoint | Kind::NetworkSet | Kind::GlobalNetworkSet => {
                    self.put_item(key, None, work);
                }
                Kind::Profile | Kind::Namespace | Kind::ServiceAccount => self.put_profile(key, None, work),
                Kind::EndpointSlice => self.members.put_slice(key, None),
                Kind::Tier => self.put_tier(key, None, work),
                Kind::FelixConfiguration => self.config_records.put(&key.name, None),
                Kind::NetworkPolicy
                | Kind::GlobalNetworkPolicy
                | Kind::StagedNetworkPolicy
                | Kind::StagedGlobalNetworkPolicy
                | Kind::StagedKubernetesNetworkPolicy
                | Kind::KubernetesNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy
                | Kind::ClusterNetworkPolicy => {
                    work.resolve.append(&mut self.policies.remove(key, &mut self.sets));
                }
                Kind::IpPool | Kind::Service => {}
            },
        }
        None
    }

    fn put_tier(&mut self, key: &ResourceKey, record: Option<&felid_model::Tier>, work: &mut Work) {
        if self.tiers.put(&key.name, record) {
            work.resolve.append(&mut self.policies.in_tier(&key.name));
        }
    }

    fn put_profile(&mut self, key: &ResourceKey, record: Option<Arc<felid_model::Profile>>, work: &mut Work) {
        let mut concerned = self.profiles.put(key, record);
        work.relabel.append(&mut concerned.labels);
        work.resolve.append(&mut concerned.rules);
    }

    /// Sets an endpoint or network set; `None` = gone. An endpoint without addresses counts as gone.
    fn put_item(&mut self, key: &ResourceKey, bearer: Option<Bearer>, work: &mut Work) {
        let bearer = bearer.filter(|bearer| match bearer {
            Bearer::Endpoint(endpoint) => !endpoint.ip_networks.is_empty(),
            Bearer::Networks(_) | Bearer::Host(_) => true,
        });
        let known = self.items.get(key).copied();
        let old = known.and_then(|id| self.members.bearer(id));
        if old == bearer.as_ref() {
            return;
        }
        let id = known.unwrap_or_else(|| self.numbers.take());
        let old_profiles = old.map(Bearer::profiles).unwrap_or_default();
        let new_profiles = bearer.as_ref().map(Bearer::profiles).unwrap_or_default();
        self.profiles.bear(id, &old_profiles, &new_profiles);
        let count = match key.kind {
            Kind::WorkloadEndpoint | Kind::Pod => {
                self.put_candidate(key, bearer.as_ref(), work);
                Some(&mut self.endpoint_count)
            }
            Kind::HostEndpoint => Some(&mut self.host_count),
            _ => None,
        };
        if let Some(count) = count {
            *count += usize::from(known.is_none());
            *count -= usize::from(bearer.is_none());
        }
        match &bearer {
            Some(_) => {
                self.items.insert(key.clone(), id);
                work.relabel.insert(id);
            }
            None => {
                self.items.remove(key);
                work.freed.push(id);
            }
        }
        self.members.put(id, bearer);
    }

    /// Notes an endpoint of this node, and that it claims its interface.
    fn put_candidate(&mut self, key: &ResourceKey, bearer: Option<&Bearer>, work: &mut Work) {
        if let Some(old) = self.candidates.remove(key) {
            self.interfaces.release(&old.interface_name.as_str().into(), key);
            work.changed.insert(key.clone());
        }
        if let Some(Bearer::Endpoint(endpoint)) = bearer
            && endpoint.node == self.node
        {
            self.interfaces.claim(&endpoint.interface_name.as_str().into(), key);
            self.candidates.insert(key.clone(), endpoint.clone());
            work.changed.insert(key.clone());
        }
    }

    /// Decides which candidates own their interface, and lets those claim their addresses.
    fn settle_locals(&mut self, work: &mut Work) {
        let mut affected = self.interfaces.take_touched();
        affected.append(&mut work.changed);
        for key in affected {
            let old = self.locals.remove(&key);
            let old_addresses = old.as_ref().map(|old| addresses(&old.endpoint)).unwrap_or_default();
            let old_profiles = old
                .as_ref()
                .map(|old| old.endpoint.profiles.clone())
                .unwrap_or_default();
            let owns = |endpoint: &&Arc<WorkloadEndpoint>| {
                self.interfaces.winner(&endpoint.interface_name.as_str().into()) == Some(&key)
            };
            let now = self
                .candidates
                .get(&key)
                .filter(owns)
                .cloned()
                .zip(self.items.get(&key).copied());
            let new_addresses = now
                .as_ref()
                .map(|(endpoint, _)| addresses(endpoint))
                .unwrap_or_default();
            for address in old_addresses.iter().filter(|address| !new_addresses.contains(address)) {
                self.addresses.release(address, &key);
            }
            for address in &new_addresses {
                self.addresses.claim(address, &key);
            }
            match now {
                Some((endpoint, id)) => {
                    self.profiles.use_rules(id, &old_profiles, &endpoint.profiles);
                    if old.is_none() {
                        work.relabel.insert(id);
                    }
                    work.resolve.insert(id);
                    self.locals.insert(key, Local { id, endpoint });
                }
                None => {
                    if let Some(old) = old {
                        self.profiles.use_rules(old.id, &old_profiles, &[]);
                        self.policies.place(old.id, None);
                        work.gone.insert(key);
                    }
                }
            }
        }
        let concerned = self.addresses.take_touched();
        work.resolve
            .extend(concerned.iter().filter_map(|key| Some(self.locals.get(key)?.id)));
    }

    fn inherited(&self, id: ItemId) -> Option<Inherited> {
        let bearer = self.members.bearer(id)?.clone();
        let profiles = self.profiles.records(&bearer.profiles());
        Some(Inherited { bearer, profiles })
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            policies: &self.policies,
            profiles: &self.profiles,
            tiers: &self.tiers,
        }
    }

    /// Addresses of an endpoint that another one owns.
    fn lost(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<IpAddr, ResourceKey> {
        let owner = |address: IpAddr| {
            let owner = self
                .addresses
                .winner(&address)
                .filter(|owner| **owner != endpoint.key)?;
            Some((address, owner.clone()))
        };
        addresses(endpoint).into_iter().filter_map(owner).collect()
    }

    fn say_endpoints(&mut self, work: Work, delta: &mut Delta) {
        let mut shared = std::mem::take(&mut self.shared);
        for id in work.resolve {
            let Some(local) = self.members.bearer(id).and_then(|bearer| self.locals.get(bearer.key())) else {
                continue;
            };
            let lost = self.lost(&local.endpoint);
            let now = self.sources().local_endpoint(id, &local.endpoint, &lost, &mut shared);
            if self.said.get(&now.key).is_none_or(|said| **said != now) {
                let now = Arc::new(now);
                self.said.insert(now.key.clone(), now.clone());
                delta.endpoints.insert(now.key.clone(), Some(now));
            }
        }
        for key in work.gone {
            if !self.locals.contains_key(&key) && self.said.remove(&key).is_some() {
                delta.endpoints.insert(key, None);
            }
        }
        shared.sweep();
        self.shared = shared;
    }
}
