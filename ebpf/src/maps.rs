//! Every map of the programs, under the name that user space pins it by. `classes` is not here:
//! only generated policy programs read it, and its width is chosen when it is created.
//!
//! # Minimum kernel version
//!
//! All types are older than TCX (6.6), which the programs are attached by.

use core::ptr::addr_of;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use felid_common::{
    ClassPair, DROP_REASONS, DropReason, EVENTS, Endpoint, FLOW_COUNTS, Flow, FlowCount, FlowKeyV4, FlowKeyV6,
    FragmentPlaceV4, FragmentPlaceV6, ImageV4, ImageV6, LOG_BYTES, Learned, LogRate, LogRecord, MAX_COUNTERS,
    MAX_ENDPOINTS, MAX_NATS, NamedPort, NamedPortKey, Nat, POLICIES, Peer, Scratch, Settings, static_programs,
};

/// The programs of this crate, by their numbers in [`static_programs`].
#[btf_map(name = "static_programs")]
pub(crate) static STATIC_PROGRAMS: ProgramArray<{ static_programs::COUNT as usize }> = ProgramArray::new();

/// Generated policy programs, by [`felid_common::policy_index`].
#[btf_map(name = "policies")]
pub(crate) static POLICY: ProgramArray<{ POLICIES as usize }> = ProgramArray::new();

/// Which bank holds: the low bit.
#[btf_map(name = "epoch")]
pub(crate) static EPOCH: Array<u32, 1> = Array::new();

/// Timeouts and options.
#[btf_map(name = "settings")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Local endpoints.
#[btf_map(name = "endpoints")]
pub(crate) static ENDPOINTS: Array<Endpoint, { MAX_ENDPOINTS as usize }> = Array::new();

/// What programs hand to each other across tail calls.
#[btf_map(name = "scratch")]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Single IPv4 addresses.
#[btf_map(name = "peers_v4")]
pub(crate) static PEERS_V4: HashMap<u32, Peer, 131_072> = HashMap::new();

/// Single IPv6 addresses.
#[btf_map(name = "peers_v6")]
pub(crate) static PEERS_V6: HashMap<[u32; 4], Peer, 65_536> = HashMap::new();

/// IPv4 networks.
#[btf_map(name = "nets_v4")]
pub(crate) static NETS_V4: LpmTrie<u32, ClassPair, 65_536> = LpmTrie::new();

/// IPv6 networks.
#[btf_map(name = "nets_v6")]
pub(crate) static NETS_V6: LpmTrie<[u32; 4], ClassPair, 65_536> = LpmTrie::new();

/// Translations, a hash table that user space fills: [`felid_common::nat_places`].
#[btf_map(name = "nats")]
pub(crate) static NATS: Array<Nat, { MAX_NATS as usize }> = Array::new();

/// New flows that were translated, by the index of the external address's translation.
#[btf_map(name = "nat_flows")]
pub(crate) static NAT_FLOWS: PerCpuArray<u64, { MAX_NATS as usize }> = PerCpuArray::new();

/// Addresses that endpoints showed by themselves, by the endpoint's index.
#[btf_map(name = "learned")]
pub(crate) static LEARNED: Array<Learned, { MAX_ENDPOINTS as usize }> = Array::new();

/// IPv4 networks where workloads are shown under their own addresses.
#[btf_map(name = "cluster_v4")]
pub(crate) static CLUSTER_V4: LpmTrie<u32, u32, 1_024> = LpmTrie::new();

/// Likewise IPv6.
#[btf_map(name = "cluster_v6")]
pub(crate) static CLUSTER_V6: LpmTrie<[u32; 4], u32, 1_024> = LpmTrie::new();

/// Ports with a name. Read by generated programs only; defined here so that everything is created
/// in one place.
#[btf_map(name = "named_ports")]
pub(crate) static NAMED_PORTS: HashMap<NamedPortKey, NamedPort, 65_536> = HashMap::new();

/// Established IPv4 flows, see `FLOW_ESTABLISHED`.
#[btf_map(name = "established_v4")]
pub(crate) static ESTABLISHED_V4: HashMap<FlowKeyV4, Flow, 262_144> = HashMap::new();

/// Established IPv6 flows, see `FLOW_ESTABLISHED`.
#[btf_map(name = "established_v6")]
pub(crate) static ESTABLISHED_V6: HashMap<FlowKeyV6, Flow, 131_072> = HashMap::new();

/// Half-open IPv4 flows, and established ones that find no room in the other table.
#[btf_map(name = "half_open_v4")]
pub(crate) static HALF_OPEN_V4: HashMap<FlowKeyV4, Flow, 131_072> = HashMap::new();

/// Half-open IPv6 flows, and established ones that find no room in the other table.
#[btf_map(name = "half_open_v6")]
pub(crate) static HALF_OPEN_V6: HashMap<FlowKeyV6, Flow, 131_072> = HashMap::new();

/// The keys of each endpoint's half-open IPv4 flows in the order of their coming, in rings: see
/// [`felid_common::flow_slot`].
#[btf_map(name = "half_open_ring_v4")]
pub(crate) static HALF_OPEN_RING_V4: Array<ImageV4, 131_072> = Array::new();

/// Likewise IPv6.
#[btf_map(name = "half_open_ring_v6")]
pub(crate) static HALF_OPEN_RING_V6: Array<ImageV6, 131_072> = Array::new();

/// What each endpoint has of the tables of flows.
#[btf_map(name = "flow_counts")]
pub(crate) static FLOW_COUNT: Array<FlowCount, { FLOW_COUNTS as usize }> = Array::new();

/// Ports of fragmented IPv4 datagrams: see [`felid_common::fragment_slot`].
#[btf_map(name = "fragments_v4")]
pub(crate) static FRAGMENTS_V4: Array<FragmentPlaceV4, 32_768> = Array::new();

/// Ports of fragmented IPv6 datagrams.
#[btf_map(name = "fragments_v6")]
pub(crate) static FRAGMENTS_V6: Array<FragmentPlaceV6, 32_768> = Array::new();

/// Dropped packets by [`felid_common::DropReason`].
#[btf_map(name = "drops")]
pub(crate) static DROPS: PerCpuArray<u64, { DROP_REASONS as usize }> = PerCpuArray::new();

/// Other things worth counting, by [`felid_common::Event`].
#[btf_map(name = "events")]
pub(crate) static EVENT: PerCpuArray<u64, { EVENTS as usize }> = PerCpuArray::new();

/// Judged packets by the counter that the policy program names.
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { MAX_COUNTERS as usize }> = PerCpuArray::new();

/// What Log rules tell the agent.
#[btf_map(name = "log")]
pub(crate) static LOG: RingBuf<LogRecord, { LOG_BYTES as usize }> = RingBuf::new();

/// How fast they may.
#[btf_map(name = "log_rate")]
pub(crate) static LOG_RATES: PerCpuArray<LogRate, 1> = PerCpuArray::new();

/// What is known of an address. Integers only: the verifier does not follow how an `Option` in a
/// `Result` lies on the stack.
#[derive(Clone, Copy)]
pub(crate) struct PeerInfo {
    class: [u32; 2],
    /// As in [`Peer`].
    pub(crate) endpoint: u32,
    /// As in [`Peer`].
    pub(crate) id: u32,
    /// As in [`Peer`], and these below.
    pub(crate) flags: u32,
}

/// The address has no record of its own.
const ABSENT: u32 = 1 << 31;
/// What was found was another address's, twice.
const TORN: u32 = 1 << 30;

/// Looks an address up. The kernel reuses replaced and deleted elements at once, so one may change
/// under the reader: then a second look finds the new one.
#[inline(always)]
pub(crate) fn lookup_peer(version: u8, address: &[u32; 4]) -> Result<PeerInfo, DropReason> {
    let mut known = look_up(version, address);
    if known.flags & TORN != 0 {
        known = look_up(version, address);
        if known.flags & TORN != 0 {
            return Err(DropReason::Internal);
        }
    }
    Ok(known)
}

#[inline(always)]
fn look_up(version: u8, address: &[u32; 4]) -> PeerInfo {
    let found = if version == 4 {
        PEERS_V4.get_ptr(address[0])
    } else {
        PEERS_V6.get_ptr(address)
    };
    let Some(found) = found else {
        return PeerInfo {
            class: [0; 2],
            endpoint: 0,
            id: 0,
            flags: ABSENT,
        };
    };
    // SAFETY: a looked-up element stays readable while the program runs; what it holds is checked
    // below.
    let peer = unsafe {
        Peer {
            class: addr_of!((*found).class).read_volatile(),
            endpoint: addr_of!((*found).endpoint).read_volatile(),
            id: addr_of!((*found).id).read_volatile(),
            flags: addr_of!((*found).flags).read_volatile(),
            check: addr_of!((*found).check).read_volatile(),
        }
    };
    let torn = peer.check != peer.check_for(address);
    PeerInfo {
        class: peer.class,
        endpoint: peer.endpoint,
        id: peer.id,
        flags: peer.flags | if torn { TORN } else { 0 },
    }
}

impl PeerInfo {
    /// Whether the address is the host's own.
    #[inline(always)]
    pub(crate) const fn is_host(&self) -> bool {
        self.flags & felid_common::PEER_HOST != 0
    }

    /// The address's class in a bank.
    #[inline(always)]
    pub(crate) fn class(&self, version: u8, address: &[u32; 4], settings: &Settings, bank: u32) -> u32 {
        if self.flags & ABSENT != 0 {
            net_class(version, address, settings, bank)
        } else if bank == 0 {
            self.class[0]
        } else {
            self.class[1]
        }
    }
}

/// Class of an address that has no record of its own: what the networks that cover it give.
#[inline(always)]
fn net_class(version: u8, address: &[u32; 4], settings: &Settings, bank: u32) -> u32 {
    let found = if version == 4 {
        if settings.flags & felid_common::SETTING_NETS_V4 == 0 {
            return 0;
        }
        NETS_V4.get(&Key::new(32, address[0]))
    } else {
        if settings.flags & felid_common::SETTING_NETS_V6 == 0 {
            return 0;
        }
        NETS_V6.get(&Key::new(128, *address))
    };
    found.map_or(0, |pair| if bank == 0 { pair.class[0] } else { pair.class[1] })
}
