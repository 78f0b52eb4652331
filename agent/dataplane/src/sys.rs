//! The only module with `unsafe`: what aya has no call for. Everything it exports is safe to call.
//!
//! Batched map operations, loading of generated code, links by interface index, test runs with context, queries of a hook, and
//! `membarrier`. The attributes of `bpf(2)` are written out per command: the kernel accepts any prefix of its union.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_cmd::{self, *};
use felid_compile::program::Insn;

mod allocator;
mod attr;
mod netfilter;
mod wait;

pub use allocator::{return_free_memory, share_one_arena};
use attr::{
    BatchAttr, ElementAttr, InfoAttr, LinkCreateAttr, LinkUpdateAttr, LoadAttr, ObjectAttr, QueryAttr, RawInsn,
    TestAttr,
};
pub use attr::{BatchError, Hook, LinkInfo, LoadError, TestRun};
pub use netfilter::iptables_entries;
pub use wait::membarrier;

/// `bpf(2)`.
///
/// # Safety
///
/// `attr` must be laid out as the kernel's attributes of `command`, and every pointer and length in it must describe memory that
/// is valid for what the command does with it, for as long as the call lasts.
unsafe fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<i64> {
    // The verifier gives up with EAGAIN when a signal arrives.
    for _ in 0..16 {
        // SAFETY: the caller vouches for the attributes; their size is that of `T`, and `attr` is exclusively borrowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command as libc::c_int,
                std::ptr::from_mut(attr),
                size_of::<T>(),
            )
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EAGAIN) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::other("the kernel returned no file descriptor"))?;
    // SAFETY: the kernel just returned this new descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// A map with the sizes the kernel reports for it: every call checks its buffers against them.
#[derive(Debug)]
pub struct RawMap {
    data: MapData,
    key: usize,
    value: usize,
    entries: u32,
    id: u32,
}

impl RawMap {
    /// Takes a map over. `cpus` is the number of values an element of a per-CPU map has, 1 for other maps.
    pub fn new(data: MapData, cpus: usize) -> Result<Self, MapError> {
        let info = data.info()?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        // Per-CPU values are padded to 8 bytes each.
        let value = if cpus > 1 {
            value.next_multiple_of(8) * cpus
        } else {
            value
        };
        let (entries, id) = (info.max_entries(), info.id());
        Ok(Self {
            data,
            key,
            value,
            entries,
            id,
        })
    }

    /// Bytes of a key.
    pub const fn key_size(&self) -> usize {
        self.key
    }

    /// Bytes of a value as user space sees it (of all CPUs together).
    pub const fn value_size(&self) -> usize {
        self.value
    }

    /// Capacity.
    pub const fn max_entries(&self) -> u32 {
        self.entries
    }

    /// The kernel's id of the map.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// File descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn check(&self, keys: usize, values: usize) -> io::Result<usize> {
        let count = keys / self.key;
        if keys == count * self.key && values == count * self.value {
            Ok(count)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "key or value of another size than the map's",
            ))
        }
    }

    /// One element. `value` is what the command reads or writes, or nothing. Whether the element was there.
    fn element(&self, command: bpf_cmd, key: &[u8], value: Option<&mut [u8]>) -> io::Result<bool> {
        let size = value.as_ref().map_or(self.value, |value| value.len());
        if self.check(key.len(), size)? != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not one element"));
        }
        let value = value.map_or(0, |value| value.as_mut_ptr() as u64);
        let mut attr = ElementAttr {
            map_fd: raw(self.fd()),
            pad: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        };
        // SAFETY: key and value have the sizes of this map (checked) and outlive the call; the key is only read, the value is ours.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Value of a key.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        Ok(self
            .element(BPF_MAP_LOOKUP_ELEM, key, Some(&mut value))?
            .then_some(value))
    }

    /// Writes one element.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let written = self.element(BPF_MAP_UPDATE_ELEM, key, Some(&mut value.to_vec()))?;
        if written {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    /// Deletes one element; whether it was there.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.element(BPF_MAP_DELETE_ELEM, key, None)
    }

    /// Writes many elements with one call: keys and values one after the other.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), BatchError> {
        let count = self
            .check(keys.len(), values.len())
            .map_err(|error| BatchError { done: 0, error })?;
        if count == 0 {
            return Ok(());
        }
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: length(count).map_err(|error| BatchError { done: 0, error })?,
            map_fd: raw(self.fd()),
            ..BatchAttr::default()
        };
        // SAFETY: `keys` and `values` hold `count` elements of this map's sizes (checked), are only read and outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
            .map(|_| ())
            .map_err(|error| BatchError {
                done: (attr.count as usize).min(count),
                error,
            })
    }

    /// Every element, in the kernel's order: calls `visit` with key and value. Elements that come or go meanwhile may be missed or
    /// seen twice.
    pub fn dump(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut chunk = self.entries.clamp(1, 4096) as usize;
        // Hash tables keep a u32 here, the others a key.
        let cursor_size = self.key.max(4);
        let (mut cursor, mut next) = (vec![0_u8; cursor_size], vec![0_u8; cursor_size]);
        let mut first = true;
        let (mut keys, mut values) = (vec![0_u8; chunk * self.key], vec![0_u8; chunk * self.value]);
        loop {
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: length(chunk)?,
                map_fd: raw(self.fd()),
                ..BatchAttr::default()
            };
            // SAFETY: `keys` and `values` have room for `count` elements, the cursors for a key or a u32; all outlive the call.
            let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
            let last = match result {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket larger than the buffers.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && chunk < 1 << 20 => {
                    chunk *= 2;
                    keys.resize(chunk * self.key, 0);
                    values.resize(chunk * self.value, 0);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = (attr.count as usize).min(chunk);
            for (key, value) in keys
                .chunks_exact(self.key)
                .zip(values.chunks_exact(self.value))
                .take(count)
            {
                visit(key, value);
            }
            if last {
                return Ok(());
            }
            std::mem::swap(&mut cursor, &mut next);
            first = false;
        }
    }
}

/// Loads a classifier from instructions in which maps are already file descriptors of this process. `name`: letters, digits,
/// `_` and `.`; cut to 15.
pub fn load_classifier(insns: &[Insn], name: &str) -> Result<OwnedFd, LoadError> {
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
        kind: aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
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
    // SAFETY: `insns` has `count` instructions, the licence ends in a zero; both are only read and outlive the call. The verifier
    // proves the code itself harmless.
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

/// Pins an object.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let text = c_path(path)?;
    let mut attr = ObjectAttr {
        path: text.as_ptr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    // SAFETY: the path ends in a zero, is only read and outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(|_| ())
}

/// Opens a pinned object.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let text = c_path(path)?;
    let mut attr = ObjectAttr {
        path: text.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    // SAFETY: the path ends in a zero, is only read and outlives the call.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.and_then(owned)
}

/// Attaches a classifier to an interface of this thread's network namespace, before all others.
pub fn attach_first(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program: raw(program),
        ifindex,
        attach_type: hook.attach_type(),
        flags: aya_obj::generated::BPF_F_BEFORE,
        ..LinkCreateAttr::default()
    };
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)
}

/// Puts another program into a link, without a gap.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: raw(link),
        program: raw(program),
        ..LinkUpdateAttr::default()
    };
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
}

/// Reads it; an error for anything but a TCX link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let size = length(size_of::<LinkInfo>())?;
    let mut attr = InfoAttr {
        fd: raw(link),
        size,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has `size` bytes, is exclusively ours and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.kind == aya_obj::generated::bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        Ok(info)
    } else {
        Err(io::Error::other("not a TCX link"))
    }
}

/// Id of a loaded program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // The first two words of `bpf_prog_info`: type, id.
    let mut info = [0_u32; 2];
    let mut attr = InfoAttr {
        fd: raw(program),
        size: 8,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: `info` has 8 bytes, is exclusively ours and outlives the call; the kernel writes no more than `size`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info[1])
}

/// Programs at a hook in the order in which they run: (program id, link id; 0 = attached without a link).
pub fn attached(ifindex: u32, hook: Hook) -> io::Result<Vec<(u32, u32)>> {
    let (mut programs, mut links) = ([0_u32; 64], [0_u32; 64]);
    let mut attr = QueryAttr {
        ifindex,
        attach_type: hook.attach_type(),
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttr::default()
    };
    // SAFETY: both arrays have `count` elements (64 is also the kernel's own limit), are ours and outlive the call.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    Ok(programs.into_iter().zip(links).take(attr.count as usize).collect())
}

/// Runs a program on a packet without any interface. `context`: a prefix of `__sk_buff`, or nothing.
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
    // SAFETY: all four buffers have the sizes given, the outgoing ones are ours, and all outlive the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    data.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        result: attr.result,
        data,
        context: context_out,
        duration: attr.duration,
    })
}
