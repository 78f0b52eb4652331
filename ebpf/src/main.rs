//! felid's eBPF programs.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "compare-and-swap on 32-bit words"))]

mod atomic;
mod conntrack;
mod deliver;
mod fast;
mod fragments;
mod host;
mod icmp_error;
mod judge;
mod maps;
mod neighbour;
mod packet;
mod parse;
mod slow;
mod state;
mod sweep;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use packet::Packet;

/// Established flows from a workload.
#[classifier]
pub fn from_workload(ctx: TcContext) -> i32 {
    fast::run::<{ felid_common::EGRESS }>(Packet::new(ctx.skb.skb))
}

/// Established flows to a workload.
#[classifier]
pub fn to_workload(ctx: TcContext) -> i32 {
    fast::run::<{ felid_common::INGRESS }>(Packet::new(ctx.skb.skb))
}

/// Everything else from a workload.
#[classifier]
pub fn from_workload_slow(ctx: TcContext) -> i32 {
    slow::run::<{ felid_common::EGRESS }>(Packet::new(ctx.skb.skb))
}

/// Everything else to a workload.
#[classifier]
pub fn to_workload_slow(ctx: TcContext) -> i32 {
    slow::run::<{ felid_common::INGRESS }>(Packet::new(ctx.skb.skb))
}

/// Where policy programs end.
#[classifier]
pub fn judged(ctx: TcContext) -> i32 {
    judge::judged(Packet::new(ctx.skb.skb))
}

/// ICMP errors.
#[classifier]
pub fn related(ctx: TcContext) -> i32 {
    icmp_error::run(Packet::new(ctx.skb.skb))
}

/// ARP, neighbour discovery, multicast listener discovery.
#[classifier]
pub fn neighbour(ctx: TcContext) -> i32 {
    neighbour::run(Packet::new(ctx.skb.skb))
}

/// At interfaces that have the agent's prefix but no endpoint.
#[classifier]
pub fn closed(ctx: TcContext) -> i32 {
    Packet::new(ctx.skb.skb).drop(felid_common::Drop::UnknownInterface)
}

/// Expiry of IPv4 flows, run by user space.
#[classifier]
pub fn sweep_v4(ctx: TcContext) -> i32 {
    sweep::v4(Packet::new(ctx.skb.skb))
}

/// Expiry of IPv6 flows, run by user space.
#[classifier]
pub fn sweep_v6(ctx: TcContext) -> i32 {
    sweep::v6(Packet::new(ctx.skb.skb))
}

/// Jiffies, run by user space.
#[classifier]
pub fn clock(ctx: TcContext) -> i32 {
    sweep::clock(Packet::new(ctx.skb.skb))
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: nothing here panics, and the verifier would refuse a call to it.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
