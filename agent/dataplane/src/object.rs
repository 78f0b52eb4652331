//! The compiled eBPF objects, embedded.

/// The programs and maps of the crate `felid-ebpf`.
pub static EBPF: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/felid-ebpf"));

/// Programs for benchmarks only; the agent never loads them. The linker leaves this out of binaries
/// that do not name it.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/felid-ebpf-bench"));
