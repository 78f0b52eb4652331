//! What cannot be decided is closed, and told.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::facts::*;
use common::*;
use felid_calc::{Calc, Inconsistency};
use felid_model::resolved::LocalEndpoint;
use felid_model::*;

#[test]
fn one_interface_has_one_endpoint() {
    let on = |name: &str, address: &str| WorkloadEndpoint {
        interface_name: "cali0".to_owned(),
        ..wep(name, "app=x", address)
    };
    let (mut calc, world) = flushed([
        endpoint(on("b", "10.0.0.2")),
        endpoint(on("a", "10.0.0.1")),
        enforced(policy(None, "p", "all()", vec![allow_from("app == 'x'")])),
    ]);
    assert_eq!(world.endpoints.keys().collect::<Vec<_>>(), [&wep_key("a")]);
    // It still is an endpoint for the selectors of others.
    assert_eq!(members(&world, "10.0.0.2"), uids(["app == 'x'"]));
    let (endpoint, owner) = (wep_key("b"), wep_key("a"));
    assert_eq!(
        calc.problems(),
        [Inconsistency::InterfaceTaken {
            endpoint,
            interface: "cali0".into(),
            owner
        }]
    );
    assert_eq!(calc.stats().local_endpoints, 1);
    calc.delete(&wep_key("a"));
    let delta = calc.flush().delta;
    assert_eq!(
        delta.endpoints.values().map(Option::is_some).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn one_address_has_one_endpoint() {
    let (mut calc, world) = flushed([
        endpoint(wep("b", "", "10.0.0.1 10.0.0.2")),
        endpoint(wep("a", "", "10.0.0.3 10.0.0.1")),
    ]);
    let text = |w: &LocalEndpoint| {
        w.addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(text(&local(&world, "a")), "10.0.0.1 10.0.0.3");
    assert_eq!(text(&local(&world, "b")), "10.0.0.2");
    assert_eq!(
        shape(&local(&world, "b").egress),
        "closed: address 10.0.0.1 belongs to WorkloadEndpoint/a/a"
    );
    assert_eq!(shape(&local(&world, "a").egress), " |");
    let (endpoint, owner) = (wep_key("b"), wep_key("a"));
    assert_eq!(
        calc.problems(),
        [Inconsistency::AddressTaken {
            endpoint,
            address: "10.0.0.1".parse().unwrap(),
            owner
        }]
    );
    calc.delete(&wep_key("a"));
    let delta = calc.flush().delta;
    let b = delta.endpoints[&wep_key("b")].clone().unwrap();
    assert_eq!(
        (text(&b).as_str(), shape(&b.ingress).as_str()),
        ("10.0.0.1 10.0.0.2", " |")
    );
}

fn there(names: &[&str]) -> Option<BTreeSet<Arc<str>>> {
    Some(names.iter().map(|name| Arc::from(*name)).collect())
}

fn addresses_of(calc: &Calc, name: &str) -> Vec<String> {
    let endpoint = calc.endpoint(&wep_key(name)).unwrap();
    endpoint.addresses.iter().map(ToString::to_string).collect()
}

/// A record is left over, and its interface is not there: it takes nothing from an endpoint whose
/// interface is, however their names sort.
#[test]
fn a_record_without_an_interface_takes_no_address_from_one_that_has_it() {
    let interface = |name: &str| wep(name, "", "").interface_name;
    let (stale, alive, third) = (interface("a"), interface("b"), interface("c"));
    let records = || {
        [
            endpoint(wep("a", "", "10.0.0.1 10.0.0.3 fd00::1")),
            endpoint(wep("b", "", "10.0.0.1 10.0.0.2 fd00::1")),
            endpoint(wep("c", "", "10.0.0.2")),
        ]
    };
    // The interfaces are known before the records, or become known later; the record that is left
    // over comes first, or last.
    for (known_first, stale_last) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut calc = calc();
        if known_first {
            calc.set_interfaces(there(&[&alive, &third]));
        }
        let mut all = records().to_vec();
        if stale_last {
            all.reverse();
        }
        for record in all {
            calc.apply(record);
            calc.flush();
        }
        calc.set_interfaces(there(&[&alive, &third]));
        calc.flush();
        assert_eq!(
            addresses_of(&calc, "b"),
            ["10.0.0.1", "10.0.0.2", "fd00::1"],
            "{known_first} {stale_last}"
        );
        assert_eq!(addresses_of(&calc, "a"), ["10.0.0.3"]);
        assert_eq!(
            addresses_of(&calc, "c"),
            [] as [&str; 0],
            "among those that are there the names decide"
        );
        let text = shape(&calc.endpoint(&wep_key("b")).unwrap().ingress);
        assert_eq!(text, " |", "it is not closed");
        let problems: Vec<String> = calc.problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(calc.flush().delta.endpoints.is_empty());

        // Its interface comes: now the names decide. It goes again: everything is as before.
        calc.set_interfaces(there(&[&alive, &third, &stale]));
        calc.flush();
        assert_eq!(addresses_of(&calc, "a"), ["10.0.0.1", "10.0.0.3", "fd00::1"]);
        assert_eq!(addresses_of(&calc, "b"), ["10.0.0.2"]);
        calc.set_interfaces(there(&[&alive, &third]));
        calc.flush();
        assert_eq!(addresses_of(&calc, "b"), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
        // Where nobody says what is there, the names decide.
        calc.set_interfaces(None);
        calc.flush();
        assert_eq!(addresses_of(&calc, "b"), ["10.0.0.2"]);
        calc.delete(&wep_key("a"));
        calc.flush();
        assert_eq!(addresses_of(&calc, "b"), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
    }
}

#[test]
fn a_bad_policy_closes_what_it_may_select() {
    let (mut calc, world) = flushed([
        endpoint(wep("w", "app=x", "10.0.0.1")),
        endpoint(wep("v", "app=y", "10.0.0.2")),
        endpoint(in_namespace(wep("u", "app=x", "10.0.0.3"), "b")),
        enforced(policy(None, "good", "all()", vec![allow_from("app == 'x'")])),
        bad(Some("a"), "bad", Some("app == 'x'")),
    ]);
    let closed = "closed: NetworkPolicy/a/bad: broken";
    assert_eq!(shape(&local(&world, "w").ingress), closed);
    assert_eq!(shape(&local(&world, "w").egress), closed);
    assert_eq!(shape(&local(&world, "v").ingress), "default: good |");
    let there = &world.endpoints[&key(Kind::WorkloadEndpoint, Some("b"), "u")];
    assert_eq!(shape(&there.ingress), "default: good |");
    let bad_key = key(Kind::NetworkPolicy, Some("a"), "bad");
    let problem = Inconsistency::BadPolicy {
        policy: bad_key.clone(),
        reason: "broken".to_owned(),
        endpoints: 1,
    };
    assert_eq!(calc.problems(), [problem]);

    // Unreadable selector: everything in the namespace. Then the corrected one.
    calc.apply(bad(Some("a"), "bad", None));
    assert_eq!(
        calc.flush().delta.endpoints.into_keys().collect::<Vec<_>>(),
        [wep_key("v")]
    );
    calc.apply(enforced(policy(Some("a"), "bad", "app == 'x'", vec![])));
    let delta = calc.flush().delta;
    let shapes: Vec<String> = delta
        .endpoints
        .values()
        .map(|e| shape(&e.as_ref().unwrap().ingress))
        .collect();
    assert_eq!(shapes, ["default: good |", "default: bad good |"]);
    assert_eq!(calc.problems(), []);
}

#[test]
fn a_policy_without_its_tier_closes_its_directions() {
    let (mut calc, world) = flushed([
        endpoint(wep("w", "", "10.0.0.1")),
        enforced(Policy {
            tier: "t".to_owned(),
            ..policy(None, "p", "all()", vec![rule(Action::Allow)])
        }),
    ]);
    let reason = "closed: GlobalNetworkPolicy/p: tier \"t\" does not exist";
    assert_eq!(shape(&local(&world, "w").ingress), reason);
    assert_eq!(shape(&local(&world, "w").egress), " |");
    let policy = key(Kind::GlobalNetworkPolicy, None, "p");
    assert_eq!(
        calc.problems(),
        [Inconsistency::MissingTier {
            policy,
            tier: "t".to_owned(),
            endpoints: 1
        }]
    );
    calc.apply(tier("t", Some(1.0), true));
    let delta = calc.flush().delta;
    assert_eq!(
        shape(&delta.endpoints[&wep_key("w")].as_ref().unwrap().ingress),
        "t+: p |"
    );
}

/// It would have no rules. Where others come behind it, they never decide, and that is an error.
#[test]
fn a_missing_service_account_is_a_warning() {
    let profiles_of = |names: [&str; 2]| {
        let mut w = wep("w", "", "10.0.0.1");
        w.profiles = names.map(str::to_owned).to_vec();
        let open = profile("kns.a", "", vec![rule(Action::Allow)], vec![rule(Action::Allow)]);
        flushed([endpoint(w), open]).0.problems()
    };
    let last = profiles_of(["kns.a", "ksa.a.b"]);
    assert!(last.len() == 1 && last[0].is_warning(), "{last:?}");
    let first = profiles_of(["ksa.a.b", "kns.a"]);
    assert!(first.len() == 1 && !first[0].is_warning(), "{first:?}");
}

#[test]
fn a_missing_profile_denies_what_comes_to_it() {
    let mut w = wep("w", "", "10.0.0.1");
    w.profiles = ["p1", "p1", "gone", "p2"].map(str::to_owned).to_vec();
    let open = |name: &str| profile(name, "", vec![rule(Action::Allow)], vec![rule(Action::Allow)]);
    let (mut calc, world) = flushed([endpoint(w), open("p1"), open("p2")]);
    assert_eq!(shape(&local(&world, "w").ingress), " | p1");
    let problem = Inconsistency::MissingProfile {
        endpoint: wep_key("w"),
        profile: "gone".to_owned(),
    };
    assert_eq!(calc.problems(), [problem]);
    calc.apply(open("gone"));
    let delta = calc.flush().delta;
    assert_eq!(
        shape(&delta.endpoints[&wep_key("w")].as_ref().unwrap().egress),
        " | p1 gone p2"
    );
}
