//! `cargo xtask bench`: what a packet, a connection and a change cost. No test asserts any of it.

mod control;
mod live;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::command::{build_agent, cargo, need_root, run};
use crate::setup;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Nanoseconds a packet by BPF_PROG_TEST_RUN: the empty program, a floor, established flows,
    /// new flows at 1 to 10,000 rules.
    Datapath {
        /// Write the figures here as JSON.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
    },
    /// Request/response, connections and throughput between two workloads: unpoliced, felid,
    /// iptables, nftables, and by an external address.
    Live {
        /// Write the figures here as JSON.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
        /// Rounds; medians are over them.
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// From a record's write to the kernel enforcing it, start-up, memory; 250 endpoints and 10,000
    /// remote addresses.
    Control {
        /// Write the figures here as JSON.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
        /// Writes in each of the two runs.
        #[arg(long, default_value_t = 200)]
        writes: usize,
    },
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        need_root("cargo xtask bench")?;
        setup::build_tools()?;
        setup::host_tools()?;
        match self {
            Bench::Datapath { json } => {
                let mut command = cargo();
                command.args([
                    "run",
                    "--release",
                    "--package",
                    "felid-tests",
                    "--bin",
                    "bench-datapath",
                    "--",
                ]);
                if let Some(path) = json {
                    // The program runs in the root of the checkout; the path is the caller's.
                    command.arg("--json").arg(std::path::absolute(path)?);
                }
                run(&mut command)
            }
            Bench::Live { json, rounds, seconds } => {
                let felid = build_agent()?;
                write(
                    json.as_deref(),
                    &live::run(&felid, rounds, Duration::from_secs_f64(seconds))?,
                )
            }
            Bench::Control { json, writes } => {
                let felid = build_agent()?;
                write(json.as_deref(), &control::run(&felid, writes)?)
            }
        }
    }
}

fn write(path: Option<&Path>, figures: &serde_json::Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("write {}", path.display()))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Median; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    percentile(&sorted(values), 50.0)
}

/// Percentile of sorted values (nearest rank).
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Distance of minimum and maximum in percent of the median.
fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let values = sorted(values);
    match (values.first(), values.last()) {
        (Some(first), Some(last)) => (last - first) / percentile(&values, 50.0) * 100.0,
        _ => 0.0,
    }
}
