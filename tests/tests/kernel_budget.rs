//! What the static programs may cost the kernel's verifier, which gives up at a million
//! instructions, and how long they may be.

#![expect(clippy::unwrap_used, reason = "tests")]

use felid_tests::bpf_fixture::Fixture;

/// A program, the instructions that the verifier may process for it, and its own length.
/// ARCHITECTURE.md has the same table.
const BUDGET: [(&str, u32, u32); 11] = [
    ("from_workload", 13_600, 2_910),
    ("to_workload", 14_400, 3_080),
    ("from_workload_slow", 455_000, 8_800),
    ("to_workload_slow", 204_500, 8_990),
    ("policy_return", 226_000, 4_200),
    ("related", 53_900, 2_620),
    ("neighbour", 30_800, 6_180),
    ("translate", 8_500, 1_150),
    ("closed", 100, 50),
    ("sweep_v4", 362_000, 450),
    ("sweep_v6", 114_000, 450),
];

#[test]
fn programs_stay_within_their_budget() {
    let fixture = Fixture::new().unwrap();
    let mut over = Vec::new();
    for (name, verified, translated) in BUDGET {
        let size = fixture.size(name);
        println!(
            "{name:20} {:>7} of {verified:>7} steps of the verifier, {:>5} of {translated:>5} instructions",
            size.verified, size.translated
        );
        assert!(
            size.verified > 0 && size.translated > 0,
            "the kernel says nothing of {name}"
        );
        if size.verified > verified || size.translated > translated {
            over.push((name, size));
        }
    }
    assert!(over.is_empty(), "over budget: {over:?}");
}
