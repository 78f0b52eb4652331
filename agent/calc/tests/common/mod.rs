//! What all tests of the calculation use: makers of records, the sum of deltas, and a calculation
//! from scratch.
#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![expect(clippy::unwrap_used, reason = "tests")]

pub(crate) mod facts;
pub(crate) mod naive;
pub(crate) mod strategies;

use std::collections::BTreeMap;
use std::sync::Arc;

use felid_calc::{Calc, CalcOptions, Output};
use felid_model::resolved::{Delta, LocalEndpoint, NamedPortMember, SetIds};
use felid_model::*;
use ipnet::IpNet;

/// The node of all tests.
pub(crate) const NODE: &str = "n1";

/// A calculation for [`NODE`].
pub(crate) fn calc() -> Calc {
    Calc::new(CalcOptions { node: NODE.to_owned() })
}

/// The state that deltas add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct World {
    pub(crate) endpoints: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    pub(crate) members: BTreeMap<IpNet, Arc<SetIds>>,
    pub(crate) named_ports: BTreeMap<NamedPortMember, Arc<SetIds>>,
}

impl World {
    /// Adds a delta; every entry of it must change something.
    pub(crate) fn add(&mut self, delta: Delta) {
        add(&mut self.endpoints, delta.endpoints);
        add(&mut self.members, delta.members);
        add(&mut self.named_ports, delta.named_ports);
        assert!(
            self.members
                .values()
                .chain(self.named_ports.values())
                .all(|sets| !sets.is_empty())
        );
    }

    /// Fails with the first difference, if there is one.
    #[track_caller]
    pub(crate) fn expect(&self, expected: &World) {
        same(&self.endpoints, &expected.endpoints);
        same(&self.members, &expected.members);
        same(&self.named_ports, &expected.named_ports);
    }

    /// What one flush of these records gives.
    pub(crate) fn of(output: Output) -> World {
        let mut world = World::default();
        world.add(output.delta);
        world
    }
}

#[track_caller]
fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(have: &BTreeMap<K, V>, expected: &BTreeMap<K, V>) {
    for key in have.keys().chain(expected.keys()) {
        assert_eq!(have.get(key), expected.get(key), "{key:?}");
    }
}

fn add<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    state: &mut BTreeMap<K, Arc<V>>,
    delta: BTreeMap<K, Option<Arc<V>>>,
) {
    for (key, value) in delta {
        assert_ne!(state.get(&key), value.as_ref(), "{key:?} did not change");
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
}

/// Records by key.
pub(crate) type Records = BTreeMap<ResourceKey, Resource>;

/// Records by key.
pub(crate) fn records(list: impl IntoIterator<Item = Resource>) -> Records {
    list.into_iter()
        .map(|resource| (resource.key().clone(), resource))
        .collect()
}

pub(crate) fn key(kind: Kind, namespace: Option<&str>, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: namespace.map(Into::into),
        name: name.into(),
    }
}

pub(crate) fn wep_key(name: &str) -> ResourceKey {
    key(Kind::WorkloadEndpoint, Some("a"), name)
}

/// `a=x b=y`.
pub(crate) fn labels(text: &str) -> LabelMap {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(crate) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

pub(crate) fn nets(text: &str) -> Vec<IpNet> {
    text.split_whitespace()
        .map(|net| net.parse().unwrap_or_else(|_| host_net(net.parse().unwrap())))
        .collect()
}

/// An endpoint of [`NODE`] in namespace `a` on the interface `cali` + name, without profiles.
pub(crate) fn wep(name: &str, own: &str, addresses: &str) -> WorkloadEndpoint {
    let mut all = labels(own);
    all.insert(NAMESPACE_LABEL.to_owned(), "a".to_owned());
    WorkloadEndpoint {
        ip_nats: Vec::new(),
        aws_elastic_ips: Vec::new(),
        allow_spoofed_source_prefixes: Vec::new(),
        qos_controls: false,
        key: wep_key(name),
        labels: all,
        workload: None,
        orchestrator: "k8s".to_owned(),
        node: NODE.to_owned(),
        container_id: None,
        pod: Some(name.to_owned()),
        endpoint: "eth0".to_owned(),
        service_account: None,
        ip_networks: nets(addresses),
        ipv4_gateway: None,
        ipv6_gateway: None,
        profiles: Vec::new(),
        interface_name: format!("cali{name}"),
        mac: None,
        ports: Vec::new(),
    }
}

pub(crate) fn endpoint(wep: WorkloadEndpoint) -> Resource {
    Resource::WorkloadEndpoint(Arc::new(wep))
}

/// The same in another namespace.
pub(crate) fn in_namespace(mut wep: WorkloadEndpoint, namespace: &str) -> WorkloadEndpoint {
    wep.key.namespace = Some(namespace.into());
    wep.labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    wep
}

pub(crate) fn port(name: &str, protocol: u8, port: u16) -> EndpointPort {
    EndpointPort {
        host_port: None,
        host_ip: None,
        name: name.to_owned(),
        protocol: Protocol(protocol),
        port,
    }
}

pub(crate) fn network_set(namespace: Option<&str>, name: &str, own: &str, networks: &str) -> Resource {
    let kind = if namespace.is_some() {
        Kind::NetworkSet
    } else {
        Kind::GlobalNetworkSet
    };
    let mut labels = labels(own);
    labels.extend(namespace.map(|namespace| (NAMESPACE_LABEL.to_owned(), namespace.to_owned())));
    Resource::NetworkSet(Arc::new(NetworkSet {
        key: key(kind, namespace, name),
        labels,
        nets: nets(networks),
    }))
}

pub(crate) fn profile(name: &str, apply: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Resource {
    let key = key(Kind::Profile, None, name);
    Resource::Profile(Arc::new(Profile {
        key,
        labels_to_apply: labels(apply),
        ingress,
        egress,
    }))
}

pub(crate) fn tier(name: &str, order: Option<f64>, default_pass: bool) -> Resource {
    Resource::Tier(Arc::new(Tier {
        key: key(Kind::Tier, None, name),
        order,
        default_pass,
    }))
}

/// An ingress policy of tier `default`; namespaced if a namespace is given.
pub(crate) fn policy(namespace: Option<&str>, name: &str, selects: &str, ingress: Vec<Rule>) -> Policy {
    let kind = if namespace.is_some() {
        Kind::NetworkPolicy
    } else {
        Kind::GlobalNetworkPolicy
    };
    Policy {
        service_account_selector: None,
        staged: false,
        key: key(kind, namespace, name),
        tier: "default".to_owned(),
        order: None,
        selector: selector(selects),
        namespace_selector: None,
        applies_ingress: true,
        applies_egress: false,
        ingress,
        egress: Vec::new(),
    }
}

pub(crate) fn enforced(policy: Policy) -> Resource {
    Resource::Policy(Arc::new(policy))
}

pub(crate) fn bad(namespace: Option<&str>, name: &str, selects: Option<&str>) -> Resource {
    let kind = if namespace.is_some() {
        Kind::NetworkPolicy
    } else {
        Kind::GlobalNetworkPolicy
    };
    let selector = selects.map(selector);
    let key = key(kind, namespace, name);
    Resource::BadPolicy(Arc::new(BadPolicy {
        key,
        selector,
        namespace_selector: None,
        reason: "broken".to_owned(),
    }))
}

/// A rule without conditions.
pub(crate) fn rule(action: Action) -> Rule {
    Rule::new(action)
}

/// Allow from what a selector selects.
pub(crate) fn allow_from(source: &str) -> Rule {
    let source = EntityRule {
        selector: Some(selector(source)),
        ..EntityRule::default()
    };
    Rule {
        source,
        ..rule(Action::Allow)
    }
}

/// Allow on the source side that `entity` says.
pub(crate) fn allow_source(entity: EntityRule) -> Rule {
    Rule {
        source: entity,
        ..rule(Action::Allow)
    }
}
