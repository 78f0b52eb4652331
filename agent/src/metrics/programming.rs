//! Programming the kernel: how often, and how long it takes.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Maker;

/// Programming the kernel: how often, and how long it takes.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help texts in `new` say it")]
pub struct ProgrammingMetrics {
    pub apply_seconds: Histogram,
    pub dataplane_failures: IntCounter,
    pub calc_seconds: Histogram,
    pub plan_seconds: Histogram,
    pub latency_seconds: Histogram,
    pub enforced_seconds: Histogram,
    pub revision_seen: IntGauge,
    pub revision_enforced: IntGauge,
    pub flips: IntCounter,
    pub epoch: IntGauge,
    pub programs: IntGauge,
    pub program_users: IntGauge,
    pub programs_loaded: IntCounter,
}

impl ProgrammingMetrics {
    pub(super) fn new(m: &Maker) -> prometheus::Result<Self> {
        Ok(Self {
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
            plan_seconds: m.histogram(
                "felid_plan_seconds",
                "Time to plan and compile each update of the kernel",
            )?,
            latency_seconds: m.histogram(
                "felid_record_to_kernel_seconds",
                "Time from the arrival of a change of the records to its enforcement by the kernel",
            )?,
            enforced_seconds: m.histogram(
                "felid_record_enforced_seconds",
                "Time from the arrival of each change of a record to its complete enforcement, the revocation of flows included",
            )?,
            revision_seen: m.gauge(
                "felid_revision_seen",
                "Changes of records that were taken in since the start",
            )?,
            revision_enforced: m.gauge(
                "felid_revision_enforced",
                "Changes of records up to which all are enforced, the revocation of flows included",
            )?,
            flips: m.counter("felid_flips_total", "Number of switches of the policy epoch")?,
            epoch: m.gauge("felid_epoch", "The policy epoch in the kernel")?,
            programs: m.gauge("felid_programs", "Distinct policy programs that are loaded")?,
            program_users: m.gauge(
                "felid_program_users",
                "Endpoints times directions that use policy programs; above felid_programs: shared",
            )?,
            programs_loaded: m.counter(
                "felid_programs_loaded_total",
                "Number of policy programs that were loaded so far",
            )?,
        })
    }
}
