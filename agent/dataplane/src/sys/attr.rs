//! Layouts of `bpf(2)`'s attributes, one per command (the kernel accepts any prefix of its union), and what calls return. No `unsafe`
//! here.

use std::io;

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// TCX ingress of the host-side interface: packets from the workload.
    FromWorkload,
    /// TCX egress of the host-side interface: packets to the workload.
    ToWorkload,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromWorkload, Self::ToWorkload];

    pub(super) const fn attach_type(self) -> u32 {
        match self {
            Self::FromWorkload => aya_obj::generated::bpf_attach_type::BPF_TCX_INGRESS as u32,
            Self::ToWorkload => aya_obj::generated::bpf_attach_type::BPF_TCX_EGRESS as u32,
        }
    }
}

#[repr(C)]
#[derive(Default)]
pub(super) struct ElementAttr {
    pub(super) map_fd: u32,
    pub(super) pad: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) element_flags: u64,
    pub(super) flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LoadAttr {
    pub(super) kind: u32,
    pub(super) count: u32,
    pub(super) insns: u64,
    pub(super) license: u64,
    pub(super) log_level: u32,
    pub(super) log_size: u32,
    pub(super) log: u64,
    pub(super) kernel_version: u32,
    pub(super) flags: u32,
    pub(super) name: [u8; 16],
    pub(super) ifindex: u32,
    pub(super) expected_attach_type: u32,
}

/// `bpf_insn`.
#[repr(C)]
pub(super) struct RawInsn {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) off: i16,
    pub(super) imm: i32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct ObjectAttr {
    pub(super) path: u64,
    pub(super) fd: u32,
    pub(super) flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LinkCreateAttr {
    pub(super) program: u32,
    pub(super) ifindex: u32,
    pub(super) attach_type: u32,
    pub(super) flags: u32,
    pub(super) relative: u32,
    pub(super) pad: u32,
    pub(super) expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LinkUpdateAttr {
    pub(super) link: u32,
    pub(super) program: u32,
    pub(super) flags: u32,
    pub(super) old_program: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct InfoAttr {
    pub(super) fd: u32,
    pub(super) size: u32,
    pub(super) info: u64,
}

/// What the kernel knows of a link, as far as TCX is concerned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkInfo {
    pub(super) kind: u32,
    /// Id of the link.
    pub id: u32,
    /// Id of its program.
    pub program: u32,
    pub(super) pad: u32,
    /// Interface; 0 = the interface is gone.
    pub ifindex: u32,
    pub(super) attach_type: u32,
    pub(super) rest: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
pub(super) struct QueryAttr {
    pub(super) ifindex: u32,
    pub(super) attach_type: u32,
    pub(super) query_flags: u32,
    pub(super) attach_flags: u32,
    pub(super) programs: u64,
    pub(super) count: u32,
    pub(super) pad: u32,
    pub(super) program_attach_flags: u64,
    pub(super) links: u64,
    pub(super) link_attach_flags: u64,
    pub(super) revision: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct TestAttr {
    pub(super) program: u32,
    pub(super) result: u32,
    pub(super) data_size_in: u32,
    pub(super) data_size_out: u32,
    pub(super) data_in: u64,
    pub(super) data_out: u64,
    pub(super) repeat: u32,
    pub(super) duration: u32,
    pub(super) ctx_size_in: u32,
    pub(super) ctx_size_out: u32,
    pub(super) ctx_in: u64,
    pub(super) ctx_out: u64,
    pub(super) flags: u32,
    pub(super) cpu: u32,
    pub(super) batch_size: u32,
    pub(super) pad: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct CreateAttr {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) inner_map_fd: u32,
}

/// What a test run gave.
#[derive(Clone, Debug, Default)]
pub struct TestRun {
    /// What the program returned.
    pub result: u32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context (`__sk_buff`) afterwards, as long as the one passed in.
    pub context: Vec<u8>,
    /// Nanoseconds per run, the mean of all repetitions.
    pub duration: u32,
}

/// A batched update that stopped early.
#[derive(Debug)]
pub struct BatchError {
    /// Elements, from the first, that were certainly written.
    pub done: usize,
    /// Why it stopped.
    pub error: io::Error,
}

/// A program that the verifier refused, or that could not be loaded at all.
#[derive(Debug)]
pub struct LoadError {
    /// The kernel's error.
    pub error: io::Error,
    /// The end of the verifier's log; empty if it had nothing to say.
    pub log: String,
}
