//! Waiting until nothing is under way that began before.

use std::io;
use std::os::fd::AsFd as _;

use aya::maps::MapData;
use aya_obj::generated::bpf_cmd::BPF_MAP_CREATE;

use super::attr::CreateAttr;
use super::{RawMap, bpf, owned, raw};

/// Waits until every CPU has left what it was running: no packet that began before the call is
/// still under way after it.
pub fn membarrier() -> io::Result<()> {
    // SAFETY: this system call takes numbers only.
    if unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Not built in, forbidden by a filter, or CPUs without ticks (`nohz_full`).
        Some(libc::ENOSYS | libc::EPERM | libc::EINVAL) => wait_by_map(),
        _ => Err(error),
    }
}

/// The same by another way: the kernel waits for running programs whenever a map inside a map is
/// replaced.
fn wait_by_map() -> io::Result<()> {
    use aya_obj::generated::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS};
    let create = |kind, inner_map_fd| {
        let mut attr = CreateAttr {
            kind,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            flags: 0,
            inner_map_fd,
        };
        // SAFETY: there are no pointers in these attributes.
        unsafe { bpf(BPF_MAP_CREATE, &mut attr) }.and_then(owned)
    };
    let inner = create(BPF_MAP_TYPE_ARRAY as u32, 0)?;
    let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS as u32, raw(inner.as_fd()))?;
    let outer = MapData::from_fd(outer)
        .and_then(|data| RawMap::new(data, 1))
        .map_err(io::Error::other)?;
    outer.update(&[0; 4], &raw(inner.as_fd()).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn both_ways_to_wait_work() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        membarrier().unwrap();
        wait_by_map().unwrap();
    }
}
