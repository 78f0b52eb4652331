//! Everything that is counted, and the only module that knows the `prometheus` crate.
//!
//! In: observations by the running agent, samples of the kernel's counters. Out: the text of `/metrics`. Names that begin with
//! `felix_` mean what Felix means by them; felid's own begin with `felid_`. Label sets are bounded: reasons, events, states and
//! tables are fixed lists, policies are limited (`policies.rs`). docs/metrics.md lists them all; a test compares.

mod policies;
mod process;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::{Collector, GenericCounter, GenericCounterVec, GenericGaugeVec};
use prometheus::{Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

pub use policies::PolicySample;

type CounterVec = GenericCounterVec<prometheus::core::AtomicU64>;
type GaugeVec = GenericGaugeVec<prometheus::core::AtomicI64>;

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// One sweep of the conntrack tables.
#[derive(Debug, Clone, Default)]
pub struct SweepSample {
    /// Entries that were there, by (table, family, state).
    pub entries: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Entries that had expired and were removed.
    pub removed: u64,
    /// How long it took.
    pub duration: Duration,
}

/// The datastore as `felix_resync_state` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResyncState {
    /// Waiting for the datastore.
    Wait = 0,
    /// Reading it.
    Resync = 1,
    /// Everything has been read.
    InSync = 2,
}

/// All metrics of the agent.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts in `new` say it")]
pub struct Metrics {
    registry: Registry,
    pub active_local_endpoints: IntGauge,
    pub active_local_policies: IntGauge,
    pub active_local_selectors: IntGauge,
    pub cluster_workload_endpoints: IntGauge,
    pub cluster_policies: IntGauge,
    pub cluster_profiles: IntGauge,
    pub cluster_tiers: IntGauge,
    resync_state: IntGauge,
    pub resyncs_started: IntCounter,
    pub apply_seconds: Histogram,
    pub dataplane_failures: IntCounter,
    pub calc_seconds: Histogram,
    conntrack_used: IntGauge,
    conntrack_expired: IntCounter,
    conntrack_cleaned: IntCounter,
    conntrack_sweeps: IntCounter,
    conntrack_sweep_duration: Gauge,
    endpoints: GaugeVec,
    pub ready: IntGauge,
    problems: GaugeVec,
    pub refused: IntGauge,
    failures: CounterVec,
    pub flips: IntCounter,
    pub epoch: IntGauge,
    pub latency_seconds: Histogram,
    pub plan_seconds: Histogram,
    pub updates: IntCounter,
    pub programs: IntGauge,
    pub program_users: IntGauge,
    pub programs_loaded: IntCounter,
    capacity: GaugeVec,
    used: GaugeVec,
    conntrack_entries: GaugeVec,
    dropped: CounterVec,
    events: CounterVec,
    policy_packets: CounterVec,
    policies: std::sync::Mutex<policies::Policies>,
    nat: GaugeVec,
    nat_flows: IntCounter,
    kernel: std::sync::Mutex<LastKernel>,
    process: process::Process,
}

#[derive(Debug, Default)]
struct LastKernel {
    drops: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
}

/// Registers while it makes, so that nothing is made and forgotten.
struct Maker(Registry);

impl Maker {
    fn register<C: Collector + Clone + 'static>(&self, collector: prometheus::Result<C>) -> prometheus::Result<C> {
        let collector = collector?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        // 50 us to 26 s, each twice the last.
        let buckets = prometheus::exponential_buckets(50e-6, 2.0, 20)?;
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        self.register(CounterVec::new(Opts::new(name, help), labels))
    }
}

impl Metrics {
    /// All metrics at zero. At most `max_policies` policies get label sets of their own.
    pub fn new(max_policies: usize) -> prometheus::Result<Self> {
        let m = Maker(Registry::new());
        let info = m.gauges(
            "felid_build_info",
            "Version of the agent; always 1",
            &["version", "abi"],
        )?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), &felid_common::ABI_VERSION.to_string()])
            .set(1);
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
                "Datastore: 0 = waiting for it, 1 = being read, 2 = in sync",
            )?,
            resyncs_started: m.counter(
                "felix_resyncs_started",
                "Number of times the datastore was read from the start",
            )?,
            apply_seconds: m.histogram(
                "felix_int_dataplane_apply_time_seconds",
                "Time of each update of the kernel, the grace period and what follows it included",
            )?,
            dataplane_failures: m.counter(
                "felix_int_dataplane_failures",
                "Number of times an update of the kernel failed and will be retried",
            )?,
            calc_seconds: m.histogram(
                "felix_calc_graph_update_time_seconds",
                "Time to recalculate for each batch of updates",
            )?,
            conntrack_used: m.gauge(
                "felix_bpf_conntrack_used",
                "Number of used entries seen by the last conntrack sweep",
            )?,
            conntrack_expired: m.counter(
                "felix_bpf_conntrack_expired_total",
                "Number of conntrack entries removed because they expired",
            )?,
            conntrack_cleaned: m.counter(
                "felix_bpf_conntrack_cleaned_total",
                "Number of conntrack entries removed by sweeps",
            )?,
            conntrack_sweeps: m.counter("felix_bpf_conntrack_sweeps", "Number of conntrack sweeps so far")?,
            conntrack_sweep_duration: {
                let name = "felix_bpf_conntrack_sweep_duration";
                m.register(Gauge::new(name, "Time of the last conntrack sweep, in nanoseconds"))?
            },
            endpoints: m.gauges(
                "felid_endpoints",
                "Local endpoints by state: enforcing, waiting, closed",
                &["state"],
            )?,
            ready: m.gauge("felid_ready", "1 if /readiness says yes")?,
            problems: m.gauges(
                "felid_record_problems",
                "Records with problems, by severity: error, warning",
                &["severity"],
            )?,
            refused: m.gauge(
                "felid_refused",
                "Things that were refused or keep failing while the last good state is in force",
            )?,
            failures: m.counters("felid_failures_total", "Failures by what failed", &["what"])?,
            flips: m.counter("felid_flips_total", "Number of switches of the policy epoch")?,
            epoch: m.gauge("felid_epoch", "The policy epoch in the kernel")?,
            latency_seconds: m.histogram(
                "felid_record_to_kernel_seconds",
                "Time from the arrival of a change of the records to its enforcement by the kernel",
            )?,
            plan_seconds: m.histogram(
                "felid_plan_seconds",
                "Time to plan and compile each update of the kernel",
            )?,
            updates: m.counter(
                "felid_updates_total",
                "Number of changed records that the agent has followed",
            )?,
            programs: m.gauge("felid_programs", "Distinct policy programs that are loaded")?,
            program_users: m.gauge(
                "felid_program_users",
                "Endpoints times directions that use policy programs; above felid_programs: shared",
            )?,
            programs_loaded: m.counter(
                "felid_programs_loaded_total",
                "Number of policy programs that were loaded so far",
            )?,
            capacity: m.gauges(
                "felid_table_capacity",
                "How many entries fit into each table",
                &["table"],
            )?,
            used: m.gauges("felid_table_entries", "How many entries are in each table", &["table"])?,
            conntrack_entries: m.gauges(
                "felid_conntrack_entries",
                "Flows seen by the last sweep, by table (half_open, established), family and state",
                &["table", "family", "state"],
            )?,
            dropped: m.counters("felid_dropped_packets_total", "Packets dropped, by reason", &["reason"])?,
            events: m.counters("felid_kernel_events_total", "What else the programs count", &["event"])?,
            policy_packets: m.counters(
                "felid_policy_packets_total",
                "Packets judged (first packets of flows, and flows judged again), by deciding policy; staged = what staged policies would do; bounded",
                &["tier", "policy", "action", "staged"],
            )?,
            nat: m.gauges(
                "felid_nat_mappings",
                "1:1 translations that local endpoints ask for, by state: in_force, conflict",
                &["state"],
            )?,
            nat_flows: m.counter(
                "felid_nat_flows_total",
                "Flows that began with a translated address",
            )?,
            policies: std::sync::Mutex::new(policies::Policies::new(max_policies)),
            kernel: std::sync::Mutex::default(),
            process: process::Process::new(&m.0)?,
            registry: m.0,
        };
        // Fixed label values exist from the start, so that rates of the first event are right.
        for drop in felid_common::Drop::ALL {
            metrics.dropped.with_label_values(&[drop.name()]);
        }
        for event in felid_common::Event::ALL {
            metrics.events.with_label_values(&[event.name()]);
        }
        for severity in ["error", "warning"] {
            metrics.problems.with_label_values(&[severity]);
        }
        metrics.set_endpoints(0, 0, 0);
        metrics.set_nat(0, 0, 0);
        Ok(metrics)
    }

    /// State of the datastore.
    pub fn set_resync_state(&self, state: ResyncState) {
        self.resync_state.set(state as i64);
    }

    /// Local endpoints by state.
    pub fn set_endpoints(&self, enforcing: usize, waiting: usize, closed: usize) {
        for (state, count) in [("enforcing", enforcing), ("waiting", waiting), ("closed", closed)] {
            self.endpoints.with_label_values(&[state]).set(count as i64);
        }
    }

    /// Records with problems.
    pub fn set_problems(&self, errors: usize, warnings: usize) {
        self.problems.with_label_values(&["error"]).set(errors as i64);
        self.problems.with_label_values(&["warning"]).set(warnings as i64);
    }

    /// Translations, and how many flows have begun with one since the last time.
    pub fn set_nat(&self, in_force: usize, conflicts: usize, flows: u64) {
        for (state, count) in [("in_force", in_force), ("conflict", conflicts)] {
            self.nat.with_label_values(&[state]).set(count as i64);
        }
        self.nat_flows.inc_by(flows);
    }

    /// Counts a failure of one of a fixed list of things.
    pub fn failed(&self, what: &'static str) {
        self.failures.with_label_values(&[what]).inc();
    }

    /// How full a table is.
    pub fn set_table(&self, table: &'static str, used: usize, capacity: usize) {
        self.used.with_label_values(&[table]).set(used as i64);
        self.capacity.with_label_values(&[table]).set(capacity as i64);
    }

    /// Takes a sample of the kernel's counters.
    pub fn kernel(&self, sample: &KernelSample) {
        let mut last = lock(&self.kernel);
        advance(&self.dropped, &mut last.drops, &sample.drops);
        advance(&self.events, &mut last.events, &sample.events);
        drop(last);
        lock(&self.policies).sample(&self.policy_packets, &sample.policies);
    }

    /// Takes the result of a sweep of the conntrack tables.
    pub fn swept(&self, sample: &SweepSample) {
        self.conntrack_entries.reset();
        for ((table, family, state), count) in &sample.entries {
            self.conntrack_entries
                .with_label_values(&[*table, *family, *state])
                .set(*count as i64);
        }
        self.conntrack_used.set(sample.entries.values().sum::<u64>() as i64);
        self.conntrack_expired.inc_by(sample.removed);
        self.conntrack_cleaned.inc_by(sample.removed);
        self.conntrack_sweeps.inc();
        self.conntrack_sweep_duration.set(sample.duration.as_nanos() as f64);
    }

    /// What `/metrics` answers.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.process.update();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Adds what a kernel counter gained; one that went back began anew.
fn advance(counters: &CounterVec, last: &mut BTreeMap<&'static str, u64>, now: &BTreeMap<&'static str, u64>) {
    for (label, total) in now {
        let before = last.insert(label, *total).unwrap_or(0);
        add(&counters.with_label_values(&[*label]), before, *total);
    }
}

fn add(counter: &GenericCounter<prometheus::core::AtomicU64>, before: u64, now: u64) {
    counter.inc_by(if now >= before { now - before } else { now });
}

/// A poisoned lock only means that some thread died between two assignments of counters: go on.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
