//! Loading programs, and running them without an interface.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya_obj::generated::bpf_cmd::*;
use felid_compile::program::Insn;

use super::attr::{self, LoadAttr, LoadError, RawInsn, TestAttr, TestRun};
use super::{bpf, length, owned, raw};

/// Loads a classifier from instructions in which maps are already file descriptors of this process.
/// `name` may hold letters, digits, `_` and `.`; it is cut to 15 characters. The error has the end
/// of the verifier's log.
pub fn load_classifier(insns: &[Insn], name: &str) -> Result<OwnedFd, LoadError> {
    load(
        aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
        0,
        insns,
        name,
    )
}

/// Loads a program for netfilter's hooks, as [`load_classifier`] loads a classifier.
///
/// Minimum kernel version: 6.4.
pub fn load_netfilter(insns: &[Insn], name: &str) -> Result<OwnedFd, LoadError> {
    const BPF_PROG_TYPE_NETFILTER: u32 = 32;
    load(BPF_PROG_TYPE_NETFILTER, attr::BPF_NETFILTER, insns, name)
}

fn load(kind: u32, attach_type: u32, insns: &[Insn], name: &str) -> Result<OwnedFd, LoadError> {
    let code: Vec<RawInsn> = insns
        .iter()
        .map(|insn| {
            // Bit fields lie the other way round on big-endian machines.
            let registers = if cfg!(target_endian = "little") {
                insn.src << 4 | insn.dst & 15
            } else {
                insn.dst << 4 | insn.src & 15
            };
            RawInsn {
                code: insn.code,
                registers,
                off: insn.off,
                imm: insn.imm,
            }
        })
        .collect();
    let mut attr = LoadAttr {
        kind,
        expected_attach_type: attach_type,
        count: length(code.len()).map_err(|error| LoadError {
            error,
            log: String::new(),
        })?,
        insns: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        ..LoadAttr::default()
    };
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: `insns` has `count` instructions, the licence ends in a zero; both are only read and
    // outlive the call. The verifier proves the code itself harmless.
    match unsafe { bpf(BPF_PROG_LOAD, &mut attr) }.and_then(owned) {
        Ok(fd) => Ok(fd),
        Err(error) => {
            // Once more for the log: asking for it at once would make every load slower.
            let mut log = vec![0_u8; 1 << 20];
            attr.log_level = 1;
            attr.log_size = 1 << 20;
            attr.log = log.as_mut_ptr() as u64;
            // SAFETY: as above; the log has `log_size` bytes and outlives the call.
            if let Ok(fd) = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }.and_then(owned) {
                return Ok(fd);
            }
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let lines: Vec<&str> = text.lines().collect();
            Err(LoadError {
                error,
                log: lines[lines.len().saturating_sub(12)..].join("\n"),
            })
        }
    }
}

/// Runs a program on a packet, without any interface, `repeat` times. `context` is a prefix of
/// `__sk_buff`, or empty.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], context: &[u8], repeat: u32) -> io::Result<TestRun> {
    let mut data = vec![0_u8; packet.len() + 512];
    let mut context_out = vec![0_u8; context.len()];
    let mut attr = TestAttr {
        program: raw(program),
        data_size_in: length(packet.len())?,
        data_size_out: length(data.len())?,
        data_in: packet.as_ptr() as u64,
        data_out: data.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: length(context.len())?,
        ctx_size_out: length(context_out.len())?,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ctx_out: if context.is_empty() {
            0
        } else {
            context_out.as_mut_ptr() as u64
        },
        ..TestAttr::default()
    };
    // SAFETY: all four buffers have the sizes given, the outgoing ones are ours, and all outlive
    // the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    data.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        result: attr.result,
        data,
        context: context_out,
        duration: attr.duration,
    })
}
