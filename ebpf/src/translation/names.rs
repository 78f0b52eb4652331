//! Which translations a packet uses: the external addresses in it are replaced in the tuple by
//! those that they stand for, and the names that it uses are compared with those that its flow has.

use felid_common::{
    DropReason, EGRESS, INGRESS, NAT_V6, SETTING_NAT_OUTBOUND, SETTING_NATS, Settings, TCP_ACK, TCP_RST, TCP_SYN,
    join_address, protocol, split_address,
};

use super::table::{Number, find, find_near, holds, in_cluster, kind, number, outgoing};
use crate::conntrack::Hit;
use crate::host;
use crate::judge::local;
use crate::maps::PeerInfo;
use crate::packet::Packet;
use crate::state::State;

/// Replaces the addresses in the tuple that are external ones by those that they stand for, and
/// notes by which translations. Towards a workload, its own external addresses only.
#[inline(always)]
pub(crate) fn arrive<const HOOK: u32>(packet: Packet, state: &mut State, settings: &Settings) {
    if settings.flags & SETTING_NATS == 0 {
        return;
    }
    let tuple = state.tuple();
    let kind = kind(tuple.ip_version);
    if let Some((number, nat)) = find(&tuple.dst, kind, settings)
        && (HOOK == EGRESS || nat.endpoint_id == packet.own_id())
    {
        tuple.dst = nat.other;
        state.private().nat_to = number;
    }
    let tuple = state.tuple();
    if HOOK != EGRESS
        && let Some((number, nat)) = find(&tuple.src, kind, settings)
    {
        tuple.src = nat.other;
        state.private().nat_from = number;
    }
}

/// Does for the addresses of an IPv4 packet in the common shape what [`arrive`] does for a tuple.
/// Returns the numbers of the translations that the source and the destination were found by;
/// `None` if the slow program must look further.
#[inline(always)]
pub(crate) fn arrived_v4<const HOOK: u32>(
    packet: Packet,
    settings: &Settings,
    src: &mut u32,
    dst: &mut u32,
) -> Option<(Number, Number)> {
    let (mut from, mut to) = (0, 0);
    if settings.flags & SETTING_NATS != 0 {
        if let Some((number, nat)) = find_near(&[*dst, 0, 0, 0], 0, settings).ok()?
            && (HOOK == EGRESS || nat.endpoint_id == packet.own_id())
        {
            (to, *dst) = (number, nat.other[0]);
        }
        if HOOK == INGRESS
            && let Some((number, nat)) = find_near(&[*src, 0, 0, 0], 0, settings).ok()?
        {
            (from, *src) = (number, nat.other[0]);
        }
    }
    Some((from, to))
}

/// Does the same as [`arrived_v4`] for IPv6.
#[inline(always)]
pub(crate) fn arrived_v6<const HOOK: u32>(
    packet: Packet,
    settings: &Settings,
    src: &mut [u64; 2],
    dst: &mut [u64; 2],
) -> Option<(Number, Number)> {
    let (mut from, mut to) = (0, 0);
    if settings.flags & SETTING_NATS != 0 {
        if let Some((number, nat)) = find_near(&split_address(*dst), NAT_V6, settings).ok()?
            && (HOOK == EGRESS || nat.endpoint_id == packet.own_id())
        {
            (to, *dst) = (number, join_address(nat.other));
        }
        if HOOK == INGRESS
            && let Some((number, nat)) = find_near(&split_address(*src), NAT_V6, settings).ok()?
        {
            (from, *src) = (number, join_address(nat.other));
        }
    }
    Some((from, to))
}

/// Replaces external addresses in the quoted tuple of an ICMP error by those that they stand for.
/// Returns the numbers of their translations, the source's first.
#[inline(always)]
pub(crate) fn own_addresses(state: &mut State, settings: &Settings) -> (Number, Number) {
    let mut numbers = (0, 0);
    if settings.flags & SETTING_NATS != 0 {
        let tuple = state.tuple();
        let kind = kind(tuple.ip_version);
        if let Some((number, nat)) = find(&tuple.src, kind, settings) {
            tuple.src = nat.other;
            numbers.0 = number;
        }
        if let Some((number, nat)) = find(&tuple.dst, kind, settings) {
            tuple.dst = nat.other;
            numbers.1 = number;
        }
    }
    numbers
}

/// Decides under which address a new flow from the workload is shown. A workload that talks to
/// itself is always shown under an external one, since it would not take its own address for
/// another's.
#[inline(always)]
pub(crate) fn choose_source(
    packet: Packet,
    state: &mut State,
    settings: &Settings,
    dst: &PeerInfo,
) -> Result<(), DropReason> {
    let version = state.tuple().ip_version;
    let to = state.tuple().dst;
    let target = local(dst).is_some();
    let itself = target && dst.endpoint == packet.own_index() && state.private().nat_to != 0;
    let outside = settings.flags & SETTING_NAT_OUTBOUND != 0
        && !target
        && host::is_beyond(version, &to, dst)
        && !in_cluster(version, &to);
    if itself || outside {
        let src = state.tuple().src;
        state.private().nat_from = outgoing(&src, version, settings);
    }
    if itself && state.private().nat_from == 0 {
        // From an address of its own that has no external one.
        return Err(DropReason::NatHairpin);
    }
    Ok(())
}

/// Compares the names that a packet of a known flow uses with those that the flow has, and notes
/// the sender's. False: what the flow was known by is gone, and the packet may begin a new one.
#[inline(always)]
pub(crate) fn check_names<const HOOK: u32>(state: &mut State, hit: &Hit, original: bool) -> Result<bool, DropReason> {
    let (from, to) = if original {
        (hit.copy.originator.shown(), hit.copy.responder.shown())
    } else {
        (hit.copy.responder.shown(), hit.copy.originator.shown())
    };
    let private = state.private();
    if from.id | to.id | private.nat_from | private.nat_to == 0 {
        return Ok(true);
    }
    if !holds(from) || !holds(to) {
        let middle = private.word as u8 == protocol::TCP && private.tcp & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN;
        return if original && !middle {
            Ok(false)
        } else {
            Err(DropReason::NatGone)
        };
    }
    let unlike = private.nat_to != number(to) || (HOOK != EGRESS && private.nat_from != number(from));
    if unlike {
        return Err(DropReason::NatCollision);
    }
    private.nat_from = number(from);
    Ok(true)
}
