//! What one plan holds while it is made.
//!
//! In: what changed, and what becomes in force. Out: nothing by itself; [`super::plan`] fills a
//! draft and turns it into a transaction. Never: decisions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, NamedPortMember, SetIds};
use ipnet::IpNet;

use super::policy::Input;
use super::types::PolicyFailure;
use crate::transaction::{EndpointId, Transaction};
use crate::types::Direction;

/// What changed and is not planned yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) endpoints: BTreeSet<ResourceKey>,
    pub(super) prefixes: HashSet<IpNet>,
    pub(super) named_ports: BTreeSet<NamedPortMember>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.prefixes.is_empty() && self.named_ports.is_empty()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.prefixes.extend(other.prefixes);
        self.named_ports.extend(other.named_ports);
    }
}

/// What is in force for an endpoint.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) id: EndpointId,
    pub(super) identity: [u32; 4],
    pub(super) endpoint: Arc<LocalEndpoint>,
    /// What its programs were compiled from, egress first.
    pub(super) inputs: [Arc<Input>; 2],
}

/// A plan in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) endpoints: BTreeMap<ResourceKey, Option<InForce>>,
    /// Endpoints whose plan is to be in the transaction: directions to be revoked, egress first.
    pub(super) set: BTreeMap<ResourceKey, [bool; 2]>,
    pub(super) new: HashSet<EndpointId>,
    pub(super) fallbacks: BTreeMap<(ResourceKey, Direction), Fallback>,
    /// Every set that a policy of any endpoint names, by the records; only found out if needed.
    pub(super) named: Option<SetIds>,
    pub(super) next_id: u32,
    pub(super) transaction: Transaction,
}

/// A policy that is not in force as it should be, and what it should have been compiled from.
#[derive(Clone, Debug)]
pub(super) struct Fallback {
    pub(super) problem: PolicyFailure,
    pub(super) wanted: Input,
}
