//! Programs that benchmarks compare the real ones with. The agent never loads them.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::generated::bpf_redirect_peer;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use felid_common::{FlowKeyV4, ImageV4};

const DROP: i32 = 2;
/// IPv4 header after Ethernet, L4 after an IPv4 header without options.
const L3: usize = 14;
const L4: usize = L3 + 20;

/// What the floor program looks up: key of a flow -> interface to redirect to.
#[btf_map(name = "bench_flows")]
static FLOWS: HashMap<ImageV4, u32, 262_144> = HashMap::new();

/// Element 0: where `bench_fresh_flow` goes on.
#[btf_map(name = "bench_target")]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// Nothing at all.
#[classifier]
fn bench_empty(_: TcContext) -> i32 {
    DROP
}

/// The least that a policy program with conntrack can do: parse, one lookup of 16 bytes, redirect.
#[classifier]
fn bench_floor(ctx: TcContext) -> i32 {
    floor(&ctx).unwrap_or(DROP)
}

#[inline(always)]
fn read<T>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, which is read at any alignment.
    Some(unsafe { (start as *const T).read_volatile() })
}

#[inline(always)]
fn floor(ctx: &TcContext) -> Option<i32> {
    if read::<u16>(ctx, 12)? != 0x0800_u16.to_be() || read::<u8>(ctx, L3)? != 0x45 {
        return None;
    }
    let protocol = read::<u8>(ctx, L3 + 9)?;
    let (src, dst) = (read::<u32>(ctx, L3 + 12)?, read::<u32>(ctx, L3 + 16)?);
    let (image, _) = FlowKeyV4::image(src, dst, read::<u32>(ctx, L4)?, u32::from(protocol));
    let target = FLOWS.get_ptr(image)?;
    // SAFETY: a looked-up element is readable; plain helper call.
    Some(unsafe { bpf_redirect_peer(*target, 0) as i32 })
}

/// Turns the test packet (IPv4 or IPv6, without options, TCP or UDP) into one of a flow that was
/// not seen before, by counting its source port up, restores its hop count and goes on with the
/// program under test. After 65,536 packets the caller changes the destination port.
#[classifier]
fn bench_fresh_flow(ctx: TcContext) -> i32 {
    let data = ctx.data();
    if data + L3 + 40 > ctx.data_end() {
        return DROP;
    }
    // SAFETY: the offsets are within the packet, which is read and written at any alignment.
    unsafe {
        let v4 = ((data + 12) as *const u16).read_volatile() == 0x0800_u16.to_be();
        let (hops, ports) = if v4 { (L3 + 8, L4) } else { (L3 + 7, L3 + 40) };
        if data + ports + 4 > ctx.data_end() {
            return DROP;
        }
        ((data + hops) as *mut u8).write_volatile(64);
        let src = (data + ports) as *mut u16;
        let next = u16::from_be(src.read_volatile()).wrapping_add(1);
        src.write_volatile(next.to_be());
        TARGET.tail_call(&ctx, 0);
    }
    DROP
}

/// First bytes of the packet that `bench_restore` writes, in words.
#[btf_map(name = "bench_header")]
static HEADER: Array<[u64; 10], 1> = Array::new();

/// Restores the test packet's addresses and checksums (TCP or UDP, without options) from
/// `bench_header` and goes on with the program under test, so that every repetition is of the same
/// packet whatever the program writes into it.
#[classifier]
fn bench_restore(ctx: TcContext) -> i32 {
    let Some(header) = HEADER.get(0) else { return DROP };
    let data = ctx.data();
    // Ethernet, IPv4 and TCP; IPv6 and TCP is 20 bytes longer.
    if data + 54 > ctx.data_end() {
        return DROP;
    }
    // SAFETY: the offsets are within the packet, which is read and written at any alignment.
    unsafe {
        for (n, word) in header[..6].iter().enumerate() {
            ((data + 8 * n) as *mut u64).write_volatile(*word);
        }
        if data + 74 > ctx.data_end() {
            ((data + 48) as *mut u32).write_volatile(header[6] as u32);
            ((data + 52) as *mut u16).write_volatile((header[6] >> 32) as u16);
        } else {
            for (n, word) in header[6..9].iter().enumerate() {
                ((data + 48 + 8 * n) as *mut u64).write_volatile(*word);
            }
            ((data + 72) as *mut u16).write_volatile(header[9] as u16);
        }
        TARGET.tail_call(&ctx, 0);
    }
    DROP
}

/// For checks on the host only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
