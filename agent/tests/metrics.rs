//! The names of all metrics against docs/metrics.md.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use felid_agent::api::FailureKind;
use felid_agent::metrics::{KernelSample, Metrics, PolicySample, SweepSample};
use felid_model::resolved::ResolvedAction;

fn all() -> String {
    let metrics = Metrics::new(10).unwrap();
    metrics.condition.failed(FailureKind::Plan);
    metrics.condition.set_table("classes", 1, 2);
    let policy = PolicySample {
        index: 1,
        tier: "default".into(),
        policy: "NetworkPolicy/a/b".into(),
        action: ResolvedAction::Allow,
        staged: false,
        total: 1,
    };
    metrics.packets.sample(&KernelSample {
        policies: vec![policy],
        ..KernelSample::default()
    });
    let entries = BTreeMap::from([(("established", "v4", "established"), 3)]);
    metrics.conntrack.swept(&SweepSample {
        entries,
        removed: 2,
        ..SweepSample::default()
    });
    String::from_utf8(metrics.text().unwrap()).unwrap()
}

#[test]
fn every_metric_is_documented_with_its_type_and_no_other() {
    let text = all();
    let types: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let cells = |line: &'static str| {
        line.split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect::<Vec<_>>()
    };
    let page: &'static str = Box::leak(page.into_boxed_str());
    let documented: BTreeSet<(&str, &str)> = page
        .lines()
        .filter(|line| line.starts_with("| `fel") || line.starts_with("| `process_"))
        .map(cells)
        .filter_map(|cells| Some((cells.get(1)?.split('{').next()?, *cells.get(2)?)))
        .collect();
    assert_eq!(documented, types);
}

#[test]
fn names_follow_the_conventions() {
    for line in all().lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(
            ["felid_", "felix_", "process_"]
                .iter()
                .any(|prefix| name.starts_with(prefix)),
            "{name}"
        );
    }
}

#[test]
fn counters_of_a_sweep_add_up() {
    let text = all();
    for line in [
        "felix_bpf_conntrack_used 3",
        "felix_bpf_conntrack_expired_total 2",
        "felix_bpf_conntrack_sweeps 1",
        "felid_conntrack_entries{family=\"v4\",state=\"established\",table=\"established\"} 3",
        "felid_policy_packets_total{action=\"allow\",policy=\"NetworkPolicy/a/b\",staged=\"false\",tier=\"default\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
