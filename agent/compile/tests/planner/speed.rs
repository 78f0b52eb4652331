//! How long plans take at the size the control benchmark has. Only meaningful with `--release`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_compile::planner::{Adopted, Planner, PlannerOptions};
use felid_model::resolved::{Delta, ResolvedAction, SetIds};
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
        time("retired", &mut || planner.retired());
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
                planner.retired();
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
            planner.retired();
        });
    }
}
