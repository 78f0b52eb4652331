//! What the pipeline tells the outside: probes, metrics, the log, status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use felid_compile::transaction::Transaction;

use crate::config::LogLevel;
use crate::metrics::Metrics;
use crate::run::Addresses;
use crate::run::failures::Failures;
use crate::run::health::Health;
use crate::run::logging::LogHandle;
use crate::run::policy_log::Tables;

/// Where the pipeline's reports go.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the probes see.
    pub health: Arc<Health>,
    /// Where the log's level can be changed; `None` where nobody logs.
    pub log: Option<LogHandle>,
    /// What the records of Log rules mean.
    pub policy_log: Arc<Mutex<Tables>>,
    /// Where the servers listen, for status.
    pub addresses: Addresses,
}

impl Outlets {
    /// Returns outlets that count in these metrics and tell nobody else.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics: Arc::new(metrics),
            health: Arc::new(Health::default()),
            log: None,
            policy_log: Arc::default(),
            addresses: Addresses::default(),
        }
    }
}

/// What is reported, and where.
#[derive(Debug)]
pub(in crate::run) struct Reporting {
    pub(in crate::run) outlets: Outlets,
    pub(in crate::run) failures: Failures,
    /// When the agent started.
    pub(in crate::run) started: SystemTime,
    ready: bool,
}

impl Reporting {
    pub(in crate::run) fn new(outlets: Outlets) -> Self {
        Self {
            failures: Failures::new(Arc::clone(&outlets.metrics)),
            outlets,
            started: SystemTime::now(),
            ready: false,
        }
    }

    /// Returns the metrics.
    pub(in crate::run) fn metrics(&self) -> &Metrics {
        &self.outlets.metrics
    }

    /// Changes the level of the log.
    pub(in crate::run) fn set_log_level(&self, level: LogLevel) {
        if let Some(log) = &self.outlets.log {
            log.set_level(level);
            tracing::info!("log level is {level:?} now");
        }
    }

    /// Tells of a transaction that is in force after this time: programs and endpoints have new
    /// meanings in records of Log rules.
    pub(in crate::run) fn in_force(&self, transaction: &Transaction, latency: Duration, updates: usize, epoch: u32) {
        let metrics = self.metrics();
        if updates > 0 {
            metrics.programming.latency_seconds.observe(latency.as_secs_f64());
        }
        metrics.programming.flips.inc();
        metrics
            .programming
            .programs_loaded
            .inc_by(transaction.new_programs.len() as u64);
        metrics.programming.epoch.set(epoch.into());
        let mut tables = self.outlets.policy_log.lock().unwrap_or_else(PoisonError::into_inner);
        tables.learn(transaction);
        drop(tables);
        tracing::debug!(
            epoch,
            updates,
            endpoints = transaction.endpoints.len(),
            addresses = transaction.peers.len(),
            programs = transaction.new_programs.len(),
            "in force after {:.1} ms",
            latency.as_secs_f64() * 1e3
        );
    }

    /// Tells the probes why the agent is not ready; an empty list says that it is. A change is
    /// logged.
    pub(in crate::run) fn set_readiness(&mut self, reasons: Vec<String>, endpoints: usize, epoch: u32) {
        if reasons.is_empty() != self.ready {
            self.ready = reasons.is_empty();
            if self.ready {
                tracing::info!(endpoints, epoch, "ready");
            } else {
                tracing::warn!("not ready: {}", reasons.join("; "));
            }
        }
        let metrics = self.metrics();
        metrics.condition.ready.set(i64::from(self.ready));
        metrics.condition.refused.set(self.failures.len() as i64);
        self.outlets.health.set_not_ready(reasons);
    }
}
