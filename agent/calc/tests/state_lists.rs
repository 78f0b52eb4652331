//! Lists of states, each a set of records. A list is replayed forward, reversed and shuffled, with
//! the updates between two states in any order and flushes anywhere: what the deltas add up to
//! depends on the last state alone.

mod common;

use common::*;
use felid_model::*;
use proptest::prelude::*;

/// A name for failures, and the records.
type State = (&'static str, Records);

fn state(name: &'static str, list: impl IntoIterator<Item = Resource>) -> State {
    (name, records(list))
}

fn web() -> WorkloadEndpoint {
    WorkloadEndpoint {
        profiles: vec!["kns.a".to_owned()],
        ports: vec![port("http", 6, 8080)],
        ..wep("web", "app=web", "10.0.0.1 fd00::1")
    }
}

fn db() -> WorkloadEndpoint {
    WorkloadEndpoint {
        node: "n2".to_owned(),
        ..wep("db", "app=db", "10.0.0.2")
    }
}

fn namespace(team: &str) -> Resource {
    let open = vec![rule(Action::Allow)];
    profile("kns.a", &format!("pcns.team={team}"), open.clone(), open)
}

fn ingress() -> Policy {
    policy(
        Some("a"),
        "ingress",
        "app == 'web'",
        vec![allow_from("app == 'db'"), allow_from("team == 'x'")],
    )
}

/// Endpoints come, move, change labels and go.
fn endpoints() -> Vec<State> {
    let p = || enforced(ingress());
    let moved = WorkloadEndpoint {
        node: "n2".to_owned(),
        ..web()
    };
    let db_here = WorkloadEndpoint {
        node: NODE.to_owned(),
        ..db()
    };
    vec![
        state("nothing", []),
        state("policy only", [p()]),
        state("web", [p(), endpoint(web()), namespace("x")]),
        state(
            "web and remote db",
            [p(), endpoint(web()), endpoint(db()), namespace("x")],
        ),
        state("db is local", [p(), endpoint(web()), endpoint(db_here), namespace("x")]),
        state("web moved away", [p(), endpoint(moved), endpoint(db()), namespace("x")]),
        state(
            "web is a db",
            [p(), endpoint(wep("web", "app=db", "10.0.0.1")), endpoint(db())],
        ),
        state(
            "db without addresses",
            [
                p(),
                endpoint(web()),
                endpoint(WorkloadEndpoint {
                    ip_networks: vec![],
                    ..db()
                }),
                namespace("x"),
            ],
        ),
        state(
            "db shares web's address",
            [
                p(),
                endpoint(web()),
                endpoint(WorkloadEndpoint {
                    ip_networks: nets("10.0.0.1 10.0.0.2"),
                    ..db()
                }),
            ],
        ),
    ]
}

/// Policies, tiers and profiles change around the same endpoints.
fn policies() -> Vec<State> {
    let base = |more: Vec<Resource>| [vec![endpoint(web()), endpoint(db())], more].concat();
    let in_tier = |name: &str, order| Policy {
        tier: name.to_owned(),
        order,
        ..policy(None, "g", "all()", vec![])
    };
    let both = Policy {
        applies_egress: true,
        egress: vec![allow_from("app == 'db'")],
        ..ingress()
    };
    vec![
        state("no policy", base(vec![])),
        state("no policy, profile", base(vec![namespace("x")])),
        state("ingress", base(vec![enforced(ingress()), namespace("x")])),
        state(
            "ingress, other namespace labels",
            base(vec![enforced(ingress()), namespace("y")]),
        ),
        state("both directions", base(vec![enforced(both), namespace("x")])),
        state(
            "global policy without its tier",
            base(vec![enforced(in_tier("t", None)), enforced(ingress())]),
        ),
        state(
            "tier before default",
            base(vec![
                tier("t", Some(5.0), true),
                enforced(in_tier("t", None)),
                enforced(ingress()),
            ]),
        ),
        state(
            "tier after default",
            base(vec![
                tier("t", Some(5e6), false),
                enforced(in_tier("t", None)),
                enforced(ingress()),
            ]),
        ),
        state(
            "tier without order",
            base(vec![
                tier("t", None, false),
                enforced(in_tier("t", Some(1.0))),
                enforced(in_tier("kube-baseline", None)),
            ]),
        ),
        state(
            "default passes",
            base(vec![
                tier("default", Some(1.0), true),
                enforced(ingress()),
                namespace("x"),
            ]),
        ),
        state(
            "bad policy",
            base(vec![bad(Some("a"), "ingress", Some("app == 'web'")), namespace("x")]),
        ),
        state(
            "bad policy of anything",
            base(vec![bad(None, "g", None), enforced(ingress())]),
        ),
        state(
            "bad policy of others",
            base(vec![bad(Some("b"), "ingress", None), enforced(ingress())]),
        ),
    ]
}

/// Sets become active and inactive; several holders of one prefix.
fn sets() -> Vec<State> {
    let base = |rules: Vec<Rule>, more: Vec<Resource>| {
        [
            vec![
                endpoint(web()),
                endpoint(db()),
                enforced(policy(None, "p", "app == 'web'", rules)),
            ],
            more,
        ]
        .concat()
    };
    let named = |protocol| Rule {
        protocol,
        destination: EntityRule {
            ports: vec![Port::Named("http".to_owned())],
            ..EntityRule::default()
        },
        ..rule(Action::Allow)
    };
    let long: Vec<String> = (1..20).map(|i| format!("10.{i}.0.0/16")).collect();
    let long = Rule {
        source: EntityRule {
            nets: nets(&long.join(" ")),
            ..EntityRule::default()
        },
        ..rule(Action::Deny)
    };
    let not_db = Rule {
        source: EntityRule {
            not_selector: Some(selector("app == 'db'")),
            ..EntityRule::default()
        },
        ..rule(Action::Allow)
    };
    vec![
        state("no rules", base(vec![], vec![])),
        state(
            "everything",
            base(
                vec![allow_from("all()")],
                vec![network_set(None, "s", "app=db", "10.0.0.0/8")],
            ),
        ),
        state(
            "db",
            base(
                vec![allow_from("app == 'db'")],
                vec![network_set(None, "s", "app=db", "10.0.0.0/8")],
            ),
        ),
        state(
            "db in two sets",
            base(
                vec![allow_from("app == 'db'"), allow_from("has(role)")],
                vec![
                    network_set(None, "s", "app=db", "10.0.0.0/8 10.0.0.2/32"),
                    network_set(Some("a"), "t", "role=x", "10.0.0.0/8"),
                ],
            ),
        ),
        state(
            "not db",
            base(vec![not_db], vec![network_set(Some("b"), "t", "app=db", "10.3.0.0/16")]),
        ),
        state(
            "long list",
            base(
                vec![long.clone()],
                vec![network_set(None, "s", "app=db", "10.3.0.0/16")],
            ),
        ),
        state(
            "long list and db",
            base(
                vec![long, allow_from("app == 'db'")],
                vec![network_set(None, "s", "app=db", "10.3.0.0/16")],
            ),
        ),
        state("named port", base(vec![named(None)], vec![])),
        state(
            "named port of TCP and of any",
            base(vec![named(Some(Protocol(6))), named(None)], vec![]),
        ),
        state("named port of TCP", base(vec![named(Some(Protocol(6)))], vec![])),
    ]
}

/// Interfaces and addresses claimed twice.
fn claims() -> Vec<State> {
    let on = |name: &str, interface: &str, addresses: &str| {
        let wep = wep(name, "app=web", addresses);
        endpoint(WorkloadEndpoint {
            interface_name: interface.to_owned(),
            ..wep
        })
    };
    let p = || enforced(ingress());
    vec![
        state("a", [p(), on("a", "cali1", "10.0.0.1")]),
        state("b", [p(), on("b", "cali1", "10.0.0.1")]),
        state(
            "one interface",
            [p(), on("a", "cali1", "10.0.0.1"), on("b", "cali1", "10.0.0.2")],
        ),
        state(
            "one address",
            [p(), on("a", "cali1", "10.0.0.1"), on("b", "cali2", "10.0.0.1 10.0.0.2")],
        ),
        state(
            "both",
            [p(), on("a", "cali1", "10.0.0.1"), on("b", "cali1", "10.0.0.1")],
        ),
        state(
            "a chain",
            [
                p(),
                on("a", "cali1", "10.0.0.1"),
                on("b", "cali1", "10.0.0.2"),
                on("c", "cali3", "10.0.0.2 10.0.0.3"),
                on("d", "cali4", "10.0.0.3"),
            ],
        ),
        state(
            "a chain without its head",
            [
                p(),
                on("b", "cali1", "10.0.0.2"),
                on("c", "cali3", "10.0.0.2 10.0.0.3"),
                on("d", "cali4", "10.0.0.3"),
            ],
        ),
    ]
}

fn lists() -> Vec<Vec<State>> {
    vec![
        endpoints(),
        policies(),
        sets(),
        claims(),
        [endpoints(), policies(), sets(), claims()].concat(),
    ]
}

/// What is left to chance in a replay.
struct Chance(proptest::test_runner::TestRng);

impl Chance {
    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.0.random_range(0..=last));
        }
    }
}

/// Goes through the states; checks after each.
fn replay(list: &[State], chance: &mut Chance, flush_between: f64) {
    let mut calc = calc();
    let mut world = World::default();
    let mut now = &Records::new();
    let mut before = "empty";
    for (name, next) in list {
        let gone = now.keys().filter(|key| !next.contains_key(*key)).map(|key| (key, None));
        let changed = next
            .iter()
            .filter(|(key, r)| now.get(*key) != Some(*r))
            .map(|(key, r)| (key, Some(r)));
        let mut updates: Vec<(&ResourceKey, Option<&Resource>)> = gone.chain(changed).collect();
        chance.shuffle(&mut updates);
        for (key, resource) in updates {
            match resource {
                Some(resource) => calc.apply(resource.clone()),
                None => calc.delete(key),
            }
            if chance.0.random_bool(flush_between) {
                world.add(calc.flush().delta);
            }
        }
        world.add(calc.flush().delta);
        let expected = naive::world(next);
        if world != expected {
            println!("from {before:?} to {name:?}:");
            world.expect(&expected);
        }
        assert_eq!(
            world,
            World::of(fresh(next)),
            "{name}: differs from a fresh calculation"
        );
        (before, now) = (name, next);
    }
}

fn fresh(records: &Records) -> felid_calc::Output {
    let mut calc = calc();
    for resource in records.values().rev() {
        calc.apply(resource.clone());
    }
    calc.flush()
}

fn chance(seed: u64) -> Chance {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Chance(proptest::test_runner::TestRng::from_seed(
        proptest::test_runner::RngAlgorithm::ChaCha,
        &bytes,
    ))
}

#[test]
fn forward() {
    for list in lists() {
        for between in [0.0, 1.0, 0.3] {
            replay(&list, &mut chance(1), between);
        }
    }
}

#[test]
fn reversed() {
    for mut list in lists() {
        list.reverse();
        for between in [0.0, 1.0, 0.3] {
            replay(&list, &mut chance(2), between);
        }
    }
}

#[test]
fn shuffled() {
    for seed in 0..20 {
        for mut list in lists() {
            let mut chance = chance(seed);
            chance.shuffle(&mut list);
            println!("seed {seed}");
            replay(&list, &mut chance, 0.3);
        }
    }
}

/// Every state to every other, one record at a time: where a record is replaced or deleted, nothing
/// of the old one is left.
#[test]
fn each_to_each() {
    for list in lists().into_iter().take(4) {
        for from in &list {
            for to in &list {
                replay(&[from.clone(), to.clone(), from.clone()], &mut chance(3), 1.0);
            }
        }
    }
}
