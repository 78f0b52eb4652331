//! Keys, values and indices of the maps, and the contract of each program array.

use crate::{join, shared};

/// The number of elements of `endpoints`. Index 0 means "none" and is never used.
pub const MAX_ENDPOINTS: u32 = 4096;
/// The number of policy counters. Counter 0 collects whatever found no counter of its own.
pub const MAX_COUNTERS: u32 = 8192;

/// The direction from the workload.
pub const EGRESS: u32 = 0;
/// The direction towards the workload.
pub const INGRESS: u32 = 1;

/// Indices of the program array `static_programs`.
pub mod static_programs {
    /// Packets from a workload (TCX ingress of the host-side interface): established flows in the
    /// common shape.
    pub const FROM_WORKLOAD: u32 = 0;
    /// Packets to a workload (TCX egress of the host-side interface): the same.
    pub const TO_WORKLOAD: u32 = 1;
    /// The program for everything else that comes from a workload.
    pub const FROM_WORKLOAD_SLOW: u32 = 2;
    /// The program for everything else that goes to a workload.
    pub const TO_WORKLOAD_SLOW: u32 = 3;
    /// Where every policy program ends: reads the verdict in [`crate::Scratch`].
    pub const POLICY_RETURN: u32 = 4;
    /// ICMP errors about known flows, both hooks.
    pub const RELATED: u32 = 5;
    /// ARP, neighbour discovery and multicast listener discovery, both hooks.
    pub const NEIGHBOUR: u32 = 6;
    /// Writes translated addresses into a packet that was judged, and delivers it; both hooks.
    pub const TRANSLATE: u32 = 7;
    /// The number of elements of the array.
    pub const COUNT: u32 = 8;
}

/// The size of the program array `policies`: two banks of two directions of [`MAX_ENDPOINTS`].
pub const POLICIES: u32 = 4 * MAX_ENDPOINTS;

/// How many continuations (chunks after the first) one policy program may have. The kernel follows
/// 33 tail calls a packet: the stub, the fast and the slow program, two policies of one entry and
/// these, `POLICY_RETURN` after each, and `TRANSLATE`.
pub const MAX_CONTINUATIONS: u32 = 13;
const _: () = assert!(7 + 2 * MAX_CONTINUATIONS <= 33);

/// Returns the index into `policies` of an endpoint's program in one direction and bank. Where
/// there is none, the packet is dropped for [`crate::DropReason::NoPolicy`].
#[inline(always)]
pub const fn policy_index(bank: u32, direction: u32, endpoint: u32) -> u32 {
    bank * 2 * MAX_ENDPOINTS + direction * MAX_ENDPOINTS + endpoint
}

/// The word of `skb->cb` that the stub of an endpoint fills with the endpoint's index.
pub const CB_INDEX: usize = 0;
/// The word of `skb->cb` that the stub of an endpoint fills with the endpoint's id.
pub const CB_ID: usize = 1;
/// The word of `skb->cb` that the programs fill with the interface that they redirect to, for test
/// runs to see.
pub const CB_TARGET: usize = 2;
/// The word of `skb->cb` that the programs fill with the drop reason, where they drop, for test
/// runs to see.
pub const CB_REASON: usize = 3;
/// The word of `skb->cb` that the stub fills with what the packet leaves to others to do:
/// `OFFLOAD_*`.
pub const CB_OFFLOAD: usize = 4;

shared! {
/// A local endpoint, element of the array `endpoints` (index: the endpoint's index).
pub struct Endpoint: 80 {
    /// Identity, below 2^31, never reused; 0 = this record is free.
    pub id: u32,
    /// Host-side interface; 0 = not there.
    pub ifindex: u32,
    /// `ENDPOINT_*` bits.
    pub flags: u32,
    /// MTU of the host-side interface.
    pub mtu: u32,
    /// Generation of its egress policy: flows that were judged under another one are judged again.
    /// Starts at 1.
    pub egress_generation: u32,
    /// Generation of its ingress policy.
    pub ingress_generation: u32,
    /// The workload's MAC address (destination of delivered packets), if known.
    pub mac: [u8; 6],
    /// The host-side interface's MAC address.
    pub host_mac: [u8; 6],
    /// IPv4 gateway that is answered by ARP, network byte order.
    pub gateway_v4: u32,
    /// IPv6 gateway that is answered by neighbour discovery; zero = only the interface's own
    /// link-local address, by the kernel.
    pub gateway_v6: [u32; 4],
    /// Fingerprint of (resource key, interface name), by which a restarted agent recognises the
    /// endpoint.
    pub identity: [u32; 4],
    /// In record 0 only, which is no endpoint's: the number that the next new endpoint's
    /// [`Endpoint::id`] is taken from. User space keeps it here so that ids never go back, even if
    /// every endpoint is gone; zero in all other records.
    pub next_endpoint_id: u32,
    /// In record 0 only: the number that the next new translation's [`Nat::id`] is taken from, kept
    /// for the same reason.
    pub next_nat_id: u32,
}

/// Value of `peers_v4` (key: address, 4 bytes) and `peers_v6` (key: 16 bytes), both in network byte
/// order.
pub struct Peer: 24 {
    /// Class of the address in each bank: index into `classes`; 0 = member of nothing.
    pub class: [u32; 2],
    /// Index of the local endpoint that has this address; 0 = none.
    pub endpoint: u32,
    /// Id of that endpoint; must equal the record's.
    pub id: u32,
    /// `PEER_*` bits.
    pub flags: u32,
    /// [`Peer::check_for`] of the key and the rest. The kernel reuses a deleted element at once, so
    /// what was looked up may have become another address's: read everything once, then compare.
    pub check: u32,
}

/// Value of `named_ports` (key [`NamedPortKey`]).
pub struct NamedPort: 16 {
    /// Class in each bank.
    pub class: [u32; 2],
    /// [`NamedPort::check_for`] of the key and the classes, as in [`Peer`].
    pub check: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// Value of `nets_v4` and `nets_v6` (LPM; keys [`NetKeyV4`], [`NetKeyV6`]): the kernel does not
/// reuse their elements before a grace period.
pub struct ClassPair: 8 {
    /// Class in each bank, all covering prefixes included.
    pub class: [u32; 2],
}

/// LPM key.
#[derive(Hash, PartialOrd, Ord)]
pub struct NetKeyV4: 8 {
    /// Prefix length, host byte order.
    pub prefix: u32,
    /// Address, network byte order.
    pub address: u32,
}

/// LPM key.
#[derive(Hash, PartialOrd, Ord)]
pub struct NetKeyV6: 20 {
    /// Prefix length, host byte order.
    pub prefix: u32,
    /// Address, network byte order.
    pub address: [u32; 4],
}

/// Key of `named_ports`: one port of one address.
#[derive(Hash, PartialOrd, Ord)]
pub struct NamedPortKey: 20 {
    /// Address, network byte order; IPv4 as the first word, the others zero (no IPv6 address of a
    /// workload looks so).
    pub address: [u32; 4],
    /// Port, host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
}

/// The one element of the array `settings`. Times in jiffies.
pub struct Settings: 128 {
    /// Jiffies a second.
    pub hz: u32,
    /// Unanswered TCP.
    pub tcp_syn: u32,
    /// Established TCP.
    pub tcp_established: u32,
    /// TCP after both FINs.
    pub tcp_fin: u32,
    /// TCP after a RST.
    pub tcp_rst: u32,
    /// UDP and UDP-Lite.
    pub udp: u32,
    /// ICMP and ICMPv6.
    pub icmp: u32,
    /// All other protocols.
    pub other: u32,
    /// `SETTING_*` bits.
    pub flags: u32,
    /// UDP port of the cluster's VXLAN, host byte order; packets to it from workloads are dropped
    /// unless allowed.
    pub vxlan_port: u32,
    /// Packets a second and CPU of which Log rules may tell.
    pub log_rate: u32,
    /// ... at once.
    pub log_burst: u32,
    /// User space's own: `1 << EGRESS`, `1 << INGRESS` = a setting forbids now what was allowed,
    /// and these generations of all endpoints have still to be raised.
    pub revoking: u32,
    /// UDP and UDP-Lite after an answer, until the originator goes on.
    pub udp_answered: u32,
    /// Secret of this host: where the search for an address in `nats` begins, see [`nat_places`].
    pub nat_seed: NatSeed,
    /// Established flows (IPv4, IPv6) that every endpoint may have, whatever the others do.
    pub flow_share: [u32; 2],
    /// Established flows beyond their shares that all endpoints together may have.
    pub flow_pool: [u32; 2],
    /// Established flows of one IP version that an endpoint may have at all.
    pub flow_limit: u32,
    /// How many times as many flows beyond its share as the pool has left an endpoint may have.
    pub flow_greed: u32,
    /// Slots of each ring of half-open flows, a power of two; see [`flow_slot`](crate::flow_slot).
    pub flow_ring: u32,
    /// Slots of each endpoint's fragmented datagrams at each hook, a power of two; see
    /// [`fragment_slot`](crate::fragment_slot).
    pub fragment_ring: u32,
}

/// Random numbers that nobody beyond the host knows, from the first run on this host until the
/// tables are removed.
pub struct NatSeed: 40 {
    /// One to multiply each word of an address by, and one to begin with.
    pub words: [u64; 5],
}

/// A 1:1 translation, element of the array `nats`: a hash table that user space fills, see
/// [`nat_places`]. An element with `id` 0 says nothing (but [`NAT_PASSED`]). Only `id` and `flags`
/// of an element that programs may be reading are changed; another translation is written, with
/// `id` 0, a grace period after the last one's `id` became 0, and then its `id`: so programs need
/// not fear to read half of each.
pub struct Nat: 64 {
    /// What it is found by, network byte order (IPv4: first word, the others zero): the external
    /// address, or with [`NAT_OUT`] the internal one.
    pub address: [u32; 4],
    /// The other one of the two; with [`NAT_OUT`] the external address that flows from the internal
    /// one are shown under.
    pub other: [u32; 4],
    /// Identity, never reused; 0 = not in force.
    pub id: u32,
    /// `NAT_*` bits.
    pub flags: u32,
    /// Index of the endpoint whose address is the internal one.
    pub endpoint: u32,
    /// Its id.
    pub endpoint_id: u32,
    /// With [`NAT_OUT`]: index of the translation of the external address, an element of this
    /// array.
    pub out: u32,
    /// Unused, zero.
    pub reserved: [u32; 3],
}

/// An address that an endpoint showed by itself.
pub struct LearnedAddress: 20 {
    /// Network byte order (IPv4: first word, the others zero).
    pub address: [u32; 4],
    /// Low 32 bits of jiffies when it was last used, never zero; 0 = nothing has been here.
    pub seen: u32,
}

/// Element of the array `learned`, by the endpoint's index: addresses by which the host may know
/// the endpoint though its record does not name them. Written by the programs only.
pub struct Learned: 324 {
    /// Id of the endpoint; the addresses of another one are void.
    pub endpoint: u32,
    /// The first [`LEARNED_LINK_LOCAL`] for link-local addresses, the others for those of
    /// `allowSpoofedSourcePrefixes`.
    pub places: [LearnedAddress; LEARNED_PLACES],
}

/// First 16 bytes of the data of a test run of `sweep_v4` and `sweep_v6`; `count` keys follow. The
/// same place in the data that the run gives back holds the result.
pub struct Sweep: 16 {
    /// In: [`SWEEP_ESTABLISHED`] or [`SWEEP_HALF_OPEN`].
    pub table: u32,
    /// In: number of keys, at most [`SWEEP_KEYS_V4`] or [`SWEEP_KEYS_V6`].
    pub count: u32,
    /// Out: how many of them had expired and were deleted.
    pub deleted: u32,
    /// In: 1 = flows are ended as well that are closed and were silent for a second. (The kernel
    /// takes the first 14 bytes for an Ethernet header.)
    pub closed: u32,
}
}

/// How many addresses an element of `learned` holds.
pub const LEARNED_PLACES: usize = 16;
/// How many of an element's places are for link-local addresses.
pub const LEARNED_LINK_LOCAL: usize = 4;
/// How many seconds without a packet must pass before the place of an address is free for another
/// one.
pub const LEARNED_IDLE: u32 = 300;

/// The number of elements of the array `nats`, a power of two.
pub const MAX_NATS: u32 = 8192;
/// How many elements may hold an address's translation: [`NAT_RUN`] from either of its two places
/// on, around the array's end.
pub const NAT_PROBES: u32 = 2 * NAT_RUN;
/// How many elements the search looks at from one place on.
pub const NAT_RUN: u32 = 8;

/// A bit of [`Nat::flags`]: the addresses are of IPv6.
pub const NAT_V6: u32 = 1;
/// In [`Nat::flags`]: found by the internal address; says under which external one outgoing flows
/// are shown.
pub const NAT_OUT: u32 = 2;
/// A bit of [`Nat::flags`]: the search goes on behind this element, even if it says nothing.
pub const NAT_PASSED: u32 = 4;

/// The two places in `nats` where the search for an address looks. It goes from the first on until
/// an element without [`NAT_PASSED`], at most [`NAT_RUN`] of them, and then from the second on
/// likewise.
///
/// Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast"): whoever
/// does not know the seed cannot choose addresses that meet more often than any others would.
#[inline(always)]
pub const fn nat_places(address: &[u32; 4], seed: &NatSeed) -> [u32; 2] {
    let words = &seed.words;
    let sum = words[0]
        .wrapping_add(words[1].wrapping_mul(address[0] as u64))
        .wrapping_add(words[2].wrapping_mul(address[1] as u64))
        .wrapping_add(words[3].wrapping_mul(address[2] as u64))
        .wrapping_add(words[4].wrapping_mul(address[3] as u64));
    // The upper half of the sum is what is random. Neighbouring addresses lie at even distances in
    // it, and are scattered without two becoming one.
    let upper = (sum >> 32) as u32;
    let mut mixed = (upper ^ upper >> 16).wrapping_mul(0x7feb_352d);
    mixed ^= mixed >> 15;
    [mixed >> (32 - MAX_NATS.trailing_zeros()), mixed & (MAX_NATS - 1)]
}

const _: () = assert!(MAX_NATS.is_power_of_two() && MAX_NATS.trailing_zeros() <= 16);

/// The element that the search looks at as its `probe`th (from zero, below [`NAT_PROBES`]).
#[inline(always)]
pub const fn nat_probe(places: [u32; 2], probe: u32) -> u32 {
    (places[(probe / NAT_RUN % 2) as usize] + probe % NAT_RUN) & (MAX_NATS - 1)
}

/// Odd; generated programs multiply by it as an immediate, which is sign-extended.
pub const CHECK_MULTIPLIER: i32 = -0x61c8_864f;

#[inline(always)]
const fn fold(sum: u64, word: u64) -> u64 {
    sum.wrapping_mul(CHECK_MULTIPLIER as u64).wrapping_add(word)
}

impl Peer {
    /// Fingerprint of an address (IPv4: first word, the others zero) and of what is said of it.
    #[inline(always)]
    pub const fn check_for(&self, address: &[u32; 4]) -> u32 {
        let mut sum = fold(join(address[0], address[1]), join(address[2], address[3]));
        sum = fold(sum, join(self.class[0], self.class[1]));
        sum = fold(sum, join(self.endpoint, self.id));
        sum = fold(sum, self.flags as u64);
        (fold(sum, 0) >> 32) as u32
    }

    /// Returns the same value with its check.
    pub const fn sealed(self, address: &[u32; 4]) -> Self {
        Self {
            check: self.check_for(address),
            ..self
        }
    }
}

impl NamedPort {
    /// Fingerprint of a port and its classes. Generated programs calculate it, too: words as they
    /// lie in memory, see [`CHECK_MULTIPLIER`]; `h = h * multiplier + word` over the two of the
    /// address, the last one of the key, and the classes; the upper half of `h * multiplier`.
    pub const fn check_for(class: [u32; 2], key: &NamedPortKey) -> u32 {
        let address = &key.address;
        let last = if cfg!(target_endian = "little") {
            key.port as u32 | (key.protocol as u32) << 16 | (key.ip_version as u32) << 24
        } else {
            (key.port as u32) << 16 | (key.protocol as u32) << 8 | key.ip_version as u32
        };
        let mut sum = fold(join(address[0], address[1]), join(address[2], address[3]));
        sum = fold(sum, last as u64);
        sum = fold(sum, join(class[0], class[1]));
        (fold(sum, 0) >> 32) as u32
    }

    /// A port's value.
    pub const fn new(class: [u32; 2], key: &NamedPortKey) -> Self {
        Self {
            class,
            check: Self::check_for(class, key),
            reserved: 0,
        }
    }
}

/// The table of established flows is swept.
pub const SWEEP_ESTABLISHED: u32 = 0;
/// The table of half-open flows is swept.
pub const SWEEP_HALF_OPEN: u32 = 1;
/// How many keys one run of `sweep_v4` takes.
pub const SWEEP_KEYS_V4: u32 = 128;
/// How many keys one run of `sweep_v6` takes.
pub const SWEEP_KEYS_V6: u32 = 64;

/// The record names a MAC address: packets with another source MAC are spoofed.
pub const ENDPOINT_CHECK_MAC: u32 = 1;
/// `mac` is known and the interface is a veth whose peer is in another namespace, without foreign
/// queueing disciplines or tcx programs: packets may be redirected straight into it.
pub const ENDPOINT_REDIRECTABLE: u32 = 2;
/// It may send from addresses that are not its own: its egress policy program says from which.
pub const ENDPOINT_SPOOFS: u32 = 4;

/// DHCP messages of this endpoint (a virtual machine's) reach servers on the host without policy.
pub const ENDPOINT_DHCP: u32 = 8;

/// What the programs write into `skb->tc_index` of packets that a workload sends on its own account
/// (not in answer): at netfilter's hook `input`, where such a packet has arrived at the host
/// itself, it says that `defaultEndpointToHostAction` concerns it.
pub const HOST_INPUT_TAG: u16 = 0xfe1d;
/// What they write there of every other packet that passes. At netfilter's hook `prerouting` a
/// packet that came in by a guarded interface (a key of the map `guarded`) and has neither tag was
/// seen by no program: the kernel was made to pass them by.
pub const JUDGED_TAG: u16 = 0xfe1e;

/// The address belongs to the host itself.
pub const PEER_HOST: u32 = 1;

/// `defaultEndpointToHostAction` is not Drop: what the egress policy allows reaches the host.
pub const SETTING_HOST_REACHABLE: u32 = 1;
/// Workloads may send IP-in-IP.
pub const SETTING_ALLOW_IPIP: u32 = 2;
/// Workloads may send VXLAN to the cluster's port.
pub const SETTING_ALLOW_VXLAN: u32 = 4;
/// There are entries in `nets_v4`: an address that `peers_v4` lacks is looked up there.
pub const SETTING_NETS_V4: u32 = 8;
/// There are entries in `nets_v6`: an address that `peers_v6` lacks is looked up there.
pub const SETTING_NETS_V6: u32 = 16;
/// There are elements in `nats`.
pub const SETTING_NATS: u32 = 32;
/// Flows from an address that has an external one are shown under it, unless they go to the host,
/// to a local endpoint or to what `cluster_v4` and `cluster_v6` (LPM; the value says nothing)
/// cover.
pub const SETTING_NAT_OUTBOUND: u32 = 64;
