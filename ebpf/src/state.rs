//! What the slow programs hand to each other in the private part of the scratch.

use bitflags::bitflags;
use felid_common::{Fragment, Scratch, Side};

/// The private part of [`Scratch`]. Filled by the parser, then by whoever prepares a judgement.
#[repr(C)]
pub(crate) struct Private {
    /// `protocol::word` of the flow.
    pub(crate) word: u32,
    /// Source port or ICMP identifier as in the flow's key, network byte order. Turned together
    /// with the tuple.
    pub(crate) src_port: u16,
    /// Destination port, likewise.
    pub(crate) dst_port: u16,
    /// TCP sequence number.
    pub(crate) sequence: u32,
    /// TCP acknowledgement number.
    pub(crate) acknowledged: u32,
    /// Offset of the L4 header from the start of the packet; 0 in a fragment other than the first.
    pub(crate) l4: u16,
    /// End of the IP packet, likewise.
    pub(crate) end: u16,
    /// TCP flags; 0 if the packet is not TCP or a later fragment.
    pub(crate) tcp: u8,
    /// Hook: `EGRESS` at `from_workload`, `INGRESS` at `to_workload`.
    pub(crate) hook: u8,
    /// The sides whose policies are still to be asked.
    pub(crate) pending: Sides,
    /// The sides that this packet's verdict is for.
    pub(crate) judged: Sides,
    /// Who the egress policy judges.
    pub(crate) egress: Side,
    /// Who the ingress policy judges.
    pub(crate) ingress: Side,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// `QUERY_*`: what an ICMP message is.
    pub(crate) query: u8,
    /// Not zero: IPv6 with a fragment header.
    pub(crate) cut: u8,
    /// Not zero: the packet asks for a new connection: a SYN without ACK, or SCTP's INIT.
    pub(crate) opens: u8,
    /// For [`launder`].
    pub(crate) laundered: u32,
    /// The packet's sender is one end of a flow that is shown to the other end under an external
    /// address: its number, see [`crate::translation::Number`]. It belongs to the packet, so
    /// exchanging the ends of the tuple leaves it alone.
    pub(crate) nat_from: u32,
    /// The packet's receiver, likewise.
    pub(crate) nat_to: u32,
    /// Where `translate` delivers the packet: index of an endpoint's record; 0 = on through the
    /// host's stack.
    pub(crate) target: u32,
    /// Offset of the IP header that an ICMP error quotes; 0 = it is none.
    pub(crate) quoted: u16,
    /// Offset of the L4 header behind that.
    pub(crate) quoted_l4: u16,
    /// What is to be done with the packet.
    pub(crate) mode: Mode,
    /// TCP window as in the header.
    pub(crate) window: u16,
    /// Bytes that a TCP segment carries.
    pub(crate) length: u16,
    /// Window scale that a SYN offers, or `SCALE_UNKNOWN`.
    pub(crate) scale: u8,
    /// Protocol that the fragments of this packet's datagram agree on.
    pub(crate) fragment_protocol: u8,
    /// Identification of this packet's datagram.
    pub(crate) fragment_id: u32,
    /// What a first fragment shows, to be noted once it is allowed; `first_length` 0 = the packet
    /// is none.
    pub(crate) fragment: Fragment,
    /// Unused.
    pub(crate) reserved: u32,
}

const _: () = assert!(size_of::<Private>() == 104 && align_of::<Private>() == 4);

/// What to do with a packet that was understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketKind {
    /// A packet of a flow.
    Flow,
    /// An ICMP or ICMPv6 error.
    Error,
    /// ARP, neighbour discovery or multicast listener discovery.
    Neighbour,
    /// A later fragment of a datagram whose first fragment was not seen.
    Orphan,
}

bitflags! {
    /// The sides of a flow, as far as their policies are to be asked, or were.
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[repr(transparent)]
    pub(crate) struct Sides: u8 {
        /// The originator, whose egress policy is asked.
        const EGRESS = 1;
        /// The responder, whose ingress policy is asked.
        const INGRESS = 2;
    }
}

bitflags! {
    /// What is to be done with a packet once it is allowed.
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[repr(transparent)]
    pub(crate) struct Mode: u16 {
        /// The flow has an entry that is to be completed or renewed; otherwise a new one is to be
        /// made.
        const UPDATE = 1;
        /// The packet runs against the tuple in the scratch.
        const REPLY_DIRECTION = 2;
        /// The packet is redirected past the host's stack.
        const REDIRECT = 4;
        /// There may be an entry of an older flow, which is replaced.
        const REPLACE = 8;
        /// The tables are left alone.
        const TRANSIENT = 16;
        /// The older flow is in the established table only.
        const OLD_ESTABLISHED = 32;
        /// The egress policy is asked only whether the workload may use the address in the tuple's
        /// source: neighbour discovery goes on.
        const ASK_PREFIXES = 64;
        /// It may.
        const VOUCHED = 128;
        /// The originator's port is replaced in the packet, see `port_alias`.
        const ALIASED = 256;
    }
}

/// Not an ICMP message with an identifier.
pub(crate) const QUERY_NONE: u8 = 0;
/// One that asks.
pub(crate) const QUERY_ASKS: u8 = 1;
/// One that answers.
pub(crate) const QUERY_ANSWERS: u8 = 2;

/// Gives a number back through memory, so that the verifier forgets what it knew of it: in a loop
/// it would otherwise follow each way there on its own, and loading would take a second instead of
/// milliseconds.
#[inline(always)]
pub(crate) fn launder(place: *mut u32, value: u32) -> u32 {
    // SAFETY: a field of this CPU's scratch.
    unsafe {
        place.write_volatile(value);
        place.read_volatile()
    }
}

/// The tuple and the private part.
pub(crate) struct State {
    scratch: *mut Scratch,
}

impl State {
    #[inline(always)]
    pub(crate) fn new(scratch: &'static mut Scratch) -> Self {
        Self { scratch }
    }

    /// What policy programs see.
    #[inline(always)]
    pub(crate) fn tuple(&mut self) -> &mut Scratch {
        // SAFETY: made from a unique reference, which this replaces.
        unsafe { &mut *self.scratch }
    }

    /// What they do not.
    #[inline(always)]
    pub(crate) fn private(&mut self) -> &mut Private {
        // SAFETY: as above; `private` has the size and alignment of `Private` (asserted), for which
        // every bit pattern is valid.
        unsafe { &mut *core::ptr::addr_of_mut!((*self.scratch).private).cast() }
    }

    /// Exchanges the ends of the tuple.
    #[inline(always)]
    pub(crate) fn swap_ends(&mut self) {
        let tuple = self.tuple();
        let (src, dst) = (tuple.src, tuple.dst);
        let (src_port, dst_port) = (tuple.src_port, tuple.dst_port);
        (tuple.src, tuple.dst) = (dst, src);
        (tuple.src_port, tuple.dst_port) = (dst_port, src_port);
        let private = self.private();
        let (src_port, dst_port) = (private.src_port, private.dst_port);
        (private.src_port, private.dst_port) = (dst_port, src_port);
    }
}
