//! Two connections under one tuple: a redirected one, and one that came by the host's stack, from
//! the same port to the same backend, because netfilter translated its destination (a service). Of
//! redirected ones netfilter knows nothing; of two that it does know, it would choose another
//! source port for the second. That is done here: the second one's entry and packets have a port of
//! their own at the backend, whose answers get the true one again and go back by the host's stack.

use aya_ebpf::bindings::BPF_F_MARK_MANGLED_0;
use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use felid_common::{
    ALIASED, DropReason, EGRESS, ENDPOINT_REDIRECTABLE, Endpoint, FLOW_REDIRECT, PORT_ALIAS, Settings, protocol,
};

use crate::conntrack::{Hit, Key};
use crate::maps;
use crate::packet::{Packet, now};
use crate::state::{Mode, State};

/// Where the checksum is in the L4 header of a protocol whose ports can be replaced.
#[inline(always)]
const fn checksum(number: u8) -> Option<u32> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP | protocol::UDPLITE => Some(6),
        _ => None,
    }
}

/// Looks at a packet towards a workload whose tuple is that of a redirected flow: if it is another
/// connection's, gives it a port of its own in its key. Returns whether it did.
#[inline(always)]
pub(crate) fn arrive(
    packet: Packet,
    state: &mut State,
    own: &Endpoint,
    key: &Key,
    settings: &Settings,
) -> Result<bool, DropReason> {
    let number = state.tuple().protocol;
    let private = state.private();
    let opens = private.opens != 0;
    if checksum(number).is_none() || private.l4 == 0 || private.cut != 0 || private.fragment.first_length != 0 {
        return Ok(false);
    }
    let Some(hit) = key.find() else { return Ok(false) };
    if hit.copy.flags & FLOW_REDIRECT == 0
        || !hit.original(key)
        || (opens && hit.closed())
        || hit.expired(number, settings, now())
        || !is_redirectable(packet, own, &hit)
    {
        return Ok(false);
    }
    let alias = PORT_ALIAS.to_be();
    state.private().src_port ^= alias;
    if let Some(other) = Key::new(state).find()
        && !other.expired(number, settings, now())
    {
        if other.copy.tcp_original & ALIASED == 0 {
            // That port is in use as well.
            return Err(DropReason::NatCollision);
        }
    } else if number == protocol::TCP && !opens {
        // The redirected flow's own, which was not redirected for once.
        state.private().src_port ^= alias;
        return Ok(false);
    }
    state.private().mode |= Mode::ALIASED;
    Ok(true)
}

/// Whether a packet of the redirected flow would not have come here: it is redirected still.
#[inline(always)]
fn is_redirectable(packet: Packet, own: &Endpoint, hit: &Hit) -> bool {
    let originator = hit.copy.originator.side();
    maps::ENDPOINTS.get(originator.index).is_some_and(|endpoint| {
        endpoint.id == originator.endpoint
            && endpoint.flags & own.flags & ENDPOINT_REDIRECTABLE != 0
            && endpoint.ifindex == packet.ingress_ifindex()
    })
}

/// Looks at a packet from a workload whose flow's originator has a port of its own here. The
/// policies see the true one.
#[inline(always)]
pub(crate) fn depart(state: &mut State, hit: &Hit, original: bool) -> Result<(), DropReason> {
    if hit.copy.tcp_original & ALIASED == 0 {
        return Ok(());
    }
    if original {
        // The originator itself uses the port that stands for its other one.
        return Err(DropReason::NatCollision);
    }
    state.tuple().dst_port ^= PORT_ALIAS;
    state.private().mode |= Mode::ALIASED;
    Ok(())
}

/// Replaces the originator's port in a packet that is allowed.
#[inline(always)]
pub(crate) fn rewrite(packet: Packet, state: &mut State) -> Result<(), DropReason> {
    let number = state.tuple().protocol;
    let private = state.private();
    let l4 = u32::from(private.l4);
    let at = if u32::from(private.hook) == EGRESS { l4 + 2 } else { l4 };
    let sum = l4 + checksum(number).ok_or(DropReason::Internal)?;
    let old = packet.load::<u16>(at).ok_or(DropReason::Malformed)?;
    let new = old ^ PORT_ALIAS.to_be();
    let mut flags = size_of::<u16>() as u64;
    if number != protocol::TCP {
        // Zero means that there is none.
        flags |= u64::from(BPF_F_MARK_MANGLED_0);
    }
    // SAFETY: plain helper call.
    let failed = unsafe { bpf_l4_csum_replace(packet.skb(), sum, u64::from(old), u64::from(new), flags) } != 0;
    if failed || !packet.store(at, &new) {
        return Err(DropReason::Internal);
    }
    Ok(())
}
