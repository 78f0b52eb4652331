//! The compiled program in the kernel and the reference evaluator agree.
#![expect(clippy::unwrap_used, reason = "tests")]

use felid_tests::equivalence;

#[test]
fn ten_thousand_pairs_agree() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        << 20;
    println!("seed {seed}");
    let summary = equivalence::run(10_000, seed).unwrap();
    println!("{summary:?}");
    assert!(summary.policies >= 100, "{summary:?}");
    assert!(summary.spoofed > 0 && summary.fragments > 0, "{summary:?}");
    assert!(summary.logged > 30 && summary.staged > 30, "{summary:?}");
    assert!(
        summary.allowed > summary.pairs / 20 && summary.allowed < summary.pairs * 19 / 20,
        "{summary:?}"
    );
}
