//! Addresses that an endpoint's record does not name and the host may know it by all the same:
//! link-local ones that do not follow from its MAC address, and addresses of
//! `allowSpoofedSourcePrefixes` that stand on the workload.
//!
//! The host keeps a neighbour for each of them, in a table that all workloads of the node share, so
//! an endpoint gets a few places here, and an address that finds none stays unknown.

use core::ptr::addr_of_mut;

use felid_common::{Endpoint, LEARNED_IDLE, LEARNED_LINK_LOCAL, LEARNED_PLACES, Learned};

use crate::host::same;
use crate::maps;
use crate::packet::{Packet, now, settings};

/// The places for addresses of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LearnedKind {
    /// Link-local addresses.
    LinkLocal,
    /// Addresses of `allowSpoofedSourcePrefixes`.
    Spoofed,
}

/// Whether the host may know this interface's endpoint by an address: it has a place, or gets one
/// now. A place is free again when its address was not used for [`LEARNED_IDLE`] seconds.
///
/// Two CPUs may write one place at once; then one of the addresses is unknown until its next
/// packet.
#[inline(always)]
pub(crate) fn admit(packet: Packet, own: &Endpoint, address: &[u32; 4], kind: LearnedKind) -> bool {
    let (Some(learned), Some(settings)) = (maps::LEARNED.get_ptr_mut(packet.own_index()), settings()) else {
        return false;
    };
    let idle = settings.hz.wrapping_mul(LEARNED_IDLE);
    // Zero says that a place was never used.
    let now = now() | 1;
    // SAFETY: an element of a map, which stays where it is; all its fields are plain integers, read
    // and written as such.
    let learned: &mut Learned = unsafe { &mut *learned };
    if learned.endpoint != own.id {
        for place in &mut learned.places {
            place.seen = 0;
        }
        learned.endpoint = own.id;
    }
    let (from, to) = match kind {
        LearnedKind::LinkLocal => (0, LEARNED_LINK_LOCAL),
        LearnedKind::Spoofed => (LEARNED_LINK_LOCAL, LEARNED_PLACES),
    };
    for n in from..to {
        let place = &mut learned.places[n];
        if same(&place.address, address) && place.seen != 0 {
            // SAFETY: as above.
            unsafe { addr_of_mut!(place.seen).write_volatile(now) };
            return true;
        }
    }
    for n in from..to {
        let place = &mut learned.places[n];
        if place.seen == 0 || now.wrapping_sub(place.seen) > idle {
            place.address = *address;
            place.seen = now;
            return true;
        }
    }
    false
}
