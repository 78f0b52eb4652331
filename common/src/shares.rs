//! What each endpoint has of the tables that packets fill: counts, rings of half-open flows, places
//! of fragmented datagrams.

use crate::{MAX_ENDPOINTS, shared};

shared! {
/// Which datagram an element of `fragments_v4` is of: its first fragment was seen at this endpoint
/// and hook.
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
    /// Protocol in the low byte, hook (`EGRESS` or `INGRESS`) above it.
    pub protocol_hook: u32,
}

/// Which datagram an element of `fragments_v6` is of.
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

/// What the first fragment of a datagram showed.
pub struct Fragment: 16 {
    /// Source port (or ICMP identifier), network byte order.
    pub src_port: u16,
    /// Destination port (or ICMP identifier), network byte order.
    pub dst_port: u16,
    /// Length in bytes of what the first fragment carried after the IP headers: later fragments
    /// must begin at or after it.
    pub first_length: u16,
    /// ICMP type in the low byte, code in the high one.
    pub icmp: u16,
    /// Low 32 bits of jiffies when the first fragment was seen.
    pub seen: u32,
    /// Protocol of the ports: in IPv6, extension headers may stand between the fragment header and
    /// L4.
    pub protocol: u32,
}

/// Element of the array `fragments_v4`, see [`fragment_slot`].
pub struct FragmentPlaceV4: 36 {
    /// The datagram; all zeros = none yet.
    pub key: FragmentKeyV4,
    /// What its first fragment showed.
    pub first: Fragment,
}

/// Element of the array `fragments_v6`.
pub struct FragmentPlaceV6: 60 {
    /// The datagram; all zeros = none yet.
    pub key: FragmentKeyV6,
    /// What its first fragment showed.
    pub first: Fragment,
}

/// What an endpoint has of the tables of flows: element of the array `flow_counts`, by the
/// endpoint's index. Index 0 is the host's, for the flows that it begins itself; what stands at
/// [`FLOW_BORROWED`] is about all endpoints. Written by the programs only.
pub struct FlowCount: 64 {
    /// Id of the endpoint; the counts of another one are void.
    pub id: u32,
    /// Entries in the tables of established flows (IPv4, IPv6) that are charged to it, as signed
    /// numbers. At [`FLOW_BORROWED`]: those beyond the shares of all endpoints.
    pub established: [u32; 2],
    /// How often those have changed: by that user space knows what a count was worth that it took
    /// while packets came.
    pub changes: [u32; 2],
    /// Where its next half-open flow goes (IPv4, IPv6): in the ring of flows that it begins, and in
    /// the ring of those that others begin.
    pub cursors: [[u32; 2]; 2],
    /// Unused, zero.
    pub reserved: [u32; 3],
    /// New flows that were refused because its share was used up.
    pub refused: u64,
    /// Half-open flows of its own that made room for newer ones.
    pub replaced: u64,
}

/// First 24 bytes of the data of a test run of `recount`: what is to be added to a count.
pub struct Recount: 24 {
    /// Index of the element of `flow_counts`.
    pub index: u32,
    /// Id that the element must have.
    pub id: u32,
    /// 0 = IPv4, 1 = IPv6.
    pub family: u32,
    /// A signed number to add to [`FlowCount::established`].
    pub difference: u32,
    /// Out: 1 = it was added.
    pub done: u32,
    /// Unused, zero.
    pub reserved: u32,
}
}

/// The number of elements of `flow_counts`.
pub const FLOW_COUNTS: u32 = MAX_ENDPOINTS + 1;
/// The element of `flow_counts` that says how many established flows there are beyond the shares of
/// their endpoints.
pub const FLOW_BORROWED: u32 = MAX_ENDPOINTS;
/// How many slots a new half-open flow looks at before it is refused.
pub const FLOW_TRIES: u32 = 8;

/// The slot of `half_open_ring_v4` or `half_open_ring_v6` where an endpoint's half-open flow with
/// this number goes. Each endpoint has two rings: for the flows that it begins (`received` is 0),
/// and for those that others begin (1).
#[inline(always)]
pub const fn flow_slot(index: u32, received: u32, number: u32, ring: u32) -> u32 {
    (2 * index + received) * ring + (number & ring.wrapping_sub(1))
}

/// The element of `fragments_v4` or `fragments_v6` where an endpoint's datagram stands whose hash
/// is this. Each endpoint has places of its own at each hook.
#[inline(always)]
pub const fn fragment_slot(index: u32, hook: u32, hash: u32, ring: u32) -> u32 {
    (2 * index + hook) * ring + (hash & ring.wrapping_sub(1))
}
