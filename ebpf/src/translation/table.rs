//! The table of 1:1 translations: who is known by which address.

use felid_common::{
    DropReason, MAX_NATS, NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_RUN, NAT_V6, Nat, NatHandle, Settings, nat_places,
};

use crate::maps;

/// Number of a translation: its index in `nats` and one; 0 = none.
pub(crate) type Number = u32;

/// The translation that an address is found by; `kind`: `NAT_V6`, `NAT_OUT`.
#[inline(always)]
pub(crate) fn find(address: &[u32; 4], kind: u32, settings: &Settings) -> Option<(Number, &'static Nat)> {
    search::<NAT_PROBES>(address, kind, settings).ok().flatten()
}

/// Does the same for the fast programs, which look behind the first of the two places only.
#[inline(always)]
pub(super) fn find_near(
    address: &[u32; 4],
    kind: u32,
    settings: &Settings,
) -> Result<Option<(Number, &'static Nat)>, Unfinished> {
    search::<NAT_RUN>(address, kind, settings)
}

/// The search would go on.
pub(super) struct Unfinished;

#[inline(always)]
fn search<const PROBES: u32>(
    address: &[u32; 4],
    kind: u32,
    settings: &Settings,
) -> Result<Option<(Number, &'static Nat)>, Unfinished> {
    let [mut index, second] = nat_places(address, &settings.nat_seed);
    for probe in 0..PROBES {
        if probe == NAT_RUN {
            index = second;
        }
        let nat = maps::NATS.get(index).ok_or(Unfinished)?;
        // First: what else an element holds is stable for as long as it has an id, and a grace
        // period longer. SAFETY: a field of a map's element; user space may write it meanwhile, as
        // one word.
        let id = unsafe { core::ptr::addr_of!(nat.id).read_volatile() };
        let flags = nat.flags;
        let other = (nat.address[0] ^ address[0])
            | (nat.address[1] ^ address[1])
            | (nat.address[2] ^ address[2])
            | (nat.address[3] ^ address[3])
            | ((flags ^ kind) & (NAT_V6 | NAT_OUT));
        if other == 0 && id != 0 {
            return Ok(Some((index + 1, nat)));
        }
        if flags & NAT_PASSED == 0 {
            return Ok(None);
        }
        index = (index + 1) & (MAX_NATS - 1);
    }
    Err(Unfinished)
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
pub(crate) const fn number(shown: NatHandle) -> Number {
    if shown.id == 0 { 0 } else { shown.index + 1 }
}

/// Whether what a flow's end is shown as is still in force (or nothing).
#[inline(always)]
pub(crate) fn holds(shown: NatHandle) -> bool {
    shown.id == 0 || maps::NATS.get(shown.index).is_some_and(|nat| nat.id == shown.id)
}

/// What an entry keeps of a translation that is in force.
#[inline(always)]
pub(crate) fn shown(number: Number) -> Result<NatHandle, DropReason> {
    if number == 0 {
        return Ok(NatHandle { index: 0, id: 0 });
    }
    let nat = by_number(number).ok_or(DropReason::NatGone)?;
    Ok(NatHandle {
        index: number - 1,
        id: nat.id,
    })
}

/// Under which translation an address of the endpoint is shown where it goes out under an external
/// one.
#[inline(always)]
pub(crate) fn outgoing(address: &[u32; 4], version: u8, settings: &Settings) -> Number {
    find(address, kind(version) | NAT_OUT, settings).map_or(0, |(_, nat)| nat.out + 1)
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
pub(crate) fn count(shown: NatHandle) {
    if shown.id != 0
        && let Some(counter) = maps::NAT_FLOWS.get_ptr_mut(shown.index)
    {
        // SAFETY: this CPU's own slot.
        unsafe { *counter += 1 }
    }
}
