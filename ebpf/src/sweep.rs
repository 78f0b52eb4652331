//! Programs that only user space runs (`BPF_PROG_TEST_RUN`): expiry of flows, and the clock that timeouts are counted by.
//!
//! User space proposes keys; whether an entry has expired is decided here, by the same clock and the same compare-and-swap as packets use,
//! so that a flow that lives is never swept.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_loop};
use felid_common::{FLOW_DEAD, ImageV4, ImageV6, SWEEP_ESTABLISHED, SWEEP_KEYS_V4, SWEEP_KEYS_V6, Settings, Sweep};

use crate::conntrack::{Key, Word, key_v4, key_v6, swap_word};
use crate::packet::{Packet, now, settings};

/// How far back a claimed entry is dated: longer than any timeout may be, see [`FLOW_DEAD`].
const LONG_AGO: u32 = 1 << 30;

/// What the steps of a sweep share.
#[repr(C)]
struct Run {
    packet: Packet,
    table: u32,
    deleted: u32,
}

/// Deletes those of the proposed IPv4 flows that have expired.
#[inline(always)]
pub(crate) fn v4(packet: Packet) -> i32 {
    run(packet, step_v4, SWEEP_KEYS_V4)
}

/// Likewise IPv6.
#[inline(always)]
pub(crate) fn v6(packet: Packet) -> i32 {
    run(packet, step_v6, SWEEP_KEYS_V6)
}

/// # Minimum kernel version
///
/// 5.17 (`bpf_loop`: the verifier looks at a step once, not at hundreds).
#[inline(always)]
fn run(packet: Packet, step: unsafe extern "C" fn(u32, *mut Run) -> i64, most: u32) -> i32 {
    let Some(header) = packet.load::<Sweep>(0) else {
        return 1;
    };
    let mut run = Run {
        packet,
        table: header.table,
        deleted: 0,
    };
    let count = if header.count > most { most } else { header.count };
    // SAFETY: the kernel calls `step` with numbers below `count` and the pointer given here, before it returns.
    unsafe { bpf_loop(count, step as *mut c_void, (&raw mut run).cast(), 0) };
    i32::from(!packet.store(core::mem::offset_of!(Sweep, deleted) as u32, &run.deleted))
}

/// One key. Returns 1 to stop.
///
/// # Safety
///
/// `run` is the pointer that [`run`] gave to the kernel.
unsafe extern "C" fn step_v4(n: u32, run: *mut Run) -> i64 {
    // SAFETY: the caller's.
    let run = unsafe { &mut *run };
    let at = size_of::<Sweep>() + n as usize * size_of::<ImageV4>();
    let Some(settings) = settings() else { return 1 };
    let Some(image) = run.packet.load::<ImageV4>(at as u32) else {
        return 1;
    };
    run.deleted += u32::from(expire(&Key::of_v4(image), key_v4(&image).protocol, run.table, settings));
    0
}

/// As [`step_v4`].
///
/// # Safety
///
/// As [`step_v4`].
unsafe extern "C" fn step_v6(n: u32, run: *mut Run) -> i64 {
    // SAFETY: the caller's.
    let run = unsafe { &mut *run };
    let at = size_of::<Sweep>() + n as usize * size_of::<ImageV6>();
    let Some(settings) = settings() else { return 1 };
    let Some(image) = run.packet.load::<ImageV6>(at as u32) else {
        return 1;
    };
    run.deleted += u32::from(expire(&Key::of_v6(image), key_v6(&image).protocol, run.table, settings));
    0
}

#[inline(always)]
fn expire(key: &Key, word: u32, table: u32, settings: &Settings) -> bool {
    let established = table == SWEEP_ESTABLISHED;
    let Some(hit) = key.look(established) else { return false };
    let now = now();
    if !hit.expired(word as u8, settings, now) {
        return false;
    }
    let old = hit.word();
    let dead = Word::new(now.wrapping_sub(LONG_AGO), old.state() | u32::from(FLOW_DEAD));
    if !swap_word(hit.flow, key.check, old, dead) {
        return false;
    }
    key.remove(established);
    true
}

/// Writes jiffies to the front of the data.
#[inline(always)]
pub(crate) fn clock(packet: Packet) -> i32 {
    // SAFETY: plain helper call.
    let jiffies = unsafe { bpf_jiffies64() };
    i32::from(!packet.store(0, &jiffies))
}
