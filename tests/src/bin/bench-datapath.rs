//! Nanoseconds a packet, by `BPF_PROG_TEST_RUN`: the real programs and maps, loaded as the agent
//! loads them.
//!
//! Method: every sample is the kernel's own mean over [`REPEAT`] runs on one buffer; printed are
//! median, minimum and maximum of the samples, in raw nanoseconds (the empty program's included).
//! The kinds take turns, so that a slow moment of the machine hits all alike. Repetitions change
//! the packet: delivery counts the TTL down and writes MAC addresses. So packets start with TTL
//! 255, and the sender's MAC address equals the one that delivery writes; every run takes the whole
//! fast path, its MAC check included. New flows come from a program in front that counts the source
//! port up and restores the TTL; its few nanoseconds are in the figure. Each number of rules has a
//! server of its own, they take turns as well, and the table of half-open flows is emptied before
//! each sample, so that it is in the same state for all of them. The other packets of a connection
//! that are not established traffic are repeated in the state they meet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use clap::Parser;
use felid_common::{ABI_VERSION, FlowKeyV4, protocol};
use felid_compile::planner::{Planner, PlannerOptions};
use felid_compile::stub::Hook;
use felid_compile::transaction::EndpointId;
use felid_dataplane::sys::RawMap;
use felid_dataplane::{Config, Kernel, LinkState, Peer, object, sys};
use felid_model::resolved::{
    Delta, LocalEndpoint, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedTier,
};
use felid_model::{Kind, ResourceKey};
use felid_tests::bench_nat::{self, End};
use felid_tests::bench_rules::{self, Rules, SHAPES, Shape};
use felid_tests::figures::{Clock, Figure, Passed};
use felid_tests::frames::Frame;
use felid_tests::probe::{PacketOutcome, Probe};
use felid_tests::{Host, Workload};
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

/// Runs of one sample.
const REPEAT: u32 = 200;
/// Samples of each kind.
const SAMPLES: usize = 101;
/// Samples of new flows: each run uses up a source port.
const NEW_SAMPLES: usize = 61;
/// Source ports of new flows begin here.
const FRESH: u16 = 20_000;
const RULES: [u16; 5] = [1, 10, 100, 1000, 10_000];
/// A selector and a port each.
const BOTH: Shape = Shape {
    selectors: true,
    ports: true,
    nets: false,
};
/// What the last rule allows.
const PORT: u16 = 8080;
/// MAC address of both host-side interfaces, and of the sender: see above.
const MAC: [u8; 6] = [0xee; 6];
const TCP_ACK: u8 = 16;
const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;

#[derive(Parser)]
struct Arguments {
    /// Write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
    let host = Host::new("felid-bench-dp")?;
    let client = host.workload("calibench0", &["10.65.0.2", "fd00:65::2"])?;
    let servers = (1..=RULES.len())
        .map(|n| {
            let addresses = [format!("10.65.0.{}", n + 2), format!("fd00:65::{}", n + 2)];
            host.workload(&format!("calibench{n}"), &addresses.each_ref().map(String::as_str))
        })
        .collect::<Result<Vec<_>>>()?;
    // A program run in a namespace sees its interfaces.
    let figures = host.namespace().run(|| Bench::new(&host, &client, &servers)?.run())??;
    if let Some(path) = arguments.json {
        std::fs::write(&path, format!("{figures:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

struct Bench<'a> {
    kernel: Kernel,
    planner: Planner,
    bench: Ebpf,
    client: &'a Workload,
    /// One for each of [`RULES`]; established flows use the first.
    servers: &'a [Workload],
    from_client: Probe,
    from_server: Probe,
    half_open: RawMap,
}

impl<'a> Bench<'a> {
    fn new(host: &Host, client: &'a Workload, servers: &'a [Workload]) -> Result<Self> {
        let mut kernel = Kernel::open(&Config {
            bpffs: host.bpffs().to_owned(),
            bpffs_private: true,
            ..Config::default()
        })?;
        let links = std::iter::once(client).chain(servers).map(|workload| LinkState {
            ifindex: workload.ifindex,
            name: workload.interface.as_str().into(),
            mac: Some(MAC),
            mtu: 1500,
            is_ethernet: true,
            filters: Arc::default(),
            peer: Some(Peer {
                mac: Some(workload.mac),
            }),
        });
        let errors = kernel.set_links(links.collect());
        ensure!(errors.is_empty(), "{errors:?}");
        let options = PlannerOptions {
            max_slots: kernel.capacities().class_bits,
            max_classes: kernel.capacities().classes,
            ..PlannerOptions::default()
        };
        let planner = Planner::new(options, kernel.adopt());
        let mut bench = EbpfLoader::new()
            .load(object::BENCH)
            .context("load the bench programs")?;
        for name in ["bench_empty", "bench_floor", "bench_fresh_flow"] {
            classifier(&mut bench, name)?
                .load()
                .with_context(|| format!("load {name}"))?;
        }
        let mut this = Self {
            from_client: kernel.probe(Hook::FromWorkload, EndpointId { index: 1, id: 1 })?,
            from_server: kernel.probe(Hook::FromWorkload, EndpointId { index: 1, id: 1 })?,
            half_open: half_open(host)?,
            kernel,
            planner,
            bench,
            client,
            servers,
        };
        let [client_id, server_id] = this.program(BOTH, false)?.ids;
        this.from_client = this.kernel.probe(Hook::FromWorkload, client_id)?;
        this.from_server = this.kernel.probe(Hook::FromWorkload, server_id)?;
        Ok(this)
    }

    fn run(mut self) -> Result<Value> {
        println!("datapath: ns a packet, {SAMPLES} samples of {REPEAT} runs each ({NEW_SAMPLES} for new flows)\n");
        let server = self.servers.first().context("no servers")?;
        let [v4, v6] = [self.frame(server, true), self.frame(server, false)];
        self.establish(&v4, 40_000)?;
        self.establish(&v6, 40_000)?;
        let floor = self.floor(&v4)?;
        let mut samples: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for _ in 0..SAMPLES {
            let empty = self.bench_program("bench_empty", &v4.tcp(40_000, PORT, TCP_ACK), REPEAT)?;
            samples.entry("empty").or_default().push(empty);
            let floor = self.bench_program("bench_floor", &floor, REPEAT)?;
            samples.entry("floor").or_default().push(floor);
            for (name, frame) in [("established_v4", &v4), ("established_v6", &v6)] {
                let packet = frame.tcp(40_000, PORT, TCP_ACK);
                let run = self
                    .from_client
                    .repeat(&packet, self.client.ifindex, self.client.ifindex, REPEAT)?;
                ensure!(
                    run.outcome == PacketOutcome::Redirect(server.ifindex),
                    "{name}: {:?}",
                    run.outcome
                );
                samples.entry(name).or_default().push(run.nanoseconds);
            }
        }
        let mut figures = serde_json::Map::new();
        let mut medians = BTreeMap::new();
        for name in ["empty", "floor", "established_v4", "established_v6"] {
            let figure = Figure::of(samples.remove(name).unwrap_or_default());
            figure.print(name, medians.get("floor").copied());
            medians.insert(name, figure.median);
            figures.insert(name.into(), figure.json());
        }
        println!();
        for (name, samples) in self.connection(&v4)? {
            Figure::of(samples).print(name, None);
        }
        let (new_flow, _) = self.new_flows("own selector and port", BOTH)?;
        figures.insert("new_flow".into(), new_flow);
        let (mut by, mut build) = (serde_json::Map::new(), Value::Null);
        for (name, shape) in SHAPES {
            let (new_flow, built) = self.new_flows(name, shape)?;
            by.insert(name.into(), new_flow);
            // The largest of all shapes.
            if insns(&built) > insns(&build) {
                build = built;
            }
        }
        figures.insert("translation".into(), self.translation()?);
        println!(
            "\nratios: of established flows to the floor, of new flows to 10 rules; build: one of 10,000 rules is changed"
        );
        figures.insert("new_flow_by".into(), by.into());
        figures.insert("build".into(), json!({ "10000": build }));
        Ok(figures.into())
    }

    /// Established flows with and without translation.
    fn translation(&mut self) -> Result<Value> {
        let [client, server] = self.program(BOTH, false)?.ids;
        let to = self.servers.first().context("no servers")?;
        let end = |workload, id, mac| End { workload, id, mac };
        let (client, server) = (end(self.client, client, MAC), end(to, server, to.mac));
        bench_nat::measure(&mut self.kernel, &client, &server, PORT, SAMPLES, REPEAT)
    }

    /// New flows through lists of all lengths, and what building the longest takes.
    fn new_flows(&mut self, name: &str, shape: Shape) -> Result<(Value, Value)> {
        self.program(shape, false)?;
        let mut samples: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for _ in 0..NEW_SAMPLES {
            for (server, rules) in self.servers.iter().zip(RULES) {
                self.empty_half_open()?;
                let packet = self.frame(server, true).tcp(FRESH, PORT, TCP_SYN);
                let sample = self.bench_program("bench_fresh_flow", &packet, REPEAT)?;
                samples.entry(rules).or_default().push(sample);
            }
        }
        println!("\n  new flows, rules with {name}");
        let mut figures = serde_json::Map::new();
        let mut at_ten = None;
        for (rules, samples) in samples {
            let figure = Figure::of(samples);
            figure.print(&format!("{rules} rules"), at_ten);
            if rules == 10 {
                at_ten = Some(figure.median);
            }
            figures.insert(rules.to_string(), figure.json());
        }
        let Programmed {
            compile,
            load,
            insns,
            chunks,
            ..
        } = self.program(shape, true)?;
        println!(
            "  compile {:.1} ms, load {:.1} ms (on the CPU {:.1} and {:.1}); {insns} instructions in {chunks} programs",
            compile.wall_ms, load.wall_ms, compile.cpu_ms, load.cpu_ms
        );
        let built = json!({
            "compile_ms": compile.wall_ms,
            "load_ms": load.wall_ms,
            "insns": insns,
            "compile_cpu_ms": compile.cpu_ms,
            "load_cpu_ms": load.cpu_ms,
        });
        Ok((figures.into(), built))
    }

    fn frame(&self, server: &Workload, v4: bool) -> Frame {
        let of = |workload: &Workload| {
            workload
                .addresses
                .iter()
                .copied()
                .find(|address| address.is_ipv4() == v4)
        };
        let any = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let mut frame = Frame::new(MAC, MAC, of(self.client).unwrap_or(any), of(server).unwrap_or(any));
        frame.ttl = 255;
        frame
    }

    /// The other packets of a connection.
    fn connection(&mut self, frame: &Frame) -> Result<BTreeMap<&'static str, Vec<u32>>> {
        let server = self.servers.first().context("no servers")?;
        let back = self.back(frame, server);
        let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let interfaces = (self.client.ifindex, server.ifindex);
        for _ in 0..NEW_SAMPLES {
            self.empty_half_open()?;
            self.from_client
                .run(&frame.tcp(FRESH, PORT, TCP_SYN), interfaces.0, interfaces.0)?;
            let packet = back.tcp(PORT, FRESH, TCP_SYN | TCP_ACK);
            let run = self.from_server.repeat(&packet, interfaces.1, interfaces.1, REPEAT)?;
            samples.entry("SYN-ACK").or_default().push(run.nanoseconds);
            self.empty_half_open()?;
            self.establish(frame, FRESH)?;
            for (name, packet) in [
                ("FIN", frame.tcp(FRESH, PORT, TCP_FIN | TCP_ACK)),
                ("last ACK", frame.tcp(FRESH, PORT, TCP_ACK)),
            ] {
                let run = self.from_client.repeat(&packet, interfaces.0, interfaces.0, REPEAT)?;
                samples.entry(name).or_default().push(run.nanoseconds);
                let answer = back.tcp(PORT, FRESH, TCP_FIN | TCP_ACK);
                self.from_server.run(&answer, interfaces.1, interfaces.1)?;
            }
        }
        Ok(samples)
    }

    fn back(&self, frame: &Frame, server: &Workload) -> Frame {
        Frame {
            source: frame.destination,
            destination: frame.source,
            source_mac: server.mac,
            ..frame.clone()
        }
    }

    fn empty_half_open(&self) -> Result<()> {
        let mut keys = Vec::new();
        self.half_open.dump(|key, _| keys.push(key.to_vec()))?;
        for key in keys {
            self.half_open.delete(&key)?;
        }
        Ok(())
    }

    /// A handshake through the real programs.
    fn establish(&self, frame: &Frame, port: u16) -> Result<()> {
        let server = self.servers.first().context("no servers")?;
        let back = self.back(frame, server);
        for (probe, workload, packet, to) in [
            (&self.from_client, self.client, frame.tcp(port, PORT, TCP_SYN), server),
            (
                &self.from_server,
                server,
                back.tcp(PORT, port, TCP_SYN | TCP_ACK),
                self.client,
            ),
            (&self.from_client, self.client, frame.tcp(port, PORT, TCP_ACK), server),
        ] {
            let run = probe.run(&packet, workload.ifindex, workload.ifindex)?;
            ensure!(
                run.outcome == PacketOutcome::Redirect(to.ifindex),
                "handshake: {:?}",
                run.outcome
            );
        }
        let mut established = 0;
        self.kernel.conntrack().flows(|flow| {
            established += u32::from(flow.table == felid_dataplane::kernel::FlowTable::Established);
        })?;
        ensure!(established > 0, "the handshake did not establish the flow");
        Ok(())
    }

    /// The packet of the floor program, whose table knows it.
    fn floor(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (frame.source, frame.destination) else {
            anyhow::bail!("IPv4 only")
        };
        let word = |address: std::net::Ipv4Addr| u32::from_ne_bytes(address.octets());
        let (key, _) = FlowKeyV4::new(word(src), 40_000_u16.to_be(), word(dst), PORT.to_be(), protocol::TCP);
        let map = raw(&mut self.bench, "bench_flows")?;
        let server = self.servers.first().context("no servers")?;
        map.update(key.as_bytes(), &server.ifindex.to_ne_bytes())?;
        // It stays in the kernel for as long as the program that uses it.
        Ok(frame.tcp(40_000, PORT, TCP_ACK))
    }

    fn bench_program(&mut self, name: &'static str, packet: &[u8], repeat: u32) -> Result<u32> {
        let fresh = name == "bench_fresh_flow";
        if fresh && let Ok(map) = raw(&mut self.bench, "bench_target") {
            map.update(
                &0_u32.to_ne_bytes(),
                &self.from_client.program().as_fd().as_raw_fd().to_ne_bytes(),
            )?;
            // A program array forgets everything once nobody holds it: it is held from here on.
            std::mem::forget(map);
        }
        let program = classifier(&mut self.bench, name)?;
        let fd: BorrowedFd<'_> = program.fd()?.as_fd();
        // `ifindex` and the interface it came by, as in the probes.
        let mut context = [0; 192];
        context[36..40].copy_from_slice(&self.client.ifindex.to_ne_bytes());
        context[40..44].copy_from_slice(&self.client.ifindex.to_ne_bytes());
        let run = sys::test_run(fd, packet, &context, repeat)?;
        let wanted = if name == "bench_empty" { 2 } else { 7 };
        ensure!(run.result == wanted, "{name}: the last run returned {}", run.result);
        Ok(run.duration)
    }

    /// Plans and programs the endpoints; each server's policy has as many rules as [`RULES`] says,
    /// of which the last allows the client. `changed`: the longest is another.
    fn program(&mut self, shape: Shape, changed: bool) -> Result<Programmed> {
        let mut delta = Delta::default();
        bench_rules::members(&RULES, &self.client.addresses, &mut delta);
        let list = |count: u16| Rules {
            shape,
            count,
            client: &self.client.addresses,
            port: PORT,
            changed: changed && RULES.last() == Some(&count),
        };
        let policy = |rules: u16| ResolvedPolicy {
            tiers: vec![ResolvedTier {
                name: "default".into(),
                end_pass: false,
                policies: vec![ResolvedRules {
                    staged: false,
                    key: ResourceKey::new(Kind::NetworkPolicy, Some("default"), "server"),
                    rules: Arc::new(list(rules).list()),
                }],
            }],
            ..ResolvedPolicy::default()
        };
        let open = Arc::new(ResolvedPolicy {
            profiles: vec![ResolvedRules {
                staged: false,
                key: ResourceKey::new(Kind::Profile, None, "open"),
                rules: Arc::new(vec![ResolvedRule::new(0, ResolvedAction::Allow)]),
            }],
            ..ResolvedPolicy::default()
        });
        let endpoint = |name: &str, workload: &Workload, mac, ingress| LocalEndpoint {
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            aws_elastic_ips: Vec::new(),
            key: ResourceKey::new(Kind::WorkloadEndpoint, Some("default"), name),
            interface_name: workload.interface.as_str().into(),
            addresses: workload.addresses.clone(),
            mac: Some(mac),
            ipv4_gateway: None,
            ipv6_gateway: None,
            ports: Vec::new(),
            profiles: Vec::new(),
            ingress,
            egress: open.clone(),
        };
        let mut endpoints = vec![endpoint("client", self.client, MAC, open.clone())];
        for (server, rules) in self.servers.iter().zip(RULES) {
            let name = format!("server{rules}");
            endpoints.push(endpoint(&name, server, server.mac, Arc::new(policy(rules))));
        }
        let keys: Vec<ResourceKey> = endpoints.iter().map(|endpoint| endpoint.key.clone()).collect();
        delta
            .endpoints
            .extend(endpoints.into_iter().map(|e| (e.key.clone(), Some(Arc::new(e)))));
        self.planner.update(&delta);
        let (mut compile, mut load) = (Passed::default(), Passed::default());
        let (mut insns, mut chunks) = (0, 0);
        loop {
            let clock = Clock::start();
            let transaction = self.planner.plan()?;
            compile += clock.passed();
            let Some(transaction) = transaction else { break };
            let clock = Clock::start();
            let flip = self.kernel.apply(&transaction)?;
            load += clock.passed();
            ensure!(flip.link_errors.is_empty(), "{:?}", flip.link_errors);
            for chunk in transaction.new_programs.values().flat_map(|program| &program.chunks) {
                chunks += 1;
                insns += chunk.insns.len();
            }
            self.kernel.complete(&transaction)?;
            self.planner.committed();
        }
        if let Some(problem) = self.planner.problems().next() {
            anyhow::bail!("{problem}");
        }
        let id = |key: &ResourceKey| Ok::<_, anyhow::Error>(self.planner.endpoint(key).context("not planned")?.id);
        Ok(Programmed {
            ids: [id(&keys[0])?, id(&keys[1])?],
            compile,
            load,
            insns,
            chunks,
        })
    }
}

/// What a change of the rules took.
struct Programmed {
    /// The client's and the first server's.
    ids: [EndpointId; 2],
    compile: Passed,
    load: Passed,
    insns: usize,
    chunks: usize,
}

/// The table of half-open IPv4 flows.
fn half_open(host: &Host) -> Result<RawMap> {
    let pin = host.bpffs().join(format!("felid/v{ABI_VERSION}/maps/half_open_v4"));
    Ok(RawMap::new(MapData::from_pin(pin)?, 1)?)
}

fn classifier<'b>(bench: &'b mut Ebpf, name: &str) -> Result<&'b mut SchedClassifier> {
    Ok(bench
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// Takes a map out of the object.
fn raw(bench: &mut Ebpf, name: &str) -> Result<RawMap> {
    let data = match bench.take_map(name).with_context(|| format!("no map {name}"))? {
        Map::HashMap(data) | Map::ProgramArray(data) => data,
        other => anyhow::bail!("{name} is {other:?}"),
    };
    Ok(RawMap::new(data, 1)?)
}

fn insns(built: &Value) -> u64 {
    built["insns"].as_u64().unwrap_or_default()
}
