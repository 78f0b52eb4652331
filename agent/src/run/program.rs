//! One step of the pipeline: from what has been taken in to what the kernel enforces.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Instant, SystemTime};

use felid_compile::transaction::Transaction;

use crate::config::Announcement;

use super::dataplane::{ApplyError, Dataplane};
use super::pipeline::{Last, Pipeline, UnderWay};

/// Plans that are made anew at once because the kernel refused programs; then it is left to the retry timer.
const REPLANS: usize = 8;

/// What came of a transaction.
enum Applied {
    /// In force.
    Flipped,
    /// Nothing of it is; the same plan would fail again.
    Refused,
    /// Nothing of it is, but a plan without the refused programs may work.
    Replan,
}

impl<D: Dataplane> Pipeline<D> {
    /// Does whatever can be done now.
    pub(super) async fn step(&mut self) {
        if !self.in_sync {
            return;
        }
        self.follow_settings().await;
        // Before the next transaction, or a stream of them would hold new translations up.
        self.follow_nats().await;
        let began = Instant::now();
        let output = self.calc.flush();
        self.planner.update(&output.delta);
        if self.pending > 0 {
            self.metrics.calc_seconds.observe(began.elapsed().as_secs_f64());
        }
        for _ in 0..REPLANS {
            if self.under_way.is_some() {
                break;
            }
            let planned = Instant::now();
            let transaction = match self.planner.plan() {
                Ok(transaction) => transaction,
                Err(error) => {
                    self.failures.set("plan", error.to_string(), &self.metrics);
                    break;
                }
            };
            self.failures.clear("plan");
            let Some(transaction) = transaction else {
                // What came changed nothing for this node.
                self.failures.clear("kernel");
                self.forget_pending();
                self.programmed = true;
                break;
            };
            self.metrics.plan_seconds.observe(planned.elapsed().as_secs_f64());
            match self.apply(transaction).await {
                Applied::Flipped | Applied::Refused => break,
                Applied::Replan => {}
            }
        }
        self.follow_nats().await;
        let problems: Vec<String> = self.planner.problems().map(ToString::to_string).collect();
        self.failures.set_state("program", "", problems, &self.metrics);
    }

    async fn apply(&mut self, transaction: Transaction) -> Applied {
        let began = Instant::now();
        let loaded = transaction.new_programs.len();
        if let Err(reason) = self.retire_nats(&transaction) {
            // Without that, packets would be translated to an address that has become another's.
            self.planner.abandoned(&BTreeMap::new());
            self.nats.look_again();
            self.failures.set("nat", reason, &self.metrics);
            return Applied::Refused;
        }
        match self.dataplane.apply(&transaction).await {
            Ok(seen) => {
                let latency = self
                    .pending_since
                    .map_or_else(|| began.elapsed(), |since| since.elapsed());
                if self.pending > 0 {
                    self.metrics.latency_seconds.observe(latency.as_secs_f64());
                }
                self.last = Some(Last {
                    at: SystemTime::now(),
                    latency,
                    updates: self.pending,
                });
                self.total += 1;
                let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
                logged.learn(&transaction);
                drop(logged);
                tracing::debug!(
                    epoch = self.dataplane.epoch(),
                    updates = self.pending,
                    endpoints = transaction.endpoints.len(),
                    addresses = transaction.peers.len(),
                    programs = loaded,
                    "in force after {:.1} ms",
                    latency.as_secs_f64() * 1e3
                );
                self.forget_pending();
                self.programmed = true;
                self.metrics.flips.inc();
                self.metrics.programs_loaded.inc_by(loaded as u64);
                self.metrics.epoch.set(self.dataplane.epoch().into());
                self.failures.clear("kernel");
                self.take_seen(seen, false);
                self.under_way = Some(UnderWay { transaction, began });
                Applied::Flipped
            }
            Err(ApplyError { reason, programs }) => {
                self.metrics.dataplane_failures.inc();
                self.planner.abandoned(&programs);
                // The old state stays, and so do its translations: those that made way come back.
                self.nats.look_again();
                if programs.is_empty() {
                    self.failures.set("kernel", reason, &self.metrics);
                    return Applied::Refused;
                }
                // The planner's problems, which are reported, name each of them.
                tracing::debug!("{reason}");
                Applied::Replan
            }
        }
    }

    /// Second half, after the grace period.
    pub(super) fn complete(&mut self, grace: Result<(), String>) {
        let Some(under_way) = self.under_way.take() else { return };
        match grace.and_then(|()| self.dataplane.complete(&under_way.transaction)) {
            Ok(()) => {
                self.failures.clear("complete");
                self.slow_down = false;
                self.metrics
                    .apply_seconds
                    .observe(under_way.began.elapsed().as_secs_f64());
                self.planner.retired();
                if !under_way.transaction.endpoints.is_empty() {
                    self.nats.look_again();
                }
                if std::mem::take(&mut self.starting) {
                    // What reading and planning everything for the first time took is not needed again.
                    drop(tokio::task::spawn_blocking(felid_dataplane::sys::return_free_memory));
                }
            }
            Err(reason) => {
                // It stays under way: the loop waits for another grace period, then tries again.
                self.metrics.dataplane_failures.inc();
                self.failures.set("complete", reason, &self.metrics);
                self.slow_down = true;
                self.under_way = Some(under_way);
            }
        }
    }

    fn forget_pending(&mut self) {
        self.pending = 0;
        self.pending_since = None;
    }

    /// Settings that records can change while the agent runs.
    async fn follow_settings(&mut self) {
        let node = self.felix.get(&format!("node.{}", self.settings.node.0));
        let default = self.felix.get("default");
        let settings = self
            .config
            .with_records(node.map(AsRef::as_ref), default.map(AsRef::as_ref));
        if settings == self.settings && self.told && !self.nats.cluster_changed() {
            return;
        }
        if settings.log_severity_screen != self.settings.log_severity_screen
            && let Some(log) = &self.log
        {
            log.set_level(settings.log_severity_screen);
            tracing::info!("log level is {:?} now", settings.log_severity_screen);
        }
        let mut programs = super::kernel_settings(&settings);
        // The networks where workloads show their own addresses come before the setting that they limit, and go after it. Without them
        // workloads show their own addresses everywhere; all other settings hold.
        let outbound = programs.nat_outbound;
        let limited = !outbound || self.follow_cluster(&settings);
        programs.nat_outbound &= limited;
        // The first time in any case: until then the programs go by what a previous run set.
        if (programs != super::kernel_settings(&self.settings) || !self.told)
            && let Err(reason) = self.dataplane.set_settings(programs)
        {
            // The old settings stay, and the difference is found again at the next step.
            self.failures.set("settings", reason, &self.metrics);
            return;
        }
        self.told = limited && (outbound || self.follow_cluster(&settings));
        self.failures.clear("settings");
        let answer = settings.external_ip_announcement == Announcement::ProxyArp;
        self.dataplane.set_announcement(answer);
        if settings.floating_ips != self.settings.floating_ips
            || settings.external_ip_announcement != self.settings.external_ip_announcement
        {
            self.nats.look_again();
        }
        let prefixes = settings.interface_prefix.clone();
        let renamed = prefixes != self.settings.interface_prefix;
        self.settings = settings;
        if renamed {
            self.calc.set_pod_interface_prefix(prefixes.first());
            tracing::info!("prefixes of workload interfaces are {:?} now", prefixes.0);
            let seen = self.dataplane.set_interface_prefixes(prefixes.0).await;
            self.take_seen(seen, true);
        }
    }
}
