//! Single facts of the calculation, each as small as it can be.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::facts::*;
use common::*;
use felid_calc::{Inconsistency, NodeConfiguration};
use felid_model::resolved::{Delta, NamedPortMember};
use felid_model::*;

#[test]
fn nothing_gives_nothing_but_the_default_configuration() {
    let mut calc = calc();
    let first = calc.flush();
    assert_eq!(
        (first.delta, first.configuration, first.pools),
        (
            Delta::default(),
            Some(NodeConfiguration::default()),
            Some(BTreeSet::new())
        )
    );
    assert_eq!(calc.flush(), felid_calc::Output::default());
}

#[test]
fn an_update_that_changes_nothing_gives_an_empty_delta() {
    let all = [
        endpoint(wep("w", "app=x", "10.0.0.1")),
        enforced(policy(None, "p", "app == 'x'", vec![allow_from("app == 'x'")])),
        network_set(None, "s", "app=x", "10.1.0.0/16"),
        profile("unused", "k=v", vec![], vec![]),
        tier("t", Some(1.0), true),
    ];
    let (mut calc, _) = flushed(all.clone());
    for resource in all {
        calc.apply(resource);
    }
    calc.delete(&key(Kind::Profile, None, "never was"));
    calc.delete(&key(Kind::GlobalNetworkPolicy, None, "never was"));
    calc.delete(&wep_key("never was"));
    assert_eq!(calc.flush(), felid_calc::Output::default());
    // A label that no selector looks at.
    calc.apply(endpoint(wep("w", "app=x other=y", "10.0.0.1")));
    assert_eq!(calc.flush(), felid_calc::Output::default());
}

#[test]
fn the_record_of_the_node_goes_before_the_default() {
    let record = |name: &str, prefix: Option<&str>, action| {
        Arc::new(FelixConfiguration {
            interface_prefix: prefix.map(|prefix| vec![prefix.to_owned()]),
            default_endpoint_to_host_action: action,
            ..FelixConfiguration::new(key(Kind::FelixConfiguration, None, name))
        })
    };
    let mut calc = calc();
    let default = record("default", Some("tap"), Some(EndpointToHostAction::Accept));
    let own = record("node.n1", None, Some(EndpointToHostAction::Return));
    for record in [&default, &own, &record("node.n2", Some("veth"), None)] {
        calc.apply(Resource::FelixConfiguration(record.clone()));
    }
    let of = |records: &[&Arc<FelixConfiguration>]| {
        let records = records.iter().map(|record| Arc::clone(record)).collect();
        Some(NodeConfiguration { records })
    };
    assert_eq!(calc.flush().configuration, of(&[&own, &default]));
    calc.delete(&key(Kind::FelixConfiguration, None, "node.n2"));
    assert_eq!(calc.flush().configuration, None);
    calc.delete(&key(Kind::FelixConfiguration, None, "node.n1"));
    assert_eq!(calc.flush().configuration, of(&[&default]));
    calc.delete(&key(Kind::FelixConfiguration, None, "default"));
    assert_eq!(calc.flush().configuration, of(&[]));
}

#[test]
fn pools_are_one_value() {
    let pool = |name: &str, cidr: &str| {
        let cidr = cidr.parse().unwrap();
        let key = key(Kind::IpPool, None, name);
        Resource::IpPool(Arc::new(IpPool { key, cidr }))
    };
    let nets = |nets: &[&str]| -> Option<BTreeSet<_>> { Some(nets.iter().map(|net| net.parse().unwrap()).collect()) };
    let mut calc = calc();
    calc.apply(pool("a", "10.0.0.0/16"));
    calc.apply(pool("b", "10.1.0.0/16"));
    calc.apply(pool("same", "10.1.0.0/16"));
    assert_eq!(calc.flush().pools, nets(&["10.0.0.0/16", "10.1.0.0/16"]));
    calc.delete(&key(Kind::IpPool, None, "b"));
    assert_eq!(calc.flush().pools, None, "another pool has the same network");
    calc.apply(pool("a", "10.2.0.0/16"));
    assert_eq!(calc.flush().pools, nets(&["10.1.0.0/16", "10.2.0.0/16"]));
    calc.apply(Resource::Inert(key(Kind::IpPool, None, "a")));
    assert_eq!(calc.flush().pools, nets(&["10.1.0.0/16"]));
}

#[test]
fn own_labels_win_then_the_first_profile() {
    let mut w = wep("w", "a=own", "10.0.0.1");
    w.profiles = vec!["missing".to_owned(), "p1".to_owned(), "p2".to_owned()];
    let rules = ["a == 'own'", "b == 'p1'", "c == 'p2'", "a == 'p1'", "b == 'p2'"]
        .map(allow_from)
        .to_vec();
    let (mut calc, world) = flushed([
        endpoint(w),
        profile("p1", "a=p1 b=p1", vec![], vec![]),
        profile("p2", "a=p2 b=p2 c=p2", vec![], vec![]),
        enforced(policy(None, "p", "all()", rules)),
    ]);
    assert_eq!(
        members(&world, "10.0.0.1"),
        uids(["a == 'own'", "b == 'p1'", "c == 'p2'"])
    );
    // Without p1 the value of p2 shows.
    calc.delete(&key(Kind::Profile, None, "p1"));
    let delta = calc.flush().delta;
    let sets = delta.members[&nets("10.0.0.1")[0]].clone().unwrap();
    let sets: Vec<String> = sets.iter().map(|set| set.0.to_string()).collect();
    assert_eq!(sets, uids(["a == 'own'", "b == 'p2'", "c == 'p2'"]));
}

#[test]
fn network_sets_inherit_from_their_namespace() {
    let (_, world) = flushed([
        endpoint(wep("w", "", "10.0.0.1")),
        network_set(Some("b"), "s", "app=x", "10.1.0.0/16"),
        network_set(None, "g", "app=x", "10.2.0.0/16"),
        profile("kns.b", "pcns.team=red", vec![], vec![]),
        enforced(policy(
            None,
            "p",
            "all()",
            vec![allow_from("pcns.team == 'red'"), allow_from("app == 'x'")],
        )),
    ]);
    assert_eq!(
        members(&world, "10.1.0.0/16"),
        uids(["pcns.team == 'red'", "app == 'x'"])
    );
    assert_eq!(members(&world, "10.2.0.0/16"), uids(["app == 'x'"]));
}

#[test]
fn only_sets_of_active_policies_have_members() {
    let remote = WorkloadEndpoint {
        node: "n2".to_owned(),
        ..wep("r", "app=x", "10.0.0.2")
    };
    let (mut calc, world) = flushed([
        endpoint(remote),
        enforced(policy(None, "p", "app == 'x'", vec![allow_from("app == 'x'")])),
    ]);
    assert_eq!(world, World::default());
    assert_eq!(
        (calc.stats().sets, calc.stats().active_policies, calc.stats().policies),
        (0, 0, 1)
    );
    calc.apply(endpoint(wep("w", "app=x", "10.0.0.1")));
    let delta = calc.flush().delta;
    assert_eq!((delta.endpoints.len(), delta.members.len()), (1, 2));
    assert_eq!((calc.stats().sets, calc.stats().active_policies), (1, 1));
    calc.delete(&wep_key("w"));
    let delta = calc.flush().delta;
    assert!(delta.endpoints.values().all(Option::is_none) && delta.members.values().all(Option::is_none));
    assert_eq!((delta.endpoints.len(), delta.members.len()), (1, 2));
    assert_eq!(calc.stats().prefixes, 0);
}

#[test]
fn an_endpoint_without_addresses_counts_as_deleted() {
    let (mut calc, _) = flushed([
        endpoint(wep("w", "app=x", "10.0.0.1")),
        enforced(policy(None, "p", "all()", vec![allow_from("app == 'x'")])),
    ]);
    calc.apply(endpoint(wep("w", "app=x", "")));
    let delta = calc.flush().delta;
    assert_eq!(delta.endpoints.into_iter().collect::<Vec<_>>(), [(wep_key("w"), None)]);
    assert_eq!(
        delta.members.into_iter().collect::<Vec<_>>(),
        [(nets("10.0.0.1")[0], None)]
    );
    assert_eq!(calc.stats().endpoints, 0);
}

#[test]
fn a_prefix_belongs_to_what_any_of_its_holders_is_in() {
    let (mut calc, world) = flushed([
        endpoint(wep("w", "", "10.0.0.9")),
        network_set(None, "s1", "app=x", "10.1.0.0/16"),
        network_set(None, "s2", "app=x role=y", "10.1.0.0/16"),
        enforced(policy(
            None,
            "p",
            "all()",
            vec![allow_from("app == 'x'"), allow_from("role == 'y'")],
        )),
    ]);
    assert_eq!(members(&world, "10.1.0.0/16"), uids(["app == 'x'", "role == 'y'"]));
    calc.delete(&key(Kind::GlobalNetworkSet, None, "s1"));
    assert_eq!(calc.flush().delta, Delta::default());
    calc.delete(&key(Kind::GlobalNetworkSet, None, "s2"));
    assert_eq!(calc.flush().delta.members.len(), 1);
}

#[test]
fn policies_come_in_the_order_of_tiers_orders_and_names() {
    let in_tier = |name: &str, tier: &str, order: Option<f64>| {
        enforced(Policy {
            tier: tier.to_owned(),
            order,
            ..policy(None, name, "all()", vec![])
        })
    };
    let (calc, world) = flushed([
        endpoint(wep("w", "", "10.0.0.1")),
        tier("z-first", Some(-5.0), true),
        tier("b-last", None, false),
        tier("a-last", None, true),
        tier("same", Some(1000.0), false),
        in_tier("admin", "kube-admin", None),
        in_tier("base", "kube-baseline", None),
        in_tier("b", "default", None),
        in_tier("a", "default", None),
        in_tier("a-b", "default", None),
        in_tier("late", "default", Some(10.0)),
        in_tier("early", "default", Some(-0.5)),
        in_tier("one", "z-first", None),
        in_tier("two", "b-last", None),
        in_tier("three", "a-last", None),
        in_tier("four", "same", None),
    ]);
    let expected = "z-first+: one; kube-admin+: admin; same: four; default: early late a-b a b; kube-baseline+: base; \
                    a-last+: three; b-last: two |";
    assert_eq!(shape(&local(&world, "w").ingress), expected);
    assert_eq!(shape(&local(&world, "w").egress), " |");
    let names: Vec<String> = calc
        .policies_of(&wep_key("w"))
        .iter()
        .map(|key| key.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "one", "admin", "four", "early", "late", "a-b", "a", "b", "base", "three", "two"
        ]
    );
}

#[test]
fn a_namespaced_policy_selects_in_its_namespace_only() {
    let namespaces = Policy {
        namespace_selector: Some(selector("team == 'red'")),
        ..policy(None, "by-namespace", "app == 'x'", vec![])
    };
    let mut w = wep("w", "app=x", "10.0.0.1");
    w.profiles = vec!["kns.a".to_owned()];
    let (_, world) = flushed([
        endpoint(w),
        endpoint(in_namespace(wep("v", "app=x", "10.0.0.2"), "b")),
        profile("kns.a", "pcns.team=red", vec![rule(Action::Allow)], vec![]),
        enforced(policy(Some("a"), "here", "all()", vec![])),
        enforced(policy(Some("b"), "there", "app == 'x'", vec![])),
        enforced(namespaces),
    ]);
    assert_eq!(shape(&local(&world, "w").ingress), "default: by-namespace here | kns.a");
    let other = &world.endpoints[&key(Kind::WorkloadEndpoint, Some("b"), "v")];
    assert_eq!(shape(&other.ingress), "default: there |");
}

#[test]
fn every_port_of_a_name_is_in_its_set() {
    let mut w = wep("w", "app=x", "10.0.0.1 fd00::1");
    w.ports = vec![
        port("http", 6, 80),
        port("http", 6, 8080),
        port("http", 17, 80),
        port("dns", 17, 53),
        port("", 6, 1),
    ];
    let named = EntityRule {
        ports: vec![Port::Named("http".to_owned())],
        ..EntityRule::default()
    };
    let tcp = Rule {
        protocol: Some(Protocol(6)),
        destination: named.clone(),
        ..rule(Action::Allow)
    };
    let any = Rule {
        destination: named,
        ..rule(Action::Allow)
    };
    let (mut calc, world) = flushed([
        endpoint(w.clone()),
        enforced(policy(None, "p", "all()", vec![tcp.clone(), any])),
    ]);
    let sets: Vec<(String, usize)> = world
        .named_ports
        .iter()
        .map(|(m, sets)| (format!("{} {} {}", m.address, m.protocol.0, m.port), sets.len()))
        .collect();
    let expected = [
        "10.0.0.1 6 80",
        "10.0.0.1 6 8080",
        "10.0.0.1 17 80",
        "fd00::1 6 80",
        "fd00::1 6 8080",
        "fd00::1 17 80",
    ];
    let expected: Vec<(String, usize)> = expected
        .iter()
        .map(|text| ((*text).to_owned(), if text.contains(" 17 ") { 1 } else { 2 }))
        .collect();
    assert_eq!(sets, expected);

    calc.apply(enforced(policy(None, "p", "all()", vec![tcp])));
    assert_eq!(calc.flush().delta.named_ports.len(), 6);
    assert_eq!(calc.stats().named_ports, 4);
    w.ports = vec![port("http", 6, 81)];
    calc.apply(endpoint(w));
    let gone: Vec<bool> = calc.flush().delta.named_ports.values().map(Option::is_none).collect();
    assert_eq!(gone, [true, false, true, true, false, true]);
    let member = |port| NamedPortMember {
        address: "10.0.0.1".parse().unwrap(),
        protocol: Protocol(6),
        port,
    };
    assert!(member(80) < member(81));
}

#[test]
fn equal_policies_are_shared() {
    let (mut calc, world) = flushed([
        endpoint(wep("v", "", "10.0.0.1")),
        endpoint(wep("w", "", "10.0.0.2")),
        enforced(policy(None, "p", "all()", vec![allow_from("app == 'x'")])),
    ]);
    assert!(Arc::ptr_eq(&local(&world, "v").ingress, &local(&world, "w").ingress));
    calc.apply(endpoint(wep("x", "", "10.0.0.3")));
    let new = calc.flush().delta.endpoints[&wep_key("x")].clone().unwrap();
    assert!(Arc::ptr_eq(&local(&world, "v").ingress, &new.ingress));
}

#[test]
fn spoofed_sources_count_only_where_the_setting_allows_them() {
    let spoofing = |name: &str, address: &str| WorkloadEndpoint {
        allow_spoofed_source_prefixes: nets("198.51.100.0/24 2001:db8::/32"),
        ..wep(name, "", address)
    };
    let pod = WorkloadEndpoint {
        key: key(Kind::Pod, Some("default"), "pod"),
        ..spoofing("pod", "10.0.0.2")
    };
    let mut calc = calc();
    calc.apply(endpoint(spoofing("router", "10.0.0.1")));
    calc.apply(endpoint(pod.clone()));
    calc.apply(endpoint(wep("plain", "", "10.0.0.3")));
    let mut world = World::of(calc.flush());
    let keys = [wep_key("router"), pod.key.clone()];
    let prefixes = |world: &World| {
        keys.each_ref()
            .map(|key| world.endpoints[key].allow_spoofed_source_prefixes.len())
    };
    assert_eq!(prefixes(&world), [0, 0]);
    assert_eq!(local(&world, "router").addresses.len(), 1, "its own address goes on");
    let forbidden = || {
        keys.iter()
            .cloned()
            .map(|endpoint| Inconsistency::SourceSpoofingDisabled { endpoint })
    };
    let mut expected: Vec<Inconsistency> = forbidden().collect();
    expected.sort();
    assert_eq!(calc.problems(), expected);
    assert!(
        expected.iter().all(Inconsistency::is_warning),
        "a workload's owner cannot make the node unready"
    );

    calc.set_workload_source_spoofing(WorkloadSourceSpoofing::Any);
    let delta = calc.flush().delta;
    assert_eq!(delta.endpoints.len(), 2, "only those that ask for it change");
    world.add(delta);
    assert_eq!((prefixes(&world), calc.problems()), ([2, 2], Vec::new()));
    calc.set_workload_source_spoofing(WorkloadSourceSpoofing::Any);
    assert_eq!(calc.flush(), felid_calc::Output::default());

    calc.set_workload_source_spoofing(WorkloadSourceSpoofing::Disabled);
    world.add(calc.flush().delta);
    assert_eq!(prefixes(&world), [0, 0]);
}
