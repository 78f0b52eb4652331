//! Compare-and-swap on map values (kernel 5.12 and later). The target has it for 64-bit words only
//! unless built for a newer instruction set, and `core`'s own types do not offer it there at all.

/// Writes `new` if `*target` is `old`; returns what was there.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(target: *mut u64, old: u64, new: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(target, old, new).0 }
}

/// Writes `new` if `*target` is `old`; returns what was there.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(target: *mut u64, old: u64, new: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    let target = unsafe { AtomicU64::from_ptr(target) };
    match target.compare_exchange(old, new, SeqCst, SeqCst) {
        Ok(found) | Err(found) => found,
    }
}

/// Adds to `*target`, modulo 2^32; returns what was there.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn fetch_add(target: *mut u32, more: u32) -> u32 {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u32, u32, { SeqCst }>(target, more) }
}

/// Adds to `*target`, modulo 2^32; returns what was there.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) unsafe fn fetch_add(target: *mut u32, more: u32) -> u32 {
    use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(target) }.fetch_add(more, SeqCst)
}

/// Adds one to `*target`.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn increment(target: *mut u64) {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(target, 1) };
}

/// Adds one to `*target`.
///
/// # Safety
///
/// `target` is valid for reads and writes and aligned.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) unsafe fn increment(target: *mut u64) {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(target) }.fetch_add(1, SeqCst);
}
