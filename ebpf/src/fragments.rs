//! Ports of fragmented datagrams: the first fragment shows them, the later ones are judged by what
//! it showed. Each first fragment is judged by its own ports, and later ones may not reach back
//! over its header, so that nothing else can stand there after reassembly.

use core::ptr::{addr_of, addr_of_mut};

use felid_common::{DropReason, Fragment, fragment_slot, protocol};

use crate::packet::{L3, Packet, now, settings};
use crate::state::State;
use crate::{l4, maps};

/// Seconds that a datagram may take: as long as hosts wait for its parts at most (RFC 8200: 60).
const PATIENCE: u32 = 60;

/// Which part of a datagram the packet is.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Offset in bytes.
    pub(crate) offset: u32,
    /// Whether more follow.
    pub(crate) more: bool,
    /// Identification, as in the packet.
    pub(crate) identification: u32,
    /// Protocol that the fragments agree on.
    pub(crate) protocol: u8,
    /// Where its share of the datagram begins in the packet.
    pub(crate) start: u32,
}

impl Part {
    pub(crate) const WHOLE: Self = Self {
        offset: 0,
        more: false,
        identification: 0,
        protocol: 0,
        start: 0,
    };

    #[inline(always)]
    pub(crate) const fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Keeps what a first fragment that carries `length` bytes shows, for [`insert`].
#[inline(always)]
pub(crate) fn prepare(state: &mut State, part: Part, length: u32) {
    let tuple = state.tuple();
    let icmp = u16::from(tuple.icmp_type) | u16::from(tuple.icmp_code) << 8;
    let number = tuple.protocol;
    let private = state.private();
    private.fragment_id = part.identification;
    private.fragment_protocol = part.protocol;
    private.fragment = Fragment {
        src_port: private.src_port,
        dst_port: private.dst_port,
        first_length: length as u16,
        icmp,
        seen: 0,
        protocol: u32::from(number),
    };
}

/// Which datagram of which endpoint and hook, beside its addresses.
#[derive(Clone, Copy)]
struct Datagram {
    endpoint: u32,
    /// As in the packet.
    identification: u32,
    protocol_hook: u32,
}

impl Datagram {
    #[inline(always)]
    fn new(packet: Packet, identification: u32, protocol: u8, hook: u8) -> Self {
        Self {
            endpoint: packet.own_id(),
            identification,
            protocol_hook: u32::from(protocol) | u32::from(hook) << 8,
        }
    }

    /// Where it goes among the endpoint's own places at this hook. Those that one host sends after
    /// another have neighbouring identifications, and so places of their own. `addresses`: a sum
    /// over source and destination.
    #[inline(always)]
    fn slot(&self, packet: Packet, hook: u8, addresses: u32) -> Option<u32> {
        let ring = settings()?.fragment_ring;
        // IPv4 has 16 bits of it, which lie at the front of the word.
        let number = u32::from_be(self.identification);
        let number = number ^ number >> 16;
        let hash = number.wrapping_add((addresses ^ self.protocol_hook).wrapping_mul(0x9e37_79b1) >> 16);
        Some(fragment_slot(packet.own_index(), hook.into(), hash, ring))
    }
}

/// A sum over the addresses of an IPv6 datagram.
#[inline(always)]
const fn sum(src: &[u32; 4], dst: &[u32; 4]) -> u32 {
    (src[0] ^ src[1] ^ src[2] ^ src[3])
        .wrapping_mul(31)
        .wrapping_add(dst[0] ^ dst[1] ^ dst[2] ^ dst[3])
}

/// Reads a field of a place that others may write.
macro_rules! peek {
    ($place:expr, $($field:tt)+) => {
        // SAFETY: a map's element stays where it is; what it holds is checked by `is`.
        unsafe { addr_of!((*$place).$($field)+).read_volatile() }
    };
}

/// Zero if a datagram stands in a place. The differences are branched on once: the verifier follows
/// each branch on its own.
macro_rules! other {
    ($place:expr, $datagram:expr) => {
        (peek!($place, key.endpoint) ^ $datagram.endpoint)
            | (peek!($place, key.identification) ^ $datagram.identification)
            | (peek!($place, key.protocol_hook) ^ $datagram.protocol_hook)
    };
}

/// Writes a datagram into a place: whatever stood there is void first, and the datagram valid last.
macro_rules! note {
    ($place:expr, $datagram:expr, $src:expr, $dst:expr, $first:expr) => {
        // SAFETY: a map's element, written as plain words. Two CPUs that write one place at once
        // may leave what either wrote: ports of some allowed first fragment of this endpoint.
        unsafe {
            addr_of_mut!((*$place).key.endpoint).write_volatile(0);
            addr_of_mut!((*$place).first).write_volatile($first);
            addr_of_mut!((*$place).key.src).write_volatile($src);
            addr_of_mut!((*$place).key.dst).write_volatile($dst);
            addr_of_mut!((*$place).key.identification).write_volatile($datagram.identification);
            addr_of_mut!((*$place).key.protocol_hook).write_volatile($datagram.protocol_hook);
            addr_of_mut!((*$place).key.endpoint).write_volatile($datagram.endpoint);
        }
    };
}

/// Notes the ports of a first fragment. Called once its sender's addresses and the policies have
/// been asked, so that nobody has noted what may not pass, and before the packet is changed. It
/// takes the place of an older datagram of this endpoint at this hook, never of another one's.
#[inline(always)]
pub(crate) fn insert(packet: Packet, state: &mut State) -> Result<(), DropReason> {
    let private = state.private();
    if private.fragment.first_length == 0 {
        return Ok(());
    }
    private.fragment.seen = now();
    let hook = private.hook;
    let datagram = Datagram::new(packet, private.fragment_id, private.fragment_protocol, hook);
    // Addresses as the later fragments will have them: the tuple's may be translated, or exchanged.
    if state.tuple().ip_version == 4 {
        let [src, dst] = packet.load::<[u32; 2]>(L3 as u32 + 12).ok_or(DropReason::Malformed)?;
        let slot = datagram.slot(packet, hook, src.wrapping_mul(31).wrapping_add(dst));
        let place = slot.and_then(|slot| maps::FRAGMENTS_V4.get_ptr_mut(slot));
        let place = place.ok_or(DropReason::Internal)?;
        note!(place, datagram, src, dst, state.private().fragment);
    } else {
        let [src, dst] = packet
            .load::<[[u32; 4]; 2]>(L3 as u32 + 8)
            .ok_or(DropReason::Malformed)?;
        let slot = datagram.slot(packet, hook, sum(&src, &dst));
        let place = slot.and_then(|slot| maps::FRAGMENTS_V6.get_ptr_mut(slot));
        let place = place.ok_or(DropReason::Internal)?;
        note!(place, datagram, src, dst, state.private().fragment);
    }
    Ok(())
}

/// Gives a later fragment the ports of its first one.
#[inline(always)]
pub(crate) fn lookup(state: &mut State, packet: Packet, part: Part) -> Result<(), DropReason> {
    let hook = state.private().hook;
    let datagram = Datagram::new(packet, part.identification, part.protocol, hook);
    let tuple = state.tuple();
    let version = tuple.ip_version;
    // What stands there is compared before and after it is read.
    let (first, other) = if version == 4 {
        let (src, dst) = (tuple.src[0], tuple.dst[0]);
        let slot = datagram.slot(packet, hook, src.wrapping_mul(31).wrapping_add(dst));
        let place = slot.and_then(|slot| maps::FRAGMENTS_V4.get_ptr(slot));
        let place = place.ok_or(DropReason::Internal)?;
        let other = other!(place, datagram) | (peek!(place, key.src) ^ src) | (peek!(place, key.dst) ^ dst);
        let first = peek!(place, first);
        (first, other | other!(place, datagram))
    } else {
        let slot = datagram.slot(packet, hook, sum(&tuple.src, &tuple.dst));
        let place = slot.and_then(|slot| maps::FRAGMENTS_V6.get_ptr(slot));
        let place = place.ok_or(DropReason::Internal)?;
        let mut other = other!(place, datagram);
        for n in 0..4 {
            other |= (peek!(place, key.src[n]) ^ tuple.src[n]) | (peek!(place, key.dst[n]) ^ tuple.dst[n]);
        }
        let first = peek!(place, first);
        (first, other | other!(place, datagram))
    };
    if other != 0 {
        return Err(DropReason::UnknownFragment);
    }
    let hz = settings().ok_or(DropReason::Internal)?.hz;
    if now().wrapping_sub(first.seen) > hz.wrapping_mul(PATIENCE) {
        return Err(DropReason::UnknownFragment);
    }
    if part.offset < u32::from(first.first_length) {
        return Err(DropReason::BadFragment);
    }
    let number = first.protocol as u8;
    let (kind, code) = (first.icmp as u8, (first.icmp >> 8) as u8);
    if l4::is_icmp(version, number) {
        // The identifier stands for both ports.
        l4::set_icmp(state, number, kind, code, first.src_port);
    } else {
        l4::set_ports(state, number, first.src_port, first.dst_port);
        if matches!(number, protocol::ICMP | protocol::ICMPV6) {
            l4::set_foreign_icmp(state, number, kind, code);
        }
    }
    Ok(())
}
