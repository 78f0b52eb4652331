//! What stands at hooks: links that attach programs, what a hook runs, and pins.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_cmd::*;

use super::attr::{
    self, Hook, InfoAttr, LinkCreateAttr, LinkInfo, LinkUpdateAttr, NetfilterFamily, NetfilterHook, NetfilterLinkAttr,
    ObjectAttr, QueryAttr,
};
use super::{bpf, c_path, length, owned, raw};

/// Pins an object of `bpf(2)` at a path in a bpffs. It fails if the path exists.
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

/// Opens the object that is pinned at a path.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let text = c_path(path)?;
    let mut attr = ObjectAttr {
        path: text.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    // SAFETY: the path ends in a zero, is only read and outlives the call.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.and_then(owned)
}

/// Attaches a classifier to a TCX hook of an interface in this thread's network namespace, before
/// all other programs.
///
/// Minimum kernel version: 6.6.
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

/// Attaches a program to a hook of netfilter's in this thread's network namespace. An error with
/// `EBUSY` says that another program has the priority.
///
/// Minimum kernel version: 6.4.
pub fn attach_netfilter(
    program: BorrowedFd<'_>,
    family: NetfilterFamily,
    hook: NetfilterHook,
    priority: i32,
) -> io::Result<OwnedFd> {
    let mut attr = NetfilterLinkAttr {
        program: raw(program),
        attach_type: attr::BPF_NETFILTER,
        family: family.number(),
        hook: hook as u32,
        priority,
        ..NetfilterLinkAttr::default()
    };
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.and_then(owned)
}

/// Puts another program into a link, without a gap.
///
/// Minimum kernel version: 6.6.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: raw(link),
        program: raw(program),
        ..LinkUpdateAttr::default()
    };
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(|_| ())
}

/// Reads what the kernel says of a TCX link. It fails for any other kind of link.
///
/// Minimum kernel version: 6.6.
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

/// Returns the kernel's id of a loaded program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // The first two words of `bpf_prog_info`: type, id.
    let mut info = [0_u32; 2];
    let mut attr = InfoAttr {
        fd: raw(program),
        size: 8,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: `info` has 8 bytes, is exclusively ours and outlives the call; the kernel writes no
    // more than `size`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info[1])
}

/// Returns the programs at a hook in the order in which they run: the program's id, and its link's
/// id or 0 if it is attached without a link.
///
/// Minimum kernel version: 6.6.
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
    // SAFETY: both arrays have `count` elements (64 is also the kernel's own limit), are ours and
    // outlive the call.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    Ok(programs.into_iter().zip(links).take(attr.count as usize).collect())
}
