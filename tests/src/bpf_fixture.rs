//! The kernel programs without interfaces: loaded unpinned, with tables filled by hand, run on
//! crafted packets by `BPF_PROG_TEST_RUN`.
//!
//! Policies are a few instructions written here, so that these tests depend on nothing but the
//! programs under test. Each fixture lives in a network namespace of its own (of the calling
//! thread), with one veth pair per endpoint for helpers that want a real interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya::EbpfLoader;
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use felid_common::{
    ClassPair, DropReason, EGRESS, Endpoint, Event, Flow, FlowCount, FlowKeyV4, FlowKeyV6, INGRESS, NAT_OUT,
    NAT_PASSED, NAT_PROBES, NAT_V6, Nat, NatSeed, NetKeyV4, NetKeyV6, Peer, QUERIER_LOW, SETTING_NATS, Scratch,
    Settings, nat_places, nat_probe, policy_index, protocol, static_programs,
};
use felid_compile::program::Insn;
use felid_dataplane::object;
use felid_dataplane::sys::{self, RawMap};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use zerocopy::{FromBytes as _, IntoBytes as _};

#[path = "bpf_fixture_code.rs"]
mod code;
#[path = "bpf_fixture_run.rs"]
mod test_run;

pub use test_run::{Context, DROP, NEXT, Outcome, REDIRECT, run};

/// What a hand-made policy does.
#[derive(Clone, Copy, Debug)]
pub enum Policy {
    /// Allow all.
    Allow,
    /// Deny all.
    Deny,
    /// Allow this destination port only.
    Port(u16),
    /// Allow if the source's class is this.
    SourceClass(u32),
    /// Allow if the destination's class is this.
    DestinationClass(u32),
    /// Allow this ICMP type only.
    IcmpType(u8),
}

/// Settings of a fresh fixture.
pub const SETTINGS: Settings = Settings {
    hz: 1000,
    tcp_syn: 20_000,
    tcp_established: 3_600_000,
    tcp_fin: 30_000,
    tcp_rst: 40_000,
    udp: 60_000,
    icmp: 5_000,
    other: 600_000,
    flags: 0,
    vxlan_port: 4789,
    log_rate: 100,
    log_burst: 200,
    revoking: 0,
    udp_answered: 10_000,
    nat_seed: NatSeed {
        words: [
            0x5851_f42d_4c95_7f2d,
            0xda94_2042_e4dd_58b5,
            0xbb67_ae85_84ca_a73b,
            0x3c6e_f372_fe94_f82b,
            0xa54f_f53a_5f1d_36f1,
        ],
    },
    // No endpoint takes another's room: the tables are large enough for what tests do.
    flow_share: [1 << 20; 2],
    flow_pool: [0; 2],
    flow_limit: i32::MAX as u32,
    flow_greed: 8,
    flow_ring: 4096,
    fragment_ring: 256,
};

/// Programs of the object and where they belong in `static_programs`.
const PROGRAMS: [(&str, Option<u32>); 13] = [
    ("from_workload", Some(static_programs::FROM_WORKLOAD)),
    ("to_workload", Some(static_programs::TO_WORKLOAD)),
    ("from_workload_slow", Some(static_programs::FROM_WORKLOAD_SLOW)),
    ("to_workload_slow", Some(static_programs::TO_WORKLOAD_SLOW)),
    ("policy_return", Some(static_programs::POLICY_RETURN)),
    ("related", Some(static_programs::RELATED)),
    ("neighbour", Some(static_programs::NEIGHBOUR)),
    ("translate", Some(static_programs::TRANSLATE)),
    ("closed", None),
    ("sweep_v4", None),
    ("sweep_v6", None),
    ("clock", None),
    ("recount", None),
];

/// Sizes that suffice here and are quick to make.
const SIZES: [(&str, u32); 8] = [
    ("established_v4", 1024),
    ("established_v6", 1024),
    ("half_open_v4", 1024),
    ("half_open_v6", 1024),
    ("peers_v4", 1024),
    ("peers_v6", 1024),
    ("nets_v4", 256),
    ("nets_v6", 256),
];

/// What the kernel says of a loaded program.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramSize {
    /// Instructions that the verifier processed; it gives up at a million.
    pub verified: u32,
    /// Instructions of the program as the kernel runs it.
    pub translated: u32,
}

/// The loaded programs and their tables.
pub struct Fixture {
    maps: BTreeMap<String, RawMap>,
    programs: BTreeMap<&'static str, OwnedFd>,
    sizes: BTreeMap<&'static str, ProgramSize>,
    stubs: BTreeMap<(u32, u32), OwnedFd>,
}

impl Fixture {
    /// Loads everything into a fresh namespace of this thread, which is pinned to one CPU so that
    /// per-CPU values are in one place.
    pub fn new() -> Result<Self> {
        Self::with_sizes(&SIZES)
    }

    /// As [`Fixture::new`], with tables of these sizes (others as the object says).
    pub fn with_sizes(sizes: &[(&'static str, u32)]) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of one's own needs root")?;
        let mut cpus = CpuSet::new();
        cpus.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
        command("ip", &["link", "set", "lo", "up"])?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for (name, size) in sizes {
            loader.map_max_entries(name, *size);
        }
        let mut ebpf = loader.load(object::EBPF).context("load the object")?;
        let mut programs = BTreeMap::new();
        let mut program_sizes = BTreeMap::new();
        for (name, _) in PROGRAMS {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program.load().with_context(|| format!("load {name}"))?;
            let info = program.info()?;
            let size = ProgramSize {
                verified: info.verified_instruction_count().unwrap_or_default(),
                translated: info.size_translated().unwrap_or_default() / 8,
            };
            program_sizes.insert(name, size);
            programs.insert(name, program.fd()?.as_fd().try_clone_to_owned()?);
        }
        let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut maps = BTreeMap::new();
        for name in names {
            let Some(map) = ebpf.take_map(&name) else { continue };
            let (data, cpus) = data_of(map, cpus).with_context(|| format!("map {name} is of no known kind"))?;
            maps.insert(name, RawMap::new(data, cpus)?);
        }
        let mut fixture = Self {
            maps,
            programs,
            sizes: program_sizes,
            stubs: BTreeMap::new(),
        };
        for (name, index) in PROGRAMS {
            if let Some(index) = index {
                let fd = fixture.programs[name].as_raw_fd();
                fixture.map("static_programs").update(index.as_bytes(), fd.as_bytes())?;
            }
        }
        fixture.set_settings(SETTINGS)?;
        Ok(fixture)
    }

    /// A table by its name.
    pub fn map(&self, name: &str) -> &RawMap {
        &self.maps[name]
    }

    /// A program by its name.
    pub fn program(&self, name: &str) -> &OwnedFd {
        &self.programs[name]
    }

    /// How large a program is and what it costs the verifier.
    pub fn size(&self, name: &str) -> ProgramSize {
        self.sizes.get(name).copied().unwrap_or_default()
    }

    /// The stub of an endpoint's hook.
    pub fn stub(&self, n: u32, hook: u32) -> &OwnedFd {
        &self.stubs[&(n, hook)]
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        Ok(self.map("settings").update(0_u32.as_bytes(), settings.as_bytes())?)
    }

    /// Flips to a bank.
    pub fn set_epoch(&mut self, epoch: u32) -> Result<()> {
        Ok(self.map("epoch").update(0_u32.as_bytes(), epoch.as_bytes())?)
    }

    /// An endpoint's record as tests begin with: id `n + 100`, interface `n + 10`, MAC 02:..:n.
    pub fn record(n: u32) -> Endpoint {
        Endpoint {
            id: n + 100,
            ifindex: n + 10,
            flags: felid_common::ENDPOINT_REDIRECTABLE,
            mtu: 1500,
            egress_generation: 1,
            ingress_generation: 1,
            mac: [2, 0, 0, 0, 0, n as u8],
            host_mac: [0xee, 0xee, 0xee, 0xee, 0xee, n as u8],
            ..Endpoint::default()
        }
    }

    /// Adds an endpoint with its addresses, stubs and allowing policies.
    pub fn endpoint(&mut self, n: u32, addresses: &[&str]) -> Result<()> {
        let record = Self::record(n);
        let (name, index) = (format!("d{n}"), record.ifindex.to_string());
        let (peer, peer_index) = (format!("p{n}"), (record.ifindex + 1000).to_string());
        command(
            "ip",
            &[
                "link",
                "add",
                &name,
                "index",
                &index,
                "type",
                "veth",
                "peer",
                "name",
                &peer,
                "index",
                &peer_index,
            ],
        )?;
        command("ip", &["link", "set", &name, "up"])?;
        self.set_endpoint(n, record)?;
        for address in addresses {
            self.peer(
                address,
                Peer {
                    endpoint: n,
                    id: record.id,
                    ..Peer::default()
                },
            )?;
        }
        for (hook, program) in [
            (EGRESS, static_programs::FROM_WORKLOAD),
            (INGRESS, static_programs::TO_WORKLOAD),
        ] {
            let insns = code::stub(n, record.id, program, self.map("static_programs").fd().as_raw_fd());
            self.stubs.insert((n, hook), load(&insns, "stub")?);
            self.policy(hook, n, Policy::Allow)?;
        }
        Ok(())
    }

    /// Writes an endpoint's record.
    pub fn set_endpoint(&mut self, n: u32, record: Endpoint) -> Result<()> {
        Ok(self.map("endpoints").update(n.as_bytes(), record.as_bytes())?)
    }

    /// Writes what is known of an address; the check is made here.
    pub fn peer(&mut self, address: &str, peer: Peer) -> Result<()> {
        self.raw_peer(address, peer.sealed(&words(address.parse()?)))
    }

    /// Likewise, with the check as it is.
    pub fn raw_peer(&mut self, address: &str, peer: Peer) -> Result<()> {
        match address.parse()? {
            IpAddr::V4(address) => self.map("peers_v4").update(&address.octets(), peer.as_bytes())?,
            IpAddr::V6(address) => self.map("peers_v6").update(&address.octets(), peer.as_bytes())?,
        }
        Ok(())
    }

    /// Forgets an address.
    pub fn no_peer(&mut self, address: &str) -> Result<()> {
        match address.parse()? {
            IpAddr::V4(address) => self.map("peers_v4").delete(&address.octets())?,
            IpAddr::V6(address) => self.map("peers_v6").delete(&address.octets())?,
        };
        Ok(())
    }

    /// Gives a network a class in each bank.
    pub fn net(&mut self, address: &str, prefix: u32, class: [u32; 2]) -> Result<()> {
        let value = ClassPair { class };
        match address.parse()? {
            IpAddr::V4(address) => {
                let key = NetKeyV4 {
                    prefix,
                    address: u32::from_ne_bytes(address.octets()),
                };
                self.map("nets_v4").update(key.as_bytes(), value.as_bytes())?;
            }
            IpAddr::V6(address) => {
                let key = NetKeyV6 {
                    prefix,
                    address: words(address.into()),
                };
                self.map("nets_v6").update(key.as_bytes(), value.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Sets a policy in both banks.
    pub fn policy(&mut self, direction: u32, n: u32, policy: Policy) -> Result<()> {
        self.policy_in(0, direction, n, policy)?;
        self.policy_in(1, direction, n, policy)
    }

    /// Sets a policy in one bank. The counter it names is `2 * n + direction`.
    pub fn policy_in(&mut self, bank: u32, direction: u32, n: u32, policy: Policy) -> Result<()> {
        let (scratch, static_programs) = (
            self.map("scratch").fd().as_raw_fd(),
            self.map("static_programs").fd().as_raw_fd(),
        );
        let insns = code::policy(policy, 2 * n + direction, scratch, static_programs);
        let program = load(&insns, "policy")?;
        let index = policy_index(bank, direction, n);
        Ok(self
            .map("policies")
            .update(index.as_bytes(), program.as_raw_fd().as_bytes())?)
    }

    /// Translates an external address of an endpoint to an internal one, and shows the internal one
    /// under it. Returns the index.
    pub fn nat(&mut self, n: u32, id: u32, external: &str, internal: &str) -> Result<u32> {
        let (external, internal) = (external.parse::<IpAddr>()?, internal.parse::<IpAddr>()?);
        let flags = if external.is_ipv6() { NAT_V6 } else { 0 };
        let record = Nat {
            address: words(external),
            other: words(internal),
            id,
            flags,
            endpoint: n,
            endpoint_id: Self::record(n).id,
            ..Nat::default()
        };
        let index = self.put_nat(record)?;
        self.put_nat(Nat {
            address: record.other,
            other: record.address,
            flags: flags | NAT_OUT,
            out: index,
            ..record
        })?;
        self.set_nat_flags(SETTING_NATS)?;
        Ok(index)
    }

    /// Which settings about translation are on, all others as they are at first.
    pub fn set_nat_flags(&mut self, flags: u32) -> Result<()> {
        self.set_settings(Settings { flags, ..SETTINGS })
    }

    /// Writes a translation where programs look for it: over that of the same address, or where
    /// none is.
    pub fn put_nat(&mut self, record: Nat) -> Result<u32> {
        let places = nat_places(&record.address, &SETTINGS.nat_seed);
        for probe in 0..NAT_PROBES {
            let index = nat_probe(places, probe);
            let there = self.nat_at(index)?;
            let same = there.address == record.address && (there.flags ^ record.flags) & (NAT_V6 | NAT_OUT) == 0;
            if same || (there.id == 0 && there.address == [0; 4]) {
                let flags = record.flags | there.flags & NAT_PASSED;
                self.map("nats")
                    .update(index.as_bytes(), Nat { flags, ..record }.as_bytes())?;
                return Ok(index);
            }
            let passed = Nat {
                flags: there.flags | NAT_PASSED,
                ..there
            };
            self.map("nats").update(index.as_bytes(), passed.as_bytes())?;
        }
        bail!("no room")
    }

    /// A translation by its index.
    pub fn nat_at(&self, index: u32) -> Result<Nat> {
        let bytes = self.map("nats").lookup(index.as_bytes())?.context("no such element")?;
        Nat::read_from_bytes(&bytes).map_err(|_| anyhow::anyhow!("size of a translation"))
    }

    /// Flows that were translated by it.
    pub fn nat_flows(&self, index: u32) -> Result<u64> {
        self.count("nat_flows", index)
    }

    /// Networks where workloads are shown under their own addresses.
    pub fn cluster(&mut self, address: &str, prefix: u32) -> Result<()> {
        let (name, key) = match address.parse()? {
            IpAddr::V4(address) => {
                let address = u32::from_ne_bytes(address.octets());
                ("cluster_v4", NetKeyV4 { prefix, address }.as_bytes().to_vec())
            }
            IpAddr::V6(address) => {
                let address = words(address.into());
                ("cluster_v6", NetKeyV6 { prefix, address }.as_bytes().to_vec())
            }
        };
        Ok(self.map(name).update(&key, 1_u32.as_bytes())?)
    }

    /// Takes a policy away, in both banks.
    pub fn no_policy(&mut self, direction: u32, n: u32) -> Result<()> {
        for bank in 0..2 {
            self.map("policies")
                .delete(policy_index(bank, direction, n).as_bytes())?;
        }
        Ok(())
    }

    /// A packet that a workload sends.
    pub fn from_workload(&self, n: u32, packet: &[u8]) -> Result<Outcome> {
        let ifindex = Self::record(n).ifindex;
        run(self.stub(n, EGRESS), packet, &Context::new(ifindex, ifindex), 1)
    }

    /// A packet that the host's stack sends to a workload; `came_by` is where it came in, 0 if the
    /// host generated it.
    pub fn to_workload(&self, n: u32, came_by: u32, packet: &[u8]) -> Result<Outcome> {
        run(
            self.stub(n, INGRESS),
            packet,
            &Context::new(Self::record(n).ifindex, came_by),
            1,
        )
    }

    /// What the last packet left for policy programs.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::read_from_bytes(&self.first_cpu("scratch", 0)?[..size_of::<Scratch>()])
            .map_err(|_| anyhow::anyhow!("size"))
    }

    /// A count of dropped packets.
    pub fn drops(&self, reason: DropReason) -> Result<u64> {
        self.count("drops", reason as u32)
    }

    /// A count of events.
    pub fn events(&self, event: Event) -> Result<u64> {
        self.count("events", event as u32)
    }

    /// A policy's count.
    pub fn counter(&self, direction: u32, n: u32) -> Result<u64> {
        self.count("counters", 2 * n + direction)
    }

    fn count(&self, map: &str, index: u32) -> Result<u64> {
        let bytes = self.map(map).lookup(index.as_bytes())?.context("no such element")?;
        Ok(bytes
            .chunks_exact(8)
            .map(|value| u64::from_ne_bytes(value.try_into().unwrap_or_default()))
            .sum())
    }

    fn first_cpu(&self, map: &str, index: u32) -> Result<Vec<u8>> {
        self.map(map).lookup(index.as_bytes())?.context("no such element")
    }

    /// The entry of a flow: whether it is established, and what it holds. ICMP: an echo that `src`
    /// asked for.
    pub fn flow(
        &self,
        protocol: u8,
        src: &str,
        src_port: u16,
        dst: &str,
        dst_port: u16,
    ) -> Result<Option<(bool, Flow)>> {
        for (established, table) in [(true, "established"), (false, "half_open")] {
            let (name, key) = key(table, protocol, src.parse()?, src_port, dst.parse()?, dst_port);
            if let Some(value) = self.map(&name).lookup(&key)? {
                let flow = Flow::read_from_bytes(&value).map_err(|_| anyhow::anyhow!("size of a flow"))?;
                return Ok(Some((established, flow)));
            }
        }
        Ok(None)
    }

    /// Changes a flow's entry where it is.
    pub fn edit_flow(
        &self,
        protocol: u8,
        src: &str,
        src_port: u16,
        dst: &str,
        dst_port: u16,
        change: impl FnOnce(&mut Flow),
    ) -> Result<()> {
        let (established, mut flow) = self
            .flow(protocol, src, src_port, dst, dst_port)?
            .context("no such flow")?;
        change(&mut flow);
        let table = if established { "established" } else { "half_open" };
        let (name, key) = key(table, protocol, src.parse()?, src_port, dst.parse()?, dst_port);
        Ok(self.map(&name).update(&key, flow.as_bytes())?)
    }

    /// What is counted for an endpoint, or at an index.
    pub fn flow_count(&self, index: u32) -> Result<FlowCount> {
        let bytes = self
            .map("flow_counts")
            .lookup(index.as_bytes())?
            .context("no such element")?;
        FlowCount::read_from_bytes(&bytes).map_err(|_| anyhow::anyhow!("size of a count"))
    }

    /// How many flows there are: established and half-open, both families.
    pub fn flows(&self) -> Result<(usize, usize)> {
        let mut counts = [0; 4];
        for (count, name) in counts
            .iter_mut()
            .zip(["established_v4", "established_v6", "half_open_v4", "half_open_v6"])
        {
            self.map(name).dump(|_, _| *count += 1)?;
        }
        Ok((counts[0] + counts[1], counts[2] + counts[3]))
    }
}

fn data_of(map: Map, cpus: usize) -> Option<(MapData, usize)> {
    Some(match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => (data, 1),
        Map::PerCpuArray(data) => (data, cpus),
        _ => return None,
    })
}

/// Table and key bytes of a flow. ICMP: an echo that `src` asked for.
pub fn key(table: &str, protocol: u8, src: IpAddr, src_port: u16, dst: IpAddr, dst_port: u16) -> (String, Vec<u8>) {
    let (src_port, dst_port) = (src_port.to_be(), dst_port.to_be());
    let query = match protocol {
        protocol::ICMP => 8,
        protocol::ICMPV6 => 128,
        _ => 0,
    };
    let word = |low: bool| protocol::word(protocol, query, 0) | if query != 0 && low { QUERIER_LOW } else { 0 };
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let (mut key, low) = FlowKeyV4::with_word(words(src)[0], src_port, words(dst)[0], dst_port, 0);
            key.protocol = word(low);
            (format!("{table}_v4"), key.as_bytes().to_vec())
        }
        _ => {
            let (mut key, low) = FlowKeyV6::with_word(words(src), src_port, words(dst), dst_port, 0);
            key.protocol = word(low);
            (format!("{table}_v6"), key.as_bytes().to_vec())
        }
    }
}

/// An address as the programs' words.
pub fn words(address: IpAddr) -> [u32; 4] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    let word = |n: usize| u32::from_ne_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]]);
    [word(0), word(1), word(2), word(3)]
}

/// Runs a command in this thread's namespace.
pub fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn load(insns: &[Insn], name: &str) -> Result<OwnedFd> {
    sys::load_classifier(insns, name).map_err(|error| anyhow::anyhow!("load {name}: {error:?}"))
}
