//! What does not fit.

use std::sync::Arc;

use felid_compile::planner::{Adopted, Planner, PlannerOptions};
use felid_compile::transaction::EndpointId;
use felid_model::resolved::{
    Delta, LocalEndpoint, NamedPortMember, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedSide,
};
use felid_model::{Kind, Protocol, ResourceKey};

use crate::build::{allow, endpoint, endpoints, gone, key, members, policy, rule, set, side};
use crate::cases::{plan_of, step};
use crate::scenario::Picky;

const ROOM: usize = 40;

/// Every table has room for 40.
fn tight() -> PlannerOptions {
    PlannerOptions {
        max_slots: 64,
        max_classes: ROOM as u32 + 1,
        max_endpoints: ROOM as u32 + 1,
        peers_v4: ROOM,
        peers_v6: ROOM,
        nets_v4: ROOM,
        nets_v6: ROOM,
        named_ports: ROOM,
        ..PlannerOptions::default()
    }
}

/// A policy of a namespace that allows ingress from these sets.
fn of(namespace: &str, name: &str, sets: &[&str]) -> Arc<ResolvedPolicy> {
    let rules = sets
        .iter()
        .map(|set| rule(ResolvedAction::Allow, side(&[set], &[]), side(&[], &[])));
    record(namespace, name, rules.collect())
}

fn record(namespace: &str, name: &str, rules: Vec<ResolvedRule>) -> Arc<ResolvedPolicy> {
    let mut policy = ResolvedPolicy::clone(&policy("default", rules));
    policy.tiers[0].policies[0].key = ResourceKey {
        kind: Kind::NetworkPolicy,
        namespace: Some(namespace.into()),
        name: name.into(),
    };
    Arc::new(policy)
}

/// Makes these networks members of one set.
fn in_set(name: &str, nets: impl Iterator<Item = String>) -> Delta {
    let nets: Vec<String> = nets.collect();
    let sets = [name];
    let list: Vec<(&str, &[&str])> = nets.iter().map(|net| (net.as_str(), sets.as_slice())).collect();
    members(&list)
}

fn nets_v4(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("10.1.{n}.0/24"))
}

fn problems(planner: &Planner<Picky>) -> Vec<(String, bool)> {
    let list = planner.problems();
    list.map(|problem| (problem.endpoint.name.to_string(), problem.closed))
        .collect()
}

/// Each table, and what makes it too small for a policy that names the set `heavy`.
fn too_much() -> Vec<(&'static str, Vec<Delta>)> {
    let count = ROOM + 1;
    let named = (0..count as u16).map(|port| NamedPortMember {
        address: "10.9.0.1".parse().unwrap(),
        protocol: Protocol(6),
        port,
    });
    let named = Delta {
        named_ports: named
            .map(|member| (member, Some(Arc::new([set("heavy")].into()))))
            .collect(),
        ..Delta::default()
    };
    // Each of so few networks is in another combination of sets.
    let combinations = (1..ROOM as u32).map(|n| {
        let sets: Vec<String> = (0..6)
            .filter(|bit| n >> bit & 1 == 1)
            .map(|bit| format!("heavy{bit}"))
            .collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        members(&[
            (&format!("10.{n}.0.0/16"), &sets),
            (&format!("fd00:{n}::/32"), &[sets.as_slice(), &["heavy"]].concat()),
        ])
    });
    vec![
        ("nets_v4", vec![in_set("heavy", nets_v4(count))]),
        (
            "nets_v6",
            vec![in_set("heavy", (0..count).map(|n| format!("fd00:{n}::/32")))],
        ),
        (
            "peers_v4",
            vec![in_set("heavy", (0..count).map(|n| format!("10.1.0.{n}/32")))],
        ),
        (
            "peers_v6",
            vec![in_set("heavy", (0..count).map(|n| format!("fd00::{n}/128")))],
        ),
        ("named_ports", vec![named]),
        ("classes", combinations.collect()),
    ]
}

/// The tenant's policy: it asks for the sets and named ports that are too much.
fn heavy() -> Arc<ResolvedPolicy> {
    let names = ["heavy", "heavy0", "heavy1", "heavy2", "heavy3", "heavy4", "heavy5"];
    let by_set = names.map(|name| rule(ResolvedAction::Allow, side(&[name], &[]), side(&[], &[])));
    let named = ResolvedSide {
        named_ports: vec![set("heavy")],
        ..ResolvedSide::default()
    };
    let by_port = ResolvedRule {
        protocol: Some(Protocol(6)),
        ..rule(ResolvedAction::Allow, named, side(&[], &[]))
    };
    record("tenant", "big", by_set.into_iter().chain([by_port]).collect())
}

#[test]
fn what_does_not_fit_concerns_the_endpoints_of_the_policy_at_fault_alone() {
    for (table, deltas) in too_much() {
        for restarted in [false, true] {
            let mut planner = Planner::with_compiler(tight(), Adopted::default(), Picky);
            let small = in_set("small", (0..3).map(|n| format!("192.168.{n}.0/24")));
            let before = [
                small,
                endpoints([
                    endpoint("t", &["10.0.0.1"], &allow(&[])),
                    endpoint("web", &["10.0.0.2"], &allow(&[])),
                ]),
            ];
            if !restarted {
                step(&mut planner, &before).unwrap();
            }
            // With the tenant's policy comes one of somebody else, and with it its own networks.
            let others = of("shop", "web", &["small"]);
            let both = endpoints([
                endpoint("t", &["10.0.0.1"], &heavy()),
                endpoint("web", &["10.0.0.2"], &others),
            ]);
            let first = if restarted { before.to_vec() } else { Vec::new() };
            let all: Vec<Delta> = first.into_iter().chain(deltas.clone()).chain([both]).collect();
            let transaction = step(&mut planner, &all).unwrap();
            assert!(
                transaction.new_programs[&plan_of(&transaction, "web").ingress]
                    .sets
                    .contains(&set("small")),
                "{table}: the other policy is in force"
            );
            assert_eq!(problems(&planner), [("t".to_owned(), restarted)], "{table}");
            let problem = planner.problems().next().unwrap().to_string();
            for words in [table, "NetworkPolicy", "tenant", "big", "room for 40"] {
                assert!(problem.contains(words), "{table}: {problem}");
            }
            // What comes later goes on, too, and the policy is not tried with each change.
            let later = endpoints([endpoint("x", &["10.0.0.3"], &others)]);
            assert!(step(&mut planner, &[later]).is_some(), "{table}");
            assert_eq!(problems(&planner), [("t".to_owned(), restarted)], "{table}");
            assert_eq!(planner.refused(), None);
            // It is in force at once when it changes to one that fits.
            step(
                &mut planner,
                &[endpoints([endpoint(
                    "t",
                    &["10.0.0.1"],
                    &of("tenant", "big", &["small"]),
                )])],
            )
            .unwrap();
            assert_eq!(problems(&planner), [], "{table}");
        }
    }
}

#[test]
fn a_policy_that_was_too_much_is_in_force_once_its_sets_are_smaller() {
    let mut planner = Planner::with_compiler(tight(), Adopted::default(), Picky);
    let tenant = endpoint("t", &["10.0.0.1"], &of("tenant", "big", &["heavy"]));
    step(&mut planner, &[in_set("heavy", nets_v4(ROOM + 5)), endpoints([tenant])]).unwrap();
    assert_eq!(problems(&planner), [("t".to_owned(), true)]);
    let names: Vec<String> = nets_v4(10).collect();
    let gone: Vec<(&str, &[&str])> = names.iter().map(|net| (net.as_str(), &[] as &[&str])).collect();
    let transaction = step(&mut planner, &[members(&gone)]).unwrap();
    assert_eq!(transaction.nets.len(), ROOM - 5);
    assert_eq!(problems(&planner), []);
    // It grows while it is in force: now it is too much, and cannot stay as it was.
    step(&mut planner, &[in_set("heavy", nets_v4(ROOM + 5))]).unwrap();
    assert_eq!(problems(&planner), [("t".to_owned(), true)]);
    // The networks of the closed policy have left the table. Others have room now.
    assert_eq!(planner.stats().nets_v4, 0);
    planner.retry();
    step(&mut planner, &[]);
    assert_eq!(problems(&planner), [("t".to_owned(), true)]);
}

#[test]
fn many_small_policies_of_a_namespace_push_nobody_else_out() {
    let mut planner = Planner::with_compiler(tight(), Adopted::default(), Picky);
    let web = endpoint("web", &["10.0.0.1"], &of("shop", "web", &["web"]));
    let mut deltas = vec![
        in_set("web", (0..15).map(|n| format!("172.16.{n}.0/24"))),
        endpoints([web]),
    ];
    // Each of them is lighter than the policy of the shop, together they are too much.
    for n in 0..6 {
        let name = format!("s{n}");
        deltas.push(in_set(&name, (0..9).map(|m| format!("10.{n}.{m}.0/24"))));
        deltas.push(endpoints([endpoint(
            &format!("t{n}"),
            &[&format!("10.9.0.{n}")],
            &of("tenant", &name, &[&name]),
        )]));
    }
    step(&mut planner, &deltas).unwrap();
    let closed: Vec<String> = problems(&planner).into_iter().map(|(name, _)| name).collect();
    assert!(!closed.contains(&"web".to_owned()), "{closed:?}");
    assert_eq!(closed.len(), 4, "as few as need be: {closed:?}");
}

#[test]
fn endpoints_beyond_the_table_are_alone_without_a_place() {
    let mut planner = Planner::with_compiler(tight(), Adopted::default(), Picky);
    let web = allow(&["a"]);
    let make = |n: usize| endpoint(&format!("w{n:02}"), &[&format!("fd01::{n}")], &web);
    let all: Vec<LocalEndpoint> = (0..ROOM + 2).map(make).collect();
    let transaction = step(&mut planner, &[endpoints(all)]).unwrap();
    assert_eq!(transaction.endpoints.len(), ROOM);
    let beyond = ["w40", "w41"].map(str::to_owned);
    let closed: Vec<String> = problems(&planner).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        closed,
        [&beyond[0], &beyond[0], &beyond[1], &beyond[1]].map(Clone::clone)
    );
    assert!(
        planner
            .problems()
            .all(|problem| problem.closed && problem.reason.contains("room for"))
    );
    // One leaves: its place is free once the transaction is complete, and no id was lost meanwhile.
    step(&mut planner, &[gone("w00")]).unwrap();
    planner.retry();
    let transaction = step(&mut planner, &[]).unwrap();
    let id = EndpointId {
        index: 1,
        id: ROOM as u32 + 1,
    };
    assert_eq!(transaction.endpoints.keys().collect::<Vec<_>>(), [&id]);
    assert_eq!(planner.endpoint(&key("w40")).unwrap().id, id);
    // An endpoint that moves to another interface keeps being served as soon as its old place is
    // free.
    let moved = LocalEndpoint {
        interface_name: "cali-other".into(),
        ..make(1)
    };
    step(&mut planner, &[endpoints([moved])]).unwrap();
    planner.retry();
    step(&mut planner, &[]).unwrap();
    assert!(planner.endpoint(&key("w01")).is_some() || planner.endpoint(&key("w41")).is_some());
}

#[test]
fn a_policy_with_more_sets_than_slots_concerns_its_own_endpoints_only() {
    let options = PlannerOptions {
        max_slots: 64,
        ..PlannerOptions::default()
    };
    let mut planner = Planner::with_compiler(options, Adopted::default(), Picky);
    let web = allow(&["a"]);
    step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &web),
            endpoint("web", &["10.0.0.2"], &web),
        ])],
    );
    let before = planner.endpoint(&key("old")).unwrap().ingress;
    let names: Vec<String> = (0..65).map(|n| format!("s{n}")).collect();
    let rules = names
        .iter()
        .map(|name| rule(ResolvedAction::Allow, side(&[name], &[]), side(&[], &[])));
    let huge = policy("default", rules.collect());
    let transaction = step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &huge),
            endpoint("new", &["10.0.0.3"], &huge),
            endpoint("web", &["10.0.0.2"], &allow(&["b"])),
        ])],
    )
    .unwrap();
    assert_eq!(
        plan_of(&transaction, "web").ingress,
        planner.endpoint(&key("web")).unwrap().ingress
    );
    let problems: Vec<(String, bool)> = planner
        .problems()
        .map(|problem| {
            assert!(
                problem.reason.contains("65 sets") && problem.reason.contains("64"),
                "{problem}"
            );
            (problem.endpoint.name.to_string(), problem.closed)
        })
        .collect();
    // The policy before names a set that nothing else names any more, so it cannot stay.
    assert_eq!(problems, [("new".to_owned(), true), ("old".to_owned(), true)]);
    assert_ne!(planner.endpoint(&key("old")).unwrap().ingress, before);
    // Where its sets are known the last policy stays.
    let transaction = step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &web),
            endpoint("web", &["10.0.0.2"], &web),
        ])],
    );
    assert!(transaction.is_some());
    step(&mut planner, &[endpoints([endpoint("old", &["10.0.0.1"], &huge)])]);
    let old = planner
        .problems()
        .find(|problem| problem.endpoint == key("old"))
        .unwrap();
    assert!(!old.closed);
    step(
        &mut planner,
        &[gone("new"), endpoints([endpoint("old", &["10.0.0.1"], &web)])],
    );
    assert_eq!(planner.problems().count(), 0);
}

#[test]
fn sets_that_find_no_room_wait_and_are_in_nobodys_way() {
    let tight = PlannerOptions {
        max_slots: 64,
        ..PlannerOptions::default()
    };
    let mut planner = Planner::with_compiler(tight, Adopted::default(), Picky);
    let names = |prefix: &str| -> Vec<String> { (0..40).map(|i| format!("{prefix}{i}")).collect() };
    let wide = |names: &[String]| {
        let rules = names
            .iter()
            .map(|name| rule(ResolvedAction::Allow, side(&[name], &[]), side(&[], &[])));
        policy("default", rules.collect())
    };
    let (old, new) = (wide(&names("old")), wide(&names("new")));
    step(&mut planner, &[endpoints([endpoint("w", &["10.0.0.1"], &old)])]).unwrap();
    // Forty sets go and forty come: for a moment there is no room, since the program in force still
    // tests the old ones.
    step(
        &mut planner,
        &[endpoints([
            endpoint("w", &["10.0.0.1"], &new),
            endpoint("web", &["10.0.0.2"], &allow(&["b"])),
        ])],
    )
    .unwrap();
    let problems: Vec<String> = planner
        .problems()
        .map(|problem| problem.endpoint.name.to_string())
        .collect();
    assert_eq!(problems, ["w"]);
    // Now they are gone, and the next try finds room.
    planner.retry();
    step(&mut planner, &[]).unwrap();
    assert_eq!(planner.problems().count(), 0);
}
