//! L4 headers: ports, or what stands for them, into the tuple.

use felid_common::{DropReason, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, protocol};

use crate::packet::Packet;
use crate::state::{PacketKind, QUERY_ANSWERS, QUERY_ASKS, QUERY_NONE, State};
use crate::tcp;

/// Byte `n` (from the left, as in the packet) of a word.
#[inline(always)]
pub(crate) const fn byte(word: u32, n: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * n)) as u8
}

/// 16-bit half `n` of a word, in host byte order.
#[inline(always)]
pub(crate) const fn half(word: u32, n: u32) -> u32 {
    u32::from_be(word) >> (16 - 16 * n) & 0xffff
}

/// What follows the IP headers of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    /// Protocol number.
    pub(crate) number: u8,
    /// Offset in the packet.
    pub(crate) at: u32,
    /// End of the IP packet.
    pub(crate) end: u32,
}

impl Payload {
    /// Length in bytes.
    #[inline(always)]
    pub(crate) const fn length(self) -> u32 {
        self.end - self.at
    }
}

/// Whether this is the ICMP of that IP version (the other's number is a protocol like any unknown
/// one).
pub(crate) const fn is_icmp(version: u8, number: u8) -> bool {
    if version == 4 {
        number == protocol::ICMP
    } else {
        number == protocol::ICMPV6
    }
}

/// Reads ports (or what stands for them) and checks the header's own lengths. `fragment`: the
/// payload is the first part of a longer one.
#[inline(always)]
pub(crate) fn parse(
    packet: Packet,
    state: &mut State,
    payload: Payload,
    fragment: bool,
) -> Result<PacketKind, DropReason> {
    let Payload { number, at, .. } = payload;
    let length = payload.length();
    let version = state.tuple().ip_version;
    let shortest = match number {
        protocol::TCP => 20,
        protocol::UDP | protocol::UDPLITE => 8,
        protocol::SCTP => 12,
        protocol::ICMP | protocol::ICMPV6 if is_icmp(version, number) => 8,
        _ => {
            set_ports(state, number, 0, 0);
            if matches!(number, protocol::ICMP | protocol::ICMPV6)
                && length >= 2
                && let Some(head) = packet.load::<u16>(at)
            {
                let [kind, code] = head.to_ne_bytes();
                set_foreign_icmp(state, number, kind, code);
            }
            return Ok(PacketKind::Flow);
        }
    };
    if length < shortest {
        return Err(DropReason::Malformed);
    }
    if number == protocol::TCP {
        return segment(packet, state, payload);
    }
    let head = packet.load::<[u32; 2]>(at).ok_or(DropReason::Malformed)?;
    if number == protocol::ICMP || number == protocol::ICMPV6 {
        return Ok(icmp(state, number, version, head));
    }
    // The first word is both ports, as they lie in the packet.
    let (src_port, dst_port) = ports(head[0]);
    set_ports(state, number, src_port, dst_port);
    if number == protocol::SCTP {
        const INIT: u8 = 1;
        let first_chunk = packet.load::<u8>(at + 12).filter(|_| length > 12);
        state.private().opens = u8::from(first_chunk == Some(INIT));
        return Ok(PacketKind::Flow);
    }
    if !fragment {
        // UDP: length of the datagram. UDP-Lite: how much the checksum covers, 0 = all.
        let claimed = half(head[1], 0);
        let lite = number == protocol::UDPLITE;
        if claimed > length || (claimed < 8 && !(lite && claimed == 0)) {
            return Err(DropReason::Malformed);
        }
    }
    Ok(PacketKind::Flow)
}

/// Reads a TCP header, whose length the caller has checked to be at least 20 bytes.
#[inline(always)]
fn segment(packet: Packet, state: &mut State, payload: Payload) -> Result<PacketKind, DropReason> {
    let Payload { number, at, .. } = payload;
    let length = payload.length();
    let head = packet.load::<[u32; 4]>(at).ok_or(DropReason::Malformed)?;
    let (src_port, dst_port) = ports(head[0]);
    set_ports(state, number, src_port, dst_port);
    let header = u32::from(byte(head[3], 0) >> 4) * 4;
    if header < 20 || header > length {
        return Err(DropReason::Malformed);
    }
    let private = state.private();
    private.tcp = byte(head[3], 1) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
    private.sequence = u32::from_be(head[1]);
    private.acknowledged = u32::from_be(head[2]);
    private.window = half(head[3], 1) as u16;
    private.length = (length - header) as u16;
    private.opens = u8::from(private.tcp & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN);
    if private.tcp & TCP_SYN != 0 {
        let scale = tcp::window_scale(packet, state, at + 20, at + header);
        state.private().scale = scale;
    }
    Ok(PacketKind::Flow)
}

/// Both halves of a word as they lie in the packet.
#[inline(always)]
pub(crate) fn ports(word: u32) -> (u16, u16) {
    ((half(word, 0) as u16).to_be(), (half(word, 1) as u16).to_be())
}

#[inline(always)]
fn icmp(state: &mut State, number: u8, version: u8, head: [u32; 2]) -> PacketKind {
    let (kind, code) = (byte(head[0], 0), byte(head[0], 1));
    set_icmp(state, number, kind, code, (half(head[1], 0) as u16).to_be());
    // MLD, neighbour discovery and MLDv2.
    let neighbour = version != 4 && matches!(kind, 130..=137 | 143);
    if protocol::icmp_is_error(version, kind) {
        PacketKind::Error
    } else if neighbour {
        PacketKind::Neighbour
    } else {
        PacketKind::Flow
    }
}

/// Fills what belongs to L4 of a protocol with ports (network byte order), or with nothing: zeros.
#[inline(always)]
pub(crate) fn set_ports(state: &mut State, number: u8, src_port: u16, dst_port: u16) {
    let private = state.private();
    private.word = protocol::word(number, 0, 0);
    private.src_port = src_port;
    private.dst_port = dst_port;
    private.query = QUERY_NONE;
    let tuple = state.tuple();
    tuple.protocol = number;
    tuple.src_port = u16::from_be(src_port);
    tuple.dst_port = u16::from_be(dst_port);
    tuple.icmp_type = 0;
    tuple.icmp_code = 0;
}

/// The other version's ICMP: rules that speak of its types take it as what it says it is, and
/// messages of other types are other flows.
#[inline(always)]
pub(crate) fn set_foreign_icmp(state: &mut State, number: u8, kind: u8, code: u8) {
    let tuple = state.tuple();
    [tuple.icmp_type, tuple.icmp_code] = [kind, code];
    state.private().word = protocol::word(number, kind, code);
}

/// Fills what belongs to ICMP. Policies see no ports there; the key has the identifier (network
/// byte order) where there is one.
#[inline(always)]
pub(crate) fn set_icmp(state: &mut State, number: u8, kind: u8, code: u8, identifier: u16) {
    let tuple = state.tuple();
    tuple.protocol = number;
    tuple.src_port = 0;
    tuple.dst_port = 0;
    tuple.icmp_type = kind;
    tuple.icmp_code = code;
    let (query, of, identifier) = match protocol::icmp_query(tuple.ip_version, kind) {
        Some((of, false)) => (QUERY_ASKS, of, identifier),
        Some((of, true)) => (QUERY_ANSWERS, of, identifier),
        None => (QUERY_NONE, kind, 0),
    };
    let private = state.private();
    private.word = protocol::word(number, of, code);
    private.src_port = identifier;
    private.dst_port = identifier;
    private.query = query;
}
