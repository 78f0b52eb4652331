//! ICMP errors: they pass if they are about a known flow that this interface is an end of, and go back to where the flow's packet came from.

use felid_common::{
    Drop, EGRESS, Endpoint, FLOW_FAST, GENERATION_EXEMPT, INGRESS, SETTING_NATS, Settings, Side, fixed, protocol,
};

use crate::conntrack::Key;
use crate::deliver::{self, Family};
use crate::judge::{self, is_own};
use crate::maps;
use crate::nat::{self, Number};
use crate::packet::{NEXT, Packet, now, scratch, settings};
use crate::parse::{self, Chain};
use crate::state::State;

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
fn examine(packet: Packet) -> Result<i32, Drop> {
    let own = packet.own().ok_or(Drop::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(Drop::Internal)?);
    let settings = settings().ok_or(Drop::Internal)?;
    let from_workload = u32::from(state.private().hook) == EGRESS;
    // As it is in the packet: what is quoted names the same address.
    let receiver = state.tuple().dst;
    if from_workload {
        nat::arrive::<EGRESS>(packet, &mut state, settings);
    } else {
        nat::arrive::<INGRESS>(packet, &mut state, settings);
    }
    let tuple = state.tuple();
    let (version, src) = (tuple.ip_version, tuple.src);
    let sender = maps::peer(version, &src)?;
    if from_workload {
        if !is_own(packet, own, &sender) {
            return Err(Drop::SpoofedAddress);
        }
        if version == 4 && tuple.icmp_type == REDIRECT {
            return Err(Drop::SpoofedNeighbour);
        }
    } else {
        if judge::from_host(packet, &mut state, &sender) {
            return from_host(packet, &mut state, &receiver);
        }
        if let Some(endpoint) = judge::local(&sender)
            && endpoint.ifindex != packet.ingress_ifindex()
        {
            return Err(Drop::SpoofedAddress);
        }
    }

    // The packet that the error is about.
    embedded(packet, &mut state).ok_or(Drop::UnrelatedError)?;
    if !same(&state.tuple().src, &receiver) {
        return Err(Drop::UnrelatedError);
    }
    let (blamed, met) = own_addresses(&mut state, settings);
    let key = Key::new(&mut state);
    let hit = key.find().ok_or(Drop::UnrelatedError)?;
    if hit.expired(state.tuple().protocol, settings, now()) {
        return Err(Drop::UnrelatedError);
    }
    // A workload complains about what it received, and is told about what it sent.
    let mine_is_egress = hit.original(&key) != from_workload;
    let (mine, other) = if mine_is_egress {
        (hit.copy.egress, hit.copy.ingress)
    } else {
        (hit.copy.ingress, hit.copy.egress)
    };
    if mine.endpoint != own.id || !holds(&mine, own, mine_is_egress) {
        return Err(Drop::UnrelatedError);
    }
    let (my_name, other_name) = if mine_is_egress {
        (hit.copy.original_nat, hit.copy.reply_nat)
    } else {
        (hit.copy.reply_nat, hit.copy.original_nat)
    };
    if !nat::holds(my_name) || !nat::holds(other_name) {
        return Err(Drop::NatGone);
    }
    let (my_number, other_number) = (nat::number(my_name), nat::number(other_name));
    let private = state.private();
    // What it received came from the other end's name to its own address; what it sent was seen from its own name to the other end's.
    let as_known = if from_workload {
        blamed == other_number && met == 0 && private.nat_to == other_number
    } else {
        blamed == my_number && met == other_number && private.nat_to == my_number
    };
    if !as_known {
        return Err(Drop::UnrelatedError);
    }
    if from_workload {
        private.nat_from = my_number;
    }
    let translated = my_number | other_number != 0;
    if !from_workload || hit.copy.flags & FLOW_FAST == 0 {
        return Ok(if translated {
            packet.continue_in(fixed::TRANSLATE)
        } else {
            NEXT
        });
    }
    match maps::ENDPOINTS.get(other.index) {
        Some(target) if target.id == other.endpoint && holds(&other, target, !mine_is_egress) => {
            if translated {
                state.private().target = other.index;
                return Ok(packet.continue_in(fixed::TRANSLATE));
            }
            Ok(deliver::any(packet, own, target, Family::of(version)))
        }
        _ => Err(Drop::UnrelatedError),
    }
}

/// The host may always tell of an error; what it tells to an external address is about a packet that left as from there.
#[inline(always)]
fn from_host(packet: Packet, state: &mut State, receiver: &[u32; 4]) -> Result<i32, Drop> {
    if state.private().nat_to == 0 {
        return Ok(NEXT);
    }
    embedded(packet, state).ok_or(Drop::UnrelatedError)?;
    if !same(&state.tuple().src, receiver) {
        return Err(Drop::UnrelatedError);
    }
    Ok(packet.continue_in(fixed::TRANSLATE))
}

#[inline(always)]
fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// Replaces external addresses in the quoted tuple by those that they stand for; the numbers of their translations, source first.
#[inline(always)]
fn own_addresses(state: &mut State, settings: &Settings) -> (Number, Number) {
    let mut numbers = (0, 0);
    if settings.flags & SETTING_NATS != 0 {
        let tuple = state.tuple();
        let kind = nat::kind(tuple.ip_version);
        if let Some((number, nat)) = nat::find(&tuple.src, kind) {
            tuple.src = nat.other;
            numbers.0 = number;
        }
        if let Some((number, nat)) = nat::find(&tuple.dst, kind) {
            tuple.dst = nat.other;
            numbers.1 = number;
        }
    }
    numbers
}

/// Whether a side of an entry has been judged by its endpoint's current policy.
#[inline(always)]
fn holds(side: &Side, endpoint: &Endpoint, egress: bool) -> bool {
    side.generation == GENERATION_EXEMPT || side.generation == judge::generation(endpoint, egress)
}

/// Replaces the tuple by that of the packet inside. Only its first bytes are there: at least eight beyond its IP header where the protocol
/// needs them.
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
    let icmp = parse::is_icmp(version, number);
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
        parse::set_icmp(state, number, kind, code, parse::ports(head[1]).0);
    } else if ported {
        if l4 + 4 > end {
            return None;
        }
        let (src_port, dst_port) = parse::ports(packet.load::<u32>(l4)?);
        parse::set_ports(state, number, src_port, dst_port);
    } else {
        parse::set_ports(state, number, 0, 0);
    }
    Some(())
}
