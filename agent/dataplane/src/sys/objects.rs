//! Objects of the kernel by their ids, whether they are pinned or not: links, programs, and the
//! names of maps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya_obj::generated::bpf_cmd::{
    BPF_LINK_DETACH, BPF_LINK_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_GET_FD_BY_ID,
};

use super::attr::{IdAttr, InfoAttr, LinkDetachAttr, MapInfoAttr, ProgramInfoAttr};
use super::{bpf, length, owned, raw};

/// Maps of a program whose ids are asked for: felid's programs refer to fewer.
const MAPS: usize = 32;

/// What tells a program from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its name, of at most 15 bytes.
    pub name: String,
    /// Ids of the maps that it refers to, in no order.
    pub maps: Vec<u32>,
}

/// Opens a link by its id. Needs `CAP_SYS_ADMIN`. An error of kind `NotFound`: there is no such
/// link any more.
///
/// Minimum kernel version: 5.8.
pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr::new(id);
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_GET_FD_BY_ID, &mut attr) }.and_then(owned)
}

/// Opens a program by its id. Needs `CAP_SYS_ADMIN`. An error of kind `NotFound`: there is no such
/// program any more.
///
/// Minimum kernel version: 4.13.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr::new(id);
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }.and_then(owned)
}

/// Detaches a link from its interface, whoever has it pinned or open. The link itself remains,
/// attached to nothing.
///
/// Minimum kernel version: 6.6 for TCX links.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetachAttr { link: raw(link) };
    // SAFETY: there are no pointers in these attributes.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_| ())
}

/// The name of a program, and the maps that it refers to.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = [0_u32; MAPS];
    let mut info = ProgramInfoAttr {
        map_count: length(MAPS)?,
        maps: maps.as_mut_ptr() as u64,
        ..ProgramInfoAttr::default()
    };
    let mut attr = InfoAttr {
        fd: raw(program),
        size: length(size_of::<ProgramInfoAttr>())?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has `size` bytes and `maps` has room for `map_count` ids; both are exclusively
    // ours and outlive the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(ProgramInfo {
        name: text(&info.name),
        maps: maps.into_iter().take(info.map_count as usize).collect(),
    })
}

/// The name of a map by its id, of at most 15 bytes.
pub fn map_name(id: u32) -> io::Result<String> {
    let mut attr = IdAttr::new(id);
    // SAFETY: there are no pointers in these attributes.
    let map = unsafe { bpf(BPF_MAP_GET_FD_BY_ID, &mut attr) }.and_then(owned)?;
    let mut info = MapInfoAttr::default();
    let mut attr = InfoAttr {
        fd: raw(map.as_fd()),
        size: length(size_of::<MapInfoAttr>())?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has `size` bytes, is exclusively ours and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(text(&info.name))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
