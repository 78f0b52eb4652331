//! Everything that the fast programs leave: any shape of packet, state changes, flows that are new or must be judged again.

use felid_common::{
    CB_INDEX, Drop, EGRESS, ENDPOINT_CHECK_MAC, Endpoint, FLOW_FAST, GENERATION_EXEMPT, Settings, Side, TCP_ACK,
    TCP_RST, TCP_SYN, fixed, protocol,
};

use crate::conntrack::{Hit, Key};
use crate::deliver::{self, Family};
use crate::packet::{NEXT, Packet, now, scratch, settings};
use crate::parse::{self, Kind};
use crate::state::{
    JUDGE_EGRESS, JUDGE_INGRESS, MODE_FAST, MODE_OLD_ESTABLISHED, MODE_REPLACE, MODE_TRANSIENT, MODE_TURNED,
    MODE_UPDATE, State,
};
use crate::{judge, maps, nat};

const _: () = assert!(CB_INDEX == 0);

/// Runs the slow program of a hook.
#[inline(always)]
pub(crate) fn run<const HOOK: u32>(packet: Packet) -> i32 {
    match examine::<HOOK>(packet) {
        Ok(verdict) => verdict,
        Err(reason) => packet.drop(reason),
    }
}

#[inline(always)]
fn examine<const HOOK: u32>(packet: Packet) -> Result<i32, Drop> {
    let own = packet.own().ok_or(Drop::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(Drop::Internal)?);
    let kind = parse::packet(packet, &mut state, HOOK, own.id)?;
    if HOOK == EGRESS && own.flags & ENDPOINT_CHECK_MAC != 0 && packet.source_mac() != Some(words(own.mac)) {
        return Err(Drop::SpoofedMac);
    }
    match kind {
        Kind::Neighbour => Ok(packet.continue_in(fixed::NEIGHBOUR)),
        Kind::Error => Ok(packet.continue_in(fixed::RELATED)),
        Kind::Flow => flow::<HOOK>(packet, &mut state, own),
    }
}

/// A MAC address as the packet's 16-bit words.
#[inline(always)]
pub(crate) const fn words(mac: [u8; 6]) -> [u16; 3] {
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}

#[inline(always)]
fn flow<const HOOK: u32>(packet: Packet, state: &mut State, own: &'static Endpoint) -> Result<i32, Drop> {
    let settings = settings().ok_or(Drop::Internal)?;
    if HOOK == EGRESS && parse::is_tunnel(state, settings) {
        return Err(Drop::Tunnel);
    }
    let now = now();
    nat::arrive::<HOOK>(packet, state, settings);
    let key = Key::new(state);
    if let Some(mut hit) = key.find() {
        let opens = state.private().tcp & (TCP_SYN | TCP_ACK) == TCP_SYN;
        let over = hit.expired(state.tuple().protocol, settings, now) || (opens && hit.closed());
        if !over && let Some(verdict) = known::<HOOK>(packet, state, own, settings, &key, &mut hit, now)? {
            return Ok(verdict);
        }
        // One that is still half-open was found first: there may be an even older one.
        state.private().mode |= MODE_REPLACE | if hit.established { MODE_OLD_ESTABLISHED } else { 0 };
    }
    judge::new_flow::<HOOK>(packet, state, own, settings)
}

/// A packet of a flow that has an entry; `None` if the entry is not this interface's: then the packet begins a new flow.
#[inline(always)]
fn known<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
    key: &Key,
    hit: &mut Hit,
    now: u32,
) -> Result<Option<i32>, Drop> {
    let original = hit.original(key);
    let mine_is_egress = (HOOK == EGRESS) == original;
    let (mine, other) = if mine_is_egress {
        (hit.copy.egress, hit.copy.ingress)
    } else {
        (hit.copy.ingress, hit.copy.egress)
    };
    let generation = judge::generation(own, mine_is_egress);

    // Against the original direction, an entry that never passed this interface says nothing about it.
    if mine.endpoint != own.id && (mine.endpoint != 0 || !original) {
        return Ok(None);
    }
    let mut other_endpoint = None;
    if other.endpoint != 0 {
        let endpoint = maps::ENDPOINTS.get(other.index).ok_or(Drop::Internal)?;
        if endpoint.id != other.endpoint {
            return Ok(None);
        }
        // What claims a local endpoint's address must come from its interface.
        if HOOK != EGRESS && endpoint.ifindex != packet.ingress_ifindex() {
            return Err(Drop::SpoofedAddress);
        }
        other_endpoint = Some(endpoint);
    } else if HOOK != EGRESS {
        let tuple = state.tuple();
        let source = maps::peer(tuple.ip_version, &tuple.src)?;
        if let Some(source) = judge::local(&source) {
            // The address became a local endpoint's after the flow began. (The fast program may miss that for a second.)
            if source.ifindex == 0 || source.ifindex != packet.ingress_ifindex() {
                return Err(Drop::SpoofedAddress);
            }
            return Ok(None);
        }
    }
    if !same_names::<HOOK>(state, hit, original)? {
        return Ok(None);
    }

    let fast = HOOK == EGRESS && hit.copy.flags & FLOW_FAST != 0;
    let (my_bit, other_bit) = if mine_is_egress {
        (JUDGE_EGRESS, JUDGE_INGRESS)
    } else {
        (JUDGE_INGRESS, JUDGE_EGRESS)
    };
    let mut pending = 0;
    let mut mode = MODE_UPDATE;
    let mut other_side = Side::default();
    if mine.endpoint == 0 {
        pending |= my_bit;
    } else if mine.generation == GENERATION_EXEMPT {
        // Exempt is what the host generates, not what it forwards under its own address.
        if HOOK != EGRESS && !judge::is_generated(packet, state) {
            pending |= my_bit;
            mode |= MODE_TRANSIENT;
        }
    } else if mine.generation != generation {
        pending |= my_bit;
    }
    if fast {
        // The packet will not pass the other interface's hook: its side must hold, too.
        let endpoint = other_endpoint.ok_or(Drop::Internal)?;
        let generation = judge::generation(endpoint, !mine_is_egress);
        if other.generation != generation && other.generation != GENERATION_EXEMPT {
            pending |= other_bit;
        }
        other_side = Side {
            endpoint: endpoint.id,
            index: other.index,
            generation,
        };
        mode |= MODE_FAST;
    }
    if pending == 0 {
        hit.track(key, state.private(), original, settings, now);
        let translated = state.private().nat_from | state.private().nat_to != 0;
        return Ok(Some(match other_endpoint {
            _ if translated => {
                state.private().target = if fast { other.index } else { 0 };
                packet.continue_in(fixed::TRANSLATE)
            }
            Some(target) if fast => deliver::any(packet, own, target, Family::of(state.tuple().ip_version)),
            _ => NEXT,
        }));
    }
    let my_side = Side {
        endpoint: own.id,
        index: packet.own_index(),
        generation,
    };
    if !original {
        mode |= MODE_TURNED;
    }
    let private = state.private();
    (private.egress, private.ingress) = if mine_is_egress {
        (my_side, other_side)
    } else {
        (other_side, my_side)
    };
    private.pending = pending;
    private.mode |= mode;
    judge::again::<HOOK>(packet, state, own, settings).map(Some)
}

/// Compares the names that a packet of a known flow uses with those that the flow has, and notes the sender's. False: what the flow was known
/// by is gone, and the packet may begin a new one.
#[inline(always)]
fn same_names<const HOOK: u32>(state: &mut State, hit: &Hit, original: bool) -> Result<bool, Drop> {
    let (from, to) = if original {
        (hit.copy.original_nat, hit.copy.reply_nat)
    } else {
        (hit.copy.reply_nat, hit.copy.original_nat)
    };
    let private = state.private();
    if from.id | to.id | private.nat_from | private.nat_to == 0 {
        return Ok(true);
    }
    if !nat::holds(from) || !nat::holds(to) {
        let middle = private.word as u8 == protocol::TCP && private.tcp & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN;
        return if original && !middle {
            Ok(false)
        } else {
            Err(Drop::NatGone)
        };
    }
    let unlike = private.nat_to != nat::number(to) || (HOOK != EGRESS && private.nat_from != nat::number(from));
    if unlike {
        return Err(Drop::NatCollision);
    }
    private.nat_from = nat::number(from);
    Ok(true)
}
