//! The whole parser: from the Ethernet header to ports, for every shape of packet. Whatever contradicts itself is an error, and errors are
//! drops. Reads go through a helper, so it does not matter which part of the packet is linear.

use felid_common::{Drop, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, protocol};

use crate::fragments;
use crate::packet::{ETH_ARP, ETH_IPV4, ETH_IPV6, L3, Packet};
use crate::state::{QUERY_ANSWERS, QUERY_ASKS, QUERY_NONE, State, forget};

/// What to do with a packet that was understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A packet of a flow.
    Flow,
    /// An ICMP or ICMPv6 error.
    Error,
    /// ARP, neighbour discovery or multicast listener discovery.
    Neighbour,
}

/// IPv6 extension headers that are followed.
const MAX_HEADERS: usize = 8;

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
    start: u32,
}

impl Part {
    const WHOLE: Self = Self {
        offset: 0,
        more: false,
        identification: 0,
        protocol: 0,
        start: 0,
    };

    #[inline(always)]
    const fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Fills the tuple and the parsed fields of the private part.
#[inline(always)]
pub(crate) fn packet(packet: Packet, state: &mut State, hook: u32, endpoint: u32) -> Result<Kind, Drop> {
    let private = state.private();
    private.hook = hook as u8;
    private.tcp = 0;
    private.mode = 0;
    private.pending = 0;
    private.cut = 0;
    private.nat_from = 0;
    private.nat_to = 0;
    private.target = 0;
    private.quoted = 0;
    if packet.vlan() {
        return Err(Drop::UnknownEthertype);
    }
    match packet.load::<u16>(12).ok_or(Drop::Malformed)? {
        ETH_IPV4 => v4(packet, state, endpoint),
        ETH_IPV6 => v6(packet, state, endpoint),
        ETH_ARP => {
            state.tuple().ip_version = 0;
            Ok(Kind::Neighbour)
        }
        _ => Err(Drop::UnknownEthertype),
    }
}

/// Byte `n` (from the left, as in the packet) of a word.
const fn byte(word: u32, n: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * n)) as u8
}

/// 16-bit half `n` of a word, in host byte order.
const fn half(word: u32, n: u32) -> u32 {
    u32::from_be(word) >> (16 - 16 * n) & 0xffff
}

#[inline(always)]
fn v4(packet: Packet, state: &mut State, endpoint: u32) -> Result<Kind, Drop> {
    let ip = packet.load::<[u32; 5]>(L3 as u32).ok_or(Drop::Malformed)?;
    let header = u32::from(byte(ip[0], 0) & 15) * 4;
    if byte(ip[0], 0) >> 4 != 4 || header < 20 {
        return Err(Drop::Malformed);
    }
    let available = packet.len().wrapping_sub(L3 as u32);
    let mut total = half(ip[0], 1);
    if total == 0 && packet.segmented() {
        // Longer than the field can say ("BIG TCP").
        total = available;
    }
    if total < header || total > available {
        return Err(Drop::Malformed);
    }
    if header > 20 {
        options(packet, state, header)?;
    }
    let fragment = half(ip[1], 1);
    let part = Part {
        offset: (fragment & 0x1fff) * 8,
        more: fragment & 0x2000 != 0,
        identification: ip[1] & 0xffff_0000_u32.to_be(),
        protocol: byte(ip[2], 1),
        start: L3 as u32 + header,
    };
    let tuple = state.tuple();
    tuple.ip_version = 4;
    tuple.src = [ip[3], 0, 0, 0];
    tuple.dst = [ip[4], 0, 0, 0];
    state.private().hops = byte(ip[2], 0);
    payload(
        packet,
        state,
        endpoint,
        part.protocol,
        L3 as u32 + header,
        L3 as u32 + total,
        part,
    )
}

/// Walks the options of an IPv4 header of `header` bytes.
#[inline(always)]
fn options(packet: Packet, state: &mut State, header: u32) -> Result<(), Drop> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let place = &raw mut state.private().forgotten;
    let mut at = 20;
    // At most 40 bytes, each option at least one.
    for _ in 0..40 {
        at = forget(place, at);
        if at >= header {
            return Ok(());
        }
        let option = packet.load::<u8>(L3 as u32 + at).ok_or(Drop::Malformed)?;
        match option {
            END => return Ok(()),
            NOP => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Drop::SourceRoute),
            _ => {
                let length = u32::from(packet.load::<u8>(L3 as u32 + at + 1).ok_or(Drop::Malformed)?);
                if length < 2 || at + length > header {
                    return Err(Drop::Malformed);
                }
                at += length;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn v6(packet: Packet, state: &mut State, endpoint: u32) -> Result<Kind, Drop> {
    let ip = packet.load::<[u32; 10]>(L3 as u32).ok_or(Drop::Malformed)?;
    if byte(ip[0], 0) >> 4 != 6 {
        return Err(Drop::Malformed);
    }
    let available = packet.len().wrapping_sub(L3 as u32 + 40);
    let mut length = half(ip[1], 0);
    if length == 0 && packet.segmented() {
        length = available;
    }
    if length > available {
        return Err(Drop::Malformed);
    }
    let tuple = state.tuple();
    tuple.ip_version = 6;
    tuple.src = [ip[2], ip[3], ip[4], ip[5]];
    tuple.dst = [ip[6], ip[7], ip[8], ip[9]];
    state.private().hops = byte(ip[1], 3);

    let end = L3 as u32 + 40 + length;
    let mut chain = Chain::new(L3 as u32 + 40, byte(ip[1], 2));
    chain.walk(packet, state, end)?;
    state.private().cut = u8::from(chain.part.start != 0);
    payload(packet, state, endpoint, chain.next, chain.at, end, chain.part)
}

/// A walk along IPv6 extension headers.
pub(crate) struct Chain {
    /// Where the next header begins.
    pub(crate) at: u32,
    /// Its number.
    pub(crate) next: u8,
    /// What the fragment header said.
    pub(crate) part: Part,
}

impl Chain {
    /// A chain that begins with header number `next` at `at`.
    #[inline(always)]
    pub(crate) const fn new(at: u32, next: u8) -> Self {
        Self {
            at,
            next,
            part: Part::WHOLE,
        }
    }

    /// Goes on to the first header that is not an extension header (in a later fragment: to what follows the fragment header).
    #[inline(always)]
    pub(crate) fn walk(&mut self, packet: Packet, state: &mut State, end: u32) -> Result<(), Drop> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;
        let place = &raw mut state.private().forgotten;
        let mut fragmented = false;
        for n in 0..=MAX_HEADERS {
            if !matches!(
                self.next,
                HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
            ) {
                return Ok(());
            }
            if n == MAX_HEADERS {
                break;
            }
            if self.at + 8 > end {
                return Err(if fragmented { Drop::BadFragment } else { Drop::Malformed });
            }
            let header = packet.load::<[u32; 2]>(self.at).ok_or(Drop::Malformed)?;
            let mut length = (u32::from(byte(header[0], 1)) + 1) * 8;
            match self.next {
                // Only right after the IPv6 header.
                HOP_BY_HOP if n > 0 => return Err(Drop::Malformed),
                ROUTING if byte(header[0], 3) != 0 => return Err(Drop::SourceRoute),
                AUTHENTICATION => length = (u32::from(byte(header[0], 1)) + 2) * 4,
                FRAGMENT => {
                    if fragmented {
                        return Err(Drop::Malformed);
                    }
                    fragmented = true;
                    length = 8;
                    self.part = Part {
                        offset: half(header[0], 1) & 0xfff8,
                        more: half(header[0], 1) & 1 != 0,
                        identification: header[1],
                        protocol: byte(header[0], 0),
                        start: self.at + 8,
                    };
                }
                _ => {}
            }
            self.next = byte(header[0], 0);
            self.at = forget(place, self.at + length);
            if self.at > end {
                return Err(if fragmented { Drop::BadFragment } else { Drop::Malformed });
            }
            if self.part.offset != 0 {
                return Ok(());
            }
        }
        Err(Drop::TooManyHeaders)
    }
}

/// What follows the IP headers.
#[inline(always)]
fn payload(
    packet: Packet,
    state: &mut State,
    endpoint: u32,
    number: u8,
    at: u32,
    end: u32,
    part: Part,
) -> Result<Kind, Drop> {
    let private = state.private();
    private.l4 = at as u16;
    private.end = if end > 0xffff { 0xffff } else { end as u16 };
    if part.is_whole() {
        return l4(packet, state, number, at, end, false);
    }
    // Extension headers may stand between the fragment header and L4: they are part of the datagram.
    let length = end - part.start;
    if part.offset + length > 0xffff || (part.more && !length.is_multiple_of(8)) {
        return Err(Drop::Malformed);
    }
    if part.offset != 0 {
        state.private().l4 = 0;
        fragments::recall(state, endpoint, part)?;
        return Ok(Kind::Flow);
    }
    match l4(packet, state, number, at, end, true) {
        Ok(Kind::Flow) => fragments::remember(state, endpoint, part, length).map(|()| Kind::Flow),
        // Neither neighbour discovery nor errors have a reason to be fragmented (RFC 6980).
        Ok(_) | Err(Drop::Malformed) => Err(Drop::BadFragment),
        Err(reason) => Err(reason),
    }
}

/// Whether this is the ICMP of that IP version (the other's number is a protocol like any unknown one).
pub(crate) const fn is_icmp(version: u8, number: u8) -> bool {
    if version == 4 {
        number == protocol::ICMP
    } else {
        number == protocol::ICMPV6
    }
}

/// Reads ports (or what stands for them) and checks the header's own lengths.
#[inline(always)]
fn l4(packet: Packet, state: &mut State, number: u8, at: u32, end: u32, fragment: bool) -> Result<Kind, Drop> {
    let length = end - at;
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
            return Ok(Kind::Flow);
        }
    };
    if length < shortest {
        return Err(Drop::Malformed);
    }
    if number == protocol::TCP {
        let head = packet.load::<[u32; 4]>(at).ok_or(Drop::Malformed)?;
        let (src_port, dst_port) = ports(head[0]);
        set_ports(state, number, src_port, dst_port);
        let header = u32::from(byte(head[3], 0) >> 4) * 4;
        if header < 20 || header > length {
            return Err(Drop::Malformed);
        }
        let private = state.private();
        private.tcp = byte(head[3], 1) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
        private.sequence = u32::from_be(head[1]);
        private.acknowledged = u32::from_be(head[2]);
        return Ok(Kind::Flow);
    }
    let head = packet.load::<[u32; 2]>(at).ok_or(Drop::Malformed)?;
    if number == protocol::ICMP || number == protocol::ICMPV6 {
        return Ok(icmp(state, number, version, head));
    }
    // The first word is both ports, as they lie in the packet.
    let (src_port, dst_port) = ports(head[0]);
    set_ports(state, number, src_port, dst_port);
    if number != protocol::SCTP && !fragment && !packet.segmented() {
        // UDP: length of the datagram. UDP-Lite: how much the checksum covers, 0 = all.
        let claimed = half(head[1], 0);
        let lite = number == protocol::UDPLITE;
        if claimed > length || (claimed < 8 && !(lite && claimed == 0)) {
            return Err(Drop::Malformed);
        }
    }
    Ok(Kind::Flow)
}

/// Both halves of a word as they lie in the packet.
#[inline(always)]
pub(crate) fn ports(word: u32) -> (u16, u16) {
    ((half(word, 0) as u16).to_be(), (half(word, 1) as u16).to_be())
}

#[inline(always)]
fn icmp(state: &mut State, number: u8, version: u8, head: [u32; 2]) -> Kind {
    let (kind, code) = (byte(head[0], 0), byte(head[0], 1));
    set_icmp(state, number, kind, code, (half(head[1], 0) as u16).to_be());
    let (error, neighbour) = if version == 4 {
        (matches!(kind, 3..=5 | 11 | 12), false)
    } else {
        // Errors are the types below 128; then MLD, neighbour discovery and MLDv2.
        (kind < 128, matches!(kind, 130..=137 | 143))
    };
    if error {
        Kind::Error
    } else if neighbour {
        Kind::Neighbour
    } else {
        Kind::Flow
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

/// The other version's ICMP: rules that speak of its types take it as what it says it is, and messages of other types are other flows.
#[inline(always)]
pub(crate) fn set_foreign_icmp(state: &mut State, number: u8, kind: u8, code: u8) {
    let tuple = state.tuple();
    [tuple.icmp_type, tuple.icmp_code] = [kind, code];
    state.private().word = protocol::word(number, kind, code);
}

/// Fills what belongs to ICMP. Policies see no ports there; the key has the identifier (network byte order) where there is one.
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

/// Whether a packet of the workload is a tunnel that policy would not see into.
#[inline(always)]
pub(crate) fn is_tunnel(state: &mut State, settings: &felid_common::Settings) -> bool {
    let tuple = state.tuple();
    let ip_in_ip = tuple.protocol == protocol::IPIP || tuple.protocol == protocol::IPV6;
    let vxlan =
        tuple.protocol == protocol::UDP && settings.vxlan_port != 0 && u32::from(tuple.dst_port) == settings.vxlan_port;
    (ip_in_ip && settings.flags & felid_common::SETTING_ALLOW_IPIP == 0)
        || (vxlan && settings.flags & felid_common::SETTING_ALLOW_VXLAN == 0)
}
