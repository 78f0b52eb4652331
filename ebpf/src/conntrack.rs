//! Access to the flow tables: keys, entries that may be recycled under the reader, states, promotion.

use core::ptr::addr_of;

use felid_common::{Flow, Side};

use crate::atomic::compare_and_swap;

/// The word that holds `last_seen` (low half), `flags`, `tcp_original` and `tcp_reply` (high half): they change together, by
/// compare-and-swap, so that a packet's update and the sweeper's claim exclude each other.
#[inline(always)]
fn word_of(flow: *mut Flow) -> *mut u64 {
    use core::mem::offset_of;
    const _: () = assert!(offset_of!(Flow, last_seen) == 8 && offset_of!(Flow, flags) == 12);
    const _: () = assert!(offset_of!(Flow, tcp_original) == 14 && offset_of!(Flow, tcp_reply) == 15);
    flow.wrapping_byte_add(offset_of!(Flow, last_seen)).cast()
}

/// `last_seen` and the state (`flags`, `tcp_original`, `tcp_reply`, from the low bits up) of a flow, read at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    #[inline(always)]
    pub(crate) const fn new(seen: u32, state: u32) -> Self {
        Self((state as u64) << 32 | seen as u64)
    }

    #[inline(always)]
    pub(crate) const fn seen(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(crate) const fn state(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Reads a field of an entry that others may write, once.
macro_rules! peek {
    ($flow:expr, $($field:tt)+) => {
        // SAFETY: a looked-up element stays readable while the program runs; what it holds is checked by `is`.
        unsafe { addr_of!((*$flow).$($field)+).read_volatile() }
    };
}

#[inline(always)]
pub(crate) fn read_word(flow: *mut Flow) -> Word {
    // SAFETY: as in `peek`.
    Word(unsafe { word_of(flow).read_volatile() })
}

/// Replaces the word if nothing else has changed it.
#[inline(always)]
pub(crate) fn swap_word(flow: *mut Flow, check: u64, old: Word, new: Word) -> bool {
    // SAFETY: an element of a map, aligned to 8 as all are.
    is(flow, check) && unsafe { compare_and_swap(word_of(flow), old.0, new.0) } == old.0
}

#[inline(always)]
pub(crate) fn read_egress(flow: *mut Flow) -> Side {
    Side { endpoint: peek!(flow, egress.endpoint), index: peek!(flow, egress.index), generation: peek!(flow, egress.generation) }
}

#[inline(always)]
pub(crate) fn read_ingress(flow: *mut Flow) -> Side {
    Side { endpoint: peek!(flow, ingress.endpoint), index: peek!(flow, ingress.index), generation: peek!(flow, ingress.generation) }
}

/// Whether the element still holds the flow with this key's check.
#[inline(always)]
pub(crate) fn is(flow: *mut Flow, check: u64) -> bool {
    peek!(flow, check) == check
}

/// Jiffies since; zero if another CPU's clock was ahead.
#[inline(always)]
pub(crate) fn age(now: u32, seen: u32) -> u32 {
    let age = now.wrapping_sub(seen);
    if age as i32 <= 0 { 0 } else { age }
}
