//! The only module with `unsafe`: what aya has no call for. Everything it exports is safe to call.
//!
//! Batched map operations, loading of generated code, links by interface index, test runs with
//! context, queries of a hook, `membarrier`, and the filter of system calls. The attributes of
//! `bpf(2)` are written out per command: the kernel accepts any prefix of its union.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::bpf_cmd;

mod allocator;
mod attach;
mod attr;
mod confine;
mod lease;
mod load;
mod map;
mod netfilter;
mod objects;
mod wait;

pub use allocator::{return_free_memory, share_one_arena};
pub use attach::{attach_first, attach_netfilter, attached, link_info, open_pin, pin, program_id, update_link};
pub use attr::{BatchError, Hook, LinkInfo, LoadError, NetfilterFamily, NetfilterHook, TestRun};
pub use confine::restrict_system_calls;
pub use lease::is_open_for_writing;
pub use load::{load_classifier, load_netfilter, test_run};
pub use map::RawMap;
pub use netfilter::{Verdict, iptables_entries, iptables_forward_policy};
pub use objects::{ProgramInfo, detach_link, link_by_id, map_name, program_by_id, program_info};
pub use wait::membarrier;

/// `bpf(2)`.
///
/// # Safety
///
/// `attr` must be laid out as the kernel's attributes of `command`, and every pointer and length in
/// it must describe memory that is valid for what the command does with it, for as long as the call
/// lasts.
unsafe fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<i64> {
    // The verifier gives up with EAGAIN when a signal arrives.
    for _ in 0..16 {
        // SAFETY: the caller vouches for the attributes; their size is that of `T`, and `attr` is
        // exclusively borrowed.
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
