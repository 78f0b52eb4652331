//! ARP, neighbour discovery, multicast listener discovery and DHCP: what a workload may say about
//! itself, and the gateway's answers.
//!
//! None of this passes policy, so it may not leave the link: destinations are the link's own
//! groups, link-local addresses, the host.

use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail};
use felid_common::{DropReason, EGRESS, ENDPOINT_SPOOFS, Endpoint, Event, protocol};

use crate::host::{is_link_local, is_multicast_v6, same};
use crate::judge::{self, is_own};
use crate::packet::{ETH_ARP, ETH_IPV6, L3, NEXT, Packet, count, scratch};
use crate::slow::words;
use crate::state::{Mode, State};
use crate::{host, learned, maps};

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
fn examine(packet: Packet) -> Result<i32, DropReason> {
    let own = packet.own().ok_or(DropReason::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(DropReason::Internal)?);
    let from_workload = u32::from(state.private().hook) == EGRESS;
    let is_arp = packet.load::<u16>(12) == Some(ETH_ARP);
    match (is_arp, from_workload) {
        (true, true) => arp(packet, own, &mut state),
        // The host's.
        (true, false) => Ok(NEXT),
        (false, true) if state.tuple().protocol == protocol::UDP => dhcp(packet, own, &mut state),
        (false, true) => discovery(packet, own, &mut state),
        (false, false) => to_workload(packet, own, &mut state),
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
fn arp(packet: Packet, own: &Endpoint, state: &mut State) -> Result<i32, DropReason> {
    let arp = packet.load::<Arp>(L3 as u32).ok_or(DropReason::Malformed)?;
    if [arp[0], arp[1], arp[2]] != ARP_HEAD || (arp[3] != ARP_REQUEST && arp[3] != ARP_REPLY) {
        return Err(DropReason::Malformed);
    }
    let mac = [arp[4], arp[5], arp[6]];
    let sender = address(arp[7], arp[8]);
    let target = address(arp[12], arp[13]);
    // Zero asks whether an address is free (RFC 5227) and claims none.
    if packet.source_mac() != Some(mac) {
        return Err(DropReason::SpoofedArp);
    }
    if sender != 0 && !is_own(packet, own, &maps::lookup_peer(4, &[sender, 0, 0, 0])?) {
        let sender = [sender, 0, 0, 0];
        if may_ask(state, own, 4, &sender) {
            return judge::ask_prefixes(packet, state);
        }
        if !is_vouched(packet, own, state, &sender) {
            return Err(DropReason::SpoofedArp);
        }
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
        return Err(DropReason::Internal);
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

/// Whether the host may know this endpoint by an IPv6 address: its own, the link-local one that
/// follows from its MAC address (RFC 4291, appendix A), or one of the few that it showed by itself.
#[inline(always)]
fn is_mine(packet: Packet, own: &Endpoint, address: &[u32; 4]) -> Result<bool, DropReason> {
    if !is_link_local(address) {
        return Ok(is_own(packet, own, &maps::lookup_peer(6, address)?));
    }
    // Its prefix is fe80::/64 (RFC 4291, 2.5.6).
    if address[0] != 0xfe80_0000_u32.to_be() || address[1] != 0 {
        return Ok(false);
    }
    let mac = own.mac;
    let from_mac = address[2] == u32::from_ne_bytes([mac[0] ^ 2, mac[1], mac[2], 0xff])
        && address[3] == u32::from_ne_bytes([0xfe, mac[3], mac[4], mac[5]]);
    Ok(from_mac || learned::admit(packet, own, address, learned::LearnedKind::LinkLocal))
}

/// Whether the egress policy is still to be asked about an address that is not the endpoint's own,
/// which may stand on the workload all the same (`allowSpoofedSourcePrefixes`). Then the address is
/// the tuple's source from here on; a message is about one such address at most.
#[inline(always)]
fn may_ask(state: &mut State, own: &Endpoint, version: u8, address: &[u32; 4]) -> bool {
    if own.flags & ENDPOINT_SPOOFS == 0
        || state.private().mode.contains(Mode::VOUCHED)
        || is_link_local_of(version, address)
        || host::is_martian(version, address, &[1; 4])
    {
        return false;
    }
    let tuple = state.tuple();
    tuple.ip_version = version;
    tuple.src = *address;
    true
}

/// Link-local addresses have rules of their own.
const fn is_link_local_of(version: u8, address: &[u32; 4]) -> bool {
    version == 6 && is_link_local(address)
}

/// Whether the egress policy has said that the workload may use this address, and the host may
/// learn it.
#[inline(always)]
fn is_vouched(packet: Packet, own: &Endpoint, state: &mut State, address: &[u32; 4]) -> bool {
    state.private().mode.contains(Mode::VOUCHED)
        && same(&state.tuple().src, address)
        && learned::admit(packet, own, address, learned::LearnedKind::Spoofed)
}

/// A DHCP message of a virtual machine to servers on the host, which the slow program has
/// recognised. Felix lets it pass before policy, as it does where OpenStack's prefix `tap` is in
/// use: without an address there is nothing else that the machine could do.
#[inline(always)]
fn dhcp(packet: Packet, own: &'static Endpoint, state: &mut State) -> Result<i32, DropReason> {
    let tuple = state.tuple();
    let (version, src) = (tuple.ip_version, tuple.src);
    let mine = if version == 4 {
        src[0] == 0 || is_own(packet, own, &maps::lookup_peer(4, &src)?)
    } else {
        is_mine(packet, own, &src)?
    };
    if !mine {
        return Err(DropReason::SpoofedAddress);
    }
    count(Event::DhcpPassed);
    Ok(NEXT)
}

#[inline(always)]
fn discovery(packet: Packet, own: &'static Endpoint, state: &mut State) -> Result<i32, DropReason> {
    let (hops, at, end) = (
        state.private().hops,
        u32::from(state.private().l4),
        u32::from(state.private().end),
    );
    // The tuple's source may be another one's question by now, see `may_ask`.
    let src = packet.load::<[u32; 4]>(L3 as u32 + 8).ok_or(DropReason::Malformed)?;
    let tuple = state.tuple();
    let (kind, code, dst) = (tuple.icmp_type, tuple.icmp_code, tuple.dst);
    let unspecified = is_zero(&src);
    let mine = !unspecified && (is_mine(packet, own, &src)? || is_vouched(packet, own, state, &src));
    if !mine && !unspecified && may_ask(state, own, 6, &src) {
        return judge::ask_prefixes(packet, state);
    }

    if (MLD_QUERY..=MLD_DONE).contains(&kind) || kind == MLD_V2_REPORT {
        // Links only: one hop (RFC 3810, 5), to a group. From `::` before the interface has an
        // address.
        return if hops == 1 && is_multicast_v6(&dst) && (mine || unspecified) {
            Ok(NEXT)
        } else {
            Err(DropReason::SpoofedNeighbour)
        };
    }
    let to_gateway = !is_zero(&own.gateway_v6) && same(&dst, &own.gateway_v6);
    let on_link = is_link_group(&dst) || is_link_local(&dst) || to_gateway || maps::lookup_peer(6, &dst)?.is_host();
    if hops != 255 || code != 0 || !on_link {
        return Err(DropReason::SpoofedNeighbour);
    }
    if kind == ROUTER_SOLICITATION {
        return if mine || unspecified {
            Ok(NEXT)
        } else {
            Err(DropReason::SpoofedNeighbour)
        };
    }
    if kind != NEIGHBOUR_SOLICITATION && kind != NEIGHBOUR_ADVERTISEMENT {
        // Router advertisements and redirects are not a workload's to send.
        return Err(DropReason::SpoofedNeighbour);
    }
    if at + 24 > end {
        return Err(DropReason::Malformed);
    }
    let target = packet.load::<[u32; 4]>(at + 8).ok_or(DropReason::Malformed)?;
    let message = NeighbourMessage { src, mine, target };
    if kind == NEIGHBOUR_ADVERTISEMENT {
        advertisement(packet, own, state, &message)
    } else {
        solicitation(packet, own, state, &message, &dst)
    }
}

/// What a solicitation or an advertisement says of who sent it.
struct NeighbourMessage {
    /// The IP source; `::` = it has none yet.
    src: [u32; 4],
    /// Whether the host may know the endpoint by that.
    mine: bool,
    /// The address that the message is about.
    target: [u32; 4],
}

#[inline(always)]
fn advertisement(
    packet: Packet,
    own: &'static Endpoint,
    state: &mut State,
    message: &NeighbourMessage,
) -> Result<i32, DropReason> {
    if !message.mine {
        return Err(DropReason::SpoofedNeighbour);
    }
    if is_mine(packet, own, &message.target)? || is_vouched(packet, own, state, &message.target) {
        return Ok(NEXT);
    }
    if may_ask(state, own, 6, &message.target) {
        return judge::ask_prefixes(packet, state);
    }
    Err(DropReason::SpoofedNeighbour)
}

#[inline(always)]
fn solicitation(
    packet: Packet,
    own: &'static Endpoint,
    state: &mut State,
    message: &NeighbourMessage,
    dst: &[u32; 4],
) -> Result<i32, DropReason> {
    let target = message.target;
    let unspecified = is_zero(&message.src);
    let for_gateway = !is_zero(&own.gateway_v6) && same(&target, &own.gateway_v6);
    // Who only asks whether an address is free leaves no trace in the host's table.
    let target_mine = is_link_local(&target)
        || is_own(packet, own, &maps::lookup_peer(6, &target)?)
        || is_vouched(packet, own, state, &target);
    if unspecified && !target_mine && !for_gateway && may_ask(state, own, 6, &target) {
        return judge::ask_prefixes(packet, state);
    }
    let free = unspecified && is_solicited_node(dst) && (target_mine || for_gateway);
    if is_multicast_v6(&target) || !(message.mine || free) {
        return Err(DropReason::SpoofedNeighbour);
    }
    if for_gateway {
        advertise(packet, own, message.src, unspecified)
    } else {
        Ok(NEXT)
    }
}

/// Bytes of an advertisement of ours, from the Ethernet header on: 32 of ICMPv6.
const LENGTH: u32 = L3 as u32 + 40 + 32;

/// An advertisement in 16-bit words as they lie in the packet.
type Advertisement = [u16; LENGTH as usize / 2];

/// The checksum of an advertisement, in which it is still zero.
#[inline(always)]
fn checksum(frame: &Advertisement) -> u16 {
    // One's complement sum of the pseudo-header and the message; byte order does not matter to it.
    let mut sum = u32::from(32_u16.to_be()) + u32::from(u16::from(protocol::ICMPV6).to_be());
    for word in &frame[11..] {
        sum += u32::from(*word);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Answers a solicitation for the gateway; one from `::` (duplicate address detection) is answered
/// to all nodes.
#[inline(always)]
fn advertise(packet: Packet, own: &'static Endpoint, asker: [u32; 4], unspecified: bool) -> Result<i32, DropReason> {
    const ALL_NODES: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];
    let asker_mac = packet.source_mac().ok_or(DropReason::Malformed)?;
    let (dst, dst_mac) = if unspecified {
        (ALL_NODES, [0x3333_u16.to_be(), 0, 1_u16.to_be()])
    } else {
        (asker, asker_mac)
    };
    let gateway = own.gateway_v6;
    let host = words(own.host_mac);
    // Router, solicited (unless there is nobody to answer), override.
    let flags: u16 = if unspecified { 0xa000 } else { 0xe000 };

    let mut frame: Advertisement = [0; LENGTH as usize / 2];
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

    frame[28] = checksum(&frame);

    // SAFETY: plain helper call.
    if packet.len() != LENGTH && unsafe { bpf_skb_change_tail(packet.skb(), LENGTH, 0) } != 0 {
        return Err(DropReason::Internal);
    }
    if !packet.store(0, &frame) {
        return Err(DropReason::Internal);
    }
    count(Event::NeighbourAnswered);
    Ok(back(packet, own))
}

/// Discovery from the host: its own, and our answers for the gateway. Nobody else is on the link.
#[inline(always)]
fn to_workload(packet: Packet, own: &'static Endpoint, state: &mut State) -> Result<i32, DropReason> {
    let came_by = packet.ingress_ifindex();
    let tuple = state.tuple();
    let answer =
        came_by == own.ifindex && tuple.icmp_type == NEIGHBOUR_ADVERTISEMENT && same(&tuple.src, &own.gateway_v6);
    if came_by == 0 || answer {
        Ok(NEXT)
    } else {
        Err(DropReason::SpoofedNeighbour)
    }
}
