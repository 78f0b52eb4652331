//! Records in, changes out: the order in which one flush works.

mod intake;
mod local;
mod parts;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::names::DEFAULT_INTERFACE_PREFIX;
use felid_model::resolved::Delta;
use felid_model::{Kind, Resource, ResourceKey, WorkloadSourceSpoofing};
use ipnet::IpNet;

use parts::{Configuration, Items, LocalClaims, PolicyParts, Published, ThisNode};

use crate::config::NodeConfiguration;
use crate::endpoints::with_interface;
use crate::ids::ItemId;

/// What the calculation must know from the start.
#[derive(Clone, Debug)]
pub struct CalcOptions {
    /// The name of this node, as resources write it.
    pub node: String,
}

/// What changed since the last flush: whole new values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The endpoints and memberships that changed.
    pub delta: Delta,
    /// The records that configure this node, if they changed. The first flush always gives them.
    pub configuration: Option<NodeConfiguration>,
    /// The networks of all `IPPool` records, if they changed. The first flush always gives them.
    pub pools: Option<BTreeSet<IpNet>>,
}

/// What a flush has still to look at.
#[derive(Debug, Default)]
struct Work {
    /// Items whose labels changed, and new items.
    relabel: BTreeSet<ItemId>,
    /// Local endpoints whose published value may change.
    resolve: BTreeSet<ItemId>,
    /// Endpoints of this node whose resource changed.
    changed: BTreeSet<ResourceKey>,
    /// Endpoints that were local before this flush.
    gone: BTreeSet<ResourceKey>,
    /// Ids of items that went. They may not be used again before the flush is over.
    freed: Vec<ItemId>,
}

/// The calculation of one node: resources in, changes of the node's policy out. The crate's page
/// describes how it works and what it guarantees.
///
/// # Examples
///
/// ```
/// use felid_calc::{Calc, CalcOptions};
/// use felid_model::{Decoded, decode, documents};
///
/// let resources = r#"
/// apiVersion: projectcalico.org/v3
/// kind: WorkloadEndpoint
/// metadata: {name: node--a-k8s-web-eth0, namespace: shop, labels: {app: web}}
/// spec:
///   node: node-a
///   orchestrator: k8s
///   pod: web
///   endpoint: eth0
///   interfaceName: cali1
///   ipNetworks: [10.0.0.1/32]
/// ---
/// apiVersion: projectcalico.org/v3
/// kind: NetworkPolicy
/// metadata: {name: web, namespace: shop}
/// spec:
///   selector: app == 'web'
///   ingress:
///   - {action: Allow, source: {selector: app == 'client'}}
/// "#;
/// let mut calc = Calc::new(CalcOptions { node: "node-a".to_owned() });
/// for document in documents(resources) {
///     let Decoded::Resource { resource, .. } = decode(&document) else { panic!("bad example") };
///     calc.apply(resource);
/// }
/// let delta = calc.flush().delta;
/// let endpoint = delta.endpoints.values().flatten().next().unwrap();
/// let rule = &endpoint.ingress.tiers[0].policies[0].rules[0];
/// assert_eq!(rule.source.sets.len(), 1, "the selector of the peer became a set");
///
/// assert!(calc.flush().delta.endpoints.is_empty(), "nothing changed since");
/// ```
#[derive(Debug)]
pub struct Calc {
    node: ThisNode,
    /// Updates since the last flush; `None` means that the resource is gone.
    pending: BTreeMap<ResourceKey, Option<Resource>>,
    configuration: Configuration,
    policy: PolicyParts,
    items: Items,
    local: LocalClaims,
    published: Published,
}

impl Calc {
    /// Returns a calculation that knows of no resource.
    pub fn new(options: CalcOptions) -> Self {
        Calc {
            node: ThisNode::new(options.node),
            pending: BTreeMap::new(),
            configuration: Configuration::default(),
            policy: PolicyParts::new(),
            items: Items::new(),
            local: LocalClaims::new(),
            published: Published::default(),
        }
    }

    /// Sets what the names of the host-side interfaces of pods begin with, since a pod's resource
    /// does not name its interface: the first prefix of `interfacePrefix`. It is `cali` unless this
    /// is called. Like other updates it takes effect at the next flush.
    pub fn set_pod_interface_prefix(&mut self, prefix: &str) {
        if self.node.pod_prefix == prefix {
            return;
        }
        let before = std::mem::replace(&mut self.node.pod_prefix, prefix.to_owned());
        for (key, endpoint) in self.local.candidates.iter().filter(|(key, _)| key.kind == Kind::Pod) {
            let endpoint = with_interface(endpoint.clone(), &before, DEFAULT_INTERFACE_PREFIX);
            let again = || Some(Resource::WorkloadEndpoint(endpoint));
            self.pending.entry(key.clone()).or_insert_with(again);
        }
    }

    /// Sets the names of the host's interfaces that are there. Of several endpoints with one
    /// address, those whose interface is there come first, so that a resource that is left over
    /// takes nothing from a workload that runs. `None`, as at the beginning: this is not known, and
    /// only the keys count. Like other updates it takes effect at the next flush.
    pub fn set_interfaces(&mut self, present: Option<BTreeSet<Arc<str>>>) {
        if self.local.present == present {
            return;
        }
        match (&self.local.present, &present) {
            (Some(before), Some(now)) => {
                let names = before.symmetric_difference(now);
                let keys = names.flat_map(|name| self.local.interfaces.claimants(name));
                self.local.moved.extend(keys.cloned());
            }
            _ => self.local.moved.extend(self.local.candidates.keys().cloned()),
        }
        self.local.present = present;
    }

    /// Sets whether endpoints of this node may send from the prefixes of
    /// `allowSpoofedSourcePrefixes`; they may not unless this is called. Like other updates it
    /// takes effect at the next flush.
    pub fn set_workload_source_spoofing(&mut self, spoofing: WorkloadSourceSpoofing) {
        if self.node.source_spoofing != spoofing {
            self.node.source_spoofing = spoofing;
            self.published.recompute_all = true;
        }
    }

    /// Notes that a resource is there, or has a new value. [`Calc::flush`] does the work.
    pub fn apply(&mut self, resource: Resource) {
        self.pending.insert(resource.key().clone(), Some(resource));
    }

    /// Notes that a resource is gone. [`Calc::flush`] does the work.
    pub fn delete(&mut self, key: &ResourceKey) {
        self.pending.insert(key.clone(), None);
    }

    /// Recomputes whatever the updates since the last flush concern, and returns what changed.
    pub fn flush(&mut self) -> Output {
        let mut work = Work::default();
        let mut policies = Vec::new();
        for (key, resource) in std::mem::take(&mut self.pending) {
            if let Some(content) = self.dispatch(&key, resource, &mut work) {
                policies.push((key, content));
            }
        }
        self.recompute_locals(&mut work);
        for id in work.relabel.iter().copied() {
            let local = self
                .items
                .members
                .item(id)
                .is_some_and(|item| self.local.owners.contains_key(item.key()));
            if local
                && let Some(labels) = self.inherited(id)
                && self.policy.index.place(id, Some(labels))
            {
                work.resolve.insert(id);
            }
        }
        for (key, content) in policies {
            work.resolve.append(&mut self.policy.index.put(&key, content));
        }
        self.policy
            .profiles
            .recompute(&mut self.policy.sets, &mut self.policy.versions);
        self.policy
            .index
            .recompute(&mut self.policy.sets, &mut self.policy.versions);

        let (started, stopped) = self.policy.sets.take_changes();
        self.items.members.stop(&stopped);
        for id in std::mem::take(&mut work.relabel) {
            if let Some(labels) = self.inherited(id) {
                self.items.members.relabel(id, labels);
            }
        }
        self.items.members.start(&started);

        let mut delta = Delta::default();
        self.items.members.flush(&mut delta);
        let freed = std::mem::take(&mut work.freed);
        self.publish_endpoints(work, &mut delta);
        freed.into_iter().for_each(|id| self.items.numbers.free(id));
        Output {
            delta,
            configuration: changed(
                &mut self.configuration.told,
                self.configuration.resources.of_node(&self.node.name),
            ),
            pools: changed(&mut self.configuration.told_pools, self.configuration.resources.pools()),
        }
    }
}

/// Returns the new value if it is not the old one, which it replaces.
fn changed<T: PartialEq + Clone>(old: &mut Option<T>, new: T) -> Option<T> {
    (old.as_ref() != Some(&new)).then(|| old.insert(new).clone())
}
