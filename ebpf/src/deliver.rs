//! The last step of a redirected flow: both MAC addresses, the hop count, and straight into the
//! other workload's namespace.

use core::ptr::addr_of;

use aya_ebpf::bindings::bpf_check_mtu_flags::BPF_MTU_CHK_SEGS;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_redirect_peer};
use felid_common::{DropReason, ENDPOINT_REDIRECTABLE, Endpoint};

use crate::packet::{L3, NEXT, Packet};

/// IP version, where the header's shape matters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// From the version number.
    #[inline(always)]
    pub(crate) const fn of(version: u8) -> Self {
        if version == 4 { Self::V4 } else { Self::V6 }
    }

    /// Offset of TTL or hop limit.
    const fn hops(self) -> usize {
        match self {
            Self::V4 => L3 + 8,
            Self::V6 => L3 + 7,
        }
    }
}

/// Whether packets of this length pass the target's MTU without asking the kernel.
#[inline(always)]
fn fits(packet: Packet, own: &Endpoint, target: &Endpoint) -> bool {
    own.mtu == target.mtu || packet.len() <= target.mtu + L3 as u32
}

/// Where a packet's headers lie: in the linear data, between these addresses.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) data: usize,
    pub(crate) end: usize,
    pub(crate) family: Family,
}

/// Redirects a packet whose headers are linear to an endpoint that may be redirected to; `None` if
/// the slow program must look closer.
#[inline(always)]
pub(crate) fn redirect_linear(packet: Packet, headers: Linear, own: &Endpoint, target: &Endpoint) -> Option<i32> {
    prepare(packet, headers, own, target).then(|| redirect(packet, target))
}

/// Does the first half of [`redirect_linear`]: nothing is sent yet. False if the slow program must
/// look closer; then nothing is written.
#[inline(always)]
pub(crate) fn prepare(packet: Packet, headers: Linear, own: &Endpoint, target: &Endpoint) -> bool {
    fits(packet, own, target) && rewrite(headers, target)
}

/// Delivers a packet of a redirected flow, whatever its shape. What may not be redirected is left
/// to the host's stack, which routes it and sends the ICMP error where there is one to send.
///
/// # Minimum kernel version
///
/// `bpf_check_mtu` 5.12, `bpf_redirect_peer` 5.10.
#[inline(always)]
pub(crate) fn redirect_or_pass(packet: Packet, own: &Endpoint, target: &Endpoint, family: Family) -> i32 {
    if can_redirect(packet, own, target, family) {
        redirect_any(packet, target, family)
    } else {
        NEXT
    }
}

/// Whether [`redirect_any`] can deliver the packet.
#[inline(always)]
pub(crate) fn can_redirect(packet: Packet, own: &Endpoint, target: &Endpoint, family: Family) -> bool {
    if target.flags & ENDPOINT_REDIRECTABLE == 0 {
        return false;
    }
    if !fits(packet, own, target) {
        let mut mtu = 0;
        // SAFETY: plain helper call; `mtu` lives as long as it does.
        if unsafe {
            bpf_check_mtu(
                packet.skb().cast(),
                target.ifindex,
                &raw mut mtu,
                0,
                u64::from(BPF_MTU_CHK_SEGS),
            )
        } != 0
        {
            return false;
        }
    }
    packet.load::<u8>(family.hops() as u32).is_some_and(|hops| hops > 1)
}

/// Redirects a packet that [`can_redirect`] allows.
#[inline(always)]
pub(crate) fn redirect_any(packet: Packet, target: &Endpoint, family: Family) -> i32 {
    let header = if family == Family::V4 { L3 + 20 } else { L3 + 40 };
    if packet.data() + header > packet.data_end() && !packet.pull(header as u32) {
        return packet.drop(DropReason::Internal);
    }
    let headers = Linear {
        data: packet.data(),
        end: packet.data_end(),
        family,
    };
    if rewrite(headers, target) {
        redirect(packet, target)
    } else {
        packet.drop(DropReason::Internal)
    }
}

/// Writes the link-layer header of the last hop and takes one hop off; false (and nothing written)
/// if there is none to take.
#[inline(always)]
fn rewrite(headers: Linear, target: &Endpoint) -> bool {
    let Linear { data, end, family } = headers;
    let header = if family == Family::V4 { L3 + 20 } else { L3 + 40 };
    if data + header > end {
        return false;
    }
    // Destination and source stand side by side in the record as they do in the packet.
    let macs = addr_of!(target.mac).cast::<u8>();
    // SAFETY: the offsets lie in the packet, which is read and written at any alignment; the twelve
    // bytes of both MAC addresses are contiguous in `Endpoint` (asserted below) and its element is
    // aligned to 8.
    unsafe {
        let hops = (data + family.hops()) as *mut u8;
        let left = hops.read_volatile();
        if left <= 1 {
            return false;
        }
        hops.write_volatile(left - 1);
        if family == Family::V4 {
            // One less in the high byte of a 16-bit word: one more in the one's complement sum.
            let sum = (data + L3 + 10) as *mut u16;
            let more = u32::from(sum.read_volatile()) + u32::from(0x0100_u16.to_be());
            sum.write_volatile((more + (more >> 16)) as u16);
        }
        (data as *mut u64).write_volatile(macs.cast::<u64>().read());
        ((data + 8) as *mut u32).write_volatile(macs.add(8).cast::<u32>().read());
    }
    true
}

const _: () = assert!(core::mem::offset_of!(Endpoint, mac).is_multiple_of(8));
const _: () = assert!(core::mem::offset_of!(Endpoint, host_mac) == core::mem::offset_of!(Endpoint, mac) + 6);

/// Does the second half of [`redirect_linear`].
#[inline(always)]
pub(crate) fn redirect(packet: Packet, target: &Endpoint) -> i32 {
    packet.set_target(target.ifindex);
    // SAFETY: plain helper call.
    unsafe { bpf_redirect_peer(target.ifindex, 0) as i32 }
}
