//! Writes what was allowed into the tables of flows.

use aya_ebpf::bindings::BPF_NOEXIST;
use felid_common::{
    ALIASED, DropReason, Event, FLOW_CLOSING, FLOW_ORIGINAL_LOW, FLOW_REDIRECT, FLOW_REPLIED, FLOW_SLOW, Flow, FlowEnd,
    Settings, TCP_RST, protocol,
};

use crate::conntrack::{EEXIST, Hit, Key};
use crate::packet::{count, now};
use crate::state::{Mode, Private, Sides, State};
use crate::track::track;
use crate::{shares, tcp, translation};

/// Enters the flow of an allowed packet, or renews the entry that it has.
#[inline(always)]
pub(super) fn commit(state: &mut State, settings: &Settings) -> Result<(), DropReason> {
    let key = Key::new(state);
    let private = state.private();
    let mode = private.mode;
    if mode.contains(Mode::UPDATE)
        && let Some(mut hit) = key.find()
        && hit.original(&key)
    {
        renew(&mut hit, &key, private, settings);
        track(&mut hit, &key, private, !mode.contains(Mode::REPLY_DIRECTION), settings);
        count(Event::Rejudged);
        return Ok(());
    }
    let flow = new_flow(private, &key)?;
    if mode.contains(Mode::REPLACE) {
        // The established table is asked first: an older flow there would hide the new one.
        key.remove_established(settings);
        if !mode.contains(Mode::OLD_ESTABLISHED) {
            key.remove_half_open();
        }
        count(Event::Reused);
    }
    shares::make_room(&key, &flow, settings)?;
    match key.insert(false, &flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            count(Event::Created);
            translation::count(flow.originator.shown());
            translation::count(flow.responder.shown());
            Ok(())
        }
        Err(EEXIST) => {
            // Another CPU was first. If it came from the other end, its view stands: this packet
            // was allowed all the same.
            if let Some(mut hit) = key.find()
                && hit.original(&key)
            {
                if hit.copy.originator.shown() != flow.originator.shown()
                    || hit.copy.responder.shown() != flow.responder.shown()
                {
                    return Err(DropReason::NatCollision);
                }
                renew(&mut hit, &key, private, settings);
            }
            Ok(())
        }
        Err(_) => Err(DropReason::ConntrackFull),
    }
}

/// The entry of a flow that this packet begins.
#[inline(always)]
fn new_flow(private: &Private, key: &Key) -> Result<Flow, DropReason> {
    let reply_direction = private.mode.contains(Mode::REPLY_DIRECTION);
    let (from, to) = (
        translation::shown(private.nat_from)?,
        translation::shown(private.nat_to)?,
    );
    let mut flags = if key.low { FLOW_ORIGINAL_LOW } else { 0 };
    if private.mode.contains(Mode::REDIRECT) {
        flags |= FLOW_REDIRECT;
    }
    if reply_direction {
        flags |= FLOW_REPLIED;
    }
    if private.tcp & TCP_RST != 0 {
        flags |= FLOW_CLOSING;
    }
    let (mut expects, mut windows) = ((0, 0), [0; 2]);
    if private.word as u8 == protocol::TCP {
        let (sender, receiver, window) = tcp::first_expectations(private);
        (expects, windows) = ((sender, receiver), [window, 0]);
        flags |= tcp::first_scales(private);
    }
    let (mut nats, mut seen) = ((from, to), (private.tcp, 0));
    if reply_direction {
        (nats, seen) = ((to, from), (0, private.tcp));
        (expects, windows) = ((expects.1, expects.0), [windows[1], windows[0]]);
    }
    if private.mode.contains(Mode::ALIASED) {
        // Every packet's port is replaced by the slow programs.
        flags |= FLOW_SLOW;
        seen.0 |= ALIASED;
    }
    let now = now();
    Ok(Flow {
        check: key.check,
        last_seen: now,
        flags,
        tcp_original: seen.0,
        tcp_reply: seen.1,
        originator: FlowEnd::new(private.egress, nats.0, expects.0),
        responder: FlowEnd::new(private.ingress, nats.1, expects.1),
        created: now,
        windows,
    })
}

/// Marks the sides that this packet was judged for in the entry.
#[inline(always)]
fn renew(hit: &mut Hit, key: &Key, private: &Private, settings: &Settings) {
    let before = hit.copy.charge();
    if private.judged.contains(Sides::EGRESS) {
        hit.set_side(key, true, private.egress);
    }
    if private.judged.contains(Sides::INGRESS) {
        hit.set_side(key, false, private.ingress);
    }
    let after = hit.copy.charge();
    if hit.established && (before.index, before.id) != (after.index, after.id) {
        shares::give(&before, key.family(), settings);
        shares::take_anyway(&after, key.family(), settings);
    }
}
