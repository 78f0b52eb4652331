//! Keys, values and indices of the maps, and the contract of each program array.

use crate::{join, shared};

/// Size of the endpoint table. Index 0 means "none" and is never used.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Number of per-policy counter slots; slot 0 collects whatever found no slot of its own.
pub const MAX_COUNTERS: u32 = 8192;

/// Policy direction: from the workload.
pub const EGRESS: u32 = 0;
/// Policy direction: towards the workload.
pub const INGRESS: u32 = 1;

/// Indices of the program array `fixed`.
pub mod fixed {
    /// Packets from a workload (TCX ingress of the host-side interface): established flows in the common shape.
    pub const FROM_WORKLOAD: u32 = 0;
    /// Packets to a workload (TCX egress of the host-side interface): the same.
    pub const TO_WORKLOAD: u32 = 1;
    /// Everything else from a workload.
    pub const FROM_WORKLOAD_SLOW: u32 = 2;
    /// Everything else to a workload.
    pub const TO_WORKLOAD_SLOW: u32 = 3;
    /// Where every policy program ends: reads the verdict in [`crate::Scratch`].
    pub const JUDGED: u32 = 4;
    /// ICMP errors about known flows, both hooks.
    pub const RELATED: u32 = 5;
    /// ARP, neighbour discovery and multicast listener discovery, both hooks.
    pub const NEIGHBOUR: u32 = 6;
    /// Writes translated addresses into a packet that was judged, and delivers it; both hooks.
    pub const TRANSLATE: u32 = 7;
    /// Size of the array.
    pub const COUNT: u32 = 8;
}

/// Size of the program array `policies`: two banks of two directions of [`MAX_ENDPOINTS`].
pub const POLICIES: u32 = 4 * MAX_ENDPOINTS;

/// How many continuations (chunks after the first) one policy program may have. The kernel follows 33 tail calls a packet: the stub,
/// the fast and the slow program, two policies of one entry and these, `JUDGED` after each, and `TRANSLATE`.
pub const MAX_CONTINUATIONS: u32 = 13;
const _: () = assert!(7 + 2 * MAX_CONTINUATIONS <= 33);

/// Index into `policies`. An empty element means: drop, counted as [`crate::Drop::NoPolicy`].
#[inline(always)]
pub const fn policy_index(bank: u32, direction: u32, endpoint: u32) -> u32 {
    bank * 2 * MAX_ENDPOINTS + direction * MAX_ENDPOINTS + endpoint
}

/// Which word of `skb->cb` the stub of an endpoint fills with the endpoint's index.
pub const CB_INDEX: usize = 0;
/// ... and with its id.
pub const CB_ID: usize = 1;
/// Which word the programs fill with the interface they redirect to, so that test runs see it.
pub const CB_TARGET: usize = 2;
/// ... and with the drop reason (only where they drop), for test runs.
pub const CB_REASON: usize = 3;

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
    /// Generation of its egress policy: flows that were judged under another one are judged again. Starts at 1.
    pub egress_generation: u32,
    /// Generation of its ingress policy.
    pub ingress_generation: u32,
    /// The workload's MAC address (destination of delivered packets), if known.
    pub mac: [u8; 6],
    /// The host-side interface's MAC address.
    pub host_mac: [u8; 6],
    /// IPv4 gateway that is answered by ARP, network byte order.
    pub gateway_v4: u32,
    /// IPv6 gateway that is answered by neighbour discovery; zero = only the interface's own link-local address, by the kernel.
    pub gateway_v6: [u32; 4],
    /// Fingerprint of (resource key, interface name), by which a restarted agent recognises the endpoint.
    pub identity: [u32; 4],
    /// Unused, zero.
    pub reserved: [u32; 2],
}

/// Value of `peers_v4` (key: address, 4 bytes) and `peers_v6` (key: 16 bytes), both in network byte order.
pub struct Peer: 24 {
    /// Class of the address in each bank: index into `classes`; 0 = member of nothing.
    pub class: [u32; 2],
    /// Index of the local endpoint that has this address; 0 = none.
    pub endpoint: u32,
    /// Id of that endpoint; must equal the record's.
    pub id: u32,
    /// `PEER_*` bits.
    pub flags: u32,
    /// [`Peer::check_for`] of the key and the rest. The kernel reuses a deleted element at once, so what was looked up may have become
    /// another address's: read everything once, then compare.
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

/// Value of `nets_v4` and `nets_v6` (LPM; keys [`NetKeyV4`], [`NetKeyV6`]): the kernel does not reuse their elements before a grace period.
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
    /// Address, network byte order; IPv4 as the first word, the others zero (no IPv6 address of a workload looks so).
    pub address: [u32; 4],
    /// Port, host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
}

/// The one element of the array `settings`. Times in jiffies.
pub struct Settings: 64 {
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
    /// UDP port of the cluster's VXLAN, host byte order; packets to it from workloads are dropped unless allowed.
    pub vxlan_port: u32,
    /// Packets a second and CPU of which Log rules may tell.
    pub log_rate: u32,
    /// ... at once.
    pub log_burst: u32,
    /// User space's own: `1 << EGRESS`, `1 << INGRESS` = a setting forbids now what was allowed, and these generations of all endpoints
    /// have still to be raised.
    pub revoking: u32,
    /// Unused, zero.
    pub reserved: [u32; 3],
}

/// A 1:1 translation, element of the array `nats`: a hash table that user space fills, see [`nat_slot`]. An element with `id` 0 says nothing
/// (but [`NAT_PASSED`]). Only `id` and `flags` of an element that programs may be reading are changed; another translation is written, with
/// `id` 0, a grace period after the last one's `id` became 0, and then its `id`: so programs need not fear to read half of each.
pub struct Nat: 64 {
    /// What it is found by, network byte order (IPv4: first word, the others zero): the external address, or with [`NAT_OUT`] the internal one.
    pub address: [u32; 4],
    /// The other one of the two; with [`NAT_OUT`] the external address that flows from the internal one are shown under.
    pub other: [u32; 4],
    /// Identity, never reused; 0 = not in force.
    pub id: u32,
    /// `NAT_*` bits.
    pub flags: u32,
    /// Index of the endpoint whose address is the internal one.
    pub endpoint: u32,
    /// Its id.
    pub endpoint_id: u32,
    /// With [`NAT_OUT`]: index of the translation of the external address, an element of this array.
    pub out: u32,
    /// Unused, zero.
    pub reserved: [u32; 3],
}

/// Key of `fragments_v4`: a datagram whose first fragment was seen at this endpoint and hook.
#[derive(Hash, PartialOrd, Ord)]
pub struct FragmentKeyV4: 20 {
    /// Source, network byte order.
    pub src: u32,
    /// Destination, network byte order.
    pub dst: u32,
    /// Endpoint id.
    pub endpoint: u32,
    /// Identification as in the packet.
    pub identification: u32,
    /// Protocol in the low byte, hook ([`EGRESS`] or [`INGRESS`]) above it.
    pub protocol_hook: u32,
}

/// Key of `fragments_v6`.
#[derive(Hash, PartialOrd, Ord)]
pub struct FragmentKeyV6: 44 {
    /// Source, network byte order.
    pub src: [u32; 4],
    /// Destination, network byte order.
    pub dst: [u32; 4],
    /// Endpoint id.
    pub endpoint: u32,
    /// Identification as in the packet.
    pub identification: u32,
    /// Protocol in the low byte, hook above it.
    pub protocol_hook: u32,
}

/// Value of the fragment tables.
pub struct Fragment: 16 {
    /// Source port (or ICMP identifier), network byte order.
    pub src_port: u16,
    /// Destination port (or ICMP identifier), network byte order.
    pub dst_port: u16,
    /// Length in bytes of what the first fragment carried after the IP headers: later fragments must begin at or after it.
    pub first_length: u16,
    /// ICMP type in the low byte, code in the high one.
    pub icmp: u16,
    /// Low 32 bits of jiffies when the first fragment was seen.
    pub seen: u32,
    /// Protocol of the ports: in IPv6, extension headers may stand between the fragment header and L4.
    pub protocol: u32,
}

/// First 16 bytes of the data of a test run of `sweep_v4` and `sweep_v6`; `count` keys follow. The same place in the data that the
/// run gives back holds the result.
pub struct Sweep: 16 {
    /// In: [`SWEEP_ESTABLISHED`] or [`SWEEP_HALF_OPEN`].
    pub table: u32,
    /// In: number of keys, at most [`SWEEP_KEYS_V4`] or [`SWEEP_KEYS_V6`].
    pub count: u32,
    /// Out: how many of them had expired and were deleted.
    pub deleted: u32,
    /// Unused, zero (the kernel takes the first 14 bytes for an Ethernet header).
    pub reserved: u32,
}
}

/// Elements of the array `nats`; a power of two.
pub const MAX_NATS: u32 = 8192;
/// How many elements, from [`nat_slot`] on and around the end, may hold an address's translation.
pub const NAT_PROBES: u32 = 8;

/// In [`Nat::flags`]: IPv6.
pub const NAT_V6: u32 = 1;
/// In [`Nat::flags`]: found by the internal address; says under which external one outgoing flows are shown.
pub const NAT_OUT: u32 = 2;
/// In [`Nat::flags`]: the search goes on behind this element, even if it says nothing.
pub const NAT_PASSED: u32 = 4;

/// Where in `nats` the search for an address begins. It goes on until an element without [`NAT_PASSED`], at most [`NAT_PROBES`] of them.
#[inline(always)]
pub const fn nat_slot(address: &[u32; 4]) -> u32 {
    let sum = fold(fold(0, join(address[0], address[1])), join(address[2], address[3]));
    // Every byte of the address has its part in the lower half, and the product's upper bits depend on all of that.
    let folded = (sum >> 32) as u32 ^ sum as u32;
    folded.wrapping_mul(CHECK_MULTIPLIER as u32) >> (32 - MAX_NATS.trailing_zeros())
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

    /// The same with its check.
    pub const fn sealed(self, address: &[u32; 4]) -> Self {
        Self {
            check: self.check_for(address),
            ..self
        }
    }
}

impl NamedPort {
    /// Fingerprint of a port and its classes. Generated programs calculate it, too: words as they lie in memory, see
    /// [`CHECK_MULTIPLIER`]; `h = h * multiplier + word` over the two of the address, the last one of the key, and the classes; the upper
    /// half of `h * multiplier`.
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

/// Sweep the established table.
pub const SWEEP_ESTABLISHED: u32 = 0;
/// Sweep the half-open table.
pub const SWEEP_HALF_OPEN: u32 = 1;
/// Keys in one run of `sweep_v4`.
pub const SWEEP_KEYS_V4: u32 = 200;
/// Keys in one run of `sweep_v6`.
pub const SWEEP_KEYS_V6: u32 = 80;

/// The record names a MAC address: packets with another source MAC are spoofed.
pub const ENDPOINT_CHECK_MAC: u32 = 1;
/// `mac` is known and the interface is a veth whose peer is in another namespace, without foreign queueing disciplines or tcx
/// programs: packets may be redirected straight into it.
pub const ENDPOINT_FAST: u32 = 2;
/// It may send from addresses that are not its own: its egress policy program says from which.
pub const ENDPOINT_SPOOFS: u32 = 4;

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
/// Likewise IPv6.
pub const SETTING_NETS_V6: u32 = 16;
/// There are elements in `nats`.
pub const SETTING_NATS: u32 = 32;
/// Flows from an address that has an external one are shown under it, unless they go to the host, to a local endpoint or to what
/// `cluster_v4` and `cluster_v6` (LPM; the value says nothing) cover.
pub const SETTING_NAT_OUTBOUND: u32 = 64;
