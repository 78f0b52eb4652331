//! What is wrong between records of which each alone is good.
//!
//! In: the resources of directories that are checked together. Out: findings of single records: a
//! policy of a tier that does not exist, two endpoints with one interface or address, a profile
//! that is not there. The calculation itself finds them, as it does in the agent; here it is only
//! asked about every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_calc::{Calc, CalcOptions, Inconsistency};
use felid_model::{Kind, Resource, ResourceKey, WorkloadEndpoint};

use super::judge::Finding;

/// A finding about one record.
pub(super) struct Between {
    /// The record.
    pub(super) key: ResourceKey,
    /// Whether everything is enforced all the same.
    pub(super) is_warning: bool,
    /// What is wrong; its field is a path in the record.
    pub(super) finding: Finding,
}

/// Returns what is wrong between records, sorted by record. Each node's endpoints are checked among
/// themselves.
pub(super) fn problems(resources: &[Resource]) -> Vec<Between> {
    let mut nodes: BTreeMap<&str, Vec<&Arc<WorkloadEndpoint>>> = BTreeMap::new();
    let mut profiles: BTreeMap<String, &Resource> = BTreeMap::new();
    let mut policies = Vec::new();
    for resource in resources {
        match resource {
            Resource::WorkloadEndpoint(endpoint) => nodes.entry(&endpoint.node).or_default().push(endpoint),
            Resource::Profile(profile) => drop(profiles.insert(profile.key.profile_name(), resource)),
            Resource::Policy(_) | Resource::Tier(_) => policies.push(resource.clone()),
            _ => {}
        }
    }
    let mut found = calculated("", policies);
    for (node, endpoints) in nodes {
        let named: BTreeSet<&str> = endpoints
            .iter()
            .flat_map(|endpoint| endpoint.profiles.iter().map(String::as_str))
            .collect();
        let profiles = named.into_iter().filter_map(|name| profiles.get(name));
        let endpoints = endpoints.iter().copied().cloned().map(Resource::WorkloadEndpoint);
        found.extend(calculated(node, endpoints.chain(profiles.copied().cloned())));
    }
    let mut between: Vec<Between> = found.into_iter().filter_map(described).collect();
    between.sort_by(|a, b| a.key.cmp(&b.key));
    between
}

/// What the calculation of a node finds in its records.
fn calculated(node: &str, resources: impl IntoIterator<Item = Resource>) -> Vec<Inconsistency> {
    let mut calc = Calc::new(CalcOptions { node: node.to_owned() });
    for resource in resources {
        calc.apply(resource);
    }
    calc.flush();
    calc.problems()
}

/// A problem as a finding of the record that has to be changed. What one record says badly is told
/// by its decoder.
fn described(problem: Inconsistency) -> Option<Between> {
    let is_warning = problem.is_warning();
    let (key, field, value, reason) = located(problem)?;
    let mut finding = Finding::new(field, reason);
    finding.value = Some(value);
    Some(Between {
        key,
        is_warning,
        finding,
    })
}

/// The field that names a profile that does not exist, and what that means.
fn missing_profile(of_pod: bool) -> (&'static str, &'static str) {
    if of_pod {
        (
            "metadata.namespace",
            "no record of the namespace implies this profile: what policies leave undecided is denied",
        )
    } else {
        (
            "spec.profiles",
            "no such profile: what policies leave undecided is denied",
        )
    }
}

/// The record that has to be changed, the field, its value, and what is wrong with it.
fn located(problem: Inconsistency) -> Option<(ResourceKey, &'static str, String, String)> {
    let is_warning = problem.is_warning();
    let of_pod = |key: &ResourceKey| key.kind == Kind::Pod;
    Some(match problem {
        // What depends on a node's settings is told by its agent.
        Inconsistency::BadPolicy { .. } | Inconsistency::SourceSpoofingDisabled { .. } => return None,
        Inconsistency::MissingTier { policy, tier, .. } => {
            let reason = if is_warning {
                "no such tier: the policy is not judged"
            } else {
                "no such tier: endpoints that the policy selects are closed in its directions"
            };
            (policy, "spec.tier", tier, reason.to_owned())
        }
        Inconsistency::MissingProfile { endpoint, profile } => {
            let (field, reason) = missing_profile(of_pod(&endpoint));
            (endpoint, field, profile, reason.to_owned())
        }
        Inconsistency::MissingServiceAccount { endpoint, profile } => {
            let field = if of_pod(&endpoint) {
                "spec.serviceAccountName"
            } else {
                "spec.profiles"
            };
            let reason = "no record of the service account implies this profile: no rule finds the \
                          endpoint by the labels of its account";
            (endpoint, field, profile, reason.to_owned())
        }
        Inconsistency::InterfaceTaken {
            endpoint,
            interface,
            owner,
        } => {
            let field = if of_pod(&endpoint) {
                "metadata.name"
            } else {
                "spec.interfaceName"
            };
            let reason = format!("{owner} of the same node has this interface: only one of the two is in force");
            (endpoint, field, interface.to_string(), reason)
        }
        Inconsistency::AddressTaken {
            endpoint,
            address,
            owner,
        } => {
            let field = if of_pod(&endpoint) { "status" } else { "spec.ipNetworks" };
            let reason = format!("{owner} of the same node has this address: only one of the two is in force");
            (endpoint, field, address.to_string(), reason)
        }
    })
}
