//! Judgement: prepares what policy programs look at, and carries out what they say.

use core::ptr::addr_of;

use felid_common::{
    Drop, EGRESS, ENDPOINT_FAST, ENDPOINT_SPOOFS, Endpoint, Event, FLOW_CLOSING, FLOW_FAST, FLOW_ORIGINAL_LOW,
    FLOW_REPLIED, Flow, GENERATION_EXEMPT, GENERATION_NONE, INGRESS, SETTING_HOST_REACHABLE, SETTING_NAT_OUTBOUND,
    SETTING_NATS, Settings, Side, TCP_ACK, TCP_RST, TCP_SYN, VERDICT_ALLOW, fixed, policy_index, protocol,
};

use crate::conntrack::{EEXIST, Hit, Key};
use crate::deliver::{self, Family};
use crate::maps::Known;
use crate::packet::{NEXT, Packet, count, now, scratch, settings};
use crate::state::{
    JUDGE_EGRESS, JUDGE_INGRESS, MODE_ASK_ROUTE, MODE_FAST, MODE_OLD_ESTABLISHED, MODE_REPLACE, MODE_TO_HOST,
    MODE_TRANSIENT, MODE_TURNED, MODE_UPDATE, QUERY_ANSWERS, QUERY_ASKS, State,
};
use crate::tell::tell;
use crate::{host, maps, nat};

/// The generation of an endpoint's policy. User space raises it a grace period after the switch of banks, so that no program that still
/// judges by the old bank can read it: wherever in a program it is read, an old verdict is never stamped as new.
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
pub(crate) fn local(peer: &Known) -> Option<&'static Endpoint> {
    if peer.endpoint == 0 {
        return None;
    }
    maps::ENDPOINTS
        .get(peer.endpoint)
        .filter(|endpoint| endpoint.id == peer.id)
}

/// Whether the address is this interface's endpoint's own.
#[inline(always)]
pub(crate) fn is_own(packet: Packet, own: &Endpoint, peer: &Known) -> bool {
    peer.endpoint == packet.own_index() && peer.id == own.id
}

/// Whether the packet came in by no interface. The kernel forgets by which one it was when it cuts a reassembled IPv6 datagram up again
/// (netfilter's defragmentation), so a fragment also needs a socket of the host that it comes from.
#[inline(always)]
pub(crate) fn is_generated(packet: Packet, state: &mut State) -> bool {
    packet.ingress_ifindex() == 0 && (state.private().cut == 0 || packet.has_socket())
}

/// What the host itself generated: it came in by no interface and has the host's address. `peer` is what is known of the source.
#[inline(always)]
pub(crate) fn from_host(packet: Packet, state: &mut State, peer: &Known) -> bool {
    is_generated(packet, state)
        && (peer.is_host() || (state.tuple().ip_version == 6 && host::is_link_local(&state.tuple().src)))
}

/// Who the two addresses of the tuple are; fills the bank and the classes.
struct Ends {
    src: Known,
    dst: Known,
}

#[inline(always)]
fn look_up(state: &mut State, settings: &Settings) -> Result<Ends, Drop> {
    let bank = bank().ok_or(Drop::Internal)?;
    let tuple = state.tuple();
    tuple.bank = bank;
    tuple.verdict = 0;
    tuple.log_count = 0;
    tuple.spoofed = 0;
    let ends = Ends {
        src: maps::peer(tuple.ip_version, &tuple.src)?,
        dst: maps::peer(tuple.ip_version, &tuple.dst)?,
    };
    tuple.src_class = ends.src.class(tuple.ip_version, &tuple.src, settings, bank);
    tuple.dst_class = ends.dst.class(tuple.ip_version, &tuple.dst, settings, bank);
    Ok(ends)
}

/// Judges the first packet of a flow, in its own direction.
#[inline(always)]
pub(crate) fn new_flow<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, Drop> {
    let my_side = Side {
        endpoint: own.id,
        index: packet.own_index(),
        generation: generation(own, HOOK == EGRESS),
    };
    let private = state.private();
    if private.query == QUERY_ANSWERS {
        // An answer that nobody asked for may be allowed, but makes no flow: the other end's query would pass as its reply.
        private.mode |= MODE_TRANSIENT;
    }
    (private.egress, private.ingress, private.pending) = if HOOK == EGRESS {
        (my_side, Side::default(), JUDGE_EGRESS)
    } else {
        (Side::default(), my_side, JUDGE_INGRESS)
    };
    start::<HOOK>(packet, state, own, settings)
}

/// Judges a flow again, by its original tuple; the sides and what is pending are set.
#[inline(always)]
pub(crate) fn again<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, Drop> {
    if state.private().mode & MODE_TURNED != 0 {
        state.turn();
        if state.private().query == QUERY_ANSWERS {
            // A reply stands for its query.
            state.private().query = QUERY_ASKS;
            let query = (state.private().word >> 8) as u8;
            state.tuple().icmp_type = query;
        }
    }
    start::<HOOK>(packet, state, own, settings)
}

/// Checks who the packet is from and to, then asks the first policy.
#[inline(always)]
fn start<const HOOK: u32>(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
) -> Result<i32, Drop> {
    let ends = look_up(state, settings)?;
    let turned = state.private().mode & MODE_TURNED != 0;
    let version = state.tuple().ip_version;
    if HOOK == EGRESS {
        let (mine, theirs) = if turned {
            (&ends.dst, &ends.src)
        } else {
            (&ends.src, &ends.dst)
        };
        if !is_own(packet, own, mine) {
            if turned || own.flags & ENDPOINT_SPOOFS == 0 {
                return Err(Drop::SpoofedAddress);
            }
            state.tuple().spoofed = u32::from(version);
        }
        if state.private().mode & (MODE_UPDATE | MODE_FAST) == MODE_UPDATE | MODE_FAST {
            let private = state.private();
            let side = if turned { private.egress } else { private.ingress };
            if theirs.endpoint != side.index || theirs.id != side.endpoint {
                // The other end's address has moved: its next packet begins a flow with the new owner.
                let key = Key::new(state);
                key.remove(true);
                key.remove(false);
                return Err(Drop::ForeignDestination);
            }
        }
        if state.private().mode & (MODE_TURNED | MODE_FAST | MODE_UPDATE) == 0
            && settings.flags & SETTING_NATS != 0
            && is_own(packet, own, mine)
        {
            name(state, settings, &ends.dst, packet)?;
        }
        if state.private().mode & (MODE_TURNED | MODE_FAST) == 0 {
            let target = local(&ends.dst);
            let mode = host::destination(version, &state.tuple().dst, &ends.dst, target.is_some());
            let private = state.private();
            private.mode |= mode;
            let index = ends.dst.endpoint;
            // By one of its external addresses: otherwise the packet would not be here.
            let itself = private.nat_to != 0 && target.is_some() && index == packet.own_index();
            if itself && own.flags & ENDPOINT_FAST == 0 {
                return Err(Drop::NatHairpin);
            }
            if private.mode & MODE_UPDATE == 0
                && let Some(target) = target
                && (index != packet.own_index() || itself)
                && own.flags & target.flags & ENDPOINT_FAST != 0
                // Answers to an address that is not the endpoint's own find their way by the host's routes.
                && is_own(packet, own, mine)
            {
                private.ingress = Side {
                    endpoint: target.id,
                    index,
                    generation: generation(target, false),
                };
                private.pending |= JUDGE_INGRESS;
                private.mode |= MODE_FAST;
            }
        }
    } else {
        let (mine, source) = if turned {
            (&ends.src, &ends.dst)
        } else {
            (&ends.dst, &ends.src)
        };
        if let Some(endpoint) = local(source) {
            if endpoint.ifindex == 0 || endpoint.ifindex != packet.ingress_ifindex() {
                return Err(Drop::SpoofedAddress);
            }
            let index = source.endpoint;
            let private = state.private();
            if private.mode & MODE_UPDATE == 0 {
                // Not judged here, but known: from now on the flow's packets must come from that interface.
                private.egress = Side {
                    endpoint: endpoint.id,
                    index,
                    generation: GENERATION_NONE,
                };
            }
        }
        if turned && ends.dst.is_host() {
            // The host's own packets do not renew what the workload may no longer say to it.
            state.private().mode |= MODE_TO_HOST;
        }
        let exempt = !turned && from_host(packet, state, source);
        if !is_own(packet, own, mine) && turned && own.flags & ENDPOINT_SPOOFS != 0 {
            // An answer to a flow that the workload began from an address that is not its own.
            state.tuple().spoofed = u32::from(version);
        } else if !is_own(packet, own, mine) {
            // Multicast and the like: only the host itself sends that here.
            return if exempt {
                Ok(NEXT)
            } else {
                Err(Drop::ForeignDestination)
            };
        }
        if exempt {
            let private = state.private();
            private.ingress.generation = GENERATION_EXEMPT;
            private.pending &= !JUDGE_INGRESS;
            private.judged = JUDGE_INGRESS;
            if private.word as u8 == protocol::TCP && private.tcp & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN {
                // The host may always say it, but if the workload began this connection and its flow has ended meanwhile, a new flow of
                // the host's would let the workload go on as if it answered.
                private.mode |= MODE_TRANSIENT;
            }
            return Ok(packet.continue_in(fixed::JUDGED));
        }
    }
    let bank = state.tuple().bank;
    let private = state.private();
    private.judged = private.pending;
    let policy = if private.pending & JUDGE_EGRESS != 0 {
        policy_index(bank, EGRESS, private.egress.index)
    } else {
        policy_index(bank, INGRESS, private.ingress.index)
    };
    Ok(packet.judge_by(policy))
}

/// Decides under which address a new flow from the workload is shown: to itself always under an external one, since it would not take its own
/// address for another's.
#[inline(always)]
fn name(state: &mut State, settings: &Settings, dst: &Known, packet: Packet) -> Result<(), Drop> {
    let version = state.tuple().ip_version;
    let to = state.tuple().dst;
    let target = local(dst).is_some();
    let itself = target && dst.endpoint == packet.own_index() && state.private().nat_to != 0;
    let outside = settings.flags & SETTING_NAT_OUTBOUND != 0
        && !target
        && host::destination(version, &to, dst, false) == MODE_ASK_ROUTE
        && !nat::in_cluster(version, &to);
    if itself || outside {
        let src = state.tuple().src;
        state.private().nat_from = nat::outgoing(&src, version);
    }
    if itself && state.private().nat_from == 0 {
        // From an address of its own that has no external one.
        return Err(Drop::NatHairpin);
    }
    Ok(())
}

/// Where every policy program ends.
#[inline(always)]
pub(crate) fn judged(packet: Packet) -> i32 {
    match carry_out(packet) {
        Ok(verdict) => verdict,
        Err(reason) => packet.drop(reason),
    }
}

#[inline(always)]
fn carry_out(packet: Packet) -> Result<i32, Drop> {
    let mut state = State::new(scratch().ok_or(Drop::Internal)?);
    let settings = settings().ok_or(Drop::Internal)?;
    let (pending, mode) = (state.private().pending, state.private().mode);
    if pending != 0 {
        let egress = pending & JUDGE_EGRESS != 0;
        let tuple = state.tuple();
        let (verdict, bank) = (tuple.verdict, tuple.bank);
        tuple.verdict = 0;
        if egress && tuple.spoofed != 0 {
            return Err(Drop::SpoofedAddress);
        }
        if tuple.log_count != 0 {
            let (side, direction) = if egress {
                (state.private().egress, EGRESS)
            } else {
                (state.private().ingress, INGRESS)
            };
            tell(state.tuple(), side.endpoint, direction, verdict, settings);
            state.tuple().log_count = 0;
        }
        let tuple = state.tuple();
        if let Some(counter) = maps::COUNTERS.get_ptr_mut(tuple.counter) {
            // SAFETY: this CPU's own slot.
            unsafe { *counter += 1 }
        }
        if verdict != VERDICT_ALLOW {
            if mode & (MODE_UPDATE | MODE_TRANSIENT) == MODE_UPDATE {
                let key = Key::new(&mut state);
                if let Some(hit) = key.find()
                    && hit.original(&key)
                {
                    let judged = if egress {
                        hit.copy.egress.endpoint
                    } else {
                        hit.copy.ingress.endpoint
                    };
                    if judged == 0 {
                        // Never allowed at this end: there is nothing to revoke, and nothing that may stand for the flow.
                        key.remove(true);
                        key.remove(false);
                    } else if hit.revoke(&key, now()) {
                        count(Event::Revoked);
                    }
                }
            }
            return Err(if egress {
                Drop::EgressPolicy
            } else {
                Drop::IngressPolicy
            });
        }
        let private = state.private();
        let left = pending & !if egress { JUDGE_EGRESS } else { JUDGE_INGRESS };
        private.pending = left;
        if left != 0 {
            return Ok(packet.judge_by(policy_index(bank, INGRESS, private.ingress.index)));
        }
    }
    if mode & (MODE_TO_HOST | MODE_ASK_ROUTE) != 0
        && settings.flags & SETTING_HOST_REACHABLE == 0
        && (mode & MODE_TO_HOST != 0 || !host::forwards(packet, &mut state))
    {
        return Err(Drop::EndpointToHost);
    }
    if mode & MODE_TRANSIENT == 0 {
        commit(&mut state, settings)?;
    }
    let private = state.private();
    let side = if mode & MODE_TURNED != 0 {
        private.egress
    } else {
        private.ingress
    };
    if private.nat_from | private.nat_to != 0 {
        private.target = if mode & MODE_FAST != 0 { side.index } else { 0 };
        return Ok(packet.continue_in(fixed::TRANSLATE));
    }
    if mode & MODE_FAST == 0 {
        return Ok(NEXT);
    }
    let own = packet.own().ok_or(Drop::UnknownInterface)?;
    match maps::ENDPOINTS.get(side.index) {
        Some(target) if target.id == side.endpoint => {
            Ok(deliver::any(packet, own, target, Family::of(state.tuple().ip_version)))
        }
        _ => Ok(NEXT),
    }
}

/// Writes into the tables what was allowed.
#[inline(always)]
fn commit(state: &mut State, settings: &Settings) -> Result<(), Drop> {
    let now = now();
    let key = Key::new(state);
    let private = state.private();
    let mode = private.mode;
    let turned = mode & MODE_TURNED != 0;
    if mode & MODE_UPDATE != 0
        && let Some(mut hit) = key.find()
        && hit.original(&key)
    {
        renew(&mut hit, &key, private.judged, private.egress, private.ingress);
        hit.track(&key, private, !turned, settings, now);
        count(Event::Rejudged);
        return Ok(());
    }
    let (from, to) = (nat::shown(private.nat_from)?, nat::shown(private.nat_to)?);
    let (original_nat, reply_nat) = if turned { (to, from) } else { (from, to) };
    let mut flags = if key.low { FLOW_ORIGINAL_LOW } else { 0 };
    if mode & MODE_FAST != 0 {
        flags |= FLOW_FAST;
    }
    if turned {
        flags |= FLOW_REPLIED;
    }
    if private.tcp & TCP_RST != 0 {
        flags |= FLOW_CLOSING;
    }
    let flow = Flow {
        check: key.check,
        last_seen: now,
        flags,
        tcp_original: if turned { 0 } else { private.tcp },
        tcp_reply: if turned { private.tcp } else { 0 },
        egress: private.egress,
        ingress: private.ingress,
        created: now,
        handshake_or_fresh: 0,
        original_nat,
        reply_nat,
    };
    if mode & MODE_REPLACE != 0 {
        // The established table is asked first: an older flow there would hide the new one.
        key.remove(true);
        if mode & MODE_OLD_ESTABLISHED == 0 {
            key.remove(false);
        }
        count(Event::Reused);
    }
    match key.insert(false, &flow, u64::from(aya_ebpf::bindings::BPF_NOEXIST)) {
        Ok(()) => {
            count(Event::Created);
            nat::count(original_nat);
            nat::count(reply_nat);
            Ok(())
        }
        Err(EEXIST) => {
            // Another CPU was first. If it came from the other end, its view stands: this packet was allowed all the same.
            if let Some(mut hit) = key.find()
                && hit.original(&key)
            {
                if hit.copy.original_nat != original_nat || hit.copy.reply_nat != reply_nat {
                    return Err(Drop::NatCollision);
                }
                renew(&mut hit, &key, private.judged, private.egress, private.ingress);
            }
            Ok(())
        }
        Err(_) => Err(Drop::ConntrackFull),
    }
}

/// Marks sides of an entry as judged.
#[inline(always)]
fn renew(hit: &mut Hit, key: &Key, judged: u8, egress: Side, ingress: Side) {
    if judged & JUDGE_EGRESS != 0 {
        hit.set_side(key, true, egress);
    }
    if judged & JUDGE_INGRESS != 0 {
        hit.set_side(key, false, ingress);
    }
}
