//! Everything that the fast programs leave: any shape of packet, state changes, flows that are new
//! or must be judged again.

use felid_common::{
    CB_INDEX, DropReason, EGRESS, ENDPOINT_CHECK_MAC, ENDPOINT_DHCP, Endpoint, FLOW_REDIRECT, GENERATION_EXEMPT,
    SETTING_HOST_REACHABLE, Settings, Side, protocol, static_programs,
};

use crate::conntrack::{Hit, Key};
use crate::deliver::{self, Family};
use crate::packet::{NEXT, Packet, now, scratch, settings};
use crate::parse;
use crate::state::{Mode, PacketKind, Sides, State};
use crate::track::track;
use crate::{fragments, host, judge, maps, port_alias, translation};

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
fn examine<const HOOK: u32>(packet: Packet) -> Result<i32, DropReason> {
    if HOOK == EGRESS {
        packet.tag_for_host(false);
        if packet.is_looped_back() {
            return Ok(NEXT);
        }
    }
    let own = packet.own().ok_or(DropReason::UnknownInterface)?;
    let mut state = State::new(scratch().ok_or(DropReason::Internal)?);
    let kind = parse::packet(packet, &mut state, HOOK)?;
    if HOOK == EGRESS && own.flags & ENDPOINT_CHECK_MAC != 0 && packet.source_mac() != Some(words(own.mac)) {
        return Err(DropReason::SpoofedMac);
    }
    if HOOK == EGRESS {
        if own.flags & ENDPOINT_DHCP != 0 && kind == PacketKind::Flow && is_dhcp(&mut state)? {
            return Ok(packet.continue_in(static_programs::NEIGHBOUR));
        }
        let tuple = state.tuple();
        let (version, src, dst) = (tuple.ip_version, tuple.src, tuple.dst);
        // From nowhere is where neighbour discovery begins.
        let from_nowhere = kind != PacketKind::Neighbour && host::same(&src, &[0; 4]);
        if version != 0 && (from_nowhere || host::is_martian(version, &src, &dst)) {
            return Err(DropReason::Martian);
        }
    }
    match kind {
        PacketKind::Neighbour => Ok(packet.continue_in(static_programs::NEIGHBOUR)),
        PacketKind::Error => Ok(packet.continue_in(static_programs::RELATED)),
        PacketKind::Orphan => orphan::<HOOK>(packet, &mut state, own),
        PacketKind::Flow => flow::<HOOK>(packet, &mut state, own),
    }
}

/// Whether a packet of a workload is a DHCP client's to all servers of the link, or to one on the
/// host.
#[inline(always)]
fn is_dhcp(state: &mut State) -> Result<bool, DropReason> {
    const ALL_DHCP_SERVERS: [u32; 4] = [0xff02_0000_u32.to_be(), 0, 0, 0x0001_0002_u32.to_be()];
    let whole = state.private().l4 != 0;
    let tuple = state.tuple();
    let (version, dst) = (tuple.ip_version, tuple.dst);
    let (ports, to_all) = if version == 4 {
        ((68, 67), dst[0] == u32::MAX)
    } else {
        ((546, 547), host::same(&dst, &ALL_DHCP_SERVERS))
    };
    if tuple.protocol != protocol::UDP || (tuple.src_port, tuple.dst_port) != ports || !whole {
        return Ok(false);
    }
    // Without an address the host could not be asked for by its own.
    Ok(to_all || (!(version == 4 && tuple.src[0] == 0) && maps::lookup_peer(version, &dst)?.is_host()))
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

/// A later fragment of a datagram whose first one was not seen passes only if the host itself sent
/// it, which needs no policy's permission. Others would have to be kept until the first one comes,
/// which no program can.
#[inline(always)]
fn orphan<const HOOK: u32>(packet: Packet, state: &mut State, own: &'static Endpoint) -> Result<i32, DropReason> {
    let settings = settings().ok_or(DropReason::Internal)?;
    if HOOK == EGRESS {
        return Err(DropReason::UnknownFragment);
    }
    let tuple = state.tuple();
    let (version, src) = (tuple.ip_version, tuple.src);
    let source = maps::lookup_peer(version, &src)?;
    if !judge::from_host(packet, state, &source) {
        return Err(DropReason::UnknownFragment);
    }
    translation::arrive::<HOOK>(packet, state, settings);
    let dst = state.tuple().dst;
    if !judge::is_own(packet, own, &maps::lookup_peer(version, &dst)?) {
        return Err(DropReason::ForeignDestination);
    }
    Ok(if state.private().nat_to != 0 {
        packet.continue_in(static_programs::TRANSLATE)
    } else {
        NEXT
    })
}

#[inline(always)]
fn flow<const HOOK: u32>(packet: Packet, state: &mut State, own: &'static Endpoint) -> Result<i32, DropReason> {
    let settings = settings().ok_or(DropReason::Internal)?;
    if HOOK == EGRESS {
        // Until a flow's entry says that it answers.
        packet.tag_for_host(true);
    }
    let tunnel = HOOK == EGRESS && parse::is_tunnel(state, settings);
    translation::arrive::<HOOK>(packet, state, settings);
    let mut key = Key::new(state);
    if HOOK != EGRESS && port_alias::arrive(packet, state, own, &key, settings)? {
        key = Key::new(state);
    }
    if let Some(hit) = key.find() {
        let original = hit.original(&key);
        let number = state.tuple().protocol;
        // Against the direction of a flow that was answered, whoever opens a connection begins a
        // flow of his own.
        let opens = state.private().opens != 0 && (hit.closed() || (!original && hit.answered(number)));
        let over = opens || hit.expired(number, settings, now());
        // The answers of a flow that others began are no tunnel, whatever port they asked from.
        if tunnel && (over || original || number != protocol::UDP) {
            return Err(DropReason::Tunnel);
        }
        if HOOK == EGRESS && !over {
            port_alias::depart(state, &hit, original)?;
        }
        let established = hit.established;
        if !over {
            let mut known = KnownFlow::new::<HOOK>(packet, own, &key, hit);
            if let Some(verdict) = known.pass_or_reevaluate::<HOOK>(state, settings)? {
                return Ok(verdict);
            }
        }
        // One that is still half-open was found first: there may be an even older one.
        state.private().mode |= Mode::REPLACE;
        if established {
            state.private().mode |= Mode::OLD_ESTABLISHED;
        }
    }
    if tunnel {
        return Err(DropReason::Tunnel);
    }
    judge::new_flow::<HOOK>(packet, state, own, settings)
}

/// A packet's flow, as its entry says.
struct KnownFlow<'a> {
    packet: Packet,
    /// The endpoint of this interface.
    own: &'static Endpoint,
    key: &'a Key,
    hit: Hit,
    /// Whether the packet runs in the direction of the flow's first one.
    original: bool,
    /// Whether this interface's end is the one that the egress policy is asked for: the originator.
    mine_is_egress: bool,
}

/// What is to be judged again before a packet may pass.
struct Stale {
    pending: Sides,
    mode: Mode,
    /// The other end, if its policy is asked here as well.
    other: Side,
}

impl<'a> KnownFlow<'a> {
    #[inline(always)]
    fn new<const HOOK: u32>(packet: Packet, own: &'static Endpoint, key: &'a Key, hit: Hit) -> Self {
        let original = hit.original(key);
        Self {
            packet,
            own,
            key,
            hit,
            original,
            mine_is_egress: (HOOK == EGRESS) == original,
        }
    }

    /// Both ends, this interface's first.
    #[inline(always)]
    fn sides(&self) -> (Side, Side) {
        let copy = &self.hit.copy;
        if self.mine_is_egress {
            (copy.originator.side(), copy.responder.side())
        } else {
            (copy.responder.side(), copy.originator.side())
        }
    }

    /// Lets the packet pass if what allowed the flow still holds, or has it judged again. `None` if
    /// the entry is not this interface's: then the packet begins a new flow.
    #[inline(always)]
    fn pass_or_reevaluate<const HOOK: u32>(
        &mut self,
        state: &mut State,
        settings: &Settings,
    ) -> Result<Option<i32>, DropReason> {
        if self.is_the_hosts_turn::<HOOK>(state, settings)? {
            return Ok(None);
        }
        let mine = self.sides().0;
        // Against the original direction, an entry that never passed this interface says nothing
        // about it.
        if mine.endpoint != self.own.id && (mine.endpoint != 0 || !self.original) {
            return Ok(None);
        }
        let mut other = None;
        if !self.find_other_end::<HOOK>(state, &mut other)?
            || !translation::check_names::<HOOK>(state, &self.hit, self.original)?
        {
            return Ok(None);
        }
        if HOOK == EGRESS && !self.original {
            // It answers, and so may reach the host.
            self.packet.tag_for_host(false);
        }
        let redirect = HOOK == EGRESS && self.hit.copy.flags & FLOW_REDIRECT != 0;
        let generation = judge::generation(self.own, self.mine_is_egress);
        let stale = self.stale::<HOOK>(state, generation, if redirect { other } else { None });
        if stale.pending.is_empty() {
            return self
                .pass(state, settings, if redirect { other } else { None })
                .map(Some);
        }
        self.prepare(state, generation, &stale);
        judge::reevaluate::<HOOK>(self.packet, state, self.own, settings).map(Some)
    }

    /// Whether the host begins a flow of its own where a workload's, which never reached the host,
    /// has left an entry: what the workload may not say must not stand in the way of what the host
    /// may.
    #[inline(always)]
    fn is_the_hosts_turn<const HOOK: u32>(&self, state: &mut State, settings: &Settings) -> Result<bool, DropReason> {
        if HOOK == EGRESS
            || self.original
            || self.hit.established
            || settings.flags & SETTING_HOST_REACHABLE != 0
            || !judge::is_generated(self.packet, state)
        {
            return Ok(false);
        }
        let tuple = state.tuple();
        let source = maps::lookup_peer(tuple.ip_version, &tuple.src)?;
        Ok(judge::from_host(self.packet, state, &source))
    }

    /// Finds the record of the other end, if that is a local endpoint, and checks that the packet
    /// comes from there. False: the other end is not the one that the entry speaks of.
    #[inline(always)]
    fn find_other_end<const HOOK: u32>(
        &self,
        state: &mut State,
        found: &mut Option<&'static Endpoint>,
    ) -> Result<bool, DropReason> {
        let other = self.sides().1;
        if other.endpoint != 0 {
            let endpoint = maps::ENDPOINTS.get(other.index).ok_or(DropReason::Internal)?;
            if endpoint.id != other.endpoint {
                return Ok(false);
            }
            // What claims a local endpoint's address must come from its interface.
            if HOOK != EGRESS && endpoint.ifindex != self.packet.ingress_ifindex() {
                return Err(DropReason::SpoofedAddress);
            }
            *found = Some(endpoint);
        } else if HOOK != EGRESS {
            let tuple = state.tuple();
            let source = maps::lookup_peer(tuple.ip_version, &tuple.src)?;
            if let Some(source) = judge::local(&source) {
                // The address became a local endpoint's after the flow began. (The fast program may
                // miss that for a second.)
                if source.ifindex == 0 || source.ifindex != self.packet.ingress_ifindex() {
                    return Err(DropReason::SpoofedAddress);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Which sides do not hold any more. `target`: where the packet will be redirected to, past the
    /// other interface's hook; so that side must hold, too.
    #[inline(always)]
    fn stale<const HOOK: u32>(&self, state: &mut State, generation: u32, target: Option<&'static Endpoint>) -> Stale {
        let (mine, other) = self.sides();
        let (my_bit, other_bit) = if self.mine_is_egress {
            (Sides::EGRESS, Sides::INGRESS)
        } else {
            (Sides::INGRESS, Sides::EGRESS)
        };
        let mut stale = Stale {
            pending: Sides::empty(),
            mode: Mode::UPDATE,
            other: Side::default(),
        };
        if mine.endpoint == 0 {
            stale.pending |= my_bit;
        } else if mine.generation == GENERATION_EXEMPT {
            // Exempt is what the host generates, not what it forwards under its own address.
            if HOOK != EGRESS && !judge::is_generated(self.packet, state) {
                stale.pending |= my_bit;
                stale.mode |= Mode::TRANSIENT;
            }
        } else if mine.generation != generation {
            stale.pending |= my_bit;
        }
        if let Some(target) = target {
            let generation = judge::generation(target, !self.mine_is_egress);
            if other.generation != generation && other.generation != GENERATION_EXEMPT {
                stale.pending |= other_bit;
            }
            stale.other = Side {
                endpoint: target.id,
                index: other.index,
                generation,
            };
            stale.mode |= Mode::REDIRECT;
        }
        if !self.original {
            stale.mode |= Mode::REPLY_DIRECTION;
        }
        stale
    }

    /// Tracks the packet and sends it on: redirected to `target`, or by the host's stack.
    #[inline(always)]
    fn pass(
        &mut self,
        state: &mut State,
        settings: &Settings,
        target: Option<&'static Endpoint>,
    ) -> Result<i32, DropReason> {
        fragments::insert(self.packet, state)?;
        let index = self.sides().1.index;
        track(&mut self.hit, self.key, state.private(), self.original, settings);
        let private = state.private();
        let translated = private.nat_from | private.nat_to != 0;
        if private.mode.contains(Mode::ALIASED) {
            // Never redirected: `target` of the private part is zero.
            port_alias::rewrite(self.packet, state)?;
            return Ok(if translated {
                self.packet.continue_in(static_programs::TRANSLATE)
            } else {
                NEXT
            });
        }
        if translated {
            private.target = if target.is_some() { index } else { 0 };
            return Ok(self.packet.continue_in(static_programs::TRANSLATE));
        }
        Ok(match target {
            Some(target) => {
                deliver::redirect_or_pass(self.packet, self.own, target, Family::of(state.tuple().ip_version))
            }
            None => NEXT,
        })
    }

    /// Fills in who is to be judged.
    #[inline(always)]
    fn prepare(&self, state: &mut State, generation: u32, stale: &Stale) {
        let my_side = Side {
            endpoint: self.own.id,
            index: self.packet.own_index(),
            generation,
        };
        let private = state.private();
        (private.egress, private.ingress) = if self.mine_is_egress {
            (my_side, stale.other)
        } else {
            (stale.other, my_side)
        };
        private.pending = stale.pending;
        private.mode |= stale.mode;
    }
}
