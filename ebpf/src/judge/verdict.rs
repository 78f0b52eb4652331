//! Where every policy program ends: counts its verdict, asks the next policy, and delivers what all
//! have allowed.

use felid_common::{DropReason, EGRESS, Event, INGRESS, Settings, VERDICT_ALLOW, policy_index, static_programs};

use super::commit::commit;
use crate::conntrack::Key;
use crate::deliver::{self, Family};
use crate::packet::{NEXT, Packet, count, now, scratch, settings};
use crate::state::{Mode, Sides, State};
use crate::{fragments, maps, policy_log, port_alias};

/// Runs after a policy program, or instead of one for what needs no permission.
#[inline(always)]
pub(crate) fn policy_return(packet: Packet) -> i32 {
    match carry_out(packet) {
        Ok(verdict) => verdict,
        Err(reason) => packet.drop(reason),
    }
}

#[inline(always)]
fn carry_out(packet: Packet) -> Result<i32, DropReason> {
    let mut state = State::new(scratch().ok_or(DropReason::Internal)?);
    let settings = settings().ok_or(DropReason::Internal)?;
    let (pending, mode) = (state.private().pending, state.private().mode);
    if mode.contains(Mode::ASK_PREFIXES) {
        return vouch(packet, &mut state);
    }
    if !pending.is_empty() {
        take_verdict(&mut state, settings, pending.contains(Sides::EGRESS))?;
        let bank = state.tuple().bank;
        let private = state.private();
        if !private.pending.is_empty() {
            return Ok(packet.evaluate_policy(policy_index(bank, INGRESS, private.ingress.index)));
        }
    }
    if !mode.contains(Mode::TRANSIENT) {
        commit(&mut state, settings)?;
    }
    fragments::insert(packet, &mut state)?;
    if mode.contains(Mode::ALIASED) {
        port_alias::rewrite(packet, &mut state)?;
    }
    deliver(packet, &mut state, mode)
}

/// Lets neighbour discovery go on by an address of `allowSpoofedSourcePrefixes`, if it is one.
#[inline(always)]
fn vouch(packet: Packet, state: &mut State) -> Result<i32, DropReason> {
    let tuple = state.tuple();
    if tuple.spoofed != 0 {
        return Err(if tuple.ip_version == 4 {
            DropReason::SpoofedArp
        } else {
            DropReason::SpoofedNeighbour
        });
    }
    state.private().mode = Mode::VOUCHED;
    Ok(packet.continue_in(static_programs::NEIGHBOUR))
}

/// Counts and logs the verdict of the policy of one side, which is then no longer pending. The
/// error is a denial.
#[inline(always)]
fn take_verdict(state: &mut State, settings: &Settings, egress: bool) -> Result<(), DropReason> {
    let tuple = state.tuple();
    let verdict = tuple.verdict;
    tuple.verdict = 0;
    if egress && tuple.spoofed != 0 {
        return Err(DropReason::SpoofedAddress);
    }
    if tuple.log_count != 0 {
        let (side, direction) = if egress {
            (state.private().egress, EGRESS)
        } else {
            (state.private().ingress, INGRESS)
        };
        policy_log::emit(state.tuple(), side.endpoint, direction, verdict, settings);
        state.tuple().log_count = 0;
    }
    let tuple = state.tuple();
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(tuple.counter) {
        // SAFETY: this CPU's own slot.
        unsafe { *counter += 1 }
    }
    if verdict != VERDICT_ALLOW {
        revoke(state, egress, settings);
        return Err(if egress {
            DropReason::EgressPolicy
        } else {
            DropReason::IngressPolicy
        });
    }
    state
        .private()
        .pending
        .remove(if egress { Sides::EGRESS } else { Sides::INGRESS });
    Ok(())
}

/// Takes back what the policy of one side allowed before, if the denied packet is of a flow that
/// has an entry.
#[inline(always)]
fn revoke(state: &mut State, egress: bool, settings: &Settings) {
    let mode = state.private().mode;
    if !mode.contains(Mode::UPDATE) || mode.contains(Mode::TRANSIENT) {
        return;
    }
    let key = Key::new(state);
    let Some(hit) = key.find() else { return };
    if !hit.original(&key) {
        return;
    }
    let side = if egress {
        hit.copy.originator
    } else {
        hit.copy.responder
    };
    if side.endpoint == 0 {
        // Never allowed at this end: there is nothing to revoke, and nothing that may stand for the
        // flow.
        key.forget(settings);
    } else if hit.revoke(&key, now()) {
        count(Event::Revoked);
    }
}

/// Sends an allowed packet on: translated, redirected, or by the host's stack.
#[inline(always)]
fn deliver(packet: Packet, state: &mut State, mode: Mode) -> Result<i32, DropReason> {
    let redirect = mode.contains(Mode::REDIRECT);
    let private = state.private();
    let side = if mode.contains(Mode::REPLY_DIRECTION) {
        private.egress
    } else {
        private.ingress
    };
    if private.nat_from | private.nat_to != 0 {
        private.target = if redirect { side.index } else { 0 };
        return Ok(packet.continue_in(static_programs::TRANSLATE));
    }
    if !redirect {
        return Ok(NEXT);
    }
    let own = packet.own().ok_or(DropReason::UnknownInterface)?;
    match maps::ENDPOINTS.get(side.index) {
        Some(target) if target.id == side.endpoint => Ok(deliver::redirect_or_pass(
            packet,
            own,
            target,
            Family::of(state.tuple().ip_version),
        )),
        _ => Ok(NEXT),
    }
}
