//! Single behaviours, by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::planner::{Adopted, Planner, PlannerOptions, identity};
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, PeerEntry, Transaction};
use felid_model::Protocol;
use felid_model::resolved::{Delta, LocalEndpoint, NamedPortMember, ResolvedAction, ResolvedSide, SetIds};

use crate::build::{allow, endpoint, endpoints, gone, key, members, policy, rule, set, side};
use crate::scenario::Picky;

fn small() -> PlannerOptions {
    PlannerOptions {
        max_slots: 64,
        ..PlannerOptions::default()
    }
}

/// Tells the planner, plans, and completes the transaction.
pub(crate) fn step(planner: &mut Planner<Picky>, deltas: &[Delta]) -> Option<Transaction> {
    deltas.iter().for_each(|delta| planner.update(delta));
    let transaction = planner.plan().unwrap();
    planner.committed();
    transaction
}

fn fresh() -> Planner<Picky> {
    Planner::with_compiler(small(), Adopted::default(), Picky)
}

pub(crate) fn plan_of<'a>(transaction: &'a Transaction, name: &str) -> &'a EndpointPlan {
    let plans = transaction.endpoints.values().filter_map(|change| match change {
        EndpointChange::Set(plan) => Some(plan),
        EndpointChange::Gone { .. } => None,
    });
    plans
        .into_iter()
        .find(|plan| plan.endpoint.key == key(name))
        .expect("a plan for the endpoint")
}

#[test]
fn endpoints_with_equal_policies_share_programs() {
    let mut planner = fresh();
    let web = allow(&["a"]);
    let list = (0..100).map(|i| {
        endpoint(
            &format!("w{i}"),
            &[&format!("10.0.0.{i}"), &format!("fd00::{i:x}")],
            &web,
        )
    });
    let transaction = step(&mut planner, &[endpoints(list)]).unwrap();
    assert_eq!((transaction.new_programs.len(), transaction.endpoints.len()), (2, 100));
    assert_eq!((planner.stats().programs, planner.stats().program_users), (2, 200));
    // One of them looks different to its policy now: its own address matters.
    let own = policy(
        "default",
        vec![rule(ResolvedAction::Allow, side(&["a"], &[]), side(&["own"], &[]))],
    );
    let list = (0..100).map(|i| endpoint(&format!("w{i}"), &[&format!("10.0.0.{i}")], &own));
    let transaction = step(&mut planner, &[endpoints(list), members(&[("10.0.0.7/32", &["own"])])]).unwrap();
    assert_ne!(plan_of(&transaction, "w7").ingress, plan_of(&transaction, "w8").ingress);
    assert_eq!(plan_of(&transaction, "w8").ingress, plan_of(&transaction, "w9").ingress);
    // A prefix above changes what all below are members of.
    let transaction = step(&mut planner, &[members(&[("10.0.0.8/31", &["own"])])]).unwrap();
    assert_eq!(transaction.endpoints.len(), 2);
    assert_eq!(transaction.new_programs.len(), 0);
    assert!(plan_of(&transaction, "w9").revoke_ingress && !plan_of(&transaction, "w9").revoke_egress);
}

#[test]
fn only_what_can_take_something_away_revokes() {
    use ResolvedAction::{Allow, Deny, Pass};
    // What the rule says of set "a"; whether leaving it, and joining it, revokes.
    let cases = [
        (Allow, side(&["a"], &[]), true, false),
        (Allow, side(&[], &["a"]), false, true),
        (Deny, side(&["a"], &[]), false, true),
        (Deny, side(&[], &["a"]), true, false),
        (Pass, side(&["a"], &[]), true, true),
    ];
    for (action, source, leaving, joining) in cases {
        let mut planner = fresh();
        let anyone = rule(Allow, side(&[], &[]), side(&[], &[]));
        let last = if action == Allow { vec![] } else { vec![anyone] };
        let rules = [vec![rule(action, source, side(&[], &[]))], last].concat();
        step(
            &mut planner,
            &[endpoints([endpoint("w", &["10.0.0.1"], &policy("default", rules))])],
        );
        for net in ["10.1.0.1/32", "10.2.0.0/16"] {
            let joined = step(&mut planner, &[members(&[(net, &["a"])])]).unwrap();
            assert_eq!(joined.endpoints.len(), usize::from(joining), "{action:?}");
            assert!(!joining || plan_of(&joined, "w").revoke_ingress);
            let left = step(&mut planner, &[members(&[(net, &[])])]).unwrap();
            assert_eq!(left.endpoints.len(), usize::from(leaving), "{action:?}");
            assert!(!leaving || plan_of(&left, "w").revoke_ingress);
        }
    }
}

#[test]
fn a_new_prefix_does_not_hide_what_covers_it() {
    let mut planner = fresh();
    let web = policy(
        "default",
        vec![
            rule(ResolvedAction::Allow, side(&["a"], &[]), side(&[], &[])),
            rule(ResolvedAction::Allow, side(&["b"], &[]), side(&[], &[])),
        ],
    );
    let first = step(
        &mut planner,
        &[
            endpoints([endpoint("w", &["10.9.0.1"], &web)]),
            members(&[("10.0.0.0/8", &["a"])]),
        ],
    )
    .unwrap();
    let wide = first.nets[&"10.0.0.0/8".parse().unwrap()].after;
    let second = step(
        &mut planner,
        &[members(&[("10.1.0.0/16", &["b"]), ("10.1.1.1/32", &["b"])])],
    )
    .unwrap();
    let net = second.nets[&"10.1.0.0/16".parse().unwrap()];
    let peer = second.peers[&"10.1.1.1".parse().unwrap()];
    assert_eq!((net.before, peer.before.class), (wide, wide));
    assert_eq!(net.after, peer.after.class, "both are in a and b");
    assert_ne!(net.after, wide);
    // The short prefix goes: all below it change, and so does the endpoint's own address.
    let third = step(&mut planner, &[members(&[("10.0.0.0/8", &[])])]).unwrap();
    assert_eq!((third.nets.len(), third.peers.len()), (2, 2));
    assert!(!third.nets[&"10.0.0.0/8".parse().unwrap()].keep);
    // And what is left is looked up by what covers it once it goes.
    let fourth = step(&mut planner, &[members(&[("10.1.1.1/32", &[])])]).unwrap();
    let peer = fourth.peers[&"10.1.1.1".parse().unwrap()];
    assert!(!peer.keep && peer.after.class == peer.before.class);
}

#[test]
fn named_ports_count_on_both_sides() {
    let mut planner = fresh();
    let named = |address: &str, present: bool| {
        let member = NamedPortMember {
            address: address.parse().unwrap(),
            protocol: Protocol(6),
            port: 80,
        };
        let sets = present.then(|| Arc::new(SetIds::from([set("http")])));
        Delta {
            named_ports: [(member, sets)].into(),
            ..Delta::default()
        }
    };
    let ports = ResolvedSide {
        named_ports: vec![set("http")],
        ..ResolvedSide::default()
    };
    let mut to_http = rule(ResolvedAction::Allow, side(&[], &[]), ports);
    to_http.protocol = Some(Protocol(6));
    let to_http = policy("default", vec![to_http]);
    // Own side: the port becomes a number in the program, and nobody needs a slot.
    step(&mut planner, &[endpoints([endpoint("w", &["10.0.0.1"], &to_http)])]);
    let before = planner.endpoint(&key("w")).unwrap().ingress;
    let transaction = step(&mut planner, &[named("10.0.0.1", true), named("10.1.0.1", true)]).unwrap();
    let plan = plan_of(&transaction, "w");
    assert!(plan.ingress != before && plan.revoke_ingress && !plan.revoke_egress);
    assert!(transaction.named_ports.is_empty() && planner.stats().slots == 0);
    // The peer's side: members that were known before come in with the slot.
    let client = LocalEndpoint {
        egress: to_http,
        ..endpoint("c", &["10.0.0.2"], &allow(&[]))
    };
    let transaction = step(&mut planner, &[endpoints([client])]).unwrap();
    assert_eq!((transaction.named_ports.len(), planner.stats().slots), (2, 1));
    let transaction = step(&mut planner, &[named("10.1.0.1", false)]).unwrap();
    assert_eq!(transaction.endpoints.len(), 1);
    assert!(plan_of(&transaction, "c").revoke_egress && !plan_of(&transaction, "c").revoke_ingress);
}

#[test]
fn an_address_that_two_claim_belongs_to_the_first() {
    let mut planner = fresh();
    let web = allow(&["a"]);
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let first = step(&mut planner, &[endpoints([endpoint("b", &["10.0.0.1"], &web)])]).unwrap();
    let b = first.peers[&address].after.endpoint;
    let second = step(&mut planner, &[endpoints([endpoint("a", &["10.0.0.1"], &web)])]).unwrap();
    let change = second.peers[&address];
    assert!(change.before.endpoint == b && change.after.endpoint.is_some() && change.after.endpoint != b);
    assert!(plan_of(&second, "b").revoke_egress && plan_of(&second, "b").revoke_ingress);
    let third = step(&mut planner, &[gone("a")]).unwrap();
    assert_eq!(third.peers[&address].after.endpoint, b);
}

#[test]
fn a_policy_without_a_program_leaves_the_old_one_or_closes() {
    let mut planner = fresh();
    let broken = |sets: &[&str]| {
        policy(
            "broken",
            vec![rule(ResolvedAction::Allow, side(sets, &[]), side(&[], &[]))],
        )
    };
    let old = step(
        &mut planner,
        &[endpoints([endpoint("w", &["10.0.0.1"], &allow(&["a"]))])],
    )
    .unwrap();
    let program = plan_of(&old, "w").ingress;
    step(
        &mut planner,
        &[endpoints([
            endpoint("w", &["10.0.0.1"], &broken(&["a"])),
            endpoint("n", &["10.0.0.2"], &broken(&["a"])),
        ])],
    );
    assert_eq!(planner.endpoint(&key("w")).unwrap().ingress, program);
    let problems: Vec<(String, bool)> = planner
        .problems()
        .map(|p| (p.endpoint.name.to_string(), p.closed))
        .collect();
    assert_eq!(problems, [("n".to_owned(), true), ("w".to_owned(), false)]);
    let closed = planner.endpoint(&key("n")).unwrap().ingress;
    assert!(planner.program(closed).unwrap().sets.is_empty());
    // Nobody says any more who is in "a".
    let other = endpoints([
        endpoint("w", &["10.0.0.1"], &broken(&["b"])),
        endpoint("n", &["10.0.0.2"], &broken(&["b"])),
    ]);
    step(&mut planner, &[other]);
    assert_eq!(planner.endpoint(&key("w")).unwrap().ingress, closed);
    step(
        &mut planner,
        &[gone("n"), endpoints([endpoint("w", &["10.0.0.1"], &allow(&["b"]))])],
    );
    assert_eq!(planner.problems().count(), 0);
}

#[test]
fn programs_that_do_not_load_are_not_tried_again_until_asked() {
    let mut planner = fresh();
    planner.update(&endpoints([endpoint("w", &["10.0.0.1"], &allow(&["a"]))]));
    let first = planner.plan().unwrap().unwrap();
    let bad = plan_of(&first, "w").ingress;
    assert_eq!(planner.plan(), Ok(None));
    planner.aborted(&BTreeMap::from([(bad, "the verifier says no".to_owned())]));
    assert_eq!(planner.stats().programs, 0);
    let second = planner.plan().unwrap().unwrap();
    assert!(!second.new_programs.contains_key(&bad));
    let closed = plan_of(&second, "w").ingress;
    assert!(second.new_programs[&closed].sets.is_empty());
    planner.committed();
    let problem = planner.problems().next().unwrap().to_string();
    assert!(
        problem.contains("the verifier says no") && problem.contains("all is denied"),
        "{problem}"
    );
    planner.retry();
    let third = step(&mut planner, &[]).unwrap();
    assert_eq!(
        third.new_programs[&plan_of(&third, "w").ingress].rules,
        first.new_programs[&bad].rules
    );
    assert_eq!(planner.problems().count(), 0);
}

#[test]
fn ids_are_never_used_again_and_indexes_only_once_free() {
    let mut planner = fresh();
    let web = allow(&["a"]);
    let first = step(&mut planner, &[endpoints([endpoint("w", &["10.0.0.1"], &web)])]).unwrap();
    assert_eq!(
        (first.endpoints.keys().next(), first.next_endpoint_id),
        (Some(&EndpointId { index: 1, id: 1 }), 2)
    );
    // Another interface is another endpoint; its address is its successor's at once.
    let renamed = LocalEndpoint {
        interface_name: "cali-other".into(),
        ..endpoint("w", &["10.0.0.1"], &web)
    };
    let second = step(&mut planner, &[endpoints([renamed.clone()])]).unwrap();
    let (old, new) = (EndpointId { index: 1, id: 1 }, EndpointId { index: 2, id: 2 });
    assert_eq!(second.endpoints[&old], EndpointChange::Gone { key: Some(key("w")) });
    assert_eq!(second.peers[&"10.0.0.1".parse().unwrap()].after.endpoint, Some(new));
    let third = step(&mut planner, &[endpoints([endpoint("x", &["10.0.0.2"], &web)])]).unwrap();
    assert_eq!(third.endpoints.keys().next(), Some(&EndpointId { index: 1, id: 3 }));

    // A restart: one is recognised, one is not there any more.
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let adopted = Adopted {
        next_endpoint_id: 9,
        endpoints: [
            (identity(&renamed.key, "cali-other"), new),
            ([1, 2, 3, 4], EndpointId { index: 1, id: 3 }),
        ]
        .into(),
        peers: [(
            address,
            PeerEntry {
                class: 1,
                endpoint: Some(new),
                host: false,
            },
        )]
        .into(),
        nets: [("10.1.0.0/16".parse().unwrap(), 2)].into(),
        named_ports: BTreeMap::new(),
    };
    let mut planner = Planner::with_compiler(small(), adopted, Picky);
    let renamed = [
        endpoints([renamed, endpoint("z", &["10.0.0.3"], &web)]),
        members(&[("10.0.0.1/32", &["a"])]),
    ];
    let transaction = step(&mut planner, &renamed).unwrap();
    let plan = plan_of(&transaction, "w");
    assert!(plan.revoke_egress && plan.revoke_ingress);
    assert_eq!(
        transaction.endpoints[&EndpointId { index: 1, id: 3 }],
        EndpointChange::Gone { key: None }
    );
    assert!(transaction.endpoints.contains_key(&EndpointId { index: 3, id: 9 }));
    assert!(
        transaction.classes.iter().all(|(class, _)| *class > 2),
        "classes of the active bank are not touched"
    );
    assert!(!transaction.nets[&"10.1.0.0/16".parse().unwrap()].keep);
    let next = step(&mut planner, &[endpoints([endpoint("y", &["10.0.0.4"], &web)])]).unwrap();
    assert!(next.endpoints.contains_key(&EndpointId { index: 1, id: 10 }));
}

#[test]
fn a_slot_and_its_classes_come_back() {
    let mut planner = Planner::with_compiler(
        PlannerOptions {
            max_slots: 2,
            max_classes: 4,
            ..small()
        },
        Adopted::default(),
        Picky,
    );
    for round in 0..20 {
        let name = format!("set{round}");
        let web = policy(
            "default",
            vec![rule(ResolvedAction::Allow, side(&[&name], &[]), side(&[], &[]))],
        );
        let delta = [
            endpoints([endpoint("w", &["10.0.0.1"], &web)]),
            members(&[("10.1.0.1/32", &[&name])]),
        ];
        let transaction = step(&mut planner, &delta).unwrap();
        assert_eq!(
            transaction.classes.len(),
            1,
            "rows with the old bit are not used for the new one"
        );
        assert_eq!((planner.stats().slots, planner.stats().classes), (1, 1));
    }
}

#[test]
fn nothing_to_do_is_nothing() {
    let mut planner = fresh();
    assert_eq!(planner.plan(), Ok(None));
    let delta = endpoints([endpoint("w", &["10.0.0.1"], &allow(&["a"]))]);
    step(&mut planner, std::slice::from_ref(&delta));
    assert_eq!(step(&mut planner, &[delta]), None);
    // Members of what no program tests, and what comes and goes between two plans.
    assert_eq!(step(&mut planner, &[members(&[("10.1.0.0/16", &["unused"])])]), None);
    assert_eq!(
        step(
            &mut planner,
            &[members(&[("10.2.0.0/16", &["a"])]), members(&[("10.2.0.0/16", &[])])]
        ),
        None
    );
    assert_eq!(
        step(
            &mut planner,
            &[gone("w"), endpoints([endpoint("w", &["10.0.0.1"], &allow(&["a"]))])]
        ),
        None
    );
    planner.set_host_addresses(BTreeSet::from(["192.0.2.1".parse().unwrap()]));
    let host = step(&mut planner, &[]).unwrap();
    assert!(host.peers[&"192.0.2.1".parse().unwrap()].after.host);
    assert!(plan_of(&host, "w").revoke_egress);
}
