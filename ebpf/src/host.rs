//! What is the host's own: addresses, and packets that it would not forward.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup as Route,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;

use crate::maps::Known;
use crate::packet::Packet;
use crate::state::{MODE_ASK_ROUTE, MODE_TO_HOST, State};

/// fe80::/10.
#[inline(always)]
pub(crate) const fn is_link_local(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6
}

/// ff00::/8.
#[inline(always)]
pub(crate) const fn is_multicast_v6(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 24 == 0xff
}

/// `MODE_*` bits that say how to find out whether a packet to this address ends at the host.
#[inline(always)]
pub(crate) fn destination(version: u8, address: &[u32; 4], peer: &Known, local: bool) -> u8 {
    if peer.is_host() {
        return MODE_TO_HOST;
    }
    if local {
        return 0;
    }
    let on_link = if version == 4 {
        // Multicast, and above it the limited broadcast.
        u32::from_be(address[0]) >> 28 >= 0xe
    } else {
        is_link_local(address) || is_multicast_v6(address)
    };
    if on_link { MODE_TO_HOST } else { MODE_ASK_ROUTE }
}

/// Whether the routing table would forward the packet of the tuple. Whatever is not clearly forwarded counts as the host's.
///
/// # Minimum kernel version
///
/// 6.3 (`BPF_FIB_LOOKUP_SKIP_NEIGH`).
#[inline(always)]
pub(crate) fn forwards(packet: Packet, state: &mut State) -> bool {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let tuple = state.tuple();
    // SAFETY: plain integers and unions of them, for which zero is valid.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = if tuple.ip_version == 4 { AF_INET } else { AF_INET6 };
    route.l4_protocol = tuple.protocol;
    route.sport = tuple.src_port.to_be();
    route.dport = tuple.dst_port.to_be();
    route.ifindex = packet.ifindex();
    route.__bindgen_anon_3.ipv6_src = tuple.src;
    route.__bindgen_anon_4.ipv6_dst = tuple.dst;
    // SAFETY: the helper reads and writes `route` only, whose size it is told.
    let answer = unsafe {
        bpf_fib_lookup(
            packet.skb().cast(),
            &raw mut route,
            size_of::<Route>() as i32,
            BPF_FIB_LOOKUP_SKIP_NEIGH,
        )
    };
    answer >= 0 && answer != i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) && answer != i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}
