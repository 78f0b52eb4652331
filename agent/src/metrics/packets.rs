//! What the kernel counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::policies::{Policies, PolicySample};
use super::{CounterVec, Maker, add, lock};

/// What was read from the kernel's counters; totals since they were made.
#[derive(Debug, Clone, Default)]
pub struct KernelSample {
    /// Packets dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// What else the programs count.
    pub events: BTreeMap<&'static str, u64>,
    /// Packets judged, by policy.
    pub policies: Vec<PolicySample>,
}

/// The totals of the sample before.
#[derive(Debug, Default)]
struct LastSample {
    drops: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
}

/// What the kernel counted.
#[derive(Debug)]
pub struct PacketMetrics {
    dropped: CounterVec,
    events: CounterVec,
    policy_packets: CounterVec,
    policies: Mutex<Policies>,
    last: Mutex<LastSample>,
}

impl PacketMetrics {
    pub(super) fn new(m: &Maker, max_policies: usize) -> prometheus::Result<Self> {
        let metrics = Self {
            dropped: m.counters("felid_dropped_packets_total", "Packets dropped, by reason", &["reason"])?,
            events: m.counters("felid_kernel_events_total", "What else the programs count", &["event"])?,
            policy_packets: m.counters(
            "felid_policy_packets_total",
            "Packets judged (first packets of flows, and flows judged again), by deciding policy; staged = what staged policies would do; bounded",
            &["tier", "policy", "action", "staged"],
        )?,
            policies: Mutex::new(Policies::new(max_policies)),
            last: Mutex::default(),
        };
        // Fixed label values exist from the start, so that rates of the first event are right.
        for drop in felid_common::DropReason::ALL {
            metrics.dropped.with_label_values(&[drop.name()]);
        }
        for event in felid_common::Event::ALL {
            metrics.events.with_label_values(&[event.name()]);
        }
        Ok(metrics)
    }

    /// Takes a sample of the kernel's counters.
    pub fn sample(&self, sample: &KernelSample) {
        let mut last = lock(&self.last);
        advance(&self.dropped, &mut last.drops, &sample.drops);
        advance(&self.events, &mut last.events, &sample.events);
        drop(last);
        lock(&self.policies).sample(&self.policy_packets, &sample.policies);
    }
}

/// Adds what a kernel counter gained; one that went back began anew.
fn advance(counters: &CounterVec, last: &mut BTreeMap<&'static str, u64>, now: &BTreeMap<&'static str, u64>) {
    for (label, total) in now {
        let before = last.insert(label, *total).unwrap_or(0);
        add(&counters.with_label_values(&[*label]), before, *total);
    }
}
