//! ICMP errors: they pass if they are about a known flow that this interface is an end of, and go
//! back to where the flow's packet came from.

use felid_common::{
    DropReason, EGRESS, Endpoint, FLOW_REDIRECT, GENERATION_EXEMPT, INGRESS, Side, protocol, static_programs,
};

use crate::conntrack::{Hit, Key};
use crate::deliver::{self, Family};
use crate::host::same;
use crate::judge::{self, is_own};
use crate::l4;
use crate::packet::{NEXT, Packet, now, scratch, settings};
use crate::parse::Chain;
use crate::state::State;
use crate::translation::Number;
use crate::{maps, translation};

/// ICMP redirect, IPv4.
const REDIRECT: u8 = 5;

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
    let settings = settings().ok_or(DropReason::Internal)?;
    let from_workload = u32::from(state.private().hook) == EGRESS;
    // As it is in the packet: what is quoted names the same address.
    let receiver = state.tuple().dst;
    if from_workload {
        translation::arrive::<EGRESS>(packet, &mut state, settings);
    } else {
        translation::arrive::<INGRESS>(packet, &mut state, settings);
    }
    if admit(packet, &mut state, own, from_workload)? {
        return from_host(packet, &mut state, &receiver);
    }

    // The packet that the error is about.
    embedded(packet, &mut state).ok_or(DropReason::UnrelatedError)?;
    if !same(&state.tuple().src, &receiver) {
        return Err(DropReason::UnrelatedError);
    }
    let quoted = translation::own_addresses(&mut state, settings);
    let key = Key::new(&mut state);
    let hit = key.find().ok_or(DropReason::UnrelatedError)?;
    if hit.expired(state.tuple().protocol, settings, now()) {
        return Err(DropReason::UnrelatedError);
    }
    // A workload complains about what it received, and is told about what it sent.
    let mine_is_egress = hit.original(&key) != from_workload;
    let (mine, other) = if mine_is_egress {
        (hit.copy.originator.side(), hit.copy.responder.side())
    } else {
        (hit.copy.responder.side(), hit.copy.originator.side())
    };
    if mine.endpoint != own.id || !holds(&mine, own, mine_is_egress) {
        return Err(DropReason::UnrelatedError);
    }
    let translated = check_names(&mut state, &hit, mine_is_egress, quoted, from_workload)?;
    if !from_workload || hit.copy.flags & FLOW_REDIRECT == 0 {
        return Ok(if translated {
            packet.continue_in(static_programs::TRANSLATE)
        } else {
            NEXT
        });
    }
    match maps::ENDPOINTS.get(other.index) {
        Some(target) if target.id == other.endpoint && holds(&other, target, !mine_is_egress) => {
            if translated {
                state.private().target = other.index;
                return Ok(packet.continue_in(static_programs::TRANSLATE));
            }
            let version = state.tuple().ip_version;
            Ok(deliver::redirect_or_pass(packet, own, target, Family::of(version)))
        }
        _ => Err(DropReason::UnrelatedError),
    }
}

/// Checks who sent the error. True: the host itself did.
#[inline(always)]
fn admit(packet: Packet, state: &mut State, own: &Endpoint, from_workload: bool) -> Result<bool, DropReason> {
    let tuple = state.tuple();
    let version = tuple.ip_version;
    let sender = maps::lookup_peer(version, &tuple.src)?;
    if from_workload {
        if !is_own(packet, own, &sender) {
            return Err(DropReason::SpoofedAddress);
        }
        if version == 4 && state.tuple().icmp_type == REDIRECT {
            return Err(DropReason::SpoofedNeighbour);
        }
        return Ok(false);
    }
    if judge::from_host(packet, state, &sender) {
        return Ok(true);
    }
    if let Some(endpoint) = judge::local(&sender)
        && endpoint.ifindex != packet.ingress_ifindex()
    {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(false)
}

/// Compares the names that the error and what it quotes use with those of the flow, and notes the
/// sender's. `quoted`: the translations of the quoted addresses. Returns whether an end of the flow
/// is translated.
#[inline(always)]
fn check_names(
    state: &mut State,
    hit: &Hit,
    mine_is_egress: bool,
    quoted: (Number, Number),
    from_workload: bool,
) -> Result<bool, DropReason> {
    let (my_name, other_name) = if mine_is_egress {
        (hit.copy.originator.shown(), hit.copy.responder.shown())
    } else {
        (hit.copy.responder.shown(), hit.copy.originator.shown())
    };
    if !translation::holds(my_name) || !translation::holds(other_name) {
        return Err(DropReason::NatGone);
    }
    let (my_number, other_number) = (translation::number(my_name), translation::number(other_name));
    let private = state.private();
    // What it received came from the other end's name to its own address; what it sent was seen
    // from its own name to the other end's.
    let as_known = if from_workload {
        quoted == (other_number, 0) && private.nat_to == other_number
    } else {
        quoted == (my_number, other_number) && private.nat_to == my_number
    };
    if !as_known {
        return Err(DropReason::UnrelatedError);
    }
    if from_workload {
        private.nat_from = my_number;
    }
    Ok(my_number | other_number != 0)
}

/// The host may always tell of an error; what it tells to an external address is about a packet
/// that left as from there.
#[inline(always)]
fn from_host(packet: Packet, state: &mut State, receiver: &[u32; 4]) -> Result<i32, DropReason> {
    if state.private().nat_to == 0 {
        return Ok(NEXT);
    }
    embedded(packet, state).ok_or(DropReason::UnrelatedError)?;
    if !same(&state.tuple().src, receiver) {
        return Err(DropReason::UnrelatedError);
    }
    Ok(packet.continue_in(static_programs::TRANSLATE))
}

/// Whether a side of an entry has been judged by its endpoint's current policy.
#[inline(always)]
fn holds(side: &Side, endpoint: &Endpoint, egress: bool) -> bool {
    side.generation == GENERATION_EXEMPT || side.generation == judge::generation(endpoint, egress)
}

/// Replaces the tuple by that of the packet inside. Only its first bytes are there: at least eight
/// beyond its IP header where the protocol needs them.
#[inline(always)]
fn embedded(packet: Packet, state: &mut State) -> Option<()> {
    let (at, end) = (u32::from(state.private().l4) + 8, u32::from(state.private().end));
    let version = state.tuple().ip_version;
    let (number, l4) = if version == 4 {
        if at + 20 > end {
            return None;
        }
        let ip = packet.load::<[u32; 5]>(at)?;
        let header = (u32::from_be(ip[0]) >> 24 & 15) * 4;
        // The first fragment shows the ports, the others do not.
        if u32::from_be(ip[0]) >> 28 != 4 || header < 20 || u32::from_be(ip[1]) & 0x1fff != 0 {
            return None;
        }
        let tuple = state.tuple();
        tuple.src = [ip[3], 0, 0, 0];
        tuple.dst = [ip[4], 0, 0, 0];
        ((u32::from_be(ip[2]) >> 16) as u8, at + header)
    } else {
        if at + 40 > end {
            return None;
        }
        let ip = packet.load::<[u32; 10]>(at)?;
        if u32::from_be(ip[0]) >> 28 != 6 {
            return None;
        }
        let tuple = state.tuple();
        tuple.src = [ip[2], ip[3], ip[4], ip[5]];
        tuple.dst = [ip[6], ip[7], ip[8], ip[9]];
        let mut chain = Chain::new(at + 40, (u32::from_be(ip[1]) >> 8) as u8);
        chain.walk(packet, state, end).ok()?;
        if chain.part.offset != 0 {
            return None;
        }
        (chain.next, chain.at)
    };
    let private = state.private();
    (private.quoted, private.quoted_l4) = (at as u16, l4 as u16);
    quoted_ends(packet, state, number, l4)
}

/// Fills in the ports of the packet that an error quotes, or what stands for them: as far as its L4
/// header at `l4` is there. `None`: it is too short, or no packet that begins a flow.
#[inline(always)]
fn quoted_ends(packet: Packet, state: &mut State, number: u8, l4: u32) -> Option<()> {
    let end = u32::from(state.private().end);
    let version = state.tuple().ip_version;
    let icmp = l4::is_icmp(version, number);
    let ported = matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP
    );
    if icmp {
        if l4 + 8 > end {
            return None;
        }
        let head = packet.load::<[u32; 2]>(l4)?;
        let (kind, code) = ((u32::from_be(head[0]) >> 24) as u8, (u32::from_be(head[0]) >> 16) as u8);
        protocol::icmp_query(version, kind)?;
        l4::set_icmp(state, number, kind, code, l4::ports(head[1]).0);
    } else if ported {
        if l4 + 4 > end {
            return None;
        }
        let (src_port, dst_port) = l4::ports(packet.load::<u32>(l4)?);
        l4::set_ports(state, number, src_port, dst_port);
    } else {
        l4::set_ports(state, number, 0, 0);
    }
    Some(())
}
