//! Judgement: prepares what policy programs look at, and carries out what they say.
//!
//! `admit` checks who a packet is from and to and where it would go; then the policy programs run
//! one after the other; `verdict` carries out what they say, and `commit` writes what was allowed
//! into the tables of flows.

mod admit;
mod commit;
mod verdict;

use core::ptr::addr_of;

use felid_common::{DropReason, EGRESS, Endpoint, INGRESS, Settings, Side, policy_index, static_programs};

use crate::maps::PeerInfo;
use crate::packet::{NEXT, Packet, settings};
use crate::state::{Mode, QUERY_ANSWERS, QUERY_ASKS, Sides, State};
use crate::{host, maps};
use admit::Admission;
pub(crate) use verdict::policy_return;

/// The generation of an endpoint's policy. User space raises it a grace period after the switch of
/// banks, so that no program that still judges by the old bank can read it: wherever in a program
/// it is read, an old verdict is never stamped as new.
#[inline(always)]
pub(crate) fn generation(endpoint: &Endpoint, egress: bool) -> u32 {
    // SAFETY: a field of a map's element; user space may write it meanwhile, as one word.
    unsafe {
        if egress {
            addr_of!(endpoint.egress_generation).read_volatile()
        } else {
            addr_of!(endpoint.ingress_generation).read_volatile()
        }
    }
}

/// The bank that holds for this packet.
#[inline(always)]
fn bank() -> Option<u32> {
    // SAFETY: the map's only element, one word.
    maps::EPOCH.get_ptr(0).map(|epoch| unsafe { epoch.read_volatile() } & 1)
}

/// The record of the local endpoint that has this address.
#[inline(always)]
pub(crate) fn local(peer: &PeerInfo) -> Option<&'static Endpoint> {
    if peer.endpoint == 0 {
        return None;
    }
    maps::ENDPOINTS
        .get(peer.endpoint)
        .filter(|endpoint| endpoint.id == peer.id)
}

/// Whether the address is this interface's endpoint's own.
#[inline(always)]
pub(crate) fn is_own(packet: Packet, own: &Endpoint, peer: &PeerInfo) -> bool {
    peer.endpoint == packet.own_index() && peer.id == own.id
}

/// Whether the packet came in by no interface. The kernel forgets by which one it was when it cuts
/// a reassembled IPv6 datagram up again (netfilter's defragmentation), so a fragment also needs a
/// socket of the host that it comes from.
#[inline(always)]
pub(crate) fn is_generated(packet: Packet, state: &mut State) -> bool {
    packet.ingress_ifindex() == 0 && (state.private().cut == 0 || packet.has_socket())
}

/// What the host itself generated: it came in by no interface, and has the host's address, or none,
/// as its reports of multicast groups have on an interface without an address (RFC 3376, 4.2.13),
/// or comes from a socket of the host, whatever address netfilter gave it or the host got a moment
/// ago. A local endpoint's address is that endpoint's, whoever writes it. `peer` is what is known
/// of the source.
#[inline(always)]
pub(crate) fn from_host(packet: Packet, state: &mut State, peer: &PeerInfo) -> bool {
    if !is_generated(packet, state) {
        return false;
    }
    let tuple = state.tuple();
    peer.is_host()
        || host::same(&tuple.src, &[0; 4])
        || (tuple.ip_version == 6 && host::is_link_local(&tuple.src))
        || (packet.has_socket() && peer.endpoint == 0)
}

/// Who the two addresses of the tuple are; fills the bank and the classes.
struct Ends {
    src: PeerInfo,
    dst: PeerInfo,
}

#[inline(always)]
fn look_up(state: &mut State, settings: &Settings) -> Result<Ends, DropReason> {
    let bank = bank().ok_or(DropReason::Internal)?;
    let tuple = state.tuple();
    tuple.bank = bank;
    tuple.verdict = 0;
    tuple.log_count = 0;
    tuple.spoofed = 0;
    let ends = Ends {
        src: maps::lookup_peer(tuple.ip_version, &tuple.src)?,
        dst: maps::lookup_peer(tuple.ip_version, &tuple.dst)?,
    };
    tuple.src_class = ends.src.class(tuple.ip_version, &tuple.src, settings, bank);
    tuple.dst_class = ends.dst.class(tuple.ip_version, &tuple.dst, settings, bank);
    Ok(ends)
}

/// Asks the egress policy whether the tuple's source is within `allowSpoofedSourcePrefixes`; what
/// it says beside that does not matter. The program `neighbour` runs again if it is.
#[inline(always)]
pub(crate) fn ask_prefixes(packet: Packet, state: &mut State) -> Result<i32, DropReason> {
    let settings = settings().ok_or(DropReason::Internal)?;
    look_up(state, settings)?;
    let tuple = state.tuple();
    tuple.spoofed = u32::from(tuple.ip_version);
    let bank = tuple.bank;
    let private = state.private();
    private.mode |= Mode::ASK_PREFIXES;
    private.pending = Sides::EGRESS;
    Ok(packet.evaluate_policy(policy_index(bank, EGRESS, packet.own_index())))
}

/// Judges the first packet of a flow, in its own direction.
#[inline(always)]
pub(crate) fn new_flow<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, DropReason> {
    let my_side = Side {
        endpoint: own.id,
        index: packet.own_index(),
        generation: generation(own, HOOK == EGRESS),
    };
    let private = state.private();
    if private.query == QUERY_ANSWERS {
        // An answer that nobody asked for may be allowed, but makes no flow: the other end's query
        // would pass as its reply.
        private.mode |= Mode::TRANSIENT;
    }
    (private.egress, private.ingress, private.pending) = if HOOK == EGRESS {
        (my_side, Side::default(), Sides::EGRESS)
    } else {
        (Side::default(), my_side, Sides::INGRESS)
    };
    admit_and_ask::<HOOK>(packet, state, own, settings)
}

/// Judges a flow again, by its original tuple; the sides and what is pending are set.
#[inline(always)]
pub(crate) fn reevaluate<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, DropReason> {
    if state.private().mode.contains(Mode::REPLY_DIRECTION) {
        state.swap_ends();
        if state.private().query == QUERY_ANSWERS {
            // A reply stands for its query.
            state.private().query = QUERY_ASKS;
            let query = (state.private().word >> 8) as u8;
            state.tuple().icmp_type = query;
        }
    }
    admit_and_ask::<HOOK>(packet, state, own, settings)
}

/// Checks who the packet is from and to, then asks the first policy.
#[inline(always)]
fn admit_and_ask<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, DropReason> {
    let ends = look_up(state, settings)?;
    let admission = if HOOK == EGRESS {
        admit::from_workload(packet, state, own, settings, &ends)?
    } else {
        admit::to_workload(packet, state, own, &ends)?
    };
    match admission {
        Admission::Judge => {}
        Admission::Exempt => return Ok(packet.continue_in(static_programs::POLICY_RETURN)),
        Admission::Pass => return Ok(NEXT),
    }
    let bank = state.tuple().bank;
    let private = state.private();
    private.judged = private.pending;
    let policy = if private.pending.contains(Sides::EGRESS) {
        policy_index(bank, EGRESS, private.egress.index)
    } else {
        policy_index(bank, INGRESS, private.ingress.index)
    };
    Ok(packet.evaluate_policy(policy))
}
