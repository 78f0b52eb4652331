//! felid's eBPF programs: what happens to every packet at a workload's interface.
//!
//! In: packets at the two hooks of a workload's host-side interface, and the tables that the agent
//! writes ([`maps`]). Out: a verdict for each packet, flows in the conntrack tables, counters.
//! Never: policy itself, which is in generated programs that these call in between.
//!
//! ```text
//! TCX ingress (from the workload)   TCX egress (towards the workload)
//!   stub of the endpoint              stub of the endpoint     cb = endpoint's index and id
//!     v                                 v
//!   from_workload   (fast)            to_workload   (fast)     established, of the usual shape
//!     v everything else                 v
//!   from_workload_slow                to_workload_slow         parse, fragments, conntrack
//!     |--> neighbour  (ARP, ND, MLD) <--|
//!     |--> related    (ICMP errors)  <--|
//!     v new flow, or one to be judged again
//!   policy program(s), generated: the verdict is in the scratch
//!     v
//!   policy_return   (judge)           counts, asks the next policy, enters the flow
//!     v
//!   translate                         where an end has an external address
//!     v
//!   redirect into the other namespace (deliver), or on through the host's stack
//! ```
//!
//! Directions are the workload's: what it sends is egress (`HOOK == EGRESS`), although it arrives
//! at the *ingress* hook of the host-side interface.
//!
//! Between programs the per-CPU scratch holds what was parsed ([`state`]). That is safe where
//! programs run in softirq context or with bottom halves disabled, which both hooks do on kernels
//! that are not PREEMPT_RT.
//!
//! # Minimum kernel version
//!
//! 6.6, for TCX; no helper used here is younger (`bpf_check_mtu` 5.12, 64-bit compare-and-swap
//! 5.12, BPF ISA v3 5.1). Debian 12's own 6.1 is too old.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "compare-and-swap on 32-bit words")
)]

mod atomic;
mod conntrack;
mod deliver;
mod fast;
mod fragments;
mod host;
mod icmp_error;
mod judge;
mod l4;
mod learned;
mod maps;
mod neighbour;
mod packet;
mod parse;
mod policy_log;
mod port_alias;
mod shares;
mod slow;
mod state;
mod sweep;
mod tcp;
mod track;
mod translation;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use packet::Packet;

// Calls of the kernel that do not come back are allowed in whole programs only: nothing may be a
// function of its own.

/// Established flows from a workload.
#[classifier]
#[inline(always)]
fn from_workload(ctx: TcContext) -> i32 {
    fast::run::<{ felid_common::EGRESS }>(Packet::new(ctx.skb.skb))
}

/// Established flows to a workload.
#[classifier]
#[inline(always)]
fn to_workload(ctx: TcContext) -> i32 {
    fast::run::<{ felid_common::INGRESS }>(Packet::new(ctx.skb.skb))
}

/// Everything else from a workload.
#[classifier]
#[inline(always)]
fn from_workload_slow(ctx: TcContext) -> i32 {
    slow::run::<{ felid_common::EGRESS }>(Packet::new(ctx.skb.skb))
}

/// Everything else to a workload.
#[classifier]
#[inline(always)]
fn to_workload_slow(ctx: TcContext) -> i32 {
    slow::run::<{ felid_common::INGRESS }>(Packet::new(ctx.skb.skb))
}

/// Where policy programs end.
#[classifier]
#[inline(always)]
fn policy_return(ctx: TcContext) -> i32 {
    judge::policy_return(Packet::new(ctx.skb.skb))
}

/// ICMP errors.
#[classifier]
#[inline(always)]
fn related(ctx: TcContext) -> i32 {
    icmp_error::run(Packet::new(ctx.skb.skb))
}

/// ARP, neighbour discovery, multicast listener discovery.
#[classifier]
#[inline(always)]
fn neighbour(ctx: TcContext) -> i32 {
    neighbour::run(Packet::new(ctx.skb.skb))
}

/// Packets of translated flows, once they may pass.
#[classifier]
#[inline(always)]
fn translate(ctx: TcContext) -> i32 {
    translation::run(Packet::new(ctx.skb.skb))
}

/// At interfaces that have the agent's prefix but no endpoint.
#[classifier]
#[inline(always)]
fn closed(ctx: TcContext) -> i32 {
    Packet::new(ctx.skb.skb).drop(felid_common::DropReason::UnknownInterface)
}

/// Expiry of IPv4 flows, run by user space.
#[classifier]
#[inline(always)]
fn sweep_v4(ctx: TcContext) -> i32 {
    sweep::v4(Packet::new(ctx.skb.skb))
}

/// Expiry of IPv6 flows, run by user space.
#[classifier]
#[inline(always)]
fn sweep_v6(ctx: TcContext) -> i32 {
    sweep::v6(Packet::new(ctx.skb.skb))
}

/// Corrects what is counted for an endpoint, run by user space.
#[classifier]
#[inline(always)]
fn recount(ctx: TcContext) -> i32 {
    sweep::recount(Packet::new(ctx.skb.skb))
}

/// Jiffies, run by user space.
#[classifier]
#[inline(always)]
fn clock(ctx: TcContext) -> i32 {
    sweep::clock(Packet::new(ctx.skb.skb))
}

/// For checks on the host only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: nothing here panics, and the verifier would refuse a call to it.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
