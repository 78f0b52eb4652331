//! What the records of a cluster add: services, implied profiles, service accounts, staged
//! policies.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::*;
use felid_calc::Calc;
use felid_model::resolved::NamedPortMember;
use felid_model::*;

fn slice(name: &str, service: &str, addresses: &[&str], port: u16) -> Resource {
    Resource::EndpointSlice(Arc::new(EndpointSlice {
        key: key(Kind::EndpointSlice, Some("a"), name),
        service: Some(service.to_owned()),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: vec![(Protocol(6), Some(port))],
    }))
}

fn to_service(name: &str) -> Rule {
    Rule {
        destination: EntityRule {
            services: Some(ServiceMatch {
                name: name.to_owned(),
                namespace: None,
            }),
            ..EntityRule::default()
        },
        ..rule(Action::Allow)
    }
}

#[test]
fn a_service_is_the_ports_of_its_slices_as_they_are_now() {
    let mut calc = calc();
    calc.apply(endpoint(wep("w", "app=x", "10.0.0.1")));
    calc.apply(enforced(Policy {
        applies_egress: true,
        egress: vec![to_service("db")],
        ..policy(Some("a"), "p", "all()", vec![])
    }));
    calc.apply(slice("one", "db", &["10.0.1.1"], 5432));
    calc.apply(slice("two", "db", &["10.0.1.2"], 5432));
    calc.apply(slice("other", "web", &["10.0.1.3"], 80));
    let mut world = World::of(calc.flush());
    let members = |world: &World| -> Vec<String> {
        let text = |member: &NamedPortMember| format!("{}:{}", member.address, member.port);
        world.named_ports.keys().map(text).collect()
    };
    assert_eq!(members(&world), ["10.0.1.1:5432", "10.0.1.2:5432"]);
    // A slice changes hands, another gets another port.
    calc.apply(slice("one", "web", &["10.0.1.1"], 5432));
    calc.apply(slice("two", "db", &["10.0.1.2", "10.0.1.4"], 5433));
    world.add(calc.flush().delta);
    assert_eq!(members(&world), ["10.0.1.2:5433", "10.0.1.4:5433"]);
    calc.delete(&key(Kind::EndpointSlice, Some("a"), "two"));
    world.add(calc.flush().delta);
    assert_eq!(members(&world), Vec::<String>::new());
}

fn implied(name: &str, team: &str) -> Resource {
    Resource::Profile(Arc::new(Profile {
        key: key(Kind::Namespace, None, name),
        labels_to_apply: labels(team),
        ingress: vec![rule(Action::Allow)],
        egress: vec![rule(Action::Allow)],
    }))
}

#[test]
fn a_profile_record_goes_before_the_one_that_a_namespace_implies() {
    let mut calc = calc();
    calc.apply(endpoint(WorkloadEndpoint {
        profiles: vec!["kns.a".to_owned()],
        ..wep("w", "", "10.0.0.1")
    }));
    calc.apply(implied("a", "pcns.team=x"));
    let mut world = World::of(calc.flush());
    let rules = |world: &World| world.endpoints[&wep_key("w")].ingress.profiles[0].rules.len();
    assert_eq!(rules(&world), 1);
    calc.apply(profile("kns.a", "", vec![], vec![]));
    world.add(calc.flush().delta);
    assert_eq!(rules(&world), 0);
    calc.delete(&key(Kind::Profile, None, "kns.a"));
    world.add(calc.flush().delta);
    assert_eq!(rules(&world), 1);
}

#[test]
fn a_tier_of_staged_policies_alone_passes() {
    let staged = |name: &str| Policy {
        staged: true,
        key: key(Kind::StagedGlobalNetworkPolicy, None, name),
        tier: "t".to_owned(),
        ..policy(None, name, "all()", vec![])
    };
    let mut calc = calc();
    calc.apply(tier("t", Some(1.0), false));
    calc.apply(endpoint(wep("w", "", "10.0.0.1")));
    calc.apply(enforced(staged("one")));
    let mut world = World::of(calc.flush());
    let tier = |world: &World| {
        let tier = &world.endpoints[&wep_key("w")].ingress.tiers[0];
        (tier.end_pass, tier.policies.len())
    };
    assert_eq!(tier(&world), (true, 1));
    calc.apply(enforced(Policy {
        tier: "t".to_owned(),
        ..policy(None, "two", "all()", vec![])
    }));
    world.add(calc.flush().delta);
    assert_eq!(tier(&world), (false, 2));
}

#[test]
fn a_staged_policy_that_cannot_be_read_closes_nothing() {
    let mut calc = calc();
    calc.apply(endpoint(wep("w", "", "10.0.0.1")));
    calc.apply(Resource::BadPolicy(Arc::new(BadPolicy {
        key: key(Kind::StagedGlobalNetworkPolicy, None, "bad"),
        selector: None,
        namespace_selector: None,
        reason: "broken".to_owned(),
    })));
    let world = World::of(calc.flush());
    assert_eq!(world.endpoints[&wep_key("w")].ingress.closed, None);
    let told = |calc: &Calc| -> Vec<(bool, String)> {
        let problems = calc.problems();
        problems.iter().map(|one| (one.is_warning(), one.to_string())).collect()
    };
    let broken = "StagedGlobalNetworkPolicy/bad: broken; it is not judged for 1 local endpoints";
    assert_eq!(told(&calc), [(true, broken.to_owned())]);
    // The same without a tier.
    calc.apply(enforced(Policy {
        staged: true,
        key: key(Kind::StagedGlobalNetworkPolicy, None, "bad"),
        tier: "t".to_owned(),
        ..policy(None, "bad", "all()", vec![])
    }));
    let world = World::of(calc.flush());
    assert!(world.endpoints.is_empty(), "nothing changed");
    let missing = "StagedGlobalNetworkPolicy/bad: tier \"t\" does not exist; it is not judged for 1 local endpoints";
    assert_eq!(told(&calc), [(true, missing.to_owned())]);
    assert_eq!((calc.stats().staged_policies, calc.stats().active_policies), (1, 1));
}

#[test]
fn a_policy_selects_by_the_labels_of_service_accounts() {
    let mut calc = calc();
    calc.apply(endpoint(wep("w", "pcsa.role=db", "10.0.0.1")));
    calc.apply(endpoint(wep("v", "role=db", "10.0.0.2")));
    calc.apply(enforced(Policy {
        service_account_selector: Some(selector("role == 'db'")),
        ..policy(None, "p", "all()", vec![])
    }));
    let world = World::of(calc.flush());
    let tiers = |name: &str| world.endpoints[&wep_key(name)].ingress.tiers.len();
    assert_eq!((tiers("w"), tiers("v")), (1, 0));
}

#[test]
fn the_interface_of_a_pod_begins_with_the_prefix_of_the_node() {
    let pod = WorkloadEndpoint {
        key: key(Kind::Pod, Some("default"), "nginx"),
        interface_name: "calic440f455693".to_owned(),
        ..wep("w", "", "10.0.0.1")
    };
    let mut calc = calc();
    calc.apply(endpoint(pod.clone()));
    let mut world = World::of(calc.flush());
    let interface = |world: &World| world.endpoints[&pod.key].interface_name.to_string();
    assert_eq!(interface(&world), "calic440f455693");
    calc.set_pod_interface_prefix("tap");
    world.add(calc.flush().delta);
    assert_eq!(interface(&world), "tapc440f455693");
    calc.apply(endpoint(pod.clone()));
    assert_eq!(calc.flush(), felid_calc::Output::default());
}
