//! The last step of a packet whose flow is translated: writes the addresses that its receiver is to
//! read, keeps every checksum right, and delivers it.
//!
//! Which addresses: see [`crate::translation`]. A packet that goes on through the host's stack
//! keeps the external destination, so that whatever the stack does with it (routes, ICMP errors,
//! netfilter) shows what the sender wrote; `to_workload` replaces it.
//!
//! Checksums are changed by the difference of the addresses, by helpers that know about checksums
//! that are not filled in yet (`CHECKSUM_PARTIAL`). What routing hands out never has
//! `CHECKSUM_COMPLETE` (`skb_forward_csum`), so IPv6 needs no `BPF_F_IPV6`.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace};
use felid_common::{DropReason, EGRESS, Nat, protocol};

use super::table;
use crate::deliver::{self, Family};
use crate::maps;
use crate::packet::{L3, NEXT, Packet, scratch};
use crate::state::State;

/// Runs after the program that let the packet pass.
#[inline(always)]
pub(crate) fn run(packet: Packet) -> i32 {
    match examine(packet) {
        Ok(verdict) => verdict,
        Err(reason) => packet.drop(reason),
    }
}

/// One end of an IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Where the parts of the packet are.
#[derive(Clone, Copy)]
struct Places {
    version: u8,
    /// L4 header; 0 = not in this packet.
    l4: u32,
    /// L4 protocol.
    protocol: u8,
    /// IP header that an ICMP error quotes; 0 = it is none.
    quoted: u32,
    /// L4 header there.
    quoted_l4: u32,
    /// L4 protocol there.
    quoted_protocol: u8,
    /// End of the IP packet.
    end: u32,
}

#[inline(always)]
fn examine(packet: Packet) -> Result<i32, DropReason> {
    let own = packet.own().ok_or(DropReason::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(DropReason::Internal)?);
    let (version, inner) = (state.tuple().ip_version, state.tuple().protocol);
    let private = state.private();
    let quotes = private.quoted != 0;
    let places = Places {
        version,
        l4: u32::from(private.l4),
        protocol: match (quotes, version) {
            (true, 4) => protocol::ICMP,
            (true, _) => protocol::ICMPV6,
            _ => inner,
        },
        quoted: u32::from(private.quoted),
        quoted_l4: u32::from(private.quoted_l4),
        quoted_protocol: inner,
        end: u32::from(private.end),
    };
    let (from, to) = (private.nat_from, private.nat_to);
    if u32::from(private.hook) != EGRESS {
        if to != 0 {
            let nat = table::by_number(to).ok_or(DropReason::NatGone)?;
            both_ways(packet, places, End::Destination, &nat.address, &nat.other)?;
        }
        return Ok(NEXT);
    }
    let target = private.target;
    let family = Family::of(version);
    let mut redirected = None;
    if target != 0
        && let Some(target) = maps::ENDPOINTS.get(target)
        && deliver::can_redirect(packet, own, target, family)
    {
        redirected = Some(target);
    }
    if from != 0 && to != 0 && target != 0 && redirected.is_none() {
        // To itself, which is a redirect or nothing: the host says why, about the packet as it was
        // sent.
        return Ok(NEXT);
    }
    if from != 0 {
        let nat = table::by_number(from).ok_or(DropReason::NatGone)?;
        both_ways(packet, places, End::Source, &nat.other, &nat.address)?;
    }
    let Some(target) = redirected else { return Ok(NEXT) };
    if to != 0 {
        let nat: &Nat = table::by_number(to).ok_or(DropReason::NatGone)?;
        both_ways(packet, places, End::Destination, &nat.address, &nat.other)?;
    }
    Ok(deliver::redirect_any(packet, target, family))
}

/// Replaces an address of the packet, and in what it quotes the same end's, which stands on the
/// other side there.
#[inline(always)]
fn both_ways(packet: Packet, places: Places, end: End, old: &[u32; 4], new: &[u32; 4]) -> Result<(), DropReason> {
    replace(packet, places, end, old, new).ok_or(DropReason::Internal)?;
    if places.quoted != 0 {
        let other = if end == End::Source {
            End::Destination
        } else {
            End::Source
        };
        quoted(packet, places, other, old, new).ok_or(DropReason::Internal)?;
    }
    Ok(())
}

/// Offset of an address in the IP header.
#[inline(always)]
const fn offset(version: u8, end: End) -> u32 {
    match (version == 4, end) {
        (true, End::Source) => 12,
        (true, End::Destination) => 16,
        (false, End::Source) => 8,
        (false, End::Destination) => 24,
    }
}

/// Where the checksum is in an L4 header that covers the addresses.
#[inline(always)]
const fn checksum(version: u8, number: u8) -> Option<u32> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP | protocol::UDPLITE => Some(6),
        protocol::ICMPV6 if version == 6 => Some(2),
        // SCTP's does not, ICMP's does not, and of others nothing is known.
        _ => None,
    }
}

/// One's complement difference of two addresses, as checksum helpers take it. IPv4: the other words
/// are zero.
#[inline(always)]
pub(crate) fn difference(old: &[u32; 4], new: &[u32; 4]) -> u32 {
    let mut sum: u64 = 0;
    sum += u64::from(!old[0]) + u64::from(new[0]);
    sum += u64::from(!old[1]) + u64::from(new[1]);
    sum += u64::from(!old[2]) + u64::from(new[2]);
    sum += u64::from(!old[3]) + u64::from(new[3]);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// A checksum after what it covers has changed by `difference`.
#[inline(always)]
pub(crate) fn changed(sum: u16, difference: u32) -> u16 {
    let mut new = u32::from(!sum) + (difference & 0xffff) + (difference >> 16);
    new = (new & 0xffff) + (new >> 16);
    new = (new & 0xffff) + (new >> 16);
    !(new as u16)
}

/// Corrects the checksum of an L4 header for changed addresses.
#[inline(always)]
pub(crate) fn correct(packet: Packet, at: u32, number: u8, difference: u32) -> bool {
    let mut flags = u64::from(BPF_F_PSEUDO_HDR);
    if number == protocol::UDP || number == protocol::UDPLITE {
        // Zero means that there is none.
        flags |= u64::from(BPF_F_MARK_MANGLED_0);
    }
    // SAFETY: plain helper call.
    unsafe { bpf_l4_csum_replace(packet.skb(), at, 0, u64::from(difference), flags) == 0 }
}

/// Corrects the checksum of the IPv4 header at an offset.
#[inline(always)]
fn correct_header(packet: Packet, at: u32, difference: u32) -> bool {
    // SAFETY: plain helper call.
    unsafe { bpf_l3_csum_replace(packet.skb(), at + 10, 0, u64::from(difference), 0) == 0 }
}

#[inline(always)]
fn store(packet: Packet, version: u8, at: u32, address: &[u32; 4]) -> bool {
    if version == 4 {
        packet.store(at, &address[0])
    } else {
        packet.store(at, address)
    }
}

#[inline(always)]
fn replace(packet: Packet, places: Places, end: End, old: &[u32; 4], new: &[u32; 4]) -> Option<()> {
    let difference = difference(old, new);
    if places.l4 != 0
        && let Some(sum) = checksum(places.version, places.protocol)
        && !correct(packet, places.l4 + sum, places.protocol, difference)
    {
        return None;
    }
    if places.version == 4 && !correct_header(packet, L3 as u32, difference) {
        return None;
    }
    store(packet, places.version, L3 as u32 + offset(places.version, end), new).then_some(())
}

/// The same in the packet that an ICMP error quotes. The error's own checksum covers that.
#[inline(always)]
fn quoted(packet: Packet, places: Places, end: End, old: &[u32; 4], new: &[u32; 4]) -> Option<()> {
    let difference = difference(old, new);
    let own_sum = places.l4 + 2;
    if places.version == 4 {
        // Header and checksum change against each other: nothing remains for the error's own.
        if !correct_header(packet, places.quoted, difference) {
            return None;
        }
    } else if !correct(packet, own_sum, protocol::ICMPV6, difference) {
        return None;
    }
    // As much of the L4 header as is quoted.
    if let Some(at) = checksum(places.version, places.quoted_protocol) {
        let at = places.quoted_l4 + at;
        if at + 2 <= places.end {
            let sum = packet.load::<u16>(at)?;
            let datagram = matches!(places.quoted_protocol, protocol::UDP | protocol::UDPLITE);
            if sum != 0 || !datagram {
                let mut corrected = changed(sum, difference);
                if corrected == 0 && datagram {
                    corrected = 0xffff;
                }
                // SAFETY: plain helper call.
                let failed =
                    unsafe { bpf_l4_csum_replace(packet.skb(), own_sum, u64::from(sum), u64::from(corrected), 2) } != 0;
                if failed || !packet.store(at, &corrected) {
                    return None;
                }
            }
        }
    }
    store(packet, places.version, places.quoted + offset(places.version, end), new).then_some(())
}
