//! Ends expired flows on an interval, and counts the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use felid_dataplane::kernel::{FlowCounts, FlowUsage};
use felid_dataplane::{FlowSource, KernelError};

use crate::api::FailureKind;
use crate::metrics::{Metrics, SweepSample};

use super::health::Health;
use super::policy_log::Tables;
use super::server::{Stop, stopped};

/// A sweep may take at most this share of the time, so that full tables do not cost a processor.
const SHARE: u32 = 20;

/// How soon after a sweep the next one follows where endpoints are refused new flows, or have more
/// than half of what they may have: what has ended makes room.
const HURRY: Duration = Duration::from_secs(1);
/// Endpoints that are named.
const NAMED: usize = 10;

/// What the sweeper tells of.
pub(super) struct Watch {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    /// Names of endpoints.
    pub(super) names: Arc<Mutex<Tables>>,
}

/// What stands in the way of new flows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Obstacles {
    /// Which tables of established flows are full (IPv4, IPv6).
    full: [bool; 2],
    /// Ids of the endpoints that were refused new flows since the sweep before; 0 = the host.
    limited: BTreeSet<u32>,
}

/// Sweeps until the agent stops; never for a zero interval.
pub(super) async fn run(flows: Arc<dyn FlowSource>, watch: Watch, interval: Duration, stop: Stop) {
    if interval.is_zero() {
        return;
    }
    let mut pause = interval;
    let mut failing = false;
    let mut told = Obstacles::default();
    // What an earlier run's endpoints were refused is no news.
    let mut refused = flows.usage().map(|usage| refusals(&usage)).unwrap_or_default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(stop.clone()) => return,
        }
        let source = Arc::clone(&flows);
        let began = Instant::now();
        let swept = tokio::task::spawn_blocking(move || sweep(&*source)).await;
        pause = interval.max(began.elapsed() * SHARE);
        match swept {
            Ok(Ok(mut result)) => {
                let now = Obstacles {
                    full: result.full,
                    limited: limited(&refused, &result.usage),
                };
                refused = refusals(&result.usage);
                result.sample.limited = now.limited.len() as u64;
                if result.crowded || !now.limited.is_empty() {
                    pause = pause.min(HURRY).max(began.elapsed() * SHARE);
                }
                if now != told {
                    watch.health.set_full_tables(tell(&now, &told, &watch.names));
                    told = now;
                }
                if failing {
                    tracing::info!("conntrack is swept again");
                }
                failing = false;
                watch.metrics.conntrack.swept(&result.sample);
            }
            Ok(Err(reason)) => {
                watch.metrics.condition.failed(FailureKind::Sweep);
                if !failing {
                    tracing::error!("cannot sweep conntrack: {reason}");
                }
                failing = true;
            }
            Err(error) => {
                tracing::error!("the sweep of conntrack died: {error}");
                failing = true;
            }
        }
    }
}

/// How many new flows each endpoint was refused, by its id.
fn refusals(usage: &[FlowUsage]) -> BTreeMap<u32, u64> {
    usage.iter().map(|usage| (usage.id, usage.refused)).collect()
}

/// Who was refused more flows than before.
fn limited(before: &BTreeMap<u32, u64>, usage: &[FlowUsage]) -> BTreeSet<u32> {
    let more = |usage: &&FlowUsage| usage.refused > before.get(&usage.id).copied().unwrap_or(0);
    usage.iter().filter(more).map(|usage| usage.id).collect()
}

/// Logs what stands in the way of new flows, as far as that is news, and returns it as sentences.
fn tell(now: &Obstacles, before: &Obstacles, names: &Mutex<Tables>) -> Vec<String> {
    let mut sentences = Vec::new();
    for (version, setting, full) in [
        ("IPv4", "bpfMapSizeConntrack", now.full[0]),
        ("IPv6", "conntrackEstablishedSizeV6", now.full[1]),
    ] {
        if full {
            sentences.push(format!(
                "the table of established {version} flows is full: raise {setting}, or see `felid flows` for whose they are"
            ));
        }
    }
    if !now.limited.is_empty() {
        let names = names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = |id: &u32| {
            if *id == 0 {
                "the host".to_owned()
            } else {
                names.endpoint(*id)
            }
        };
        let mut list: Vec<String> = now.limited.iter().take(NAMED).map(name).collect();
        if now.limited.len() > NAMED {
            list.push(format!("{} more", now.limited.len() - NAMED));
        }
        sentences.push(format!(
            "new flows are refused, since the share of the conntrack tables is used up (flow_limit): {}; see \
             `felid endpoints -o wide`, maxFlowsPerEndpoint and bpfMapSizeConntrack",
            list.join(", ")
        ));
    }
    // Who comes and goes among those that are refused is in the status alone.
    if now.full != before.full || now.limited.is_empty() != before.limited.is_empty() {
        for sentence in &sentences {
            tracing::warn!("{sentence}");
        }
        if sentences.is_empty() {
            tracing::info!("the conntrack tables have room for everybody again");
        }
    }
    sentences
}

/// What a sweep found.
struct Swept {
    sample: SweepSample,
    /// Which tables of established flows are full.
    full: [bool; 2],
    /// Whether an endpoint comes near what it may have.
    crowded: bool,
    usage: Vec<FlowUsage>,
}

/// Sweeps once.
fn sweep(flows: &dyn FlowSource) -> Result<Swept, KernelError> {
    let began = Instant::now();
    let stats = flows.sweep()?;
    let duration = began.elapsed();
    let counts: FlowCounts = flows.counts()?;
    let entries = counts.into_iter().map(|((table, version, state), count)| {
        let family = if version == 4 { "v4" } else { "v6" };
        ((table.name(), family, state.name()), count)
    });
    let sample = SweepSample {
        entries: entries.collect(),
        removed: stats.expired,
        duration,
        limited: 0,
        corrected: stats.corrected,
    };
    Ok(Swept {
        sample,
        full: stats.full,
        crowded: stats.crowded,
        usage: flows.usage()?,
    })
}
