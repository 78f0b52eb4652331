//! The process itself, under the names that Prometheus clients agree on.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Counter, Gauge, IntGauge, Registry};

/// Memory, processor time and files of this process.
#[derive(Debug)]
pub(super) struct Process {
    resident: IntGauge,
    cpu: Counter,
    files: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let resident = IntGauge::new("process_resident_memory_bytes", "Resident memory size in bytes")?;
        let cpu = Counter::new("process_cpu_seconds_total", "User and system processor time in seconds")?;
        let files = IntGauge::new("process_open_fds", "Number of open file descriptors")?;
        let start = Gauge::new(
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970",
        )?;
        start.set(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        );
        registry.register(Box::new(resident.clone()))?;
        registry.register(Box::new(cpu.clone()))?;
        registry.register(Box::new(files.clone()))?;
        registry.register(Box::new(start))?;
        Ok(Self { resident, cpu, files })
    }

    /// Reads /proc; what cannot be read keeps its last value.
    pub(super) fn update(&self) {
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<i64>().ok());
        let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        if let (Some(pages), Some(size)) = (pages, page_size) {
            self.resident.set(pages.saturating_mul(size));
        }
        if let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
            let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
            let total = seconds(usage.user_time()) + seconds(usage.system_time());
            self.cpu.inc_by((total - self.cpu.get()).max(0.0));
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(entries.count() as i64);
        }
    }
}
