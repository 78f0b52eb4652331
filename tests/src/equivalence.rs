//! Random policies and packets: the compiled program in the kernel against the reference evaluator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use felid_common::{DropReason, LOG_INGRESS, VERDICT_ALLOW, protocol};
use felid_compile::Direction;
use felid_compile::planner::{Planner, PlannerOptions};
use felid_compile::program::table_id;
use felid_compile::reference::{Decided, Decision, Staged, evaluate};
use felid_compile::stub::Hook;
use felid_compile::testing::{Rng, Shape, World};
use felid_compile::transaction::{CounterName, EndpointId, Transaction};
use felid_dataplane::kernel::{Capacities, LogReader, Settings};
use felid_dataplane::{Config, Kernel};
use felid_lab::Host;
use felid_model::resolved::{Delta, LocalEndpoint, NamedPortMember, ResolvedPolicy, SetIds};
use felid_model::{Kind, ResourceKey};
use ipnet::IpNet;

use crate::probe::PacketOutcome;

mod packets;

pub(crate) use packets::frame_of;
use packets::{packet, parts};

/// Packets of each direction's policy.
const PACKETS: std::ops::RangeInclusive<u64> = 30..=80;
/// Policies of each world and direction.
const POLICIES: u64 = 5;

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Pairs of policy and packet that were compared.
    pub pairs: u64,
    /// Distinct policies among them.
    pub policies: u64,
    /// Pairs that the reference allows.
    pub allowed: u64,
    /// Pairs in which Log rules told something.
    pub logged: u64,
    /// Pairs for which a staged policy counted.
    pub staged: u64,
    /// Packets from addresses that the endpoint may not send from; not among the pairs.
    pub spoofed: u64,
    /// Datagrams that were cut in two and passed.
    pub fragments: u64,
    /// First seed, and the one after the last.
    pub seeds: (u64, u64),
}

/// Compares at least `pairs` pairs from `seed` on; a disagreement is an error that names its seed.
pub fn run(pairs: u64, seed: u64) -> Result<Summary> {
    with_bench(|bench| bench.run(pairs, seed))
}

/// On a host of its own.
pub(crate) fn with_bench<T: Send>(f: impl FnOnce(Bench) -> Result<T> + Send) -> Result<T> {
    let host = Host::new("felid-eq")?;
    host.namespace().ip("link add uplink type veth peer name other")?;
    host.namespace().ip("link set uplink up")?;
    host.namespace().ip("link set other up")?;
    host.namespace().ip("addr add 172.31.255.1/30 dev uplink")?;
    host.namespace().ip("route add default via 172.31.255.2")?;
    host.namespace().ip("addr add fd99::1/126 dev uplink nodad")?;
    host.namespace().ip("-6 route add default via fd99::2")?;
    let uplink = host.namespace().ifindex("uplink")?;
    host.namespace().run(|| f(Bench::new(&host, uplink)?))?
}

pub(crate) struct Bench {
    pub(crate) uplink: u32,
    pub(crate) kernel: Kernel,
    pub(crate) planner: Planner,
    members: BTreeSet<IpNet>,
    named_ports: BTreeSet<NamedPortMember>,
    pub(crate) endpoint: Option<ResourceKey>,
    packets: u64,
    log: LogReader,
}

impl Bench {
    fn new(host: &Host, uplink: u32) -> Result<Self> {
        let capacities = Capacities {
            established_v4: 1024,
            established_v6: 1024,
            half_open: 16_384,
            peers: 1024,
            nets: 1024,
            named_ports: 1024,
            classes: 1024,
            class_bits: 512,
            ..Capacities::default()
        };
        // Everything that is not policy is out of the way.
        let settings = Settings {
            host_reachable: true,
            allow_ipip: true,
            allow_vxlan: true,
            log_rate: 1_000_000,
            log_burst: 1_000_000,
            ..Settings::default()
        };
        let config = Config {
            bpffs: host.bpffs().to_owned(),
            bpffs_private: true,
            capacities: capacities.clone(),
            settings,
            ..Config::default()
        };
        let kernel = Kernel::open(&config)?;
        let options = PlannerOptions {
            max_slots: capacities.class_bits,
            max_classes: capacities.classes,
            peers_v4: 1024,
            peers_v6: 1024,
            nets_v4: 1024,
            nets_v6: 1024,
            named_ports: 1024,
            ..PlannerOptions::default()
        };
        let planner = Planner::new(options, kernel.adopt());
        let log = kernel.log_reader()?;
        Ok(Self {
            uplink,
            kernel,
            planner,
            members: BTreeSet::new(),
            named_ports: BTreeSet::new(),
            endpoint: None,
            packets: *PACKETS.start(),
            log,
        })
    }

    fn run(mut self, pairs: u64, seed: u64) -> Result<Summary> {
        // Short runs see many worlds, long ones do not spend their time on loading programs.
        self.packets = (pairs / 1000).clamp(*PACKETS.start(), *PACKETS.end());
        let mut summary = Summary {
            seeds: (seed, seed),
            ..Summary::default()
        };
        let mut seen = BTreeSet::new();
        while summary.pairs < pairs {
            let seed = summary.seeds.1;
            self.world(seed, &mut summary, &mut seen)
                .with_context(|| format!("seed {seed}"))?;
            summary.seeds.1 = seed.wrapping_add(1);
        }
        summary.policies = seen.len() as u64;
        Ok(summary)
    }

    /// One world: an endpoint, its surroundings, and some policies in turn.
    fn world(&mut self, seed: u64, summary: &mut Summary, seen: &mut BTreeSet<u64>) -> Result<()> {
        let mut rng = Rng::new(seed);
        // Now and then a world for long lists.
        let wide = rng.percent(2);
        let world = if wide {
            World::wide(&mut rng)
        } else {
            World::random(&mut rng)
        };
        let key = ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace: Some("default".into()),
            name: format!("world{seed}").into(),
        };
        let mut delta = self.surroundings(&world);
        if let Some(old) = self.endpoint.replace(key.clone()) {
            delta.endpoints.insert(old, None);
        }
        let mut probes = None;
        // What goes back on the way of an earlier packet is a reply, and no new flow.
        let mut sent = BTreeSet::new();
        for turn in 0..POLICIES {
            let shape = if rng.percent(3) { Shape::Large } else { Shape::Small };
            let policies = [(); 2].map(|()| {
                Arc::new(match wide {
                    true => world.long_policy(&mut rng, 600),
                    false => world.policy(&mut rng, shape),
                })
            });
            let [ingress, egress] = &policies;
            let endpoint = LocalEndpoint {
                allow_spoofed_source_prefixes: world.spoofed.clone(),
                ip_nats: Vec::new(),
                aws_elastic_ips: Vec::new(),
                key: key.clone(),
                interface_name: "calieq".into(),
                addresses: world.own.clone(),
                mac: None,
                ipv4_gateway: None,
                ipv6_gateway: None,
                ports: Vec::new(),
                profiles: Vec::new(),
                ingress: ingress.clone(),
                egress: egress.clone(),
            };
            delta.endpoints.insert(key.clone(), Some(Arc::new(endpoint)));
            self.planner.update(&std::mem::take(&mut delta));
            let id = self.program(&key)?;
            if probes.is_none() {
                let from = self.kernel.probe(Hook::FromWorkload, id)?;
                probes = Some((from, self.kernel.probe(Hook::ToWorkload, id)?));
            }
            let Some((from, to)) = &probes else {
                bail!("no programs")
            };
            // Whether packets are sent that were sent before.
            let repeat = rng.percent(30);
            // Reading all counters costs as much as many packets.
            let mut staged = policies
                .iter()
                .flat_map(|policy| &policy.tiers)
                .flat_map(|tier| &tier.policies);
            let count = !repeat && rng.percent(30) && staged.any(|list| list.staged);
            let before = if count {
                self.kernel.counters()?
            } else {
                BTreeMap::new()
            };
            let mut counts: BTreeMap<CounterName, u64> = BTreeMap::new();
            for (policy, direction, probe, came_by) in [
                (ingress, Direction::Ingress, to, self.uplink),
                (egress, Direction::Egress, from, self.uplink),
            ] {
                seen.insert(fingerprint(policy));
                for _ in 0..self.packets {
                    let Some((packet, mut frame)) = packet(&world, &mut rng, policy, direction) else {
                        continue;
                    };
                    // Some are cut in two: the first part is judged by what it shows, the other one
                    // goes by that.
                    let mut later = None;
                    if rng.percent(10) {
                        let parts = parts(&packet, &frame, &mut rng);
                        (frame, later) = (parts.0, Some(parts.1));
                    }
                    let number = packet.protocol.0;
                    if sent.contains(&(number, packet.dst, packet.dst_port, packet.src, packet.src_port)) {
                        continue;
                    }
                    // A packet of a flow that is known may not be judged at all: then only its
                    // verdict says something. (Of ICMP, types that are no flows of their own have
                    // verdicts of their own.)
                    let known = !sent.insert((number, packet.src, packet.src_port, packet.dst, packet.dst_port));
                    if known && (!repeat || matches!(number, protocol::ICMP | protocol::ICMPV6)) {
                        continue;
                    }
                    let expected = evaluate(policy, &packet, &world);
                    let spoofed = direction == Direction::Egress
                        && !world.own.contains(&packet.src)
                        && !world.spoofed.iter().any(|net| net.contains(&packet.src));
                    let got = probe.run(&frame, self.uplink, came_by)?.outcome;
                    let denied = match direction {
                        Direction::Ingress => DropReason::IngressPolicy,
                        Direction::Egress => DropReason::EgressPolicy,
                    };
                    let wanted = if spoofed {
                        PacketOutcome::Drop(Some(DropReason::SpoofedAddress))
                    } else if expected.allowed {
                        PacketOutcome::Next
                    } else {
                        PacketOutcome::Drop(Some(denied))
                    };
                    if got != wanted {
                        let by: &Decided = &expected.by;
                        bail!(
                            "turn {turn} {direction:?} (known: {known}): {packet:?}\nreference: {wanted:?} by {by:?}\nkernel: {got:?}\n{policy:#?}\n{world:#?}"
                        );
                    }
                    // (An answer that nobody asked for makes no flow that its second part could
                    // belong to.)
                    let version = if packet.src.is_ipv4() { 4 } else { 6 };
                    let answers = matches!(number, protocol::ICMP | protocol::ICMPV6)
                        && matches!(protocol::icmp_query(version, packet.icmp_type), Some((_, true)));
                    if let Some(later) = later.filter(|_| got == PacketOutcome::Next && !answers) {
                        let got = probe.run(&later, self.uplink, came_by)?.outcome;
                        anyhow::ensure!(
                            got == PacketOutcome::Next,
                            "turn {turn} {direction:?}: the second part of {packet:?}: {got:?}"
                        );
                        summary.fragments += 1;
                    }
                    if spoofed {
                        summary.spoofed += 1;
                        continue;
                    }
                    summary.pairs += 1;
                    summary.allowed += u64::from(expected.allowed);
                    if repeat {
                        while self.log.next_record().is_some() {}
                        continue;
                    }
                    self.compare_log(&expected, id, direction)
                        .with_context(|| format!("turn {turn} {direction:?}: {packet:?}\n{policy:#?}\n{world:#?}"))?;
                    for staged in &expected.staged {
                        *counts.entry(staged_name(staged)?).or_default() += 1;
                    }
                    summary.logged += u64::from(!expected.logged.is_empty());
                    summary.staged += u64::from(!expected.staged.is_empty());
                }
            }
            if count {
                self.compare_staged(&before, counts)
                    .with_context(|| format!("turn {turn}\n{policies:#?}\n{world:#?}"))?;
            }
        }
        Ok(())
    }

    /// What the packet's Log rules told is what the reference says.
    fn compare_log(&mut self, expected: &Decision, id: EndpointId, direction: Direction) -> Result<()> {
        let Some(record) = self.log.next_record() else {
            anyhow::ensure!(
                expected.logged.is_empty(),
                "not logged; the reference: {:?}",
                expected.logged
            );
            return Ok(());
        };
        let ingress = if direction == Direction::Ingress {
            LOG_INGRESS
        } else {
            0
        };
        anyhow::ensure!(record.endpoint == id.id | ingress, "logged for another endpoint");
        anyhow::ensure!(
            record.count as usize == expected.logged.len() && record.missed == 0,
            "logged {record:?}; the reference: {:?}",
            expected.logged
        );
        anyhow::ensure!(
            (record.verdict == VERDICT_ALLOW) == expected.allowed,
            "logged another verdict"
        );
        let plan = self.endpoint.as_ref().and_then(|key| self.planner.endpoint(key));
        let plan = plan.context("the endpoint is not planned")?;
        let program = if direction == Direction::Ingress {
            plan.ingress
        } else {
            plan.egress
        };
        let program = self.planner.program(program).context("no program")?;
        anyhow::ensure!(record.program == table_id(&program.rules), "rules of another program");
        for (number, by) in record.rules.iter().zip(&expected.logged) {
            let rule = program.rules.get(*number as usize).context("no such rule")?;
            let Decided::Rule { key, tier, index } = by else {
                bail!("{by:?} logs")
            };
            anyhow::ensure!(
                rule.key.as_ref() == Some(key) && rule.tier == *tier && rule.index == Some(*index),
                "logged by {rule:?}; the reference: {by:?}"
            );
        }
        Ok(())
    }

    /// What was counted for staged policies since then is what the reference says.
    fn compare_staged(&self, before: &BTreeMap<u32, u64>, mut expected: BTreeMap<CounterName, u64>) -> Result<()> {
        let after = self.kernel.counters()?;
        let count = |counters: &BTreeMap<u32, u64>, index: u32| counters.get(&index).copied().unwrap_or_default();
        for (index, name) in self.planner.counters().filter(|(_, name)| name.staged) {
            let counted = count(&after, index) - count(before, index);
            let wanted = expected.remove(name).unwrap_or_default();
            anyhow::ensure!(
                counted == wanted,
                "{name:?}: {counted} counted; the reference: {wanted}"
            );
        }
        anyhow::ensure!(expected.is_empty(), "not counted at all: {expected:?}");
        Ok(())
    }

    /// The members of this world, and none of the last one's.
    pub(crate) fn surroundings(&mut self, world: &World) -> Delta {
        let mut members: BTreeMap<IpNet, SetIds> = BTreeMap::new();
        for (set, nets) in &world.sets {
            for net in nets {
                members.entry(*net).or_default().insert(set.clone());
            }
        }
        let mut named: BTreeMap<NamedPortMember, SetIds> = BTreeMap::new();
        for (set, ports) in &world.named_ports {
            for port in ports {
                named.entry(*port).or_default().insert(set.clone());
            }
        }
        let mut delta = Delta::default();
        delta
            .members
            .extend(std::mem::take(&mut self.members).into_iter().map(|net| (net, None)));
        delta.named_ports.extend(
            std::mem::take(&mut self.named_ports)
                .into_iter()
                .map(|port| (port, None)),
        );
        self.members = members.keys().copied().collect();
        self.named_ports = named.keys().copied().collect();
        delta
            .members
            .extend(members.into_iter().map(|(net, sets)| (net, Some(Arc::new(sets)))));
        delta
            .named_ports
            .extend(named.into_iter().map(|(port, sets)| (port, Some(Arc::new(sets)))));
        delta
    }

    /// Carries the plan out; no packet is under way here, so there is nothing to wait for.
    pub(crate) fn program(&mut self, key: &ResourceKey) -> Result<EndpointId> {
        while let Some(transaction) = self.planner.plan()? {
            let transaction: Transaction = transaction;
            let flip = self.kernel.apply(&transaction)?;
            anyhow::ensure!(flip.link_errors.is_empty(), "{:?}", flip.link_errors);
            self.kernel.complete(&transaction)?;
            self.planner.committed();
        }
        if let Some(problem) = self.planner.problems().next() {
            bail!("the planner has a problem: {problem:?}");
        }
        Ok(self.planner.endpoint(key).context("the endpoint is not planned")?.id)
    }
}

/// The counter of what a staged policy would have done.
fn staged_name(staged: &Staged) -> Result<CounterName> {
    let Decided::Rule {
        key, tier: Some(tier), ..
    } = &staged.by
    else {
        bail!("{staged:?} is no rule of a tier")
    };
    Ok(CounterName {
        tier: tier.clone(),
        policy: key.to_string().into(),
        action: staged.action,
        staged: true,
    })
}

fn fingerprint(policy: &ResolvedPolicy) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::new().hash_one(policy)
}
