//! Random updates against the calculation from scratch.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::strategies::resources;
use common::*;
use felid_model::{Kind, Resource, ResourceKey};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Apply(Box<Resource>),
    /// Deletes the record that is this far into the list.
    Delete(prop::sample::Index),
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => resources().prop_map(|resource| Op::Apply(Box::new(resource))),
        2 => any::<prop::sample::Index>().prop_map(Op::Delete),
        3 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 0..60)
}

fn check(calc: &mut felid_calc::Calc, world: &mut World, records: &Records) {
    world.add(calc.flush().delta);
    world.expect(&naive::world(records));
    assert_eq!(calc.flush().delta, felid_model::resolved::Delta::default());
    let stats = calc.stats();
    assert_eq!(stats.prefixes, world.members.len());
    assert_eq!(stats.named_ports, world.named_ports.len());
    assert_eq!(stats.local_endpoints, world.endpoints.len());
    let sets = records
        .keys()
        .filter(|key| matches!(key.kind, Kind::NetworkSet | Kind::GlobalNetworkSet));
    assert_eq!(stats.network_sets, sets.count());
    let said: Vec<_> = calc.endpoints().cloned().collect();
    assert_eq!(said, world.endpoints.values().cloned().collect::<Vec<_>>());
}

proptest! {
    /// After any updates, with flushes anywhere between them, the deltas add up to what the records
    /// alone stand for.
    #[test]
    fn deltas_add_up_to_the_state(ops in ops()) {
        let (mut calc, mut world, mut records) = (calc(), World::default(), Records::new());
        for op in ops {
            match op {
                Op::Apply(resource) => {
                    records.insert(resource.key().clone(), (*resource).clone());
                    calc.apply(*resource);
                }
                Op::Delete(index) => {
                    if !records.is_empty() {
                        let key: ResourceKey = index.get(&records.keys().collect::<Vec<_>>()).to_owned().clone();
                        records.remove(&key);
                        calc.delete(&key);
                    }
                }
                Op::Flush => check(&mut calc, &mut world, &records),
            }
        }
        check(&mut calc, &mut world, &records);
        // Everything gone: nothing is left.
        for key in records.keys() {
            calc.delete(key);
        }
        world.add(calc.flush().delta);
        prop_assert_eq!(world, World::default());
        let stats = calc.stats();
        prop_assert_eq!((stats.sets, stats.selectors, stats.profiles, stats.policies), (0, 0, 0, 0));
    }
}

/// The random records are no degenerate ones: most things happen in them.
#[test]
fn random_records_exercise_most_of_it() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = [0usize; 5];
    for _ in 0..200 {
        let tree = prop::collection::vec(resources(), 30..60)
            .new_tree(&mut runner)
            .unwrap();
        let world = naive::world(&records(tree.current()));
        let closed = world
            .endpoints
            .values()
            .filter(|endpoint| endpoint.ingress.closed.is_some())
            .count();
        let ruled = world
            .endpoints
            .values()
            .filter(|e| e.ingress.tiers.iter().any(|t| !t.policies.is_empty()))
            .count();
        let counts = [
            world.endpoints.len(),
            closed,
            ruled,
            world.members.len(),
            world.named_ports.len(),
        ];
        for (sum, count) in seen.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    assert!(
        seen.iter().all(|count| *count > 20),
        "endpoints, closed, with policies, prefixes, ports: {seen:?}"
    );
}
