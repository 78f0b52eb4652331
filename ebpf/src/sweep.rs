//! Programs that only user space runs (`BPF_PROG_TEST_RUN`): expiry of flows, and the clock that
//! timeouts are counted by.
//!
//! User space proposes keys; whether an entry has expired is decided here, by the same clock and
//! the same compare-and-swap as packets use, so that a flow that lives is never swept.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use felid_common::{
    FLOW_DEAD, ImageV4, ImageV6, Recount, SWEEP_ESTABLISHED, SWEEP_KEYS_V4, SWEEP_KEYS_V6, Settings, Sweep,
};

use crate::conntrack::{Key, Word, age, key_v4, key_v6, swap_word};
use crate::packet::{Packet, now, settings};
use crate::shares;

/// How far back a claimed entry is dated: longer than any timeout may be, see [`FLOW_DEAD`].
const LONG_AGO: u32 = 1 << 30;

/// Deletes those of the proposed IPv4 flows that have expired.
#[inline(always)]
pub(crate) fn v4(packet: Packet) -> i32 {
    let Some((header, settings)) = begin(packet) else {
        return 1;
    };
    let mut deleted: u32 = 0;
    for n in 0..SWEEP_KEYS_V4 {
        if n >= header.count {
            break;
        }
        let Some(image) = packet.load::<ImageV4>((size_of::<Sweep>() + n as usize * size_of::<ImageV4>()) as u32)
        else {
            break;
        };
        deleted += u32::from(expire(&Key::of_v4(image), key_v4(&image).protocol, header, settings));
    }
    end(packet, deleted)
}

/// Likewise IPv6.
#[inline(always)]
pub(crate) fn v6(packet: Packet) -> i32 {
    let Some((header, settings)) = begin(packet) else {
        return 1;
    };
    let mut deleted: u32 = 0;
    for n in 0..SWEEP_KEYS_V6 {
        if n >= header.count {
            break;
        }
        let Some(image) = packet.load::<ImageV6>((size_of::<Sweep>() + n as usize * size_of::<ImageV6>()) as u32)
        else {
            break;
        };
        deleted += u32::from(expire(&Key::of_v6(image), key_v6(&image).protocol, header, settings));
    }
    end(packet, deleted)
}

#[inline(always)]
fn begin(packet: Packet) -> Option<(Sweep, &'static Settings)> {
    Some((packet.load(0)?, settings()?))
}

#[inline(always)]
fn end(packet: Packet, deleted: u32) -> i32 {
    i32::from(!packet.store(core::mem::offset_of!(Sweep, deleted) as u32, &deleted))
}

#[inline(always)]
fn expire(key: &Key, word: u32, header: Sweep, settings: &Settings) -> bool {
    let established = header.table == SWEEP_ESTABLISHED;
    let Some(hit) = key.look(established) else { return false };
    let now = now();
    let silent = settings.hz.wrapping_sub(age(now, hit.copy.last_seen)) >> 31;
    let over = header.closed & hit.over() & silent;
    if over == 0 && !hit.expired(word as u8, settings, now) {
        return false;
    }
    let old = hit.word();
    let dead = Word::new(now.wrapping_sub(LONG_AGO), old.state() | u32::from(FLOW_DEAD));
    if !swap_word(hit.flow, key.check, old, dead) {
        return false;
    }
    if established {
        key.remove_established(settings)
    } else {
        key.remove_half_open()
    }
}

/// Adds what user space has found to be missing in a count, if that is still the endpoint's.
#[inline(always)]
pub(crate) fn recount(packet: Packet) -> i32 {
    let Some(wanted) = packet.load::<Recount>(0) else {
        return 1;
    };
    let done = u32::from(shares::correct(&wanted));
    i32::from(!packet.store(core::mem::offset_of!(Recount, done) as u32, &done))
}

/// Writes jiffies to the front of the data.
#[inline(always)]
pub(crate) fn clock(packet: Packet) -> i32 {
    // SAFETY: plain helper call.
    let jiffies = unsafe { bpf_jiffies64() };
    i32::from(!packet.store(0, &jiffies))
}
