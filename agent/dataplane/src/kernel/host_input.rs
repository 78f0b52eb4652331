//! The programs at netfilter's hooks: at `input` one that drops what workloads send to the host
//! itself if they may not reach it, at `prerouting` one that drops what came in by a workload's
//! interface and was seen by no program there.
//!
//! Their links are pinned as `netfilter/<family>_<hash>`, where the hash is that of the program: a
//! link of another version is replaced, one of this version stays as it is. Like the links at
//! interfaces they outlive the agent, and no `nft flush ruleset` removes them.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use felid_compile::host_input::{host_input, host_prerouting};
use felid_compile::program::{Chunk, Insn};
use felid_compile::stub::SkbLayout;
use sha2::{Digest as _, Sha256};

use super::programs::{MapFds, link};
use crate::error::{KernelError, Result};
use crate::sys::{self, NetfilterFamily, NetfilterHook};

/// Where a program stands.
struct Place {
    hook: NetfilterHook,
    /// The kernel lets two programs of this kind not share a priority, so an old one and its
    /// successor use two.
    priorities: std::ops::Range<i32>,
    /// What the program is called.
    name: &'static str,
}

/// Behind packet filters (0) and IPVS (98, 99), which takes what goes to a service, and before a
/// connection is entered into netfilter's table for good.
const INPUT: Place = Place {
    hook: NetfilterHook::Input,
    priorities: 200..216,
    name: "host_input",
};
/// Before all that netfilter does, the putting together of fragments (-400) included.
const PREROUTING: Place = Place {
    hook: NetfilterHook::Prerouting,
    priorities: -516..-500,
    name: "host_prerouting",
};

/// Makes the hooks run this version's programs for both families, without a gap. Returns the links
/// and their pins.
pub(super) fn install(directory: &Path, maps: &MapFds, layout: &SkbLayout) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let (mut links, mut hashes) = (Vec::new(), Vec::new());
    for (place, chunk) in [(INPUT, host_input(layout)), (PREROUTING, host_prerouting(layout))] {
        let hash = hash(&chunk.insns);
        let mut program: Option<OwnedFd> = None;
        for family in NetfilterFamily::ALL {
            let path = directory.join(format!("{}_{hash}", family.name()));
            match sys::open_pin(&path) {
                Ok(link) => {
                    links.push((path, link));
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(KernelError::file("open", &path)(error)),
            }
            let program = match &program {
                Some(program) => program,
                None => program.insert(load(&place, &chunk, maps)?),
            };
            let link = attach(&place, program.as_fd(), family)?;
            sys::pin(link.as_fd(), &path).map_err(KernelError::file("pin", &path))?;
            links.push((path, link));
        }
        hashes.push(hash);
    }
    remove_others(directory, &hashes)?;
    Ok(links)
}

fn load(place: &Place, chunk: &Chunk, maps: &MapFds) -> Result<OwnedFd> {
    let name = place.name;
    let insns = link(chunk, maps, None)
        .ok_or_else(|| KernelError::Inconsistent(format!("a map reference of the program {name} is out of place")))?;
    sys::load_netfilter(&insns, name).map_err(|error| KernelError::Fixed {
        name: name.to_owned(),
        reason: format!("{}\n{}", error.error, error.log),
    })
}

fn attach(place: &Place, program: BorrowedFd<'_>, family: NetfilterFamily) -> Result<OwnedFd> {
    let failed = || {
        KernelError::call(format!(
            "attach to netfilter's hook {} ({})",
            place.hook.name(),
            family.name()
        ))
    };
    for priority in place.priorities.clone() {
        match sys::attach_netfilter(program, family, place.hook, priority) {
            Ok(link) => return Ok(link),
            // Another program of this kind stands there.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(failed()(error)),
        }
    }
    Err(failed()(io::Error::other("every priority is taken")))
}

/// Links of other versions: this version's are in force.
fn remove_others(directory: &Path, hashes: &[String]) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(KernelError::file("list", directory))?;
    for entry in entries {
        let path = entry.map_err(KernelError::file("list", directory))?.path();
        let current = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| hashes.iter().any(|hash| name.ends_with(hash)));
        if !current {
            fs::remove_file(&path).map_err(KernelError::file("remove", &path))?;
        }
    }
    Ok(())
}

fn hash(insns: &[Insn]) -> String {
    let mut hash = Sha256::new();
    for insn in insns {
        hash.update([insn.code, insn.dst, insn.src]);
        hash.update(insn.off.to_le_bytes());
        hash.update(insn.imm.to_le_bytes());
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
