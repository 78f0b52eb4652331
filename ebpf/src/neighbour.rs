//! ARP, neighbour discovery and multicast listener discovery: what a workload may say about itself, and the gateway's answers.
//!
//! None of this passes policy, so it may not leave the link: destinations are the link's own groups, link-local addresses, the host.

use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use felid_common::{Drop, EGRESS, Endpoint, Event, protocol};

use crate::host::{is_link_local, is_multicast_v6};
use crate::judge::is_own;
use crate::maps;
use crate::packet::{ETH_ARP, ETH_IPV6, L3, NEXT, Packet, count, scratch};
use crate::slow::words;
use crate::state::State;

const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const MLD_V2_REPORT: u8 = 143;

/// Runs after the slow program, which has parsed the packet.
#[inline(always)]
pub(crate) fn run(packet: Packet) -> i32 {
    match examine(packet) {
        Ok(verdict) => verdict,
        Err(reason) => packet.drop(reason),
    }
}

#[inline(always)]
fn examine(packet: Packet) -> Result<i32, Drop> {
    let own = packet.own().ok_or(Drop::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(Drop::Internal)?);
    let from_workload = u32::from(state.private().hook) == EGRESS;
    match (state.tuple().ip_version, from_workload) {
        (0, true) => arp(packet, own),
        // The host's.
        (0, false) => Ok(NEXT),
        (_, true) => discovery(packet, own, &mut state),
        (_, false) => to_workload(packet, own, &mut state),
    }
}

/// An ARP packet for Ethernet and IPv4, in 16-bit words as they lie in the packet.
type Arp = [u16; 14];

const ARP_HEAD: [u16; 3] = [1_u16.to_be(), 0x0800_u16.to_be(), 0x0604_u16.to_be()];
const ARP_REQUEST: u16 = 1_u16.to_be();
const ARP_REPLY: u16 = 2_u16.to_be();

const fn address(high: u16, low: u16) -> u32 {
    // Both are words of the packet; so is the result.
    (high as u32) | (low as u32) << 16
}

#[inline(always)]
fn arp(packet: Packet, own: &Endpoint) -> Result<i32, Drop> {
    let arp = packet.load::<Arp>(L3 as u32).ok_or(Drop::Malformed)?;
    if [arp[0], arp[1], arp[2]] != ARP_HEAD || (arp[3] != ARP_REQUEST && arp[3] != ARP_REPLY) {
        return Err(Drop::Malformed);
    }
    let mac = [arp[4], arp[5], arp[6]];
    let sender = address(arp[7], arp[8]);
    let target = address(arp[12], arp[13]);
    // Zero asks whether an address is free (RFC 5227) and claims none.
    if packet.source_mac() != Some(mac) || (sender != 0 && !is_own(packet, own, &maps::peer(4, &[sender, 0, 0, 0])?)) {
        return Err(Drop::SpoofedArp);
    }
    if arp[3] != ARP_REQUEST || own.gateway_v4 == 0 || target != own.gateway_v4 {
        return Ok(NEXT);
    }
    let host = words(own.host_mac);
    let frame: [u16; 21] = [
        mac[0],
        mac[1],
        mac[2],
        host[0],
        host[1],
        host[2],
        ETH_ARP,
        ARP_HEAD[0],
        ARP_HEAD[1],
        ARP_HEAD[2],
        ARP_REPLY,
        host[0],
        host[1],
        host[2],
        arp[12],
        arp[13],
        mac[0],
        mac[1],
        mac[2],
        arp[7],
        arp[8],
    ];
    if !packet.store(0, &frame) {
        return Err(Drop::Internal);
    }
    count(Event::ArpAnswered);
    Ok(back(packet, own))
}

/// Out of the interface that the packet came in by.
#[inline(always)]
fn back(packet: Packet, own: &Endpoint) -> i32 {
    packet.set_target(own.ifindex);
    // SAFETY: plain helper call.
    unsafe { bpf_redirect(own.ifindex, 0) as i32 }
}

const fn is_zero(address: &[u32; 4]) -> bool {
    address[0] | address[1] | address[2] | address[3] == 0
}

/// ff02::/16.
const fn is_link_group(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 16 == 0xff02
}

/// ff02::1:ff00:0/104.
const fn is_solicited_node(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) == 0xff02_0000
        && address[1] == 0
        && u32::from_be(address[2]) == 1
        && u32::from_be(address[3]) >> 24 == 0xff
}

const fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

#[inline(always)]
fn discovery(packet: Packet, own: &'static Endpoint, state: &mut State) -> Result<i32, Drop> {
    let (hops, at, end) = (
        state.private().hops,
        u32::from(state.private().l4),
        u32::from(state.private().end),
    );
    let tuple = state.tuple();
    let (kind, code, src, dst) = (tuple.icmp_type, tuple.icmp_code, tuple.src, tuple.dst);
    let unspecified = is_zero(&src);
    let mine = is_link_local(&src) || is_own(packet, own, &maps::peer(6, &src)?);

    if (MLD_QUERY..=MLD_DONE).contains(&kind) || kind == MLD_V2_REPORT {
        // Links only: one hop (RFC 3810, 5), to a group. From `::` before the interface has an address.
        return if hops == 1 && is_multicast_v6(&dst) && (mine || unspecified) {
            Ok(NEXT)
        } else {
            Err(Drop::SpoofedNeighbour)
        };
    }
    let to_gateway = !is_zero(&own.gateway_v6) && same(&dst, &own.gateway_v6);
    let on_link = is_link_group(&dst) || is_link_local(&dst) || to_gateway || maps::peer(6, &dst)?.is_host();
    if hops != 255 || code != 0 || !on_link {
        return Err(Drop::SpoofedNeighbour);
    }
    if kind == ROUTER_SOLICITATION {
        return if mine || unspecified {
            Ok(NEXT)
        } else {
            Err(Drop::SpoofedNeighbour)
        };
    }
    if kind != NEIGHBOUR_SOLICITATION && kind != NEIGHBOUR_ADVERTISEMENT {
        // Router advertisements and redirects are not a workload's to send.
        return Err(Drop::SpoofedNeighbour);
    }
    if at + 24 > end {
        return Err(Drop::Malformed);
    }
    let target = packet.load::<[u32; 4]>(at + 8).ok_or(Drop::Malformed)?;
    let target_mine = is_link_local(&target) || is_own(packet, own, &maps::peer(6, &target)?);
    if kind == NEIGHBOUR_ADVERTISEMENT {
        return if mine && target_mine {
            Ok(NEXT)
        } else {
            Err(Drop::SpoofedNeighbour)
        };
    }
    let for_gateway = !is_zero(&own.gateway_v6) && same(&target, &own.gateway_v6);
    if is_multicast_v6(&target) || !(mine || (unspecified && is_solicited_node(&dst) && (target_mine || for_gateway))) {
        return Err(Drop::SpoofedNeighbour);
    }
    if for_gateway {
        advertise(packet, own, src, unspecified)
    } else {
        Ok(NEXT)
    }
}

/// Answers a solicitation for the gateway; one from `::` (duplicate address detection) is answered to all nodes.
#[inline(always)]
fn advertise(packet: Packet, own: &'static Endpoint, asker: [u32; 4], unspecified: bool) -> Result<i32, Drop> {
    const LENGTH: u32 = L3 as u32 + 40 + 32;
    const ALL_NODES: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];
    let asker_mac = packet.source_mac().ok_or(Drop::Malformed)?;
    let (dst, dst_mac) = if unspecified {
        (ALL_NODES, [0x3333_u16.to_be(), 0, 1_u16.to_be()])
    } else {
        (asker, asker_mac)
    };
    let gateway = own.gateway_v6;
    let host = words(own.host_mac);
    // Router, solicited (unless there is nobody to answer), override.
    let flags: u16 = if unspecified { 0xa000 } else { 0xe000 };

    let mut frame = [0_u16; LENGTH as usize / 2];
    let head = [
        dst_mac[0],
        dst_mac[1],
        dst_mac[2],
        host[0],
        host[1],
        host[2],
        ETH_IPV6,
        0x6000_u16.to_be(),
        0,
        32_u16.to_be(),
    ];
    frame[..10].copy_from_slice(&head);
    frame[10] = (u16::from(protocol::ICMPV6) << 8 | 255).to_be();
    let mut put = |at: usize, words: &[u32; 4]| {
        for (n, word) in words.iter().enumerate() {
            frame[at + 2 * n] = *word as u16;
            frame[at + 2 * n + 1] = (*word >> 16) as u16;
        }
    };
    put(11, &gateway);
    put(19, &dst);
    put(31, &gateway);
    frame[27] = (u16::from(NEIGHBOUR_ADVERTISEMENT) << 8).to_be();
    frame[29] = flags.to_be();
    // Target link-layer address option, eight bytes.
    frame[39] = 0x0201_u16.to_be();
    frame[40] = host[0];
    frame[41] = host[1];
    frame[42] = host[2];

    // One's complement sum of the pseudo-header and the message; byte order does not matter to it.
    let mut sum = u32::from(32_u16.to_be()) + u32::from(u16::from(protocol::ICMPV6).to_be());
    for word in &frame[11..] {
        sum += u32::from(*word);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    frame[28] = !(sum as u16);

    // SAFETY: plain helper call.
    if packet.len() != LENGTH && unsafe { bpf_skb_change_tail(packet.skb(), LENGTH, 0) } != 0 {
        return Err(Drop::Internal);
    }
    if !packet.store(0, &frame) {
        return Err(Drop::Internal);
    }
    count(Event::NeighbourAnswered);
    Ok(back(packet, own))
}

/// Discovery from the host: its own, and our answers for the gateway. Nobody else is on the link.
#[inline(always)]
fn to_workload(packet: Packet, own: &'static Endpoint, state: &mut State) -> Result<i32, Drop> {
    let came_by = packet.ingress_ifindex();
    let tuple = state.tuple();
    let answer =
        came_by == own.ifindex && tuple.icmp_type == NEIGHBOUR_ADVERTISEMENT && same(&tuple.src, &own.gateway_v6);
    if came_by == 0 || answer {
        Ok(NEXT)
    } else {
        Err(Drop::SpoofedNeighbour)
    }
}
