//! The pipeline: records -> calculation -> planner -> kernel. One task owns all four.
//!
//! ```text
//! Batch, HostEvent, Question, timers --> take in --> step(): calc.flush -> planner.update -> plan -> apply (enforced)
//!                                                              grace period (meanwhile: take in) -> complete -> next step
//! ```
//!
//! Whatever waits in the channels is taken in at once, so bursts become one switch. Nothing is programmed before the datastore is
//! in sync. What is refused is reported and tried again; what was in force stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use felid_calc::{Calc, CalcOptions};
use felid_compile::planner::Planner;
use felid_compile::transaction::{EndpointChange, Transaction};
use felid_datastore::{Batch, Problems, Update};
use felid_model::{FelixConfiguration, Kind, Resource};
use tokio::sync::mpsc;

use crate::config::{Settings, Static};
use crate::metrics::{Metrics, ResyncState};

use super::dataplane::{ApplyError, Dataplane, Grace};
use super::failures::Failures;
use super::handle::Question;
use super::health::Health;
use super::host::{HostChannels, HostEvent, HostLink, Work};
use super::logging::LogHandle;
use super::server::{Stop, stopped};

/// Changes that are taken in at one time before the kernel is programmed.
const BURST: usize = 4096;
/// Plans that are made anew at once because the kernel refused programs; then it is left to the retry timer.
const REPLANS: usize = 8;
/// The loop goes round at least this often, so that liveness means something.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What the pipeline is made of.
pub struct Parts<D> {
    /// The kernel.
    pub dataplane: D,
    /// A planner that knows what the kernel holds.
    pub planner: Planner,
    /// Settings that do not come from records.
    pub config: Static,
    /// From the datastore.
    pub batches: mpsc::Receiver<Batch>,
    /// The host's network.
    pub host: HostChannels,
    /// Questions of the servers.
    pub questions: mpsc::Receiver<Question>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the probes see.
    pub health: Arc<Health>,
    /// Where the level can be changed; `None` in tests.
    pub log: Option<LogHandle>,
    /// Where the servers listen, for status.
    pub addresses: super::Addresses,
}

/// The running pipeline.
pub struct Pipeline<D> {
    pub(super) dataplane: D,
    pub(super) planner: Planner,
    pub(super) calc: Calc,
    pub(super) config: Static,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) addresses: super::Addresses,
    log: Option<LogHandle>,
    work: mpsc::UnboundedSender<Work>,

    /// FelixConfiguration records by name.
    felix: BTreeMap<String, Arc<FelixConfiguration>>,
    pub(super) problems: Arc<Problems>,
    pub(super) failures: Failures,
    pub(super) in_sync: bool,
    pub(super) programmed: bool,
    pub(super) last: Option<Last>,
    pub(super) total: u64,
    pub(super) started: SystemTime,

    /// Interfaces by index.
    pub(super) links: BTreeMap<u32, HostLink>,
    /// What the reconciler was told last.
    wanted: BTreeMap<u32, (felid_dataplane::net::EndpointNet, bool)>,
    links_dirty: bool,

    /// Changes since the last switch, and when the first of them came.
    pending: usize,
    pending_since: Option<Instant>,
    /// The switch whose second half is to come.
    under_way: Option<UnderWay>,
    retry_at: Option<Instant>,
    /// The host's addresses were listed, or cannot be.
    host_known: bool,
    /// The second half failed last time.
    slow_down: bool,
}

/// The last switch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) at: SystemTime,
    pub(super) latency: Duration,
    pub(super) updates: usize,
}

struct UnderWay {
    transaction: Transaction,
    began: Instant,
}

/// What the loop waits for beside channels.
enum Next {
    Batch(Option<Batch>),
    Host(Option<HostEvent>),
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
            planner,
            config,
            batches,
            host,
            questions,
            metrics,
            health,
            log,
            addresses,
        } = parts;
        let settings = config.settings();
        let calc = Calc::new(CalcOptions {
            node: settings.node.0.clone(),
        });
        let HostChannels { events, work } = host;
        metrics.set_resync_state(ResyncState::Resync);
        metrics.resyncs_started.inc();
        let this = Self {
            dataplane,
            planner,
            calc,
            config,
            settings,
            metrics,
            health,
            addresses,
            log,
            work,
            felix: BTreeMap::new(),
            problems: Arc::default(),
            failures: Failures::default(),
            in_sync: false,
            programmed: false,
            last: None,
            total: 0,
            started: SystemTime::now(),
            links: BTreeMap::new(),
            wanted: BTreeMap::new(),
            links_dirty: false,
            pending: 0,
            pending_since: None,
            under_way: None,
            retry_at: None,
            host_known: false,
            slow_down: false,
        };
        (
            this,
            Inputs {
                batches,
                events,
                questions,
            },
        )
    }

    /// Runs until `stop`, or until the datastore or the host's network ends, which is an error. The kernel goes on enforcing.
    pub async fn run(mut self, mut inputs: Inputs, stop: Stop) -> Result<(), String> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut grace: Option<Grace> = None;
        let mut host_open = true;
        self.judge_readiness();
        loop {
            let next = tokio::select! {
                () = stopped(stop.clone()) => Next::Stop,
                result = wait(&mut grace) => Next::Grace(result),
                batch = inputs.batches.recv() => Next::Batch(batch),
                event = inputs.events.recv(), if host_open => Next::Host(event),
                question = inputs.questions.recv() => Next::Question(question),
                _ = heartbeat.tick() => Next::Tick,
            };
            self.health.round();
            let mut work = true;
            match next {
                Next::Stop => break,
                Next::Grace(result) => {
                    grace = None;
                    self.complete(result);
                }
                Next::Batch(Some(batch)) => self.take_batch(batch),
                Next::Batch(None) => return Err("the datastore's reader has ended".to_owned()),
                Next::Host(Some(event)) => self.take_host(event),
                Next::Host(None) => {
                    host_open = false;
                    self.failures.set(
                        "network",
                        "the watcher of the host's network has ended".to_owned(),
                        &self.metrics,
                    );
                }
                Next::Question(Some(question)) => {
                    self.answer(question);
                    work = false;
                }
                // Nobody can ask any more: the servers are gone.
                Next::Question(None) => return Err("the servers have ended".to_owned()),
                Next::Tick => work = self.retry_is_due(),
            }
            for _ in 0..BURST {
                match inputs.batches.try_recv() {
                    Ok(batch) => self.take_batch(batch),
                    Err(_) => break,
                }
                work = true;
            }
            for _ in 0..BURST {
                match inputs.events.try_recv() {
                    Ok(event) => self.take_host(event),
                    Err(_) => break,
                }
                work = true;
            }
            if work {
                self.step();
                if self.under_way.is_some() && grace.is_none() {
                    grace = Some(self.next_grace());
                }
                self.judge_readiness();
            }
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
            && let Ok(result) = tokio::time::timeout(Duration::from_secs(2), grace).await
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
                    self.calc.apply(resource);
                    changes += 1;
                }
                Update::Delete(key) => {
                    if key.kind == Kind::FelixConfiguration {
                        self.felix.remove(&*key.name);
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

    fn take_host(&mut self, event: HostEvent) {
        let (place, errors) = match event {
            HostEvent::Links(links) => {
                self.failures.clear("network");
                for index in self
                    .links
                    .keys()
                    .filter(|index| !links.iter().any(|link| link.state.ifindex == **index))
                {
                    self.wanted.remove(index);
                    let _ = self.work.send(Work::Forget(*index));
                }
                self.links = links.into_iter().map(|link| (link.state.ifindex, link)).collect();
                self.links_dirty = true;
                self.set_links();
                return;
            }
            HostEvent::Link(link) => {
                self.links.insert(link.state.ifindex, link.clone());
                (link.state.name.to_string(), self.dataplane.set_link(link.state))
            }
            HostEvent::Gone(index) => {
                self.links.remove(&index);
                if self.wanted.remove(&index).is_some() {
                    let _ = self.work.send(Work::Forget(index));
                }
                (format!("interface {index}"), self.dataplane.link_gone(index))
            }
            HostEvent::Addresses(addresses) => {
                self.host_known = true;
                self.planner.set_host_addresses(addresses);
                return;
            }
            HostEvent::Reconciled(index, errors) => {
                let name = index.map(|index| match self.links.get(&index) {
                    Some(link) => link.state.name.to_string(),
                    None => format!("interface {index}"),
                });
                self.failures
                    .set_list("network", name.as_deref().unwrap_or("host"), errors, &self.metrics);
                return;
            }
            HostEvent::Failed(reason) => {
                self.host_known = true;
                self.failures.set("network", reason, &self.metrics);
                return;
            }
        };
        self.links_dirty = true;
        self.failures.set_list("interface", &place, errors, &self.metrics);
    }

    /// Has the kernel half look at every interface again: what it cannot secure or open now is all that fails.
    fn set_links(&mut self) {
        let links = self.links.values().map(|link| link.state.clone()).collect();
        let errors = self.dataplane.set_links(links);
        self.failures.retain_place("interface", "");
        self.failures.set_list("interface", "", errors, &self.metrics);
    }

    /// Does whatever can be done now.
    fn step(&mut self) {
        if !self.in_sync || !self.host_known {
            return;
        }
        let began = Instant::now();
        self.follow_settings();
        let output = self.calc.flush();
        self.planner.update(&output.delta);
        if self.pending > 0 {
            self.metrics.calc_seconds.observe(began.elapsed().as_secs_f64());
        }
        let mut endpoints_changed = std::mem::take(&mut self.links_dirty);
        for _ in 0..REPLANS {
            if self.under_way.is_some() {
                break;
            }
            let planned = Instant::now();
            let transaction = match self.planner.plan() {
                Ok(transaction) => transaction,
                Err(error) => {
                    self.failures.set("plan", error.to_string(), &self.metrics);
                    self.retry_later();
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
            endpoints_changed |= !transaction.endpoints.is_empty();
            if self.apply(transaction) {
                break;
            }
        }
        self.report_programs();
        if endpoints_changed {
            self.tell_network();
        }
    }

    /// Puts a transaction in force. `false`: the kernel refused programs, and a plan without them is worth a try.
    fn apply(&mut self, transaction: Transaction) -> bool {
        let began = Instant::now();
        let loaded = transaction.new_programs.len();
        match self.dataplane.apply(&transaction) {
            Ok(errors) => {
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
                if !errors.is_empty() {
                    self.failures.set_list("interface", "", errors, &self.metrics);
                }
                self.under_way = Some(UnderWay { transaction, began });
                true
            }
            Err(ApplyError { reason, programs }) => {
                self.metrics.dataplane_failures.inc();
                self.planner.abandoned(&programs);
                self.retry_later();
                if programs.is_empty() {
                    self.failures.set("kernel", reason, &self.metrics);
                    return true;
                }
                // The planner's problems, which are reported, name each of them.
                tracing::debug!("{reason}");
                false
            }
        }
    }

    /// Second half, after the grace period.
    fn complete(&mut self, grace: Result<(), String>) {
        let Some(under_way) = self.under_way.take() else { return };
        let done = match grace {
            Ok(()) => self.dataplane.complete(&under_way.transaction),
            Err(reason) => Err(reason),
        };
        match done {
            Ok(()) => {
                self.failures.clear("complete");
                self.slow_down = false;
                self.metrics
                    .apply_seconds
                    .observe(under_way.began.elapsed().as_secs_f64());
                self.planner.retired();
                // Generations and conflicts of interfaces are final now.
                self.links_dirty |= under_way
                    .transaction
                    .endpoints
                    .values()
                    .any(|c| matches!(c, EndpointChange::Gone { .. }));
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

    fn retry_later(&mut self) {
        let period = self.settings.retry_interval;
        if !period.is_zero() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + period);
        }
    }

    /// Whether it is time to try again what failed.
    fn retry_is_due(&mut self) -> bool {
        if self.retry_at.is_none_or(|at| at > Instant::now()) {
            return false;
        }
        self.retry_at = None;
        self.planner.retry();
        // Interfaces that could not be secured are looked at again as well.
        self.set_links();
        true
    }

    /// Programs that are not in force as they should be.
    fn report_programs(&mut self) {
        let problems: Vec<String> = self.planner.problems().map(ToString::to_string).collect();
        if !problems.is_empty() {
            self.retry_later();
        }
        self.failures.set_list("program", "", problems, &self.metrics);
        if self.failures.has("interface") {
            self.retry_later();
        }
    }

    /// Settings that records can change while the agent runs.
    fn follow_settings(&mut self) {
        let node = self.felix.get(&format!("node.{}", self.settings.node.0));
        let settings = self
            .config
            .with_records(node.map(AsRef::as_ref), self.felix.get("default").map(AsRef::as_ref));
        if settings == self.settings {
            return;
        }
        if settings.log_severity_screen != self.settings.log_severity_screen
            && let Some(log) = &self.log
        {
            log.set_level(settings.log_severity_screen);
            tracing::info!("log level is {:?} now", settings.log_severity_screen);
        }
        if settings.interface_prefix != self.settings.interface_prefix {
            tracing::info!(
                "prefixes of workload interfaces are {:?} now",
                settings.interface_prefix.0
            );
            let errors = self
                .dataplane
                .set_interface_prefixes(settings.interface_prefix.0.clone());
            self.failures.set_list("interface", "", errors, &self.metrics);
            self.links_dirty = true;
        }
        let programs = super::kernel_settings(&settings);
        if programs != super::kernel_settings(&self.settings) {
            match self.dataplane.set_settings(programs) {
                Ok(()) => self.failures.clear("settings"),
                Err(reason) => {
                    // The old settings stay, and the difference is found again at the next step.
                    self.failures.set("settings", reason, &self.metrics);
                    self.retry_later();
                    return;
                }
            }
        }
        self.settings = settings;
    }

    /// Tells the reconciler what each endpoint's interface needs.
    fn tell_network(&mut self) {
        let mut wanted = BTreeMap::new();
        for state in self.dataplane.endpoints() {
            let (Some(index), None) = (state.ifindex, &state.conflict) else {
                continue;
            };
            let (Some(endpoint), Some(link)) = (self.calc.endpoint(&state.key), self.links.get(&index)) else {
                continue;
            };
            let net = felid_dataplane::net::EndpointNet {
                ifindex: index,
                interface: Arc::clone(&link.state.name),
                addresses: endpoint.addresses.clone(),
                mac: endpoint.mac,
            };
            wanted.insert(index, (net, link.up));
        }
        // An error means that the reconciler is gone: the agent stops.
        for (index, want) in &wanted {
            if self.wanted.get(index) != Some(want) {
                let _ = self.work.send(Work::Want(*index, Some(want.clone())));
            }
        }
        for index in self.wanted.keys().filter(|index| !wanted.contains_key(index)) {
            let _ = self.work.send(Work::Want(*index, None));
        }
        self.wanted = wanted;
    }

    /// Tells the probes how it stands.
    fn judge_readiness(&self) {
        let reasons = self.reasons();
        self.metrics.ready.set(i64::from(reasons.is_empty()));
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
        reasons.extend(self.problems.errors().map(ToString::to_string));
        reasons
    }
}

/// The channels that the pipeline listens to.
pub struct Inputs {
    batches: mpsc::Receiver<Batch>,
    events: mpsc::Receiver<HostEvent>,
    questions: mpsc::Receiver<Question>,
}

/// Waits for the grace period, if there is one.
async fn wait(grace: &mut Option<Grace>) -> Result<(), String> {
    match grace {
        Some(grace) => grace.await,
        None => std::future::pending().await,
    }
}
