//! What a calculation keeps between two flushes, by what it is about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::names::DEFAULT_INTERFACE_PREFIX;
use felid_model::resolved::LocalEndpoint;
use felid_model::{ResourceKey, WorkloadEndpoint, WorkloadSourceSpoofing};
use ipnet::IpNet;

use crate::active::VersionCounter;
use crate::claims::Claims;
use crate::config::{ConfigResources, NodeConfiguration};
use crate::endpoints::SharedPolicies;
use crate::ids::{IdAllocator, ItemId};
use crate::members::Members;
use crate::policies::PolicyIndex;
use crate::profiles::Profiles;
use crate::sets::ActiveSets;
use crate::tiers::Tiers;

/// This node, and its settings that the calculation depends on.
#[derive(Debug)]
pub(super) struct ThisNode {
    /// The node's name, as resources write it.
    pub(super) name: String,
    /// What the names of pods' host-side interfaces begin with.
    pub(super) pod_prefix: String,
    pub(super) source_spoofing: WorkloadSourceSpoofing,
}

impl ThisNode {
    pub(super) fn new(name: String) -> Self {
        ThisNode {
            name,
            pod_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            source_spoofing: WorkloadSourceSpoofing::default(),
        }
    }
}

/// The resources that configure nodes, and what the last flush told of them.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    pub(super) resources: ConfigResources,
    /// The configuration of this node; `None` until the first flush.
    pub(super) told: Option<NodeConfiguration>,
    /// The networks of all pools; `None` until the first flush.
    pub(super) told_pools: Option<BTreeSet<IpNet>>,
}

/// What decides about traffic: tiers, policies and profiles, and the sets that their rules use.
#[derive(Debug)]
pub(super) struct PolicyParts {
    pub(super) tiers: Tiers,
    pub(super) profiles: Profiles,
    /// Policies, and which of them select which local endpoint.
    pub(super) index: PolicyIndex,
    pub(super) sets: ActiveSets,
    /// Numbers the versions of rules.
    pub(super) versions: VersionCounter,
}

impl PolicyParts {
    pub(super) fn new() -> Self {
        PolicyParts {
            tiers: Tiers::new(),
            profiles: Profiles::default(),
            index: PolicyIndex::new(),
            sets: ActiveSets::default(),
            versions: VersionCounter::default(),
        }
    }
}

/// Everything that selectors can select, of all nodes, and which sets it is a member of.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) ids: HashMap<ResourceKey, ItemId>,
    pub(super) numbers: IdAllocator<ItemId>,
    /// How many items are workload endpoints.
    pub(super) endpoints: usize,
    /// How many items are host endpoints.
    pub(super) hosts: usize,
    pub(super) members: Members,
}

impl Items {
    pub(super) fn new() -> Self {
        Items {
            ids: HashMap::new(),
            numbers: IdAllocator::new(),
            endpoints: 0,
            hosts: 0,
            members: Members::new(),
        }
    }
}

/// An endpoint of this node that owns its interface.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) id: ItemId,
    pub(super) endpoint: Arc<WorkloadEndpoint>,
}

/// The endpoints of this node, and what only one of them can have.
#[derive(Debug)]
pub(super) struct LocalClaims {
    /// Endpoints of this node that have addresses.
    pub(super) candidates: BTreeMap<ResourceKey, Arc<WorkloadEndpoint>>,
    pub(super) interfaces: Claims<Arc<str>>,
    pub(super) addresses: Claims<IpAddr>,
    /// The interfaces that are there; `None` if nobody has said so.
    pub(super) present: Option<BTreeSet<Arc<str>>>,
    /// Endpoints whose interface has come or gone since the last flush.
    pub(super) moved: BTreeSet<ResourceKey>,
    /// The candidates that own their interface.
    pub(super) owners: BTreeMap<ResourceKey, Local>,
}

impl LocalClaims {
    pub(super) fn new() -> Self {
        LocalClaims {
            candidates: BTreeMap::new(),
            interfaces: Claims::new(),
            addresses: Claims::new(),
            present: None,
            moved: BTreeSet::new(),
            owners: BTreeMap::new(),
        }
    }
}

/// What the deltas so far have said of local endpoints.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The value of each local endpoint as the last delta that named it had it.
    pub(super) endpoints: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    /// Whether the next flush recomputes every local endpoint.
    pub(super) recompute_all: bool,
    /// Equal policies, which endpoints share.
    pub(super) shared: SharedPolicies,
}
