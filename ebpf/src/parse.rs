//! The whole parser: from the Ethernet header to L4, for every shape of packet. Whatever
//! contradicts itself is an error, and errors are drops. Reads go through a helper, so it does not
//! matter which part of the packet is linear.

use felid_common::{DropReason, offload_fits, protocol};

use crate::fragments::Part;
use crate::l4::{Payload, byte, half};
use crate::packet::{ETH_ARP, ETH_IPV4, ETH_IPV6, L3, Packet};
use crate::state::{Mode, PacketKind, Sides, State, launder};
use crate::{fragments, l4};

/// IPv6 extension headers that are followed.
const MAX_HEADERS: usize = 8;

/// Fills the tuple and the parsed fields of the private part.
#[inline(always)]
pub(crate) fn packet(packet: Packet, state: &mut State, hook: u32) -> Result<PacketKind, DropReason> {
    let private = state.private();
    private.hook = hook as u8;
    private.tcp = 0;
    private.mode = Mode::empty();
    private.pending = Sides::empty();
    private.cut = 0;
    private.opens = 0;
    private.window = 0;
    private.length = 0;
    private.fragment.first_length = 0;
    private.nat_from = 0;
    private.nat_to = 0;
    private.target = 0;
    private.quoted = 0;
    if !packet.untag() {
        return Err(DropReason::UnknownEthertype);
    }
    let kind = match packet.load::<u16>(12).ok_or(DropReason::Malformed)? {
        ETH_IPV4 => v4(packet, state)?,
        ETH_IPV6 => v6(packet, state)?,
        ETH_ARP => {
            state.tuple().ip_version = 0;
            PacketKind::Neighbour
        }
        _ => return Err(DropReason::UnknownEthertype),
    };
    // No sender leaves anything of ARP, neighbour discovery and ICMP errors to others.
    if kind != PacketKind::Flow && packet.offload() != 0 {
        return Err(DropReason::BadOffload);
    }
    Ok(kind)
}

#[inline(always)]
fn v4(packet: Packet, state: &mut State) -> Result<PacketKind, DropReason> {
    let ip = packet.load::<[u32; 5]>(L3 as u32).ok_or(DropReason::Malformed)?;
    let header = u32::from(byte(ip[0], 0) & 15) * 4;
    if byte(ip[0], 0) >> 4 != 4 || header < 20 {
        return Err(DropReason::Malformed);
    }
    let available = packet.len().wrapping_sub(L3 as u32);
    let mut total = half(ip[0], 1);
    if total == 0 && packet.segmented() && byte(ip[2], 1) == protocol::TCP {
        // Longer than the field can say ("BIG TCP").
        total = available;
    }
    if total < header || total > available {
        return Err(DropReason::Malformed);
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
    let payload = Payload {
        number: part.protocol,
        at: L3 as u32 + header,
        end: L3 as u32 + total,
    };
    follow(packet, state, payload, part)
}

/// Walks the options of an IPv4 header of `header` bytes.
#[inline(always)]
fn options(packet: Packet, state: &mut State, header: u32) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let place = &raw mut state.private().laundered;
    let mut at = 20;
    // At most 40 bytes, each option at least one.
    for _ in 0..40 {
        at = launder(place, at);
        if at >= header {
            return Ok(());
        }
        let option = packet.load::<u8>(L3 as u32 + at).ok_or(DropReason::Malformed)?;
        match option {
            END => return Ok(()),
            NOP => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRoute),
            _ => {
                let length = u32::from(packet.load::<u8>(L3 as u32 + at + 1).ok_or(DropReason::Malformed)?);
                if length < 2 || at + length > header {
                    return Err(DropReason::Malformed);
                }
                at += length;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn v6(packet: Packet, state: &mut State) -> Result<PacketKind, DropReason> {
    let ip = packet.load::<[u32; 10]>(L3 as u32).ok_or(DropReason::Malformed)?;
    if byte(ip[0], 0) >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let available = packet.len().wrapping_sub(L3 as u32 + 40);
    let mut length = half(ip[1], 0);
    if length == 0 && packet.segmented() {
        length = available;
    }
    if length > available {
        return Err(DropReason::Malformed);
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
    let payload = Payload {
        number: chain.next,
        at: chain.at,
        end,
    };
    follow(packet, state, payload, chain.part)
}

/// Why a chain of headers that goes on behind the end of the packet is dropped.
const fn too_short(fragmented: bool) -> DropReason {
    if fragmented {
        DropReason::BadFragment
    } else {
        DropReason::Malformed
    }
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

    /// Goes on to the first header that is not an extension header (in a later fragment: to what
    /// follows the fragment header).
    #[inline(always)]
    pub(crate) fn walk(&mut self, packet: Packet, state: &mut State, end: u32) -> Result<(), DropReason> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;
        let place = &raw mut state.private().laundered;
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
                return Err(too_short(fragmented));
            }
            let header = packet.load::<[u32; 2]>(self.at).ok_or(DropReason::Malformed)?;
            let mut length = (u32::from(byte(header[0], 1)) + 1) * 8;
            match self.next {
                // Only right after the IPv6 header.
                HOP_BY_HOP if n > 0 => return Err(DropReason::Malformed),
                ROUTING if byte(header[0], 3) != 0 => return Err(DropReason::SourceRoute),
                AUTHENTICATION => length = (u32::from(byte(header[0], 1)) + 2) * 4,
                FRAGMENT => {
                    if fragmented {
                        return Err(DropReason::Malformed);
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
            self.at = launder(place, self.at + length);
            if self.at > end {
                return Err(too_short(fragmented));
            }
            if self.part.offset != 0 {
                return Ok(());
            }
        }
        Err(DropReason::TooManyHeaders)
    }
}

/// What follows the IP headers.
#[inline(always)]
fn follow(packet: Packet, state: &mut State, payload: Payload, part: Part) -> Result<PacketKind, DropReason> {
    let Payload { number, at, end } = payload;
    let private = state.private();
    private.l4 = at as u16;
    private.end = if end > 0xffff { 0xffff } else { end as u16 };
    if part.is_whole() {
        let kind = l4::parse(packet, state, payload, false)?;
        let fits = offload_fits(packet.offload(), state.tuple().ip_version, number, at);
        return if fits { Ok(kind) } else { Err(DropReason::BadOffload) };
    }
    // Checksums are finished before a datagram is cut up.
    if packet.offload() != 0 {
        return Err(DropReason::BadOffload);
    }
    // Extension headers may stand between the fragment header and L4: they are part of the
    // datagram.
    let length = end - part.start;
    if part.offset + length > 0xffff || (part.more && !length.is_multiple_of(8)) {
        return Err(DropReason::Malformed);
    }
    if part.offset != 0 {
        state.private().l4 = 0;
        return match fragments::lookup(state, packet, part) {
            Ok(()) => Ok(PacketKind::Flow),
            Err(DropReason::UnknownFragment) => Ok(PacketKind::Orphan),
            Err(reason) => Err(reason),
        };
    }
    match l4::parse(packet, state, payload, true) {
        Ok(PacketKind::Flow) => {
            fragments::prepare(state, part, length);
            Ok(PacketKind::Flow)
        }
        // Neither neighbour discovery nor errors have a reason to be fragmented (RFC 6980).
        Ok(_) | Err(DropReason::Malformed) => Err(DropReason::BadFragment),
        Err(reason) => Err(reason),
    }
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
