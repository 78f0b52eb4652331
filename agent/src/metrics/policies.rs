//! Per-policy packet counters with a bounded number of label sets.
//!
//! The first so many policies get labels of their own for as long as they are in force; all others
//! are summed up under `policy="other"`. Labels of policies that are gone disappear, so that their
//! number stays bounded over time too.

use std::collections::BTreeMap;
use std::sync::Arc;

use felid_model::resolved::ResolvedAction;

use super::CounterVec;

/// Label for policies beyond the limit.
const OTHER: &str = "other";

/// What one kernel counter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySample {
    /// Index of the counter in the kernel.
    pub index: u32,
    /// Tier, or `profile`, or empty at the end of everything.
    pub tier: Arc<str>,
    /// `Kind/[namespace/]name`, `end-of-tier`, `default-deny`, `closed`, or `uncounted` for
    /// policies without a counter.
    pub policy: Arc<str>,
    /// What happened to the packets.
    pub action: ResolvedAction,
    /// It only would have happened: the policy is staged.
    pub staged: bool,
    /// Packets so far.
    pub total: u64,
}

type Labels = (Arc<str>, Arc<str>, ResolvedAction, bool);

#[derive(Debug)]
struct Seen {
    labels: Labels,
    total: u64,
}

/// What was seen last, by counter index.
#[derive(Debug)]
pub(super) struct Policies {
    limit: usize,
    seen: BTreeMap<u32, Seen>,
    /// Label sets in use.
    own: BTreeMap<Labels, ()>,
}

impl Policies {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    /// Takes over all counters that are in use now.
    pub(super) fn sample(&mut self, counters: &CounterVec, samples: &[PolicySample]) {
        let mut seen = BTreeMap::new();
        let present: BTreeMap<Labels, ()> = samples.iter().map(|sample| (labels(sample), ())).collect();
        self.own.retain(|labels, ()| {
            let stays = present.contains_key(labels);
            if !stays {
                // It was made by with_label_values; that it is gone already changes nothing.
                let _ = counters.remove_label_values(&values(labels));
            }
            stays
        });
        for sample in samples {
            let labels = labels(sample);
            // An index that counts for another policy now began at zero again.
            let before = match self.seen.get(&sample.index) {
                Some(last) if last.labels == labels => last.total,
                _ => 0,
            };
            let counter = if self.own.contains_key(&labels) || self.own.len() < self.limit {
                self.own.insert(labels.clone(), ());
                counters.with_label_values(&values(&labels))
            } else {
                counters.with_label_values(&[OTHER, OTHER, action(sample.action), staged(sample.staged)])
            };
            super::add(&counter, before, sample.total);
            seen.insert(
                sample.index,
                Seen {
                    labels,
                    total: sample.total,
                },
            );
        }
        self.seen = seen;
    }
}

fn labels(sample: &PolicySample) -> Labels {
    (sample.tier.clone(), sample.policy.clone(), sample.action, sample.staged)
}

fn values(labels: &Labels) -> [&str; 4] {
    [&labels.0, &labels.1, action(labels.2), staged(labels.3)]
}

fn action(action: ResolvedAction) -> &'static str {
    match action {
        ResolvedAction::Allow => "allow",
        ResolvedAction::Deny => "deny",
        ResolvedAction::Pass => "pass",
        ResolvedAction::Log => "log",
    }
}

fn staged(staged: bool) -> &'static str {
    if staged { "true" } else { "false" }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::metrics::{KernelSample, Metrics};

    fn sample(index: u32, policy: &str, total: u64) -> PolicySample {
        PolicySample {
            index,
            tier: "default".into(),
            policy: policy.into(),
            action: ResolvedAction::Allow,
            staged: false,
            total,
        }
    }

    fn lines(metrics: &Metrics, policies: Vec<PolicySample>) -> Vec<String> {
        metrics.packets.sample(&KernelSample {
            policies,
            ..KernelSample::default()
        });
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        text.lines()
            .filter(|line| line.starts_with("felid_policy_packets_total{"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn label_sets_are_bounded_and_go_with_their_policies() {
        let metrics = Metrics::new(2).unwrap();
        let line = |tier: &str, policy: &str, n: u64| {
            format!(
                "felid_policy_packets_total{{action=\"allow\",policy=\"{policy}\",staged=\"false\",tier=\"{tier}\"}} {n}"
            )
        };
        let got = lines(
            &metrics,
            vec![
                sample(1, "a", 5),
                sample(2, "b", 1),
                sample(3, "c", 2),
                sample(4, "d", 3),
            ],
        );
        assert_eq!(
            got,
            [
                line("default", "a", 5),
                line("default", "b", 1),
                line("other", "other", 5)
            ]
        );
        let got = lines(
            &metrics,
            vec![
                sample(1, "a", 7),
                sample(2, "b", 1),
                sample(3, "c", 2),
                sample(4, "d", 4),
            ],
        );
        assert_eq!(
            got,
            [
                line("default", "a", 7),
                line("default", "b", 1),
                line("other", "other", 6)
            ]
        );
        // b is gone, and its index counts for e now.
        let got = lines(&metrics, vec![sample(1, "a", 7), sample(2, "e", 4)]);
        assert_eq!(
            got,
            [
                line("default", "a", 7),
                line("default", "e", 4),
                line("other", "other", 6)
            ]
        );
        // A counter that went back began anew.
        let got = lines(&metrics, vec![sample(1, "a", 3), sample(2, "e", 4)]);
        assert_eq!(got[0], line("default", "a", 10));
    }
}
