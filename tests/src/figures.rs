//! What the bench of the datapath measures with: times, and samples.

use std::time::Instant;

use serde_json::{Value, json};

/// Time that passed, and what of it this thread ran: the rest is the machine's other work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// In all.
    pub wall_ms: f64,
    /// On the CPU.
    pub cpu_ms: f64,
}

impl std::ops::AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.wall_ms += other.wall_ms;
        self.cpu_ms += other.cpu_ms;
    }
}

/// A running clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Instant,
    cpu: f64,
}

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: Self::cpu_ms(),
        }
    }

    /// Since the start.
    pub fn passed(&self) -> Passed {
        Passed {
            wall_ms: self.wall.elapsed().as_secs_f64() * 1e3,
            cpu_ms: Self::cpu_ms() - self.cpu,
        }
    }

    fn cpu_ms() -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
        nanoseconds.unwrap_or_default() / 1e6
    }
}

/// Median and spread of samples.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Median.
    pub median: u32,
    /// Least.
    pub min: u32,
    /// Most.
    pub max: u32,
}

impl Figure {
    /// Of these samples.
    pub fn of(mut samples: Vec<u32>) -> Self {
        samples.sort_unstable();
        let at = |n: usize| samples.get(n).copied().unwrap_or_default();
        Self {
            median: at(samples.len() / 2),
            min: at(0),
            max: at(samples.len().saturating_sub(1)),
        }
    }

    /// Prints a line, with the ratio to a base.
    pub fn print(&self, name: &str, base: Option<u32>) {
        let ratio = base.filter(|base| *base > 0).map_or_else(String::new, |base| {
            format!("{:.2}", f64::from(self.median) / f64::from(base))
        });
        println!(
            "  {name:<22} median {:>6}   min {:>6}   max {:>6}   {ratio}",
            self.median, self.min, self.max
        );
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({"median_ns": self.median, "min_ns": self.min, "max_ns": self.max})
    }
}
