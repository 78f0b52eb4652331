//! The connection tables, as the last sweep saw them.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntGauge};

use super::{GaugeVec, Maker};

/// One sweep of the conntrack tables.
#[derive(Debug, Clone, Default)]
pub struct SweepSample {
    /// Entries that were there, by (table, family, state).
    pub entries: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Entries that had expired and were removed.
    pub removed: u64,
    /// How long it took.
    pub duration: Duration,
    /// Endpoints that were refused new flows since the sweep before.
    pub limited: u64,
    /// Counts of endpoints' flows that were wrong and were corrected.
    pub corrected: u64,
}

/// The connection tables, as the last sweep saw them.
#[derive(Debug)]
pub struct ConntrackMetrics {
    used: IntGauge,
    expired: IntCounter,
    cleaned: IntCounter,
    sweeps: IntCounter,
    sweep_duration: Gauge,
    entries: GaugeVec,
    limited: IntGauge,
    corrected: IntCounter,
}

impl ConntrackMetrics {
    pub(super) fn new(m: &Maker) -> prometheus::Result<Self> {
        Ok(Self {
            used: m.gauge(
                "felix_bpf_conntrack_used",
                "Number of used entries seen by the last conntrack sweep",
            )?,
            expired: m.counter(
                "felix_bpf_conntrack_expired_total",
                "Number of conntrack entries removed because they expired",
            )?,
            cleaned: m.counter(
                "felix_bpf_conntrack_cleaned_total",
                "Number of conntrack entries removed by sweeps",
            )?,
            sweeps: m.counter("felix_bpf_conntrack_sweeps", "Number of conntrack sweeps so far")?,
            sweep_duration: {
                let name = "felix_bpf_conntrack_sweep_duration";
                m.register(Gauge::new(name, "Time of the last conntrack sweep, in nanoseconds"))?
            },
            entries: m.gauges(
                "felid_conntrack_entries",
                "Flows seen by the last sweep, by table (half_open, established), family and state",
                &["table", "family", "state"],
            )?,
            limited: m.gauge(
                "felid_conntrack_limited_endpoints",
                "Endpoints that were refused new flows between the last two sweeps, since their share of the tables was used up",
            )?,
            corrected: m.counter(
                "felid_conntrack_recounted_total",
                "Counts of endpoints' flows that sweeps found to be wrong and corrected",
            )?,
        })
    }

    /// Takes the result of a sweep of the connection tables.
    pub fn swept(&self, sample: &SweepSample) {
        self.entries.reset();
        for ((table, family, state), count) in &sample.entries {
            self.entries
                .with_label_values(&[*table, *family, *state])
                .set(*count as i64);
        }
        self.used.set(sample.entries.values().sum::<u64>() as i64);
        self.expired.inc_by(sample.removed);
        self.cleaned.inc_by(sample.removed);
        self.sweeps.inc();
        self.limited.set(sample.limited as i64);
        self.corrected.inc_by(sample.corrected);
        self.sweep_duration.set(sample.duration.as_nanos() as f64);
    }
}
