//! Sizes that a node meets. The times are printed, not asserted:
//! `cargo test --release -p felid-calc --test scale -- --nocapture`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use felid_calc::Calc;
use felid_model::*;

const REMOTE: u32 = 10_000;
const LOCAL: u32 = 250;

fn numbered(number: u32) -> WorkloadEndpoint {
    let name = format!("w{number}");
    let [_, b, c, d] = number.to_be_bytes();
    let own = format!(
        "app=app{} role=role{} tier=t{} pod-template-hash=h{} pod-name={name} projectcalico.org/orchestrator=k8s",
        number % 100,
        number % 7,
        number % 3,
        number % 500
    );
    let namespace = format!("ns{}", number % 50);
    let wep = wep(&name, &own, &format!("10.{b}.{c}.{d} fd00::{number:x}"));
    WorkloadEndpoint {
        node: if number < LOCAL { NODE } else { "n2" }.to_owned(),
        profiles: vec![format!("kns.{namespace}"), format!("ksa.{namespace}.default")],
        ports: vec![port("http", 6, 8080), port("metrics", 6, 9090)],
        ..in_namespace(wep, &namespace)
    }
}

fn profiles() -> impl Iterator<Item = Resource> {
    (0..50).flat_map(|i| {
        let open = || vec![rule(Action::Allow)];
        let name = format!("ns{i}");
        let space = format!("pcns.projectcalico.org/name={name} pcns.team=team{}", i % 5);
        [
            profile(&format!("kns.{name}"), &space, open(), open()),
            profile(
                &format!("ksa.{name}.default"),
                "pcsa.projectcalico.org/name=default",
                vec![],
                vec![],
            ),
        ]
    })
}

/// A hundred policies with ten rules each, every rule with its own selector: some 700 different
/// selectors.
fn policies() -> impl Iterator<Item = Resource> {
    (0..100).map(|i| {
        let from = |j: u32| match j % 5 {
            0 => format!("app == 'app{}' && role == 'role{j}'", (i + j) % 100),
            1 => format!("app in {{'app{}', 'app{}'}}", (i + j) % 100, (i * 3 + j) % 100),
            2 => format!("pod-template-hash == 'h{}'", (i * 10 + j) % 500),
            3 => format!("pcns.team == 'team{}' && app == 'app{}'", j % 5, (i * 7 + j) % 100),
            _ => format!("projectcalico.org/namespace == 'ns{}' && tier != 't{}'", i % 50, j % 3),
        };
        enforced(policy(
            None,
            &format!("p{i}"),
            &format!("app == 'app{i}'"),
            (0..10).map(|j| allow_from(&from(j))).collect(),
        ))
    })
}

fn load() -> (Calc, Duration) {
    let all: Vec<Resource> = profiles()
        .chain((0..REMOTE + LOCAL).map(|i| endpoint(numbered(i))))
        .chain(policies())
        .collect();
    let mut calc = calc();
    let start = Instant::now();
    for resource in all {
        calc.apply(resource);
    }
    let delta = calc.flush().delta;
    let time = start.elapsed();
    assert_eq!(delta.endpoints.len(), LOCAL as usize);
    (calc, time)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn load_and_updates() {
    let (mut calc, time) = load();
    println!("load of {} endpoints: {time:?}; {:?}", REMOTE + LOCAL, calc.stats());
    assert!(calc.stats().selectors > 600);

    let mut timed = |what: &str, of: &mut dyn FnMut(u32) -> Resource, entries: std::ops::RangeInclusive<usize>| {
        let mut times = Vec::new();
        for round in 0..100 {
            let resource = of(round);
            let start = Instant::now();
            calc.apply(resource);
            let delta = calc.flush().delta;
            times.push(start.elapsed());
            let count = delta.endpoints.len() + delta.members.len() + delta.named_ports.len();
            assert!(entries.contains(&count), "{what}: {count} entries in round {round}");
        }
        println!(
            "{what}: median {:?}, slowest {:?}",
            median(times.clone()),
            times.iter().max().unwrap()
        );
    };
    timed(
        "one remote endpoint's label",
        &mut |round| {
            let mut wep = numbered(REMOTE - 1);
            wep.labels.insert("app".to_owned(), format!("app{}", round % 90));
            endpoint(wep)
        },
        1..=2,
    );
    timed(
        "one remote endpoint's address",
        &mut |round| {
            endpoint(WorkloadEndpoint {
                ip_networks: nets(&format!("10.200.0.{}", round + 1)),
                ..numbered(REMOTE - 2)
            })
        },
        2..=3,
    );
    timed(
        "one new remote endpoint",
        &mut |round| endpoint(numbered(REMOTE + LOCAL + round)),
        2..=2,
    );
    timed(
        "one local endpoint's label",
        &mut |round| {
            let mut wep = numbered(5);
            wep.labels.insert("app".to_owned(), format!("app{}", round % 90));
            endpoint(wep)
        },
        0..=3,
    );
    timed(
        "one policy's rules",
        &mut |round| {
            enforced(policy(
                None,
                "p7",
                "app == 'app7'",
                vec![allow_from(&format!("pod-name == 'w{}'", round + 3000))],
            ))
        },
        3..=10_000,
    );
    timed(
        "a namespace's labels (205 endpoints)",
        &mut |round| profile("kns.ns3", &format!("pcns.team=team{}", round % 5), vec![], vec![]),
        0..=2000,
    );
}
