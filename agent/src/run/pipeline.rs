//! The pipeline: records -> calculation -> planner -> kernel. One task owns all four.
//!
//! ```text
//! Batch, host's Event, Question, timers --> take in --> step (program.rs): flush -> plan -> apply: enforced
//!                                                         grace period (meanwhile: take in) -> complete -> next step
//! ```
//!
//! Whatever waits in the channels is taken in at once, so bursts become one switch. Nothing is programmed before the datastore is
//! in sync. What is refused is reported and tried again; what was in force stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use felid_calc::{Calc, CalcOptions};
use felid_compile::planner::Planner;
use felid_compile::transaction::Transaction;
use felid_dataplane::net::Event;
use felid_datastore::{Batch, InForce, Problems, Update};
use felid_model::{FelixConfiguration, Kind, Resource};
use tokio::sync::mpsc;

use crate::config::{Settings, Static};
use crate::metrics::{Metrics, ResyncState};

use super::Addresses;
use super::dataplane::{Dataplane, Grace, Seen};
use super::failures::Failures;
use super::handle::Question;
use super::health::Health;
use super::logging::LogHandle;
use super::nats::Nats;
use super::policy_log::Tables;
use super::server::{Stop, stopped};

/// Batches that are taken in at one time before the kernel is programmed.
const BURST: usize = 4096;
/// The loop goes round at least this often, so that liveness means something.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the end of a switch is waited for when the agent stops.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What the pipeline is made of.
pub struct Parts<D> {
    /// The kernel and the host's network, looked at once.
    pub dataplane: D,
    /// A planner that knows what the kernel holds.
    pub planner: Planner,
    /// Settings that do not come from records.
    pub config: Static,
    /// From the datastore.
    pub batches: mpsc::Receiver<Batch>,
    /// Questions of the servers.
    pub questions: mpsc::Receiver<Question>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the probes see.
    pub health: Arc<Health>,
    /// Where the level can be changed; `None` in tests.
    pub log: Option<LogHandle>,
    /// What the records of Log rules mean.
    pub logged: Arc<Mutex<Tables>>,
    /// Where the servers listen, for status.
    pub addresses: Addresses,
}

/// The running pipeline.
pub struct Pipeline<D> {
    pub(super) dataplane: D,
    pub(super) planner: Planner,
    pub(super) calc: Calc,
    pub(super) config: Static,
    pub(super) settings: Settings,
    /// Whether the kernel has them.
    pub(super) told: bool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) addresses: Addresses,
    pub(super) log: Option<LogHandle>,
    pub(super) logged: Arc<Mutex<Tables>>,
    pub(super) health: Arc<Health>,

    /// FelixConfiguration records by name.
    pub(super) felix: BTreeMap<String, Arc<FelixConfiguration>>,
    /// Translations.
    pub(super) nats: Nats,
    pub(super) problems: Arc<Problems>,
    pub(super) failures: Failures,
    pub(super) in_sync: bool,
    pub(super) programmed: bool,
    ready: bool,
    /// The first switch is not complete yet.
    pub(super) starting: bool,
    pub(super) last: Option<Last>,
    pub(super) total: u64,
    pub(super) started: SystemTime,

    /// Changes since the last switch, and when the first of them came.
    pub(super) pending: usize,
    pub(super) pending_since: Option<Instant>,
    /// The switch whose second half is to come.
    pub(super) under_way: Option<UnderWay>,
    /// The second half failed last time.
    pub(super) slow_down: bool,
    pub(super) retry: Retry,
    refresh_at: Option<Instant>,
}

/// The last switch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) at: SystemTime,
    pub(super) latency: Duration,
    pub(super) updates: usize,
}

/// A switch before its second half.
pub(super) struct UnderWay {
    pub(super) transaction: Transaction,
    pub(super) began: Instant,
}

/// When to try again what failed: later each time, until it works.
#[derive(Debug)]
pub(super) struct Retry {
    at: Option<Instant>,
    delay: Duration,
    first: Duration,
}

impl Retry {
    /// Longest pause.
    const SLOWEST: Duration = Duration::from_secs(60);

    fn new(first: Duration) -> Self {
        Self {
            at: None,
            delay: first,
            first,
        }
    }

    /// Something failed.
    pub(super) fn later(&mut self) {
        if self.at.is_none() && !self.first.is_zero() {
            self.at = Some(Instant::now() + self.delay);
            self.delay = (self.delay * 2).min(Self::SLOWEST.max(self.first));
        }
    }

    /// Nothing fails any more.
    pub(super) fn never(&mut self) {
        self.at = None;
        self.delay = self.first;
    }

    fn is_due(&mut self) -> bool {
        let due = self.at.is_some_and(|at| at <= Instant::now());
        if due {
            self.at = None;
        }
        due
    }
}

/// The channels that the pipeline listens to.
pub struct Inputs {
    batches: mpsc::Receiver<Batch>,
    questions: mpsc::Receiver<Question>,
}

/// What the loop has waited for.
enum Next {
    Batch(Option<Batch>),
    Host(Option<Event>),
    Question(Option<Question>),
    Grace(Result<(), String>),
    Tick,
    Stop,
}

impl<D: Dataplane> Pipeline<D> {
    /// A pipeline before its first round, and the channels it listens to.
    pub fn new(parts: Parts<D>) -> (Self, Inputs) {
        let Parts {
            dataplane,
            mut planner,
            config,
            batches,
            questions,
            metrics,
            health,
            log,
            logged,
            addresses,
        } = parts;
        let settings = config.settings();
        let mut calc = Calc::new(CalcOptions {
            node: settings.node.0.clone(),
        });
        calc.set_pod_interface_prefix(settings.interface_prefix.first());
        planner.set_host_addresses(dataplane.host_addresses());
        metrics.set_resync_state(ResyncState::Resync);
        metrics.resyncs_started.inc();
        let this = Self {
            retry: Retry::new(settings.retry_interval),
            refresh_at: refresh_period(&settings).map(|period| Instant::now() + period),
            dataplane,
            planner,
            calc,
            config,
            settings,
            told: false,
            metrics,
            addresses,
            log,
            logged,
            health,
            felix: BTreeMap::new(),
            nats: Nats::default(),
            problems: Arc::default(),
            failures: Failures::default(),
            in_sync: false,
            programmed: false,
            ready: false,
            starting: true,
            last: None,
            total: 0,
            started: SystemTime::now(),
            pending: 0,
            pending_since: None,
            under_way: None,
            slow_down: false,
        };
        (this, Inputs { batches, questions })
    }

    /// Runs until `stop`, or until the datastore's reader or the servers end, which is an error. The kernel goes on enforcing.
    pub async fn run(mut self, mut inputs: Inputs, stop: Stop) -> Result<(), String> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut grace: Option<Grace> = None;
        let mut host_open = true;
        self.report_network();
        self.judge_readiness();
        loop {
            let next = tokio::select! {
                () = stopped(stop.clone()) => Next::Stop,
                result = wait(&mut grace) => Next::Grace(result),
                batch = inputs.batches.recv() => Next::Batch(batch),
                event = self.dataplane.event(), if host_open => Next::Host(event),
                question = inputs.questions.recv() => Next::Question(question),
                _ = heartbeat.tick() => Next::Tick,
            };
            self.health.round();
            match next {
                Next::Stop => break,
                Next::Grace(result) => {
                    grace = None;
                    self.complete(result);
                }
                Next::Batch(Some(batch)) => self.take_batch(batch),
                Next::Batch(None) => return Err("the datastore's reader has ended".to_owned()),
                Next::Host(Some(event)) => {
                    let seen = self.dataplane.handle(event).await;
                    self.take_seen(seen, false);
                }
                Next::Host(None) => {
                    host_open = false;
                    let reason =
                        "the kernel has closed the stream of network events; only the interval is left".to_owned();
                    self.failures.set("events", reason, &self.metrics);
                }
                Next::Question(Some(question)) => {
                    self.answer(question);
                    continue;
                }
                // Nobody can ask any more: the servers are gone.
                Next::Question(None) => return Err("the servers have ended".to_owned()),
                Next::Tick if self.retry.is_due() => {
                    self.planner.retry();
                    self.look_at_everything().await;
                }
                Next::Tick if self.refresh_at.is_some_and(|at| at <= Instant::now()) => self.look_at_everything().await,
                Next::Tick => continue,
            }
            for _ in 0..BURST {
                match inputs.batches.try_recv() {
                    Ok(batch) => self.take_batch(batch),
                    Err(_) => break,
                }
            }
            self.step().await;
            if self.under_way.is_some() && grace.is_none() {
                grace = Some(self.next_grace());
            }
            self.judge_readiness();
        }
        self.finish(grace).await;
        Ok(())
    }

    fn next_grace(&self) -> Grace {
        let grace = self.dataplane.grace();
        if !self.slow_down {
            return grace;
        }
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            grace.await
        })
    }

    /// Completes what is under way, so that the next start finds equal banks. It could do without.
    async fn finish(&mut self, grace: Option<Grace>) {
        if let Some(grace) = grace
            && let Ok(result) = tokio::time::timeout(LAST_WAIT, grace).await
        {
            self.complete(result);
        }
    }

    fn take_batch(&mut self, batch: Batch) {
        let mut changes = 0;
        for update in batch.updates {
            match update {
                Update::Apply(resource) => {
                    if let Resource::FelixConfiguration(record) = &resource {
                        self.felix.insert(record.key.name.to_string(), Arc::clone(record));
                    }
                    if let Resource::WorkloadEndpoint(record) = &resource {
                        self.nats.set_elastic(&record.key, &record.aws_elastic_ips);
                    }
                    if let Resource::IpPool(record) = &resource {
                        self.nats.set_pool(&record.key, Some(record.cidr));
                    }
                    self.calc.apply(resource);
                    changes += 1;
                }
                Update::Delete(key) => {
                    if key.kind == Kind::FelixConfiguration {
                        self.felix.remove(&*key.name);
                    }
                    self.nats.set_elastic(&key, &[]);
                    if key.kind == Kind::IpPool {
                        self.nats.set_pool(&key, None);
                    }
                    self.calc.delete(&key);
                    changes += 1;
                }
                Update::InSync => {
                    if !self.in_sync {
                        tracing::info!("in sync with the datastore");
                        self.metrics.set_resync_state(ResyncState::InSync);
                    }
                    self.in_sync = true;
                }
            }
        }
        if changes > 0 {
            self.pending += changes;
            self.pending_since.get_or_insert_with(Instant::now);
            self.metrics.updates.inc_by(changes as u64);
        }
        self.problems = batch.problems;
        self.metrics
            .set_problems(self.problems.errors().count(), self.problems.warnings().count());
    }

    /// Follows what happened on the host. `everything`: it was looked at as a whole, so what does not fail now fails no more.
    pub(super) fn take_seen(&mut self, seen: Seen, everything: bool) {
        if seen.host_addresses {
            self.nats.look_again();
            self.planner.set_host_addresses(self.dataplane.host_addresses());
        }
        for (what, errors) in [("interface", seen.interfaces), ("network", seen.network)] {
            if everything || !errors.is_empty() {
                self.failures.set_list(what, "", errors, &self.metrics);
            }
        }
        self.report_network();
    }

    async fn look_at_everything(&mut self) {
        let seen = self.dataplane.refresh().await;
        self.take_seen(seen, true);
        self.refresh_at = refresh_period(&self.settings).map(|period| Instant::now() + period);
    }

    /// Routes, neighbours and sysctls that cannot be set.
    pub(super) fn report_network(&mut self) {
        self.failures
            .set_places("network", self.dataplane.network_problems(), &self.metrics);
    }

    /// Tells the probes how it stands.
    fn judge_readiness(&mut self) {
        if self.failures.is_empty() {
            self.retry.never();
        } else {
            self.retry.later();
        }
        let reasons = self.reasons();
        if reasons.is_empty() != self.ready {
            self.ready = reasons.is_empty();
            if self.ready {
                let endpoints = self.calc.stats().local_endpoints;
                tracing::info!(endpoints, epoch = self.dataplane.epoch(), "ready");
            } else {
                tracing::warn!("not ready: {}", reasons.join("; "));
            }
        }
        self.metrics.ready.set(i64::from(self.ready));
        self.metrics.refused.set(self.failures.len() as i64);
        self.health.set_not_ready(reasons);
    }

    /// Why the agent is not ready; empty = it is.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.in_sync {
            reasons.push(format!("{} has not been read completely yet", self.settings.datastore));
        } else if !self.programmed {
            reasons.push("the kernel has not been programmed yet".to_owned());
        }
        reasons.extend(self.failures.blocking());
        // Where the last good version, or another file's, is in force, the node does what it was last told: a bad edit must not keep
        // an agent from being rolled out. `felid status` and the metrics say it all the same.
        let unmet = self
            .problems
            .errors()
            .filter(|problem| !matches!(problem.in_force, InForce::LastGood | InForce::File(_)));
        reasons.extend(unmet.map(ToString::to_string));
        reasons
    }
}

/// How often everything on the host is looked at without any event.
fn refresh_period(settings: &Settings) -> Option<Duration> {
    let periods = [settings.route_refresh_interval, settings.interface_refresh_interval];
    periods.into_iter().filter(|period| !period.is_zero()).min()
}

/// Waits for the grace period, if there is one.
async fn wait(grace: &mut Option<Grace>) -> Result<(), String> {
    match grace {
        Some(grace) => grace.await,
        None => std::future::pending().await,
    }
}
