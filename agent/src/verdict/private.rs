//! A node of one's own: network and mount namespaces that nobody else sees.
//!
//! Everything that is made in them (interfaces, named namespaces, pins, programs) ends with the
//! thread, however it ends: the kernel takes it away when the last process that holds it is gone.
//! So there is nothing to clean up after Ctrl-C, a panic or a kill.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in namespaces of its own; it gets the mount point of a bpffs. Threads
/// and processes that it starts are there too. `/run` and the directory for temporary files are
/// empty there.
pub(crate) fn run<T: Send>(work: impl FnOnce(&Path) -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let bpffs = enter()?;
            work(&bpffs)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter() -> anyhow::Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("make namespaces: that needs root (--engine reference does not)")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("make mounts private")?;
    for directory in [PathBuf::from("/run"), std::env::temp_dir()] {
        mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), nothing)
            .with_context(|| format!("mount a tmpfs at {}", directory.display()))?;
    }
    let bpffs = PathBuf::from("/run/bpffs");
    std::fs::create_dir(&bpffs).context("create a directory")?;
    mount(Some("bpffs"), &bpffs, Some("bpf"), MsFlags::empty(), nothing).context("mount a bpffs")?;
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys/net").join(name);
        // A kernel without IPv6 has nothing to be switched on there.
        if path.exists() {
            std::fs::write(&path, "1").with_context(|| path.display().to_string())?;
        }
    }
    Ok(bpffs)
}
