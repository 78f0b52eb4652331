//! Everything that is counted, and the only module that knows the `prometheus` crate.
//!
//! In: observations by the running agent, samples of the kernel's counters. Out: the text of
//! `/metrics`. Names that begin with `felix_` mean what Felix means by them; felid's own begin with
//! `felid_`. Label sets are bounded: reasons, events, states and tables are fixed lists, policies
//! are limited (`policies.rs`). docs/metrics.md lists them all; a test compares.

mod condition;
mod conntrack;
mod packets;
mod policies;
mod process;
mod programming;
mod records;

use prometheus::core::{Collector, GenericCounter, GenericCounterVec, GenericGaugeVec};
use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

pub use condition::ConditionMetrics;
pub use conntrack::{ConntrackMetrics, SweepSample};
pub use packets::{KernelSample, PacketMetrics};
pub use policies::PolicySample;
pub use programming::ProgrammingMetrics;
pub use records::RecordMetrics;

type CounterVec = GenericCounterVec<prometheus::core::AtomicU64>;
type GaugeVec = GenericGaugeVec<prometheus::core::AtomicI64>;

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Records.
    pub records: RecordMetrics,
    /// Programming the kernel.
    pub programming: ProgrammingMetrics,
    /// How things stand.
    pub condition: ConditionMetrics,
    /// The connection tables.
    pub conntrack: ConntrackMetrics,
    /// What the kernel counted.
    pub packets: PacketMetrics,
    process: process::Process,
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
    /// Returns all metrics at zero. At most `max_policies` policies get label sets of their own.
    pub fn new(max_policies: usize) -> prometheus::Result<Self> {
        let m = Maker(Registry::new());
        let info = m.gauges(
            "felid_build_info",
            "Version of the agent; always 1",
            &["version", "abi"],
        )?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), &felid_common::ABI_VERSION.to_string()])
            .set(1);
        Ok(Self {
            records: RecordMetrics::new(&m)?,
            programming: ProgrammingMetrics::new(&m)?,
            condition: ConditionMetrics::new(&m)?,
            conntrack: ConntrackMetrics::new(&m)?,
            packets: PacketMetrics::new(&m, max_policies)?,
            process: process::Process::new(&m.0)?,
            registry: m.0,
        })
    }

    /// Returns what `/metrics` answers.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.process.update();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn add(counter: &GenericCounter<prometheus::core::AtomicU64>, before: u64, now: u64) {
    counter.inc_by(if now >= before { now - before } else { now });
}

/// A poisoned lock only means that some thread died between two assignments of counters: go on.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
