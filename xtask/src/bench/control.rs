//! `cargo xtask bench control`: how soon the kernel enforces what was written.
//!
//! A policy of one workload allows UDP ports up to 20,000 + n; write n raises n. A sender asks for
//! the newest port all the time, each packet a new flow; the first packet that arrives with port
//! 20,000 + n or more says that write n is in force.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use felid_lab::records::{self, Endpoint};
use felid_lab::{Agent, Host, Namespace, PacketSocket, Workload, netns};
use serde_json::{Value, json};

use super::{percentile, sorted};

const ENDPOINTS: usize = 250;
const REMOTE: usize = 10_000;
/// Applications that the endpoints belong to; one policy each.
const APPS: usize = 100;
const BASE: u16 = 20_000;
/// Time between two probes.
const PACE: Duration = Duration::from_micros(200);

pub(super) fn run(felid: &Path, writes: usize) -> Result<Value> {
    let writes = writes.clamp(1, 10_000);
    println!(
        "control: {ENDPOINTS} endpoints on the node, {REMOTE} remote addresses, {APPS} policies; {writes} writes in each run"
    );
    println!(
        "a write is a temporary file renamed over the policy's; its latency ends with the first packet that it allows arriving"
    );
    let host = Host::new("felid-bench-control")?;
    let sender = host.workload("cali000000", &["10.65.0.2"])?;
    let receiver = host.workload("cali000001", &["10.65.0.3"])?;
    let others = Namespace::new("felid-bench-pods")?;
    make_interfaces(&host, &others)?;

    let records = host.directory().join("records");
    write_records(&records, &sender, &receiver)?;
    let agent = Agent::start_on(felid, &host, &records)?;
    let startup = agent.started();

    let probe = ProbeTraffic::start(&sender, &receiver)?;
    let spaced = probe.run(&agent, writes, Duration::from_millis(100))?;
    let busy = probe.run(&agent, writes, Duration::from_millis(10))?;
    let rss = agent.rss_mib()?;
    probe.stop();

    let (spaced, busy) = (sorted(spaced.into_iter()), sorted(busy.into_iter()));
    println!(
        "\n  {:<28} {:>8} {:>8} {:>8}",
        "write to enforcement, ms", "p50", "p99", "max"
    );
    for (name, latencies) in [("writes 100 ms apart", &spaced), ("100 writes a second", &busy)] {
        println!(
            "  {name:<28} {:>8.2} {:>8.2} {:>8.2}",
            percentile(latencies, 50.0),
            percentile(latencies, 99.0),
            percentile(latencies, 100.0)
        );
    }
    println!("  {:<28} {:>8.0} ms", "start-up to ready", startup.as_secs_f64() * 1e3);
    println!("  {:<28} {rss:>8.1} MiB", "resident memory");

    // A restart finds everything in the kernel already.
    agent.stop()?;
    let agent = Agent::start_on(felid, &host, &records)?;
    println!(
        "  {:<28} {:>8.0} ms",
        "restart to ready",
        agent.started().as_secs_f64() * 1e3
    );
    agent.stop()?;
    Ok(json!({
        "p50_ms": percentile(&spaced, 50.0),
        "p99_ms": percentile(&spaced, 99.0),
        "busy_p50_ms": percentile(&busy, 50.0),
        "busy_p99_ms": percentile(&busy, 99.0),
        "startup_ms": startup.as_secs_f64() * 1e3,
        "rss_mib": rss,
    }))
}

/// The other endpoints' interfaces, their other ends in one namespace.
fn make_interfaces(host: &Host, others: &Namespace) -> Result<()> {
    let mut batch = String::new();
    for n in 2..ENDPOINTS {
        writeln!(
            batch,
            "link add cali{n:06} type veth peer name p{n} netns {}",
            others.name()
        )?;
        writeln!(batch, "link set cali{n:06} up")?;
    }
    let file = host.directory().join("links");
    std::fs::write(&file, batch)?;
    host.namespace()
        .exec(&["ip", "-batch", &file.to_string_lossy()])
        .map(drop)
}

fn write_records(directory: &Path, sender: &Workload, receiver: &Workload) -> Result<()> {
    std::fs::create_dir_all(directory.join("remote"))?;
    let mut local = String::from(records::OPEN_PROFILE);
    for (pod, workload) in [("sender", sender), ("receiver", receiver)] {
        local += &Endpoint {
            labels: &format!("app: {pod}"),
            ..Endpoint::of(pod, workload)
        }
        .yaml();
    }
    for n in 2..ENDPOINTS {
        local += &endpoint(
            "node1",
            &format!("local{n}"),
            n,
            format!("10.65.{}.{}", 1 + n / 200, n % 200),
        );
    }
    std::fs::write(directory.join("endpoints.yaml"), local)?;
    for file in 0..REMOTE / 100 {
        let remote: String = (file * 100..(file + 1) * 100)
            .map(|n| {
                endpoint(
                    "node2",
                    &format!("remote{n}"),
                    n,
                    format!("10.{}.{}.{}", 100 + n / 50_000, n / 200 % 250, n % 200),
                )
            })
            .collect();
        std::fs::write(directory.join(format!("remote/{file}.yaml")), remote)?;
    }
    let policies: String = (0..APPS)
        .map(|app| {
            let spec = format!(
                "  selector: app == 'app{app}'\n  types: [Ingress]\n  ingress:\n    - action: Allow\n      protocol: TCP\n      \
                 source: {{selector: app == 'app{}'}}\n      destination: {{ports: [{}]}}",
                (app + 1) % APPS,
                8000 + app
            );
            records::policy("default", &format!("app{app}"), &spec)
        })
        .collect();
    std::fs::write(directory.join("policies.yaml"), policies)?;
    write_probe(directory, 0)
}

fn endpoint(node: &str, pod: &str, n: usize, address: String) -> String {
    let interface = format!("cali{n:06}");
    let labels = format!("app: app{}", n % APPS);
    Endpoint {
        node,
        pod,
        interface: &interface,
        addresses: vec![address],
        labels: &labels,
        ..Endpoint::default()
    }
    .yaml()
}

/// Writes version n of the probed policy, as careful programs write files.
fn write_probe(directory: &Path, n: u16) -> Result<()> {
    let spec = format!(
        "  selector: app == 'receiver'\n  types: [Ingress]\n  ingress:\n    - action: Allow\n      protocol: UDP\n      \
         source: {{selector: app == 'sender'}}\n      destination: {{ports: ['{BASE}:{}']}}",
        BASE + n
    );
    let text = records::policy("default", "probe", &spec);
    let temporary = directory.join(".probe.yaml.tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, directory.join("probe.yaml"))?;
    Ok(())
}

/// The sender and the receiver.
struct ProbeTraffic {
    newest: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    arrivals: std::sync::mpsc::Receiver<(Instant, u16)>,
}

impl ProbeTraffic {
    fn start(sender: &Workload, receiver: &Workload) -> Result<Self> {
        let newest = Arc::new(AtomicU16::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (arrived, arrivals) = std::sync::mpsc::channel();
        let incoming = receiver.namespace.packets("eth0")?;
        let stopped = stop.clone();
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let port = |frame: &[u8]| Some(u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?]));
                let probe = |frame: &[u8]| frame.get(23) == Some(&17) && port(frame).is_some_and(|port| port >= BASE);
                if let Ok(Some(frame)) = incoming.receive(Duration::from_millis(100), probe)
                    && let Some(port) = port(&frame)
                    && arrived.send((Instant::now(), port)).is_err()
                {
                    break;
                }
            }
        });
        let outgoing = sender.namespace.packets("eth0")?;
        let (source, version, stopped) = (sender.mac, newest.clone(), stop.clone());
        std::thread::spawn(move || send(&outgoing, source, &version, &stopped));
        Ok(Self { newest, stop, arrivals })
    }

    /// Writes `count` versions, `apart`; milliseconds that each took.
    fn run(&self, agent: &Agent, count: usize, apart: Duration) -> Result<Vec<f64>> {
        let first = self.newest.load(Ordering::Relaxed);
        while self.arrivals.try_recv().is_ok() {}
        let mut written = Vec::with_capacity(count);
        let mut next = Instant::now();
        for n in 1..=u16::try_from(count)? {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += apart;
            let at = Instant::now();
            write_probe(agent.records(), first + n)?;
            self.newest.store(first + n, Ordering::Relaxed);
            written.push((first + n, at));
        }
        let mut latencies = Vec::with_capacity(count);
        let mut waiting = written.into_iter().peekable();
        let end = Instant::now() + Duration::from_secs(10);
        while waiting.peek().is_some() {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "a write was not in force after ten seconds:\n{}",
                agent.log_text()
            );
            let Ok((at, port)) = self.arrivals.recv_timeout(left) else {
                continue;
            };
            while let Some((_, wrote)) = waiting.next_if(|(n, wrote)| BASE + n <= port && *wrote <= at) {
                latencies.push((at - wrote).as_secs_f64() * 1e3);
            }
        }
        Ok(latencies)
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends a UDP packet to the newest port all the time, each from another source port.
fn send(socket: &PacketSocket, mac: [u8; 6], newest: &AtomicU16, stop: &AtomicBool) {
    let mut frame = Vec::with_capacity(42);
    frame.extend(netns::HOST_MAC);
    frame.extend(mac);
    frame.extend([
        0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 65, 0, 2, 10, 65, 0, 3,
    ]);
    frame.extend([0, 0, 0, 0, 0, 8, 0, 0]);
    let sum: u32 = frame
        .get(14..34)
        .into_iter()
        .flat_map(|header| header.chunks(2))
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    if let Some(field) = frame.get_mut(24..26) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    let mut source_port = 1024_u16;
    while !stop.load(Ordering::Relaxed) {
        source_port = source_port.checked_add(1).unwrap_or(1024);
        let port = BASE + newest.load(Ordering::Relaxed);
        if let Some(ports) = frame.get_mut(34..38) {
            ports[..2].copy_from_slice(&source_port.to_be_bytes());
            ports[2..].copy_from_slice(&port.to_be_bytes());
        }
        if socket.send(&frame).context("probe").is_err() {
            break;
        }
        std::thread::sleep(PACE);
    }
}
