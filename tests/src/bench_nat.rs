//! What a translated packet of an established flow costs beside one that is not translated.
//!
//! Translation changes the packet, so a program in front restores it before each repetition; its
//! few nanoseconds are in all figures alike.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::maps::Map;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use felid_compile::nat::{Mapping, Mappings};
use felid_compile::stub::Hook;
use felid_compile::transaction::EndpointId;
use felid_dataplane::kernel::{PacketOutcome, Probe};
use felid_dataplane::sys::RawMap;
use felid_dataplane::{Kernel, object, sys};
use felid_lab::Workload;
use felid_lab::frames::Frame;
use serde_json::{Value, json};

use crate::figures::Figure;

const TCP_SYN: u8 = 2;
const TCP_ACK: u8 = 16;
/// Beyond every interface.
const OUTSIDE: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
/// External addresses of the client and of the server.
const EXTERNAL: [[&str; 2]; 2] = [["203.0.113.5", "2001:db8:5::5"], ["203.0.113.6", "2001:db8:5::6"]];
/// An interface that is no endpoint's.
const UPLINK: u32 = 1;

/// One end of the bench.
pub struct End<'a> {
    /// Its interface and addresses.
    pub workload: &'a Workload,
    /// Its place in the kernel.
    pub id: EndpointId,
    /// Its MAC address as its packets have it.
    pub mac: [u8; 6],
}

struct Way {
    name: &'static str,
    probe: Probe,
    packet: Vec<u8>,
    ifindex: u32,
    came_by: u32,
    outcome: PacketOutcome,
}

/// Measures all directions: between two workloads (redirected) and from and to the outside (through
/// the host's stack). The client may reach the server's `port` and everybody the client. Ends with
/// the table of translations filled.
pub fn measure(
    kernel: &mut Kernel,
    client: &End<'_>,
    server: &End<'_>,
    port: u16,
    samples: usize,
    repeat: u32,
) -> Result<Value> {
    let mut bench = EbpfLoader::new()
        .load(object::BENCH)
        .context("load the bench programs")?;
    let program: &mut SchedClassifier = bench
        .program_mut("bench_restore")
        .context("no program bench_restore")?
        .try_into()?;
    program.load()?;
    let program = program.fd()?.as_fd().try_clone_to_owned()?;
    let (target, header) = (raw(&mut bench, "bench_target")?, raw(&mut bench, "bench_header")?);
    // Without any translation; then what is not translated beside those that are; then what is.
    let mut ways = Vec::new();
    for (n, family) in ["v4", "v6"].into_iter().enumerate() {
        ways.push((family, "without", all(kernel, client, server, port, n, false, 41_000)?));
    }
    let mut mappings = Mappings::new();
    for (end, externals) in [client, server].into_iter().zip(EXTERNAL) {
        for (internal, external) in end.workload.addresses.iter().zip(externals) {
            let mapping = Mapping {
                internal: *internal,
                endpoint: end.id,
            };
            mappings.insert(external.parse()?, mapping);
        }
    }
    let mut figures = serde_json::Map::new();
    let mut taken: std::collections::BTreeMap<(&str, &str, &str), Vec<u32>> = std::collections::BTreeMap::new();
    let mut sample = |ways: &[(&'static str, &'static str, Vec<Way>)]| -> Result<()> {
        for _ in 0..samples {
            for (family, kind, list) in ways {
                for way in list {
                    let mut bytes = [0; 80];
                    let length = way.packet.len().min(80);
                    bytes[..length].copy_from_slice(&way.packet[..length]);
                    header.update(&0_u32.to_ne_bytes(), &bytes)?;
                    target.update(&0_u32.to_ne_bytes(), &way.probe.program().as_raw_fd().to_ne_bytes())?;
                    let mut context = [0; 192];
                    context[36..40].copy_from_slice(&way.came_by.to_ne_bytes());
                    context[40..44].copy_from_slice(&way.ifindex.to_ne_bytes());
                    let run = sys::test_run(program.as_fd(), &way.packet, &context, repeat)?;
                    let wanted = if way.outcome == PacketOutcome::Next { -1 } else { 7 };
                    ensure!(
                        run.result.cast_signed() == wanted,
                        "{family} {kind} {}: {}",
                        way.name,
                        run.result
                    );
                    taken.entry((family, way.name, kind)).or_default().push(run.duration);
                }
            }
        }
        Ok(())
    };
    sample(&ways)?;
    let change = kernel.plan_nats(&mappings);
    kernel.end_nats(&change)?;
    kernel.begin_nats(&change)?;
    for (_, kind, _) in &mut ways {
        *kind = "beside";
    }
    for (n, family) in ["v4", "v6"].into_iter().enumerate() {
        ways.push((
            family,
            "translated",
            all(kernel, client, server, port, n, true, 42_000)?,
        ));
    }
    sample(&ways)?;
    println!(
        "\n  established flows, and a program in front that restores the packet: without translations, beside them, translated"
    );
    for ((family, way, kind), samples) in taken {
        let figure = Figure::of(samples);
        figure.print(&format!("{family} {way} {kind}"), None);
        let by_family = figures.entry(family).or_insert_with(|| json!({}));
        by_family[way][kind] = figure.json();
    }
    Ok(figures.into())
}

/// Establishes flows and gives a packet of each direction.
fn all(
    kernel: &Kernel,
    client: &End<'_>,
    server: &End<'_>,
    port: u16,
    family: usize,
    translated: bool,
    source_port: u16,
) -> Result<Vec<Way>> {
    let address = |end: &End<'_>| {
        let mut addresses = end.workload.addresses.iter();
        addresses
            .find(|address| address.is_ipv6() == (family == 1))
            .copied()
            .context("no address")
    };
    let (client_ip, server_ip) = (address(client)?, address(server)?);
    let outside: IpAddr = OUTSIDE[family].parse()?;
    let shown = |end: usize, own: IpAddr| -> Result<IpAddr> {
        Ok(if translated {
            EXTERNAL[end][family].parse()?
        } else {
            own
        })
    };
    let frame = |mac: [u8; 6], from: IpAddr, to: IpAddr| {
        let mut frame = Frame::new(mac, mac, from, to);
        frame.ttl = 255;
        frame
    };
    let local = frame(client.mac, client_ip, shown(1, server_ip)?);
    let reply = frame(server.mac, server_ip, client_ip);
    let inward = frame(client.mac, outside, shown(0, client_ip)?);
    let outward = frame(client.mac, client_ip, outside);
    let (client_if, server_if) = (client.workload.ifindex, server.workload.ifindex);
    let way = |name, hook, end: &End<'_>, packet: Vec<u8>, came_by, outcome| -> Result<Way> {
        Ok(Way {
            name,
            probe: kernel.probe(hook, end.id)?,
            packet,
            ifindex: end.workload.ifindex,
            came_by,
            outcome,
        })
    };
    use Hook::{FromWorkload, ToWorkload};
    let flows = [
        (
            way(
                "to a workload",
                FromWorkload,
                client,
                local.tcp(source_port, port, TCP_ACK),
                client_if,
                PacketOutcome::Redirect(server_if),
            )?,
            way(
                "back from it",
                FromWorkload,
                server,
                reply.tcp(port, source_port, TCP_ACK),
                server_if,
                PacketOutcome::Redirect(client_if),
            )?,
            &local,
            &reply,
        ),
        (
            way(
                "from outside",
                ToWorkload,
                client,
                inward.tcp(source_port, port, TCP_ACK),
                UPLINK,
                PacketOutcome::Next,
            )?,
            way(
                "back to outside",
                FromWorkload,
                client,
                outward.tcp(port, source_port, TCP_ACK),
                client_if,
                PacketOutcome::Next,
            )?,
            &inward,
            &outward,
        ),
    ];
    let mut ways = Vec::new();
    for (there, back, ask, answer) in flows {
        for (way, packet) in [
            (&there, ask.tcp(source_port, port, TCP_SYN)),
            (&back, answer.tcp(port, source_port, TCP_SYN | TCP_ACK)),
            (&there, ask.tcp(source_port, port, TCP_ACK)),
        ] {
            let run = way.probe.run(&packet, way.ifindex, way.came_by)?;
            ensure!(run.outcome == way.outcome, "{}: handshake: {:?}", way.name, run.outcome);
        }
        ways.extend([there, back]);
    }
    Ok(ways)
}

fn raw(bench: &mut Ebpf, name: &str) -> Result<RawMap> {
    match bench.take_map(name).with_context(|| format!("no map {name}"))? {
        Map::Array(data) | Map::ProgramArray(data) => Ok(RawMap::new(data, 1)?),
        other => anyhow::bail!("{name} is {other:?}"),
    }
}
