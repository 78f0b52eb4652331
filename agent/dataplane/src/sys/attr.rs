//! Layouts of `bpf(2)`'s attributes, one per command (the kernel accepts any prefix of its union),
//! and what calls return. No `unsafe` here.

use std::io;

/// The place at an interface where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// TCX ingress of the host-side interface: packets from the workload.
    FromWorkload,
    /// TCX egress of the host-side interface: packets to the workload.
    ToWorkload,
}

impl Hook {
    /// Both hooks.
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

/// `BPF_NETFILTER`, an attach type.
pub(super) const BPF_NETFILTER: u32 = 45;

/// An address family that netfilter has hooks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetfilterFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl NetfilterFamily {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `NFPROTO_*`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Returns the name in pins and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// A hook of netfilter's (`NF_INET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetfilterHook {
    /// What has come in by an interface, before it is routed.
    Prerouting = 0,
    /// What has arrived at the host itself.
    Input = 1,
}

impl NetfilterHook {
    /// Returns the name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
        }
    }
}

#[repr(C)]
#[derive(Default)]
pub(super) struct NetfilterLinkAttr {
    pub(super) program: u32,
    pub(super) target: u32,
    pub(super) attach_type: u32,
    pub(super) flags: u32,
    pub(super) family: u32,
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) netfilter_flags: u32,
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
    /// The kernel's id of the link.
    pub id: u32,
    /// The kernel's id of its program.
    pub program: u32,
    pub(super) pad: u32,
    /// The index of the interface; 0 if the interface is gone.
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

/// What came of running a program by hand.
#[derive(Clone, Debug, Default)]
pub struct TestRun {
    /// What the program returned.
    pub result: u32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context (`__sk_buff`) afterwards, as long as the one passed in.
    pub context: Vec<u8>,
    /// How many nanoseconds a run took: the mean of all repetitions.
    pub duration: u32,
}

/// A batched update that stopped early.
#[derive(Debug)]
pub struct BatchError {
    /// How many elements, from the first, were certainly written.
    pub done: usize,
    /// The error that stopped it.
    pub error: io::Error,
}

/// A program that the verifier refused, or that could not be loaded at all.
#[derive(Debug)]
pub struct LoadError {
    /// The error that the kernel gave.
    pub error: io::Error,
    /// The end of the verifier's log; empty if it had nothing to say.
    pub log: String,
}

/// The object with an id. The middle word is for walks from one id to the next.
#[repr(C)]
#[derive(Default)]
pub(super) struct IdAttr {
    pub(super) id: u32,
    pub(super) next_id: u32,
    pub(super) open_flags: u32,
}

impl IdAttr {
    pub(super) const fn new(id: u32) -> Self {
        Self {
            id,
            next_id: 0,
            open_flags: 0,
        }
    }
}

#[repr(C)]
#[derive(Default)]
pub(super) struct LinkDetachAttr {
    pub(super) link: u32,
}

/// The beginning of `bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgramInfoAttr {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) tag: [u8; 8],
    pub(super) native_length: u32,
    pub(super) translated_length: u32,
    pub(super) native: u64,
    pub(super) translated: u64,
    pub(super) load_time: u64,
    pub(super) created_by: u32,
    pub(super) map_count: u32,
    pub(super) maps: u64,
    pub(super) name: [u8; 16],
}

/// The beginning of `bpf_map_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapInfoAttr {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) name: [u8; 16],
}
