//! Records by hand.

use std::sync::Arc;

use felid_model::resolved::{
    Delta, LocalEndpoint, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier,
    SetId, SetIds,
};
use felid_model::{Kind, ResourceKey};

pub(crate) fn key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: Some("default".into()),
        name: name.into(),
    }
}

pub(crate) fn set(name: &str) -> SetId {
    SetId(format!("s:{name}").into())
}

pub(crate) fn side(sets: &[&str], not_sets: &[&str]) -> ResolvedSide {
    let ids = |names: &[&str]| names.iter().map(|name| set(name)).collect();
    ResolvedSide {
        sets: ids(sets),
        not_sets: ids(not_sets),
        ..ResolvedSide::default()
    }
}

pub(crate) fn rule(action: ResolvedAction, source: ResolvedSide, destination: ResolvedSide) -> ResolvedRule {
    ResolvedRule {
        source,
        destination,
        ..ResolvedRule::new(0, action)
    }
}

/// A policy of one tier. The name `broken` makes the test's compiler refuse it.
pub(crate) fn policy(tier: &str, rules: Vec<ResolvedRule>) -> Arc<ResolvedPolicy> {
    let key = ResourceKey {
        kind: Kind::GlobalNetworkPolicy,
        namespace: None,
        name: "p".into(),
    };
    let policies = vec![ResolvedRules {
        staged: false,
        key,
        rules: Arc::new(rules),
    }];
    let tiers = vec![ResolvedTier {
        name: tier.into(),
        end_pass: false,
        policies,
    }];
    Arc::new(ResolvedPolicy {
        tiers,
        ..ResolvedPolicy::default()
    })
}

/// Ingress from the sets allowed.
pub(crate) fn allow(sets: &[&str]) -> Arc<ResolvedPolicy> {
    policy(
        "default",
        vec![rule(ResolvedAction::Allow, side(sets, &[]), side(&[], &[]))],
    )
}

pub(crate) fn endpoint(name: &str, addresses: &[&str], ingress: &Arc<ResolvedPolicy>) -> LocalEndpoint {
    LocalEndpoint {
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: Vec::new(),
        aws_elastic_ips: Vec::new(),
        key: key(name),
        interface_name: format!("cali-{name}").into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        mac: None,
        ipv4_gateway: None,
        ipv6_gateway: None,
        ports: Vec::new(),
        profiles: Vec::new(),
        ingress: ingress.clone(),
        egress: allow(&[]),
    }
}

pub(crate) fn endpoints(list: impl IntoIterator<Item = LocalEndpoint>) -> Delta {
    let endpoints = list.into_iter().map(|e| (e.key.clone(), Some(Arc::new(e)))).collect();
    Delta {
        endpoints,
        ..Delta::default()
    }
}

pub(crate) fn gone(name: &str) -> Delta {
    Delta {
        endpoints: [(key(name), None)].into(),
        ..Delta::default()
    }
}

pub(crate) fn members(list: &[(&str, &[&str])]) -> Delta {
    let members = list.iter().map(|(net, sets)| {
        let sets: SetIds = sets.iter().map(|name| set(name)).collect();
        (net.parse().unwrap(), (!sets.is_empty()).then(|| Arc::new(sets)))
    });
    Delta {
        members: members.collect(),
        ..Delta::default()
    }
}
