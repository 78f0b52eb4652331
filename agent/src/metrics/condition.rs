//! How things stand: endpoints, readiness, failures, tables, translations.

use std::collections::BTreeMap;

use felid_dataplane::kernel::InterferenceKind;
use prometheus::{IntCounter, IntGauge};

use crate::api::{EndpointState, FailureKind};

use super::{CounterVec, GaugeVec, Maker};

/// How things stand: endpoints, readiness, failures, tables, translations.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts in `new` say it")]
pub struct ConditionMetrics {
    endpoints: GaugeVec,
    pub ready: IntGauge,
    pub refused: IntGauge,
    failures: CounterVec,
    interference: CounterVec,
    capacity: GaugeVec,
    used: GaugeVec,
    nat: GaugeVec,
    nat_flows: IntCounter,
    turned_away: CounterVec,
}

/// The servers whose connections are limited.
const SERVERS: [&str; 3] = ["health", "metrics", "socket"];

impl ConditionMetrics {
    pub(super) fn new(m: &Maker) -> prometheus::Result<Self> {
        let metrics = Self {
            endpoints: m.gauges(
                "felid_endpoints",
                "Local endpoints by state: enforcing, waiting, closed",
                &["state"],
            )?,
            ready: m.gauge("felid_ready", "1 if /readiness says yes")?,
            refused: m.gauge(
                "felid_refused",
                "Things that were refused or keep failing while the last good state is in force",
            )?,
            failures: m.counters("felid_failures_total", "Failures by what failed", &["what"])?,
            interference: m.counters(
                "felid_interference_total",
                "How often others undid something that felid needs, and felid put it right",
                &["kind"],
            )?,
            capacity: m.gauges(
                "felid_table_capacity",
                "How many entries fit into each table",
                &["table"],
            )?,
            used: m.gauges("felid_table_entries", "How many entries are in each table", &["table"])?,
            nat: m.gauges(
                "felid_nat_mappings",
                "1:1 translations that local endpoints ask for, by state: in_force, conflict",
                &["state"],
            )?,
            nat_flows: m.counter("felid_nat_flows_total", "Flows that began with a translated address")?,
            turned_away: m.counters(
                "felid_connections_turned_away_total",
                "Connections to the agent's own servers that were closed at once, since too many were open",
                &["server"],
            )?,
        };
        for &state in EndpointState::ALL {
            metrics.set_endpoints(state, 0);
        }
        metrics.set_nat(0, 0, 0);
        for server in SERVERS {
            metrics.turned_away.with_label_values(&[server]).inc_by(0);
        }
        metrics.set_interference(&BTreeMap::from(InterferenceKind::ALL.map(|kind| (kind, 0))));
        Ok(metrics)
    }

    /// Sets how many local endpoints are in a state.
    pub fn set_endpoints(&self, state: EndpointState, count: usize) {
        self.endpoints.with_label_values(&[state.name()]).set(count as i64);
    }

    /// Counts a connection that a server has turned away.
    pub fn turned_away(&self, server: &'static str) {
        self.turned_away.with_label_values(&[server]).inc();
    }

    /// Returns how many connections each server has turned away.
    pub fn all_turned_away(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        SERVERS
            .into_iter()
            .map(|server| (server, self.turned_away.with_label_values(&[server]).get()))
    }

    /// Counts a failure.
    pub fn failed(&self, kind: FailureKind) {
        self.failures.with_label_values(&[kind.name()]).inc();
    }

    /// Follows how often felid has put something right that others undid, by kind, since the agent
    /// started.
    pub fn set_interference(&self, repaired: &BTreeMap<InterferenceKind, u64>) {
        for (kind, total) in repaired {
            let counter = self.interference.with_label_values(&[kind.name()]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Sets how full a table is.
    pub fn set_table(&self, table: &'static str, used: usize, capacity: usize) {
        self.used.with_label_values(&[table]).set(used as i64);
        self.capacity.with_label_values(&[table]).set(capacity as i64);
    }

    /// Sets how many translations there are, and how many flows have begun with one since the
    /// kernel's tables were made.
    pub fn set_nat(&self, in_force: usize, conflicts: usize, flows: u64) {
        for (state, count) in [("in_force", in_force), ("conflict", conflicts)] {
            self.nat.with_label_values(&[state]).set(count as i64);
        }
        // The total is read at different times; it never goes back.
        self.nat_flows.inc_by(flows.saturating_sub(self.nat_flows.get()));
    }
}
