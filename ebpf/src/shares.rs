//! Shares of the tables of flows: no endpoint takes others' room, whatever packets it sends or is
//! sent.
//!
//! Half-open flows stand in rings, two for each endpoint: a new one takes the next slot, and the
//! flow that stood there makes room if nobody has answered it; so there are never more of them than
//! slots. Established ones are counted: a part of the table belongs to each endpoint, and beyond
//! that it may have of a common pool for as long as that has room.

use core::ptr::addr_of_mut;

use felid_common::{
    Charge, DropReason, Event, FLOW_BORROWED, FLOW_TRIES, Flow, FlowCount, Recount, Settings, flow_slot,
};

use crate::atomic::{fetch_add, increment};
use crate::conntrack::Key;
use crate::maps;
use crate::packet::count;

/// What is counted for whom a flow is charged to, if that endpoint is still there.
#[inline(always)]
fn of(charge: &Charge) -> Option<*mut FlowCount> {
    let element = maps::FLOW_COUNT.get_ptr_mut(charge.index)?;
    // SAFETY: a field of a map's element, one word.
    (unsafe { addr_of_mut!((*element).id).read_volatile() } == charge.id).then_some(element)
}

/// The same for an endpoint that is certainly there: what was counted for one that had the index
/// before is void. Two CPUs may come here at once; user space counts again.
#[inline(always)]
fn take_over(charge: &Charge) -> Option<*mut FlowCount> {
    let element = maps::FLOW_COUNT.get_ptr_mut(charge.index)?;
    // SAFETY: fields of a map's element, written as words.
    unsafe {
        if addr_of_mut!((*element).id).read_volatile() != charge.id {
            addr_of_mut!((*element).established).write_volatile([0; 2]);
            addr_of_mut!((*element).refused).write_volatile(0);
            addr_of_mut!((*element).replaced).write_volatile(0);
            addr_of_mut!((*element).id).write_volatile(charge.id);
        }
    }
    Some(element)
}

/// Where the established flows of one IP version are counted, and their changes.
#[inline(always)]
fn counters(element: *mut FlowCount, family: usize) -> (*mut u32, *mut u32) {
    // SAFETY: places in a map's element.
    unsafe {
        if family == 0 {
            (
                addr_of_mut!((*element).established[0]),
                addr_of_mut!((*element).changes[0]),
            )
        } else {
            (
                addr_of_mut!((*element).established[1]),
                addr_of_mut!((*element).changes[1]),
            )
        }
    }
}

/// Adds to a count; returns what it was.
#[inline(always)]
fn add(element: *mut FlowCount, family: usize, more: u32) -> i32 {
    let (established, changes) = counters(element, family);
    // SAFETY: as above.
    unsafe {
        fetch_add(changes, 1);
        fetch_add(established, more) as i32
    }
}

/// The setting of one IP version. (No index is made of `family`: the verifier could not bound it.)
#[inline(always)]
const fn one(both: &[u32; 2], family: usize) -> i32 {
    (if family == 0 { both[0] } else { both[1] }) as i32
}

/// Reads a count. For an instant it may be less than zero, where two CPUs count at once.
#[inline(always)]
fn established(element: *mut FlowCount, family: usize) -> i32 {
    // SAFETY: as above.
    unsafe { counters(element, family).0.read_volatile() as i32 }
}

/// Whether an endpoint that has so many established flows may have one more; zero = it may not.
/// Without branches: the verifier follows each on its own.
#[inline(always)]
fn room(has: i32, family: usize, settings: &Settings) -> u64 {
    const fn negative(difference: i64) -> u64 {
        difference as u64 >> 63
    }
    let Some(all) = maps::FLOW_COUNT.get_ptr_mut(FLOW_BORROWED) else {
        return 0;
    };
    let (share, pool) = (one(&settings.flow_share, family), one(&settings.flow_pool, family));
    let left = i64::from(pool) - i64::from(established(all, family));
    let beyond = i64::from(has) - i64::from(share);
    let within_limit = negative(i64::from(has) - i64::from(settings.flow_limit));
    within_limit & (negative(beyond) | negative(beyond - left * i64::from(settings.flow_greed)))
}

/// Takes one established flow of an endpoint's share, or of the pool; false if there is no room.
#[inline(always)]
pub(crate) fn take(charge: &Charge, family: usize, settings: &Settings) -> bool {
    let Some(element) = take_over(charge) else { return false };
    if room(established(element, family), family, settings) == 0 {
        return false;
    }
    charge_to(element, family, settings);
    true
}

/// Takes one whether there is room or not.
#[inline(always)]
pub(crate) fn take_anyway(charge: &Charge, family: usize, settings: &Settings) {
    if let Some(element) = take_over(charge) {
        charge_to(element, family, settings);
    }
}

#[inline(always)]
fn charge_to(element: *mut FlowCount, family: usize, settings: &Settings) {
    let had = add(element, family, 1);
    if had >= one(&settings.flow_share, family)
        && let Some(all) = maps::FLOW_COUNT.get_ptr_mut(FLOW_BORROWED)
    {
        add(all, family, 1);
    }
}

/// Gives one back.
#[inline(always)]
pub(crate) fn give(charge: &Charge, family: usize, settings: &Settings) {
    let Some(element) = of(charge) else { return };
    let had = add(element, family, 1_u32.wrapping_neg());
    if had > one(&settings.flow_share, family)
        && let Some(all) = maps::FLOW_COUNT.get_ptr_mut(FLOW_BORROWED)
    {
        add(all, family, 1_u32.wrapping_neg());
    }
}

/// Adds to a count what it differs by from what there is; false if the endpoint is gone.
#[inline(always)]
pub(crate) fn correct(wanted: &Recount) -> bool {
    let charge = Charge {
        index: wanted.index,
        id: wanted.id,
        received: 0,
    };
    let Some(element) = of(&charge) else { return false };
    add(element, usize::from(wanted.family != 0), wanted.difference);
    true
}

/// Makes room for a new half-open flow within the share of whom it is charged to: at the cost of
/// its own flows alone.
#[inline(always)]
pub(crate) fn make_room(key: &Key, flow: &Flow, settings: &Settings) -> Result<(), DropReason> {
    let charge = flow.charge();
    let family = key.family();
    let element = take_over(&charge).ok_or(DropReason::Internal)?;
    if room(established(element, family), family, settings) != 0
        && let Some(slot) = find_slot(element, key, &charge, settings)
    {
        key.write_slot(slot);
        return Ok(());
    }
    // SAFETY: a place in a map's element.
    unsafe { increment(addr_of_mut!((*element).refused)) };
    Err(DropReason::FlowLimit)
}

/// A slot of the endpoint's ring that is free, or whose flow made room.
#[inline(always)]
fn find_slot(element: *mut FlowCount, key: &Key, charge: &Charge, settings: &Settings) -> Option<u32> {
    let received = charge.received;
    // SAFETY: a place in a map's element: both indexes are below 2.
    let cursor = unsafe {
        match (key.family(), received) {
            (0, 0) => addr_of_mut!((*element).cursors[0][0]),
            (0, _) => addr_of_mut!((*element).cursors[0][1]),
            (_, 0) => addr_of_mut!((*element).cursors[1][0]),
            (_, _) => addr_of_mut!((*element).cursors[1][1]),
        }
    };
    for _ in 0..FLOW_TRIES {
        // SAFETY: as above.
        let number = unsafe { fetch_add(cursor, 1) };
        let slot = flow_slot(charge.index, received, number, settings.flow_ring);
        let old = Key::read_slot(key.family() == 1, slot)?;
        if vacate(element, &old, charge) {
            return Some(slot);
        }
    }
    None
}

/// Whether nothing of this endpoint stands in a slot any more: what nobody has answered goes.
#[inline(always)]
fn vacate(element: *mut FlowCount, old: &Key, charge: &Charge) -> bool {
    let Some(standing) = old.standing() else { return true };
    if (standing.charge.index ^ charge.index) | (standing.charge.id ^ charge.id) != 0 {
        // Another endpoint had the index, or other rings stood here.
        return true;
    }
    if !standing.is_replaceable {
        return false;
    }
    if old.remove_half_open() {
        // SAFETY: a place in a map's element.
        unsafe { increment(addr_of_mut!((*element).replaced)) };
        count(Event::Replaced);
    }
    true
}
