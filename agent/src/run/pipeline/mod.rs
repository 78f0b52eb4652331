//! The pipeline: records -> calculation -> planner -> kernel. One task owns all four.
//!
//! ```text
//! Batch, host's Event, Request, timers --> take in --> step: flush -> plan -> apply: enforced
//!                               grace period (meanwhile: take in) -> complete -> next step
//! ```
//!
//! Whatever waits in the channels is taken in at once, so bursts become one transaction. Nothing is
//! programmed before the datastore is in sync. What is refused is reported and tried again; what
//! was in force stays.
//!
//! What it holds is in `parts`; what it does about the host is in `host.rs`.
//!
//! Requests are answered by `handlers` on a read-only view of all of them.

mod host;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_calc::{Calc, CalcOptions};
use felid_compile::planner::Planner;
use felid_compile::transaction::{ProgramId, Transaction};
use felid_dataplane::net::Event;
use felid_dataplane::{DataplaneDriver, Grace, HostChanges, KernelError};
use felid_datastore::{Batch, Control};
use tokio::sync::mpsc;

use crate::api::FailureKind;
use crate::config::{Settings, Static};

use super::handle::Request;
use super::handlers::View;
use super::server::{Stop, stopped};

pub use super::parts::Outlets;
use super::parts::{Configuration, Programming, Records, Reporting, Revisions, Timers, Translations};

use waiting::Waiting;

/// Batches that are taken in at one time before the kernel is programmed.
const BURST: usize = 4096;
/// The loop goes round at least this often, so that liveness means something.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the end of a transaction is waited for when the agent stops.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Plans that are made anew at once because the kernel refused programs; then it is left to the
/// retry timer.
const REPLANS: usize = 8;

/// What the pipeline is made of.
pub struct Setup<D> {
    /// The kernel and the host's network, looked at once.
    pub dataplane: D,
    /// A planner that knows what the kernel holds.
    pub planner: Planner,
    /// Settings that do not come from records.
    pub config: Static,
    /// Batches from the datastore.
    pub batches: mpsc::Receiver<Batch>,
    /// The datastore, to be asked how far it has been read.
    pub datastore: Arc<dyn Control>,
    /// Requests of the servers.
    pub requests: mpsc::Receiver<Request>,
    /// Where reports go.
    pub outlets: Outlets,
}

/// The running pipeline.
pub struct Pipeline<D> {
    dataplane: D,
    calc: Calc,
    planner: Planner,
    configuration: Configuration,
    records: Records,
    programming: Programming,
    translations: Translations,
    revisions: Revisions,
    waiting: Waiting,
    reporting: Reporting,
    timers: Timers,
    /// What is wrong between records has to be looked at again.
    records_changed: bool,
}

/// The channels that the pipeline listens to.
pub struct Inputs {
    batches: mpsc::Receiver<Batch>,
    requests: mpsc::Receiver<Request>,
    /// The host may still tell of events.
    host_open: bool,
}

/// What the loop has waited for.
enum Next {
    Batch(Option<Batch>),
    Host(Option<Event>),
    Request(Option<Request>),
    /// Somebody has waited for as long as was asked.
    Due,
    Grace(Result<(), KernelError>),
    Tick,
    Stop,
}

/// What a round of the loop has to do after an input.
enum Round {
    /// The input may have changed something: bring the kernel in line.
    Step,
    /// Nothing.
    Idle,
    /// The agent stops.
    Stop,
}

/// What came of a transaction.
enum Applied {
    /// It is in force.
    InForce,
    /// Nothing of it is in force; the same plan would fail again.
    Refused,
    /// Nothing of it is in force, but a plan without the refused programs may work.
    Replan,
}

impl<D: DataplaneDriver> Pipeline<D> {
    /// Returns a pipeline before its first round, and the channels it listens to.
    pub fn new(setup: Setup<D>) -> (Self, Inputs) {
        let Setup {
            dataplane,
            mut planner,
            config,
            batches,
            datastore,
            requests,
            outlets,
        } = setup;
        let configuration = Configuration::new(config);
        let settings = configuration.settings();
        let mut calc = Calc::new(CalcOptions {
            node: settings.node.0.clone(),
        });
        set_calc_settings(&mut calc, settings);
        planner.set_host_addresses(dataplane.host_addresses());
        let this = Self {
            timers: Timers::new(settings),
            records: Records::new(&outlets.metrics),
            dataplane,
            calc,
            planner,
            configuration,
            programming: Programming::new(),
            translations: Translations::new(),
            revisions: Revisions::default(),
            waiting: Waiting::new(datastore),
            reporting: Reporting::new(outlets),
            records_changed: false,
        };
        let inputs = Inputs {
            batches,
            requests,
            host_open: true,
        };
        (this, inputs)
    }

    /// Runs until `stop`, or until the datastore's reader or the servers end, which is an error.
    /// The kernel goes on enforcing.
    pub async fn run(mut self, mut inputs: Inputs, stop: Stop) -> Result<(), String> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut grace: Option<Grace> = None;
        self.report_network();
        self.report_readiness();
        loop {
            let next = tokio::select! {
                () = stopped(stop.clone()) => Next::Stop,
                result = wait(&mut grace) => Next::Grace(result),
                batch = inputs.batches.recv() => Next::Batch(batch),
                event = self.dataplane.event(), if inputs.host_open => Next::Host(event),
                request = inputs.requests.recv() => Next::Request(request),
                _ = heartbeat.tick() => Next::Tick,
                () = self.waiting.until_due() => Next::Due,
            };
            self.reporting.outlets.health.round();
            // The servers and the reader end when the agent stops, perhaps before this is seen.
            if matches!(next, Next::Request(None) | Next::Batch(None)) && *stop.borrow() {
                break;
            }
            if matches!(next, Next::Grace(_)) {
                grace = None;
            }
            match self.take(next, &mut inputs).await? {
                Round::Step => {}
                Round::Idle => continue,
                Round::Stop => break,
            }
            for _ in 0..BURST {
                match inputs.batches.try_recv() {
                    Ok(batch) => self.take_batch(batch),
                    Err(_) => break,
                }
            }
            self.step().await;
            if grace.is_none() {
                grace = self.programming.grace(&self.dataplane);
            }
            self.report_readiness();
            self.answer_waiters();
        }
        self.finish(grace).await;
        Ok(())
    }

    /// Takes one input in.
    async fn take(&mut self, next: Next, inputs: &mut Inputs) -> Result<Round, String> {
        match next {
            Next::Stop => return Ok(Round::Stop),
            Next::Grace(result) => self.complete(result),
            Next::Batch(Some(batch)) => self.take_batch(batch),
            Next::Batch(None) => return Err("the datastore's reader has ended".to_owned()),
            Next::Host(Some(event)) => {
                let changes = self.dataplane.handle(event).await;
                self.follow_host(changes, false);
            }
            Next::Host(None) => {
                inputs.host_open = false;
                let reason = "the kernel has closed the stream of network events; only the interval is left";
                self.reporting.failures.set(FailureKind::Events, &reason);
            }
            Next::Request(Some(Request::Wait(wait, reply))) => {
                self.waiting.add(wait, reply);
                return Ok(self.answer_waiters());
            }
            Next::Due => return Ok(self.answer_waiters()),
            Next::Request(Some(request)) => {
                self.view().handle(request);
                return Ok(Round::Idle);
            }
            // Nobody can ask any more: the servers are gone.
            Next::Request(None) => return Err("the servers have ended".to_owned()),
            Next::Tick if self.timers.is_retry_due() => {
                self.planner.retry();
                self.refresh().await;
            }
            Next::Tick if self.timers.is_refresh_due() => self.refresh().await,
            Next::Tick => return Ok(Round::Idle),
        }
        Ok(Round::Step)
    }

    /// Returns what requests are answered from.
    fn view(&self) -> View<'_, D> {
        View {
            dataplane: &self.dataplane,
            calc: &self.calc,
            planner: &self.planner,
            configuration: &self.configuration,
            records: &self.records,
            programming: &self.programming,
            translations: &self.translations,
            revisions: &self.revisions,
            reporting: &self.reporting,
        }
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
        let metrics = &self.reporting.outlets.metrics;
        let taken = self
            .records
            .take_batch(batch, (&mut self.calc, &mut self.revisions), metrics);
        metrics.programming.revision_seen.set(self.revisions.seen() as i64);
        self.programming.take_in(taken.changes);
        self.records_changed |= taken.changes > 0;
        if let Some(barrier) = taken.barrier {
            self.waiting.passed(barrier, self.revisions.seen());
        }
    }

    /// Does whatever can be done now.
    async fn step(&mut self) {
        if !self.records.was_in_sync() {
            return;
        }
        // Before the next transaction, or a stream of them would hold new translations up.
        self.follow_translations().await;
        self.recalculate().await;
        for _ in 0..REPLANS {
            let Some(transaction) = self.plan() else { break };
            match self.apply(transaction).await {
                Applied::InForce | Applied::Refused => break,
                Applied::Replan => {}
            }
        }
        self.follow_translations().await;
        let problems: Vec<String> = self.planner.problems().map(ToString::to_string).collect();
        self.reporting.failures.set_state(FailureKind::Program, None, problems);
        // After the transaction, so that it costs no change any time.
        if std::mem::take(&mut self.records_changed) {
            let problems = self.calc.problems();
            self.records.follow(problems, self.reporting.metrics());
            let node = &self.configuration.settings().node.0;
            self.records.follow_nodes(node, &self.calc);
        }
    }

    /// Works out what changed with the records that were taken in, and follows the settings among
    /// them.
    async fn recalculate(&mut self) {
        let began = Instant::now();
        // A record that is left over must take nothing from a workload whose interface is there.
        self.calc.set_interfaces(self.dataplane.interfaces());
        let output = self.calc.flush();
        self.planner.update(&output.delta);
        if self.programming.pending() > 0 {
            let metrics = self.reporting.metrics();
            metrics.programming.calc_seconds.observe(began.elapsed().as_secs_f64());
        }
        let changed = self.configuration.follow(&output);
        let settings = self.configuration.settings();
        if changed.log_level {
            self.reporting.set_log_level(settings.log_severity_screen);
        }
        if changed.translations {
            self.translations.mark_dirty();
        }
        if changed.calculation {
            set_calc_settings(&mut self.calc, settings);
            let output = self.calc.flush();
            self.planner.update(&output.delta);
        }
        if changed.interface_prefixes {
            let prefixes = settings.interface_prefix.clone();
            tracing::info!("prefixes of workload interfaces are {:?} now", prefixes.0);
            let changes = self.dataplane.set_interface_prefixes(prefixes.0).await;
            self.follow_host(changes, true);
        }
        self.configuration
            .apply(&mut self.dataplane, &mut self.reporting.failures);
    }

    /// Returns the next transaction; `None` if there is nothing to do, if one is under way, or if
    /// none can be planned.
    fn plan(&mut self) -> Option<Transaction> {
        if self.programming.is_under_way() {
            return None;
        }
        let began = Instant::now();
        let planned = self.planner.plan();
        let failures = &mut self.reporting.failures;
        match planned {
            Ok(Some(transaction)) => {
                failures.clear(FailureKind::Plan);
                let metrics = self.reporting.metrics();
                metrics.programming.plan_seconds.observe(began.elapsed().as_secs_f64());
                Some(transaction)
            }
            Ok(None) => {
                // What came changed nothing for this node.
                failures.clear(FailureKind::Plan);
                failures.clear(FailureKind::Kernel);
                self.programming.nothing_to_do();
                let times = self.revisions.nothing_to_do();
                self.report_enforced(&times);
                None
            }
            Err(error) => {
                failures.set(FailureKind::Plan, &error);
                None
            }
        }
    }

    async fn apply(&mut self, transaction: Transaction) -> Applied {
        let began = Instant::now();
        let settings = self.configuration.settings();
        if let Err(error) = Translations::retire(settings, &transaction, &self.planner, &mut self.dataplane) {
            // Without that, packets would be translated to an address that has become another's.
            self.planner.aborted(&BTreeMap::new());
            self.translations.mark_dirty();
            self.reporting.failures.set(FailureKind::Nat, &error);
            return Applied::Refused;
        }
        match self.dataplane.apply(&transaction).await {
            Ok(changes) => {
                let last = self.programming.in_force(began);
                let epoch = self.dataplane.epoch();
                self.reporting.in_force(&transaction, last.latency, last.updates, epoch);
                self.programming.wait_for_grace(transaction, began);
                self.revisions.in_force();
                self.reporting.failures.clear(FailureKind::Kernel);
                self.follow_host(changes, false);
                Applied::InForce
            }
            Err(error) => {
                self.reporting.metrics().programming.dataplane_failures.inc();
                let programs = refused_programs(&error);
                self.planner.aborted(&programs);
                // The old state stays, and so do its translations: those that made way come back.
                self.translations.mark_dirty();
                if programs.is_empty() {
                    self.reporting.failures.set(FailureKind::Kernel, &error);
                    return Applied::Refused;
                }
                // The planner's problems, which are reported, name each of them.
                tracing::debug!("{error}");
                Applied::Replan
            }
        }
    }

    /// Second half of the transaction under way, after the grace period.
    fn complete(&mut self, grace: Result<(), KernelError>) {
        let Some((transaction, began)) = self.programming.take_under_way() else {
            return;
        };
        match grace.and_then(|()| self.dataplane.complete(&transaction)) {
            Ok(_) => {
                self.reporting.failures.clear(FailureKind::Complete);
                let metrics = self.reporting.metrics();
                metrics.programming.apply_seconds.observe(began.elapsed().as_secs_f64());
                self.planner.committed();
                let times = self.revisions.complete(&transaction);
                self.report_enforced(&times);
                if !transaction.endpoints.is_empty() {
                    self.translations.mark_dirty();
                }
                if self.programming.completed() {
                    // What reading and planning everything for the first time took is not needed
                    // again.
                    drop(tokio::task::spawn_blocking(felid_dataplane::sys::return_free_memory));
                }
            }
            Err(error) => {
                self.reporting.metrics().programming.dataplane_failures.inc();
                self.reporting.failures.set(FailureKind::Complete, &error);
                self.programming.not_completed(transaction, began);
            }
        }
    }

    /// Makes the translations of what is in force those in force, once it is time.
    async fn follow_translations(&mut self) {
        let waits = !self.programming.is_programmed() || self.programming.is_under_way();
        if waits || !self.translations.is_dirty() {
            return;
        }
        let settings = self.configuration.settings();
        let done = self
            .translations
            .follow(settings, &self.planner, &mut self.dataplane)
            .await;
        match done {
            Ok(errors) => {
                self.reporting.failures.clear(FailureKind::Nat);
                let changes = HostChanges {
                    host_addresses: false,
                    host_uses: false,
                    errors,
                };
                self.follow_host(changes, false);
            }
            // It is tried again with the retry timer.
            Err(error) => self.reporting.failures.set(FailureKind::Nat, &error),
        }
    }
}

/// Gives the calculation the settings that it goes by: flags, environment and file are stronger
/// than the records that it knows.
fn set_calc_settings(calc: &mut Calc, settings: &Settings) {
    calc.set_pod_interface_prefix(settings.interface_prefix.first());
    calc.set_workload_source_spoofing(settings.workload_source_spoofing);
}

/// Returns the programs that the kernel refused, if that was the error, each with the reason.
fn refused_programs(error: &KernelError) -> BTreeMap<ProgramId, String> {
    match error {
        KernelError::Programs(refused) => refused.iter().map(|one| (one.id, one.to_string())).collect(),
        _ => BTreeMap::new(),
    }
}

/// Waits for the grace period, if there is one.
async fn wait(grace: &mut Option<Grace>) -> Result<(), KernelError> {
    match grace {
        Some(grace) => grace.await,
        None => std::future::pending().await,
    }
}
