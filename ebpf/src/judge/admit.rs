//! Who a packet is from and to, as far as it is to be judged: addresses that its sender may not use
//! are refused here, and what its flow will be is prepared.

use felid_common::{
    DropReason, ENDPOINT_REDIRECTABLE, ENDPOINT_SPOOFS, Endpoint, GENERATION_EXEMPT, GENERATION_NONE, SETTING_NATS,
    Settings, Side, TCP_ACK, TCP_RST, TCP_SYN, protocol,
};

use super::{Ends, from_host, generation, is_own, local};
use crate::conntrack::Key;
use crate::host;
use crate::maps::PeerInfo;
use crate::packet::Packet;
use crate::state::{Mode, Sides, State};
use crate::translation;

/// What is to be done with a packet that may be from who it says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The policies of the sides that are pending are to be asked.
    Judge,
    /// It is the host's own and needs no policy's permission.
    Exempt,
    /// It is the host's own and no flow's.
    Pass,
}

/// Admits a packet that a workload sent.
#[inline(always)]
pub(super) fn from_workload(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    settings: &Settings,
    ends: &Ends,
) -> Result<Admission, DropReason> {
    let mode = state.private().mode;
    let reply_direction = mode.contains(Mode::REPLY_DIRECTION);
    let (mine, theirs) = if reply_direction {
        (&ends.dst, &ends.src)
    } else {
        (&ends.src, &ends.dst)
    };
    let own_address = is_own(packet, own, mine);
    if !own_address {
        if reply_direction || own.flags & ENDPOINT_SPOOFS == 0 {
            return Err(DropReason::SpoofedAddress);
        }
        let version = state.tuple().ip_version;
        state.tuple().spoofed = u32::from(version);
    }
    if mode.contains(Mode::UPDATE.union(Mode::REDIRECT)) {
        has_not_moved(state, theirs, reply_direction, settings)?;
    }
    if reply_direction || mode.contains(Mode::REDIRECT) {
        return Ok(Admission::Judge);
    }
    let tuple = state.tuple();
    if tuple.ip_version == 6 && host::is_link_local(&tuple.dst) && !ends.dst.is_host() {
        // Nobody else is on the link, and the host would look for the address there for every
        // packet.
        return Err(DropReason::EndpointToHost);
    }
    if !mode.contains(Mode::UPDATE) && settings.flags & SETTING_NATS != 0 && own_address {
        translation::choose_source(packet, state, settings, &ends.dst)?;
    }
    plan_local_delivery(packet, state, own, ends)?;
    Ok(Admission::Judge)
}

/// Refuses a packet of a redirected flow whose other end's address is another's now: that end's
/// next packet begins a flow with the new owner.
#[inline(always)]
fn has_not_moved(
    state: &mut State,
    theirs: &PeerInfo,
    reply_direction: bool,
    settings: &Settings,
) -> Result<(), DropReason> {
    let private = state.private();
    let side = if reply_direction {
        private.egress
    } else {
        private.ingress
    };
    if theirs.endpoint == side.index && theirs.id == side.endpoint {
        return Ok(());
    }
    Key::new(state).forget(settings);
    Err(DropReason::ForeignDestination)
}

/// Has a new flow to another workload of this node judged by both policies at once where its
/// packets can be redirected.
#[inline(always)]
fn plan_local_delivery(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    ends: &Ends,
) -> Result<(), DropReason> {
    let target = local(&ends.dst);
    let private = state.private();
    let index = ends.dst.endpoint;
    // By one of its external addresses: otherwise the packet would not be here.
    let itself = private.nat_to != 0 && target.is_some() && index == packet.own_index();
    if itself && own.flags & ENDPOINT_REDIRECTABLE == 0 {
        return Err(DropReason::NatHairpin);
    }
    if !private.mode.contains(Mode::UPDATE)
        && let Some(target) = target
        && (index != packet.own_index() || itself)
        && own.flags & target.flags & ENDPOINT_REDIRECTABLE != 0
        // Answers to an address that is not the endpoint's own find their way by the host's routes.
        && is_own(packet, own, &ends.src)
    {
        private.ingress = Side {
            endpoint: target.id,
            index,
            generation: generation(target, false),
        };
        private.pending |= Sides::INGRESS;
        private.mode |= Mode::REDIRECT;
    }
    Ok(())
}

/// Admits a packet that is on its way to a workload.
#[inline(always)]
pub(super) fn to_workload(
    packet: Packet,
    state: &mut State,
    own: &'static Endpoint,
    ends: &Ends,
) -> Result<Admission, DropReason> {
    let reply_direction = state.private().mode.contains(Mode::REPLY_DIRECTION);
    let (mine, source) = if reply_direction {
        (&ends.src, &ends.dst)
    } else {
        (&ends.dst, &ends.src)
    };
    if let Some(endpoint) = local(source) {
        if endpoint.ifindex == 0 || endpoint.ifindex != packet.ingress_ifindex() {
            return Err(DropReason::SpoofedAddress);
        }
        let private = state.private();
        if !private.mode.contains(Mode::UPDATE) {
            // Not judged here, but known: from now on the flow's packets must come from that
            // interface.
            private.egress = Side {
                endpoint: endpoint.id,
                index: source.endpoint,
                generation: GENERATION_NONE,
            };
        }
    }
    let exempt = !reply_direction && from_host(packet, state, source);
    if !is_own(packet, own, mine) {
        if reply_direction && own.flags & ENDPOINT_SPOOFS != 0 {
            // An answer to a flow that the workload began from an address that is not its own.
            let version = state.tuple().ip_version;
            state.tuple().spoofed = u32::from(version);
        } else if exempt {
            // Multicast and the like: only the host itself sends that here.
            return Ok(Admission::Pass);
        } else {
            return Err(DropReason::ForeignDestination);
        }
    }
    if !exempt {
        return Ok(Admission::Judge);
    }
    let private = state.private();
    private.ingress.generation = GENERATION_EXEMPT;
    private.pending.remove(Sides::INGRESS);
    private.judged = Sides::INGRESS;
    if private.word as u8 == protocol::TCP && private.tcp & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN {
        // The host may always say it, but if the workload began this connection and its flow has
        // ended meanwhile, a new flow of the host's would let the workload go on as if it answered.
        private.mode |= Mode::TRANSIENT;
    }
    Ok(Admission::Exempt)
}
