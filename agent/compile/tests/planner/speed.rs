//! How long plans take at the size the control benchmark has. Only meaningful with `--release`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_compile::planner::{Adopted, Planner, PlannerOptions};
use felid_model::Protocol;
use felid_model::resolved::{Delta, ResolvedAction, ResolvedRule, SetIds};
use ipnet::IpNet;

use crate::build::{endpoint, endpoints, policy, rule, set, side};
use crate::scenario::Picky;

/// 10,000 remote addresses in five of 50 sets each, 250 endpoints under ten policies of 20 rules.
fn everything() -> Delta {
    let names: Vec<String> = (0..50).map(|i| format!("{i:056}")).collect();
    let policies: Vec<_> = (0..10)
        .map(|p| {
            let source = |r: usize| side(&[&names[(p * 5 + r) % 50]], &[]);
            policy(
                "default",
                (0..20)
                    .map(|r| rule(ResolvedAction::Allow, source(r), side(&[], &[])))
                    .collect(),
            )
        })
        .collect();
    let mut delta =
        endpoints((0..250).map(|i| endpoint(&format!("e{i}"), &[&format!("10.200.0.{i}")], &policies[i % 10])));
    for i in 0..10_000usize {
        let sets: SetIds = (0..5).map(|k| set(&names[(i * (k + 1) + i / 50) % 50])).collect();
        let net: IpNet = format!("10.{}.{}.{}/32", 10 + i / 65536, (i / 256) % 256, i % 256)
            .parse()
            .unwrap();
        delta.members.insert(net, Some(Arc::new(sets)));
    }
    delta
}

/// Time this thread has run: what a busy machine does not blur.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or_default(),
    )
}

#[test]
#[ignore = "measures: cargo test --release -p felid-compile --test planner -- --ignored --nocapture"]
fn speed() {
    let delta = everything();
    let time = |what: &str, f: &mut dyn FnMut()| {
        let (start, cpu) = (Instant::now(), on_cpu());
        f();
        println!(
            "{what}: {:?}, on the CPU {:?}",
            start.elapsed(),
            on_cpu().saturating_sub(cpu)
        );
    };
    for _ in 0..3 {
        let mut planner = Planner::with_compiler(PlannerOptions::default(), Adopted::default(), Picky);
        time("update, everything", &mut || planner.update(&delta));
        time("plan, everything", &mut || {
            let transaction = planner.plan().unwrap().unwrap();
            println!(
                "  {} peers, {} classes, {} programs",
                transaction.peers.len(),
                transaction.classes.len(),
                transaction.new_programs.len()
            );
        });
        time("committed", &mut || planner.committed());
        let (member, sets) = delta.members.iter().nth(5000).unwrap();
        let one = |value| Delta {
            members: [(*member, value)].into(),
            ..Delta::default()
        };
        let name = format!("{:056}", 7);
        for (what, change) in [
            ("one member goes", one(None)),
            ("one member comes", one(sets.clone())),
            (
                "an endpoint's policy",
                endpoints([endpoint(
                    "e7",
                    &["10.200.0.7"],
                    &policy(
                        "default",
                        vec![rule(ResolvedAction::Allow, side(&[&name], &[]), side(&[], &[]))],
                    ),
                )]),
            ),
            (
                "an endpoint comes",
                endpoints([endpoint(
                    "new",
                    &["10.201.0.7"],
                    &delta.endpoints.values().next().unwrap().as_ref().unwrap().ingress,
                )]),
            ),
        ] {
            time(what, &mut || {
                planner.update(&change);
                planner.plan().unwrap().unwrap();
                planner.committed();
            });
        }
        // A new set with 1,000 members that the addresses are in already.
        let mut wide = Delta::default();
        for (net, sets) in delta.members.iter().take(1000) {
            let sets: SetIds = sets
                .iter()
                .flat_map(|sets| sets.iter().cloned())
                .chain([set("wide")])
                .collect();
            wide.members.insert(*net, Some(Arc::new(sets)));
        }
        let wide_policy = policy(
            "default",
            vec![rule(ResolvedAction::Allow, side(&["wide"], &[]), side(&[], &[]))],
        );
        wide.endpoints = endpoints([endpoint("e9", &["10.200.0.9"], &wide_policy)]).endpoints;
        time("a policy with a new set of 1,000", &mut || {
            planner.update(&wide);
            planner.plan().unwrap().unwrap();
            planner.committed();
        });
    }
}

/// A list of rules for ingress that differ in what is asked for.
fn long_list(count: usize, [selectors, ports, nets]: [bool; 3], changed: bool) -> Vec<ResolvedRule> {
    let one = |n: usize| {
        let mut source = side(&[], &[]);
        if selectors {
            source.sets.push(set(&format!("group{n}of{count}")));
        }
        if nets {
            let net = format!("100.{}.{}.0/24", 64 + (n >> 8), n & 0xff);
            source.nets.push(net.parse().unwrap());
        }
        let mut destination = side(&[], &[]);
        if ports {
            let port = 20_000 + n as u16;
            destination.ports.push((port, port));
        }
        let action = match changed && n == 0 {
            true => ResolvedAction::Deny,
            false => ResolvedAction::Allow,
        };
        ResolvedRule {
            index: n as u32,
            protocol: Some(Protocol(6)),
            ..rule(action, source, destination)
        }
    };
    (0..count).map(one).collect()
}

#[test]
#[ignore = "measures: cargo test --release -p felid-compile --test planner -- --ignored --nocapture"]
fn long_lists() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(10);
    for (name, shape) in [
        ("selectors and ports", [true, true, false]),
        ("selectors", [true, false, false]),
        ("ports", [false, true, false]),
        ("nets", [false, false, true]),
        ("all", [true, true, true]),
    ] {
        let options = PlannerOptions {
            max_slots: 65_536,
            ..PlannerOptions::default()
        };
        let mut planner = Planner::new(options, Adopted::default());
        let (mut best, mut size) = (Duration::MAX, (0, 0));
        for round in 0..rounds {
            let policy = policy("default", long_list(10_000, shape, round % 2 == 1));
            planner.update(&endpoints([endpoint("e", &["10.65.0.2", "fd00:65::2"], &policy)]));
            let start = Instant::now();
            let plan = planner.plan().unwrap().unwrap();
            best = best.min(start.elapsed());
            planner.committed();
            let chunks = || plan.new_programs.values().flat_map(|program| &program.chunks);
            size = (chunks().count(), chunks().map(|chunk| chunk.insns.len()).sum());
            assert!(planner.problems().next().is_none());
        }
        println!(
            "10,000 rules with {name}: {best:?}; {} instructions in {} chunks",
            size.1, size.0
        );
    }
}
