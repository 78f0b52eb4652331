//! A node with the real agent on it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use felid_lab::records::OPEN_PROFILE;
use felid_lab::{Agent, Host, Namespace, port_of};

use crate::feeder::Feeder;

/// Patience for things that happen in milliseconds: a slow machine fails no test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent gives a scrape of its metrics to everybody who asks within so many times what it took
/// to build, but for no longer than a second (`agent/src/run/server/scrape.rs`).
const SCRAPE_SHARE: u32 = 20;
const SCRAPE_OLDEST: Duration = Duration::from_secs(1);

/// Set to `stream`, it gives the agents of all tests their records by a stream on a socket instead
/// of the directory itself.
const DATASTORE: &str = "FELID_LIVE_DATASTORE";

/// A host, its directory of records, and the agent.
#[derive(Debug)]
pub struct Cluster {
    agent: Option<Agent>,
    /// Who produces the stream, if the records come by one.
    feeder: Option<Feeder>,
    records: PathBuf,
    /// Further arguments of `felid run`.
    pub options: Vec<String>,
    /// What is run in place of the agent's binary, with the same arguments.
    pub program: Option<PathBuf>,
    /// From when on the agent gives no scrape that it gave before.
    fresh_from: Mutex<Option<Instant>>,
    /// The node.
    pub host: Host,
}

impl Cluster {
    /// A host with records that hold the profile `open`; the agent is not running yet.
    pub fn new(prefix: &str) -> Result<Self> {
        let host = Host::new(prefix)?;
        let records = host.directory().join("records");
        std::fs::create_dir(&records)?;
        let cluster = Self {
            agent: None,
            feeder: None,
            records,
            options: Vec::new(),
            program: None,
            fresh_from: Mutex::new(None),
            host,
        };
        cluster.write("profile.yaml", OPEN_PROFILE)?;
        Ok(cluster)
    }

    /// As [`Cluster::new`], with an uplink that leads to a namespace outside: the host's `uplink`
    /// (with this MTU) has the addresses `192.0.2.1/24` and `2001:db8:2::1/64`, and `eth0` outside
    /// has `192.0.2.7` and `2001:db8:2::7` and sends everything to the host. The host has no
    /// default route.
    pub fn with_uplink(prefix: &str, mtu: Option<u32>) -> Result<(Self, Namespace)> {
        let cluster = Self::new(prefix)?;
        let outside = Namespace::new(&format!("{prefix}-out"))?;
        let host = cluster.host.namespace();
        let mtu = mtu.map(|mtu| format!("mtu {mtu} ")).unwrap_or_default();
        let name = outside.name();
        host.ip(&format!("link add uplink {mtu}type veth peer name eth0 netns {name}"))?;
        for (namespace, interface, last) in [(host, "uplink", 1), (&outside, "eth0", 7)] {
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.ip(&format!("addr add 192.0.2.{last}/24 dev {interface}"))?;
            namespace.ip(&format!("addr add 2001:db8:2::{last}/64 dev {interface} nodad"))?;
        }
        outside.ip("route add default via 192.0.2.1")?;
        outside.ip("-6 route add default via 2001:db8:2::1")?;
        Ok((cluster, outside))
    }

    /// Writes a file of records as careful programs do: a temporary file, renamed.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let temporary = self.records.join(format!(".{file}.tmp"));
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, self.records.join(file)).with_context(|| format!("write {file}"))
    }

    /// Removes a file of records.
    pub fn remove(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.records.join(file)).with_context(|| format!("remove {file}"))
    }

    /// The directory of records.
    pub fn records(&self) -> &Path {
        &self.records
    }

    /// Whether the agent reads the directory of records itself, and not a stream made of it.
    pub fn reads_files(&self) -> bool {
        self.feeder.is_none()
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.feeder = None;
        let datastore = match std::env::var(DATASTORE).as_deref() {
            Ok("stream") => {
                let socket = self.host.directory().join("records.sock");
                self.feeder = Some(Feeder::start(&self.records, socket.clone()));
                format!("stream:{}", socket.display())
            }
            _ => format!("dir:{}", self.records.display()),
        };
        let records = (datastore.as_str(), self.records.as_path());
        let program = match &self.program {
            Some(program) => program,
            None => felid()?,
        };
        self.agent = Some(Agent::start_on_datastore(program, &self.host, records, &self.options)?);
        Ok(())
    }

    /// Ends the agent as an administrator would.
    pub fn stop(&mut self) -> Result<()> {
        self.agent.take().context("no agent runs")?.stop()
    }

    /// Kills it on the spot.
    pub fn kill(&mut self) {
        drop(self.agent.take());
    }

    /// The running agent.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent runs")
    }

    /// Runs `felid` against this agent.
    pub fn felid(&self, args: &[&str]) -> Result<Output> {
        let (felid, directory) = (felid()?, self.host.directory());
        self.host
            .namespace()
            .run(|| {
                Command::new(felid)
                    .args(args)
                    .arg("--run-dir")
                    .arg(directory.join("run"))
                    .arg("--bpffs")
                    .arg(self.host.bpffs())
                    .arg("--state-dir")
                    .arg(directory.join("state"))
                    .arg("--datastore")
                    .arg(format!("dir:{}", self.records.display()))
                    .output()
            })?
            .context("run felid")
    }

    /// As [`Cluster::felid`]; standard output of a command that must succeed, as JSON.
    pub fn felid_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.felid(args)?;
        ensure!(
            output.status.success(),
            "felid {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).with_context(|| format!("felid {args:?}: no JSON"))
    }

    /// Every sample of the agent's metrics as they are now: name with labels -> value.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.scrape()?;
        Ok(text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// A scrape that is built after this call began.
    fn scrape(&self) -> Result<String> {
        // Nobody else asks this agent, so an earlier scrape can only be one of ours.
        let mut fresh_from = self.fresh_from.lock().map_err(|_| anyhow!("a scrape has panicked"))?;
        if let Some(from) = *fresh_from {
            std::thread::sleep(from.saturating_duration_since(Instant::now()));
        }
        let began = Instant::now();
        let port = port_of(&self.options, "--metrics-listen", 9091);
        let text = self.host.namespace().run(|| get(port, "/metrics"))??;
        // It took no longer to build than to be asked for.
        let valid = (began.elapsed() * SCRAPE_SHARE).min(SCRAPE_OLDEST);
        *fresh_from = Some(Instant::now() + valid);
        Ok(text)
    }

    /// Packets dropped for a reason so far.
    pub fn dropped(&self, reason: &str) -> Result<f64> {
        let metrics = self.metrics()?;
        let label = format!("reason=\"{reason}\"");
        let sum = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("felid_dropped_packets") && name.contains(&label));
        Ok(sum.map(|(_, value)| value).sum())
    }

    /// Asks until `condition` holds; fails with `what` and the agent's log if it never does.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            if condition()? {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "never: {what}\n{}",
                    self.agent.as_ref().map(Agent::log_text).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The agent's binary: `FELID_BIN`, else built now.
pub fn felid() -> Result<&'static Path> {
    static FELID: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = FELID.get() {
        return Ok(path);
    }
    let path = match std::env::var_os("FELID_BIN") {
        Some(path) => PathBuf::from(path),
        None => build()?,
    };
    Ok(FELID.get_or_init(|| path))
}

fn build() -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "felid", "--message-format", "json"])
        .output()
        .context("cargo build")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").is_some_and(|name| name == "felid"))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .context("cargo built no binary felid")
}

/// HTTP GET from the calling thread's namespace; the body.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(
        head.lines().next().is_some_and(|line| line.contains(" 200 ")),
        "{path}: {head}"
    );
    Ok(body.to_owned())
}
