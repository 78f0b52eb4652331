//! `felid explain`: what becomes of one packet, and why: every tier, policy and rule on both sides.
//!
//! In: two ends and a packet, and records (`source`): of files, of a datastore, or those that the
//! running agent has in force. Out: the reference evaluator's walk (`report`), and beside it what
//! the compiled programs make of that very packet, run in a kernel of one's own. Never: a packet on
//! a wire.

mod report;
mod snapshot;
mod source;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use felid_compile::explain::{Trace, explain as trace};
use felid_compile::reference::Packet;
use felid_model::resolved::LocalEndpoint;
use felid_model::{Protocol, ResourceKey};

use crate::cli::{ExplainArgs, GlobalArgs, IpFamily};
use crate::endpoint_names::address;
use crate::outcome::{Outcome, usage};
use crate::output::{self, Format};
use crate::verdict::{ByKernel, FirstPacket, HOST_V4, HOST_V6, Party, in_private};

use report::{Compiled, Judged, Report};
pub use snapshot::Snapshot;
use source::{Known, Source, find};

/// Source port of packets that name none.
const EPHEMERAL: u16 = 40_000;

/// One end, as far as it is known.
struct End {
    party: Who,
    addresses: Vec<IpAddr>,
}

enum Who {
    Host,
    Outside,
    Workload(Known),
}

/// A side that has a policy for the packet.
struct Side {
    snapshot: Arc<Snapshot>,
    endpoint: Option<Arc<LocalEndpoint>>,
    key: ResourceKey,
}

/// Explains a packet's way.
pub fn explain(global: &GlobalArgs, args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    let protocol = parse_protocol(&args.protocol)?;
    let source = Source::open(global, args)?;
    let known = source.known();
    let host_addresses = source.host_addresses();
    let end = |name: &str| end(name, &known, &host_addresses);
    let (from, to) = (end(&args.from).context("--from")?, end(&args.to).context("--to")?);
    let packet = packet(args, protocol, &from, &to)?;
    let (egress, ingress) = sides(&source, &from, &to);
    if egress.is_none() && ingress.is_none() {
        bail!(
            "neither {} nor {} is a workload that is known to {}: felid does not judge that",
            args.from,
            args.to,
            source.place()
        );
    }
    let walk = |side: &Option<Side>, is_egress: bool| -> Option<Trace> {
        let side = side.as_ref()?;
        let endpoint = side.endpoint.as_ref()?;
        let policy = if is_egress { &endpoint.egress } else { &endpoint.ingress };
        Some(trace(policy, &packet, &side.snapshot.state(|_| false)))
    };
    let traces = [walk(&egress, true), walk(&ingress, false)];
    let host_closed = egress.as_ref().is_some_and(|side| side.snapshot.host_closed);
    let compiled = if !nix::unistd::geteuid().is_root() {
        Compiled::NotRun("that needs root".to_owned())
    } else {
        match run(&egress, &ingress, &from, &to, &packet) {
            Ok(allowed) => Compiled::Run(allowed),
            Err(error) => Compiled::NotRun(format!("{error:#}")),
        }
    };
    let judged = Judged {
        packet: &packet,
        sides: [&egress, &ingress],
        traces,
        from: &from.party,
        to: &to.party,
        host_closed,
    };
    let report = Report::new(&source.place(), &judged, compiled);
    if json {
        output::json(out, &report)?;
    } else {
        report.show(out)?;
    }
    Ok(Outcome::Done)
}

/// One end of the packet: the host, a workload by any of its names, or an address that nobody
/// knows.
fn end(name: &str, known: &[Known], host_addresses: &BTreeSet<IpAddr>) -> anyhow::Result<End> {
    if name == "host" {
        let addresses = host_addresses.iter().copied();
        let mut addresses: Vec<IpAddr> = addresses.filter(|address| !address.is_loopback()).collect();
        if addresses.is_empty() {
            addresses = vec![HOST_V4.into(), HOST_V6.into()];
        }
        return Ok(End {
            party: Who::Host,
            addresses,
        });
    }
    let address = address(name);
    if let Some(known) = find(name, known)? {
        // Policy is asked by own addresses, also where an external one leads to the workload.
        let own = address.filter(|address| known.addresses.contains(address));
        return Ok(End {
            addresses: own.map_or_else(|| known.addresses.clone(), |own| vec![own]),
            party: Who::Workload(known.clone()),
        });
    }
    let Some(address) = address else {
        bail!(
            "{name:?} is no address, not \"host\", and no workload: those are called by NAMESPACE/NAME, \
             NAME or their interface"
        );
    };
    let party = if host_addresses.contains(&address) {
        Who::Host
    } else {
        Who::Outside
    };
    Ok(End {
        party,
        addresses: vec![address],
    })
}

fn parse_protocol(text: &str) -> anyhow::Result<Protocol> {
    let names = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite"];
    let name = names
        .iter()
        .find(|name| name.eq_ignore_ascii_case(text))
        .map_or(text, |name| *name);
    name.parse()
        .map_err(|error| usage(format!("--protocol {text:?}: {error}")))
}

fn packet(args: &ExplainArgs, protocol: Protocol, from: &End, to: &End) -> anyhow::Result<Packet> {
    let pick = |end: &End, v4: bool| end.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    let families = match args.ip {
        Some(IpFamily::V4) => vec![true],
        Some(IpFamily::V6) => vec![false],
        None => vec![protocol != Protocol::ICMPV6, protocol == Protocol::ICMPV6],
    };
    let pair = families
        .into_iter()
        .find_map(|v4| Some((pick(from, v4)?, pick(to, v4)?)));
    let (src, dst) = pair.with_context(|| format!("{} and {} have no addresses of one family", args.from, args.to))?;
    if src == dst {
        bail!("{} to itself: no policy is asked", args.from);
    }
    let has_ports = protocol.has_ports() || protocol == Protocol::UDP_LITE;
    let dst_port = match (has_ports, args.port) {
        (true, None) => return Err(usage(format!("{protocol} needs --port"))),
        (true, Some(port)) => port,
        (false, _) => 0,
    };
    let echo = match protocol {
        Protocol::ICMP => 8,
        Protocol::ICMPV6 => 128,
        _ => 0,
    };
    Ok(Packet {
        src,
        dst,
        protocol,
        src_port: if has_ports {
            args.source_port.unwrap_or(EPHEMERAL)
        } else {
            0
        },
        dst_port,
        icmp_type: args.icmp_type.unwrap_or(echo),
        icmp_code: args.icmp_code.unwrap_or(0),
    })
}

/// The sides that are workloads, each with what holds on its node.
fn sides(source: &Source, from: &End, to: &End) -> (Option<Side>, Option<Side>) {
    let side = |end: &End, other: Option<&Side>| match &end.party {
        Who::Workload(known) => {
            let snapshot = match other.filter(|other| other.snapshot.node == known.node) {
                Some(other) => Arc::clone(&other.snapshot),
                None => Arc::new(source.snapshot(&known.node)),
            };
            let endpoint = snapshot
                .endpoints
                .iter()
                .find(|endpoint| endpoint.key == known.key)
                .cloned();
            Some(Side {
                snapshot,
                endpoint,
                key: known.key.clone(),
            })
        }
        Who::Host | Who::Outside => None,
    };
    let egress = side(from, None);
    let ingress = side(to, egress.as_ref());
    (egress, ingress)
}

/// Runs the compiled programs on the packet: both sides at once where they are on one node, else
/// one after the other.
fn run(egress: &Option<Side>, ingress: &Option<Side>, from: &End, to: &End, packet: &Packet) -> anyhow::Result<bool> {
    let party =
        |side: &Option<Side>, end: &End| match (&end.party, side.as_ref().and_then(|side| side.endpoint.as_ref())) {
            (Who::Host, _) => Some(Party::Host),
            (Who::Outside, _) => Some(Party::External),
            (Who::Workload(_), None) => None,
            (Who::Workload(_), Some(endpoint)) => Some(Party::Endpoint {
                key: endpoint.key.clone(),
                interface: Arc::clone(&endpoint.interface_name),
            }),
        };
    let (Some(from), Some(to)) = (party(egress, from), party(ingress, to)) else {
        return Ok(false);
    };
    let apart = match (egress, ingress) {
        (Some(egress), Some(ingress)) => egress.snapshot.node != ingress.snapshot.node,
        _ => false,
    };
    let probe = |from: &Party, to: &Party| FirstPacket {
        from: from.clone(),
        to: to.clone(),
        packet: *packet,
    };
    let mut runs = Vec::new();
    if apart {
        runs.extend(egress.as_ref().map(|side| (side, probe(&from, &Party::External))));
        runs.extend(ingress.as_ref().map(|side| (side, probe(&Party::External, &to))));
    } else {
        runs.extend(
            egress
                .as_ref()
                .or(ingress.as_ref())
                .map(|side| (side, probe(&from, &to))),
        );
    }
    in_private(|bpffs| {
        let mut kernel = ByKernel::new(bpffs)?;
        for (number, (side, probe)) in runs.iter().enumerate() {
            let concerned = [&probe.from, &probe.to];
            let wanted = |endpoint: &LocalEndpoint| {
                concerned
                    .iter()
                    .any(|party| matches!(party, Party::Endpoint { key, .. } if *key == endpoint.key))
            };
            kernel.set(side.snapshot.state(wanted))?;
            if !kernel.judge(probe, number)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}
