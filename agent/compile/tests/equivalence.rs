//! Compiled programs, run on a model of the machine, decide as the reference evaluator does.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use felid_compile::testing::{NumberedCounters, Rng, Shape, World};
use felid_compile::{Direction, compile, reference};
use felid_model::resolved::ResolvedPolicy;
use support::{assert_same, check_form, run};

/// Compares many packets with one policy; says the seed if they differ.
fn compare(seed: u64, shape: Shape, packets: usize) -> usize {
    compare_with(seed, packets, |rng| {
        let world = World::random(rng);
        let policy = world.policy(rng, shape);
        (world, policy)
    })
}

fn compare_with(seed: u64, packets: usize, make: impl Fn(&mut Rng) -> (World, ResolvedPolicy)) -> usize {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut rng = Rng::new(seed);
        let (world, policy) = make(&mut rng);
        let mut rules = std::collections::BTreeSet::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut counters = NumberedCounters::default();
            let program = compile(&policy, direction, &world.own(), &world, &mut counters).unwrap();
            check_form(&program);
            if std::env::var_os("SHOW").is_some() {
                let insns: Vec<_> = program.chunks.iter().map(|chunk| chunk.insns.len()).collect();
                eprintln!("{seed} {direction:?}: {} rules, {insns:?}", program.rules.len());
            }
            for _ in 0..packets {
                let packet = world.packet(&mut rng, &policy, direction);
                let expected = reference::evaluate(&policy, &packet, &world);
                let same = catch_unwind(AssertUnwindSafe(|| {
                    let outcome = run(&program, &world, &packet, direction, rng.below(2) as u32);
                    assert_same(&program, &counters, &outcome, &expected);
                }));
                if let Err(panic) = same {
                    eprintln!("{direction:?} {packet:?}");
                    resume_unwind(panic);
                }
                rules.insert(format!("{direction:?} {:?}", expected.by));
            }
        }
        rules.len()
    }));
    match result {
        Ok(decided) => decided,
        Err(panic) => {
            eprintln!("seed {seed}");
            resume_unwind(panic)
        }
    }
}

#[test]
fn small_policies() {
    let decided: usize = (0..1500).map(|seed| compare(seed, Shape::Small, 8)).sum();
    // The packets must find their way to many different rules, or the comparison says little.
    assert!(decided > 4000, "only {decided} different decisions");
}

#[test]
fn large_policies() {
    let decided: usize = (10_000..10_036).map(|seed| compare(seed, Shape::Large, 200)).sum();
    assert!(decided > 500, "only {decided} different decisions");
}

#[test]
fn huge_policies() {
    let decided: usize = (20_000..20_003).map(|seed| compare(seed, Shape::Huge, 300)).sum();
    assert!(decided > 60, "only {decided} different decisions");
}

#[test]
fn long_lists() {
    let decided: usize = (30_000..30_060)
        .map(|seed| {
            compare_with(seed, 150, |rng| {
                let world = World::wide(rng);
                let most = if rng.percent(10) { 2_500 } else { 400 };
                let policy = world.long_policy(rng, most);
                (world, policy)
            })
        })
        .sum();
    assert!(decided > 1_500, "only {decided} different decisions");
}
