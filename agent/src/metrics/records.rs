//! Records: how many there are, and what is wrong with them.

use felid_model::Severity;
use prometheus::{IntCounter, IntGauge};

use crate::api::ResyncState;

use super::{GaugeVec, Maker};

/// Records: how many there are, and what is wrong with them.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts in `new` say it")]
pub struct RecordMetrics {
    pub active_local_endpoints: IntGauge,
    pub active_local_policies: IntGauge,
    pub active_local_selectors: IntGauge,
    pub cluster_workload_endpoints: IntGauge,
    pub cluster_policies: IntGauge,
    pub cluster_profiles: IntGauge,
    pub cluster_tiers: IntGauge,
    resync_state: IntGauge,
    pub resyncs_started: IntCounter,
    pub updates: IntCounter,
    problems: GaugeVec,
}

impl RecordMetrics {
    pub(super) fn new(m: &Maker) -> prometheus::Result<Self> {
        let metrics = Self {
            active_local_endpoints: m.gauge(
                "felix_active_local_endpoints",
                "Number of active endpoints on this host",
            )?,
            active_local_policies: m.gauge("felix_active_local_policies", "Number of active policies on this host")?,
            active_local_selectors: m.gauge(
                "felix_active_local_selectors",
                "Number of active selectors on this host",
            )?,
            cluster_workload_endpoints: m.gauge(
                "felix_cluster_num_workload_endpoints",
                "Total number of workload endpoints in the datastore",
            )?,
            cluster_policies: m.gauge(
                "felix_cluster_num_policies",
                "Total number of policies in the datastore",
            )?,
            cluster_profiles: m.gauge(
                "felix_cluster_num_profiles",
                "Total number of profiles in the datastore",
            )?,
            cluster_tiers: m.gauge("felix_cluster_num_tiers", "Total number of tiers in the datastore")?,
            resync_state: m.gauge(
                "felix_resync_state",
                "Current datastore state: 1 = waiting for the datastore, 2 = resync in progress, 3 = in sync",
            )?,
            resyncs_started: m.counter(
                "felix_resyncs_started",
                "Number of times the datastore was read from the start",
            )?,
            updates: m.counter(
                "felid_updates_total",
                "Number of changed records that the agent has followed",
            )?,
            problems: m.gauges(
                "felid_record_problems",
                "Records with problems, by severity: error, warning",
                &["severity"],
            )?,
        };
        for severity in [Severity::Error, Severity::Warning] {
            metrics.set_problems(severity, 0);
        }
        Ok(metrics)
    }

    /// Notes the state of the datastore, and counts each beginning of a resync.
    pub fn set_resync_state(&self, state: ResyncState) {
        if state == ResyncState::ResyncInProgress {
            self.resyncs_started.inc();
        }
        // The numbers that Felix gives them (`felix/calc/stats_collector.go`).
        self.resync_state.set(match state {
            ResyncState::WaitForDatastore => 1,
            ResyncState::ResyncInProgress => 2,
            ResyncState::InSync => 3,
        });
    }

    /// Sets how many problems with records there are.
    pub fn set_problems(&self, severity: Severity, count: usize) {
        self.problems.with_label_values(&[severity.name()]).set(count as i64);
    }
}
