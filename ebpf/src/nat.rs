//! Who is known by which address: the table of 1:1 translations, and what it means for a packet and its flow.
//!
//! Each end of a flow has its own address, and may be *shown* to the other end under an external one. Flows are found, and policy is asked,
//! by the ends' own addresses. A packet's sender writes (own, shown); on the host it is (shown, shown); its receiver reads (shown, own).

use felid_common::{
    Drop, EGRESS, MAX_NATS, NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_V6, Nat, SETTING_NATS, Settings, Shown, nat_slot,
};

use crate::maps;
use crate::packet::Packet;
use crate::state::State;

/// Number of a translation: its index in `nats` and one; 0 = none.
pub(crate) type Number = u32;

/// The translation that an address is found by; `kind`: `NAT_V6`, `NAT_OUT`.
#[inline(always)]
pub(crate) fn find(address: &[u32; 4], kind: u32) -> Option<(Number, &'static Nat)> {
    let mut index = nat_slot(address);
    for _ in 0..NAT_PROBES {
        let nat = maps::NATS.get(index)?;
        // First: what else an element holds is stable for as long as it has an id, and a grace period longer.
        // SAFETY: a field of a map's element; user space may write it meanwhile, as one word.
        let id = unsafe { core::ptr::addr_of!(nat.id).read_volatile() };
        let flags = nat.flags;
        let other = (nat.address[0] ^ address[0])
            | (nat.address[1] ^ address[1])
            | (nat.address[2] ^ address[2])
            | (nat.address[3] ^ address[3])
            | ((flags ^ kind) & (NAT_V6 | NAT_OUT));
        if other == 0 && id != 0 {
            return Some((index + 1, nat));
        }
        if flags & NAT_PASSED == 0 {
            return None;
        }
        index = (index + 1) & (MAX_NATS - 1);
    }
    None
}

/// The kind of translations of external addresses of an IP version.
#[inline(always)]
pub(crate) const fn kind(version: u8) -> u32 {
    if version == 6 { NAT_V6 } else { 0 }
}

/// A translation by its number, while it is in force.
#[inline(always)]
pub(crate) fn by_number(number: Number) -> Option<&'static Nat> {
    maps::NATS.get(number.wrapping_sub(1)).filter(|nat| nat.id != 0)
}

/// The number in an entry.
#[inline(always)]
pub(crate) const fn number(shown: Shown) -> Number {
    if shown.id == 0 { 0 } else { shown.index + 1 }
}

/// Whether what a flow's end is shown as is still in force (or nothing).
#[inline(always)]
pub(crate) fn holds(shown: Shown) -> bool {
    shown.id == 0 || maps::NATS.get(shown.index).is_some_and(|nat| nat.id == shown.id)
}

/// What an entry keeps of a translation that is in force.
#[inline(always)]
pub(crate) fn shown(number: Number) -> Result<Shown, Drop> {
    if number == 0 {
        return Ok(Shown { index: 0, id: 0 });
    }
    let nat = by_number(number).ok_or(Drop::NatGone)?;
    Ok(Shown {
        index: number - 1,
        id: nat.id,
    })
}

/// Under which translation an address of the endpoint is shown where it goes out under an external one.
#[inline(always)]
pub(crate) fn outgoing(address: &[u32; 4], version: u8) -> Number {
    find(address, kind(version) | NAT_OUT).map_or(0, |(_, nat)| nat.out + 1)
}

/// Replaces the addresses in the tuple that are external ones by those that they stand for, and notes by which translations. Towards a
/// workload, its own external addresses only.
#[inline(always)]
pub(crate) fn arrive<const HOOK: u32>(packet: Packet, state: &mut State, settings: &Settings) {
    if settings.flags & SETTING_NATS == 0 {
        return;
    }
    let tuple = state.tuple();
    let kind = kind(tuple.ip_version);
    if let Some((number, nat)) = find(&tuple.dst, kind)
        && (HOOK == EGRESS || nat.endpoint_id == packet.own_id())
    {
        tuple.dst = nat.other;
        state.private().nat_to = number;
    }
    let tuple = state.tuple();
    if HOOK != EGRESS
        && let Some((number, nat)) = find(&tuple.src, kind)
    {
        tuple.src = nat.other;
        state.private().nat_from = number;
    }
}

/// Whether the network that the address is in sees workloads under their own addresses.
#[inline(always)]
pub(crate) fn in_cluster(version: u8, address: &[u32; 4]) -> bool {
    use aya_ebpf::btf_maps::lpm_trie::Key;
    if version == 4 {
        maps::CLUSTER_V4.get(&Key::new(32, address[0])).is_some()
    } else {
        maps::CLUSTER_V6.get(&Key::new(128, *address)).is_some()
    }
}

/// Counts a new flow.
#[inline(always)]
pub(crate) fn count(shown: Shown) {
    if shown.id != 0
        && let Some(counter) = maps::NAT_FLOWS.get_ptr_mut(shown.index)
    {
        // SAFETY: this CPU's own slot.
        unsafe { *counter += 1 }
    }
}
