//! What the host must give before anything is loaded: a kernel that can, a bpffs, open files, and no other agent.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{KernelError, Result};

/// One agent at a time.
pub(super) fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::open(path).map_err(KernelError::file("open", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => KernelError::InUse(path.to_owned()),
        error => KernelError::file("lock", path)(error.into()),
    })
}

pub(super) fn mount_bpffs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(KernelError::file("create", path))?;
    let kind = statfs(path)
        .map_err(|error| KernelError::file("look at", path)(error.into()))?
        .filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpffs"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|error| KernelError::file("mount a bpffs at", path)(error.into()))
}

/// Refuses kernels that cannot run felid; warns of what makes it slow or unsafe.
pub(super) fn check_kernel() -> Result<()> {
    let name =
        nix::sys::utsname::uname().map_err(|error| KernelError::call("ask for the kernel's name")(error.into()))?;
    let release = name.release().to_string_lossy().into_owned();
    let version = aya::util::KernelVersion::current()
        .map_err(|error| KernelError::call("ask for the kernel's version")(std::io::Error::other(error.to_string())))?;
    if version < aya::util::KernelVersion::new(6, 6, 0) {
        return Err(KernelError::Unsupported {
            release,
            missing: "TCX came with Linux 6.6",
        });
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if name.version().to_string_lossy().contains("PREEMPT_RT") || read("/sys/kernel/realtime").trim() == "1" {
        tracing::warn!(
            "this is a PREEMPT_RT kernel: packets may interrupt one another between the parts of a program, and verdicts may mix; \
             run felid on an ordinary kernel"
        );
    }
    if read("/proc/sys/net/core/bpf_jit_enable").trim() == "0" {
        tracing::warn!("net.core.bpf_jit_enable is 0: programs are interpreted, many times slower");
    }
    if read("/proc/sys/net/core/bpf_jit_harden").trim() == "2" {
        tracing::warn!("net.core.bpf_jit_harden is 2: loading policy programs takes 10 to 20 times as long");
    }
    Ok(())
}

/// Every policy program takes a file descriptor; the usual soft limit of 1024 is soon reached.
pub(super) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files: it may not suffice for many distinct policies");
    }
}
