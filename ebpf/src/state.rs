//! What the slow programs hand to each other in the private part of the scratch.

use felid_common::{Scratch, Side};

/// The private part of [`Scratch`]. Filled by the parser, then by whoever prepares a judgement.
#[repr(C)]
pub(crate) struct Private {
    /// `protocol::word` of the flow.
    pub(crate) word: u32,
    /// Source port or ICMP identifier as in the flow's key, network byte order. Turned together with the tuple.
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
    /// `JUDGE_*` bits that are still to be done.
    pub(crate) pending: u8,
    /// `MODE_*` bits.
    pub(crate) mode: u8,
    /// Who the egress policy judges.
    pub(crate) egress: Side,
    /// Who the ingress policy judges.
    pub(crate) ingress: Side,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// `JUDGE_*` bits of the sides that this packet's verdict is for.
    pub(crate) judged: u8,
    /// `QUERY_*`: what an ICMP message is.
    pub(crate) query: u8,
    /// Not zero: IPv6 with a fragment header.
    pub(crate) cut: u8,
    /// For [`forget`].
    pub(crate) forgotten: u32,
    /// The packet's sender is one end of a flow that is shown to the other end under an external address: its number, see
    /// [`crate::nat::Number`]. It is the packet's, so it is not turned.
    pub(crate) nat_from: u32,
    /// The packet's receiver, likewise.
    pub(crate) nat_to: u32,
    /// Where `translate` delivers the packet: index of an endpoint's record; 0 = on through the host's stack.
    pub(crate) target: u32,
    /// Offset of the IP header that an ICMP error quotes; 0 = it is none.
    pub(crate) quoted: u16,
    /// Offset of the L4 header behind that.
    pub(crate) quoted_l4: u16,
    /// Unused.
    pub(crate) reserved_too: [u32; 2],
}

const _: () = assert!(size_of::<Private>() == 80 && align_of::<Private>() == 4);

/// The egress policy of `Private::egress` is to be asked.
pub(crate) const JUDGE_EGRESS: u8 = 1;
/// The ingress policy of `Private::ingress` is to be asked.
pub(crate) const JUDGE_INGRESS: u8 = 2;

/// The flow has an entry that is to be completed or renewed; otherwise a new one is to be made.
pub(crate) const MODE_UPDATE: u8 = 1;
/// The packet runs against the tuple in the scratch.
pub(crate) const MODE_TURNED: u8 = 2;
/// Redirect past the host's stack.
pub(crate) const MODE_FAST: u8 = 4;
/// There may be an entry of an older flow: it is replaced.
pub(crate) const MODE_REPLACE: u8 = 8;
/// Leave the tables alone.
pub(crate) const MODE_TRANSIENT: u8 = 16;
/// The destination is known to be the host.
pub(crate) const MODE_TO_HOST: u8 = 32;
/// The routing table must say whether the destination is the host.
pub(crate) const MODE_ASK_ROUTE: u8 = 64;

/// The older flow is in the established table only.
pub(crate) const MODE_OLD_ESTABLISHED: u8 = 128;

/// Not an ICMP message with an identifier.
pub(crate) const QUERY_NONE: u8 = 0;
/// One that asks.
pub(crate) const QUERY_ASKS: u8 = 1;
/// One that answers.
pub(crate) const QUERY_ANSWERS: u8 = 2;

/// Gives a number back through memory, so that the verifier forgets what it knew of it: in a loop it would otherwise follow every way to
/// get there apart, and loading would take a second instead of milliseconds.
#[inline(always)]
pub(crate) fn forget(place: *mut u32, value: u32) -> u32 {
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
        // SAFETY: as above; `private` has the size and alignment of `Private` (asserted), for which every bit pattern is valid.
        unsafe { &mut *core::ptr::addr_of_mut!((*self.scratch).private).cast() }
    }

    /// Exchanges the ends of the tuple.
    #[inline(always)]
    pub(crate) fn turn(&mut self) {
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
