//! A running agent on a host of the laboratory.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::Host;
use anyhow::{Context, Result, bail};

/// A running agent with its records in a directory.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    records: PathBuf,
    started: Duration,
    log: PathBuf,
}

impl Agent {
    /// Writes the records to one file, starts the agent and waits until it is ready.
    pub fn start(felid: &Path, host: &Host, records: &str) -> Result<Self> {
        let directory = host.directory().join("records");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("bench.yaml"), records)?;
        Self::start_on(felid, host, &directory)
    }

    /// As [`Agent::start`], on records that are there.
    pub fn start_on(felid: &Path, host: &Host, records: &Path) -> Result<Self> {
        Self::start_with(felid, host, records, &[])
    }

    /// As [`Agent::start_on`], with further arguments of `felid run`.
    pub fn start_with(felid: &Path, host: &Host, records: &Path, options: &[String]) -> Result<Self> {
        let datastore = format!("dir:{}", records.display());
        Self::start_on_datastore(felid, host, (&datastore, records), options)
    }

    /// As [`Agent::start_with`], on any datastore; the directory is where the records are that
    /// others feed it with.
    pub fn start_on_datastore(
        felid: &Path,
        host: &Host,
        (datastore, records): (&str, &Path),
        options: &[String],
    ) -> Result<Self> {
        let log = host.directory().join("agent.log");
        let errors = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let directory = host.directory();
        let start = Instant::now();
        let child = host.namespace().start(&felid.to_string_lossy(), |command| {
            command
                .args(["run", "--node", "node1", "--datastore"])
                .arg(datastore)
                .arg("--state-dir")
                .arg(directory.join("state"))
                .arg("--run-dir")
                .arg(directory.join("run"))
                .arg("--bpffs")
                .arg(host.bpffs())
                .args(options)
                .stdout(Stdio::null())
                .stderr(errors);
        })?;
        let mut agent = Self {
            child,
            records: records.into(),
            started: Duration::ZERO,
            log,
        };
        agent.wait(host, port_of(options, "--health-listen", 9099))?;
        agent.started = start.elapsed();
        Ok(agent)
    }

    fn wait(&mut self, host: &Host, port: u16) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut last = String::from("no answer");
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status}):\n{}", self.log_text());
            }
            match host.namespace().run(|| readiness(port))? {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 204") => return Ok(()),
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the agent is not ready after a minute: {last}\n{}", self.log_text())
    }

    /// Where its records are.
    pub fn records(&self) -> &Path {
        &self.records
    }

    /// From the start of the process until it was ready.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// Resident memory in MiB.
    pub fn rss_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// What it logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as an administrator would.
    pub fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop the agent")?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets it run on after this process ends.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port that an option of `felid run` names, such as `--health-listen`; else the default.
pub fn port_of(options: &[String], flag: &str, default: u16) -> u16 {
    let listen = options.iter().skip_while(|option| *option != flag).nth(1);
    let port = listen.and_then(|listen| listen.rsplit_once(':')?.1.parse().ok());
    port.unwrap_or(default)
}

fn readiness(port: u16) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
