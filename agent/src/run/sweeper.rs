//! Ends expired flows on an interval, and counts the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_dataplane::kernel::FlowCounts;

use crate::metrics::{Metrics, SweepSample};

use super::dataplane::FlowSource;
use super::server::{Stop, stopped};

/// A sweep may take at most this share of the time, so that full tables do not cost a processor.
const SHARE: u32 = 20;

/// Sweeps until the agent stops; never for a zero interval.
pub(super) async fn run(flows: Arc<dyn FlowSource>, metrics: Arc<Metrics>, interval: Duration, stop: Stop) {
    if interval.is_zero() {
        return;
    }
    let mut pause = interval;
    let mut failing = false;
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
            Ok(Ok(sample)) => {
                if failing {
                    tracing::info!("conntrack is swept again");
                }
                failing = false;
                metrics.swept(&sample);
            }
            Ok(Err(reason)) => {
                metrics.failed("sweep");
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

fn sweep(flows: &dyn FlowSource) -> Result<SweepSample, String> {
    let began = Instant::now();
    let stats = flows.sweep()?;
    let duration = began.elapsed();
    let counts: FlowCounts = flows.counts()?;
    let entries = counts.into_iter().map(|((table, version, state), count)| {
        let family = if version == 4 { "v4" } else { "v6" };
        ((table.name(), family, state.name()), count)
    });
    Ok(SweepSample {
        entries: entries.collect(),
        removed: stats.expired,
        duration,
    })
}
