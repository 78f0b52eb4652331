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
mod judge;
mod maps;
mod packet;
mod parse;
mod slow;
mod state;

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

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: nothing here panics, and the verifier would refuse a call to it.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
