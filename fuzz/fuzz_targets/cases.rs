//! Any text as a file of policy tests: what is no case says why, and what is one can be carried out
//! or says why not.
#![no_main]
#![allow(dead_code, reason = "of the modules that read cases, only reading is fuzzed")]

use libfuzzer_sys::fuzz_target;

// The agent's crate builds eBPF programs, which sanitizers cannot; these modules need none of it.
#[path = "../../agent/src/test/case.rs"]
mod case;
#[path = "../../agent/src/test/node.rs"]
mod node;
#[path = "../../agent/src/outcome.rs"]
mod outcome;
#[path = "../../agent/src/test/pod.rs"]
mod pod;
#[path = "../../agent/src/test/world.rs"]
mod world;

use case::Case;
use world::{RecordChange, World};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let entries = match case::read("file", text) {
        Ok(entries) => entries,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "what holds no case says why");
            return;
        }
    };
    for entry in entries {
        match entry.case {
            Ok(case) => carry_out(&case),
            Err(errors) => assert!(
                !errors.is_empty() && errors.iter().all(|error| error.starts_with("file:")),
                "what is wrong names its place: {errors:?}"
            ),
        }
    }
});

/// Builds up what the case describes, as every engine does, up to the first thing that is
/// impossible.
fn carry_out(case: &Case) {
    assert!(
        case.rounds().any(|(.., expect)| !expect.is_empty()),
        "a case expects something"
    );
    let mut world = World::default();
    if world.begin(case).is_err() {
        return;
    }
    for (_, step, _) in case.rounds() {
        if let Some(step) = step
            && world.step(step).is_err()
        {
            return;
        }
        let (updates, records) = (world.take_updates(), world.take_records());
        let replaced = records
            .iter()
            .filter(|record| matches!(record, RecordChange::Delete(_)));
        assert!(updates.len() <= records.len() && records.len() <= updates.len() + replaced.count());
        for record in &records {
            let line = serde_json::to_string(record).expect("a change is a line");
            assert!(!line.contains('\n'));
        }
        let _ = world.take_notes();
        for pod in world.pods() {
            let _ = (pod.interface(), pod.living_addresses());
        }
    }
}
