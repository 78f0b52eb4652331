//! What the host must give before anything is loaded: a kernel that can, a bpffs, open files, and
//! no other agent.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{KernelError, Result};

/// Mode of felid's directories.
const OWNER_ONLY: u32 = 0o700;
/// How many things of others are moved aside at most.
const ASIDE: u32 = 64;
/// Inode number of the host's process namespace (`PROC_PID_INIT_INO`).
const HOSTS_PROCESS_NAMESPACE: u64 = 0xeffffffc;

/// Locks a directory for one agent at a time. The lock ends with the returned file, or with the
/// process.
pub(super) fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::open(path).map_err(KernelError::file("open", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => KernelError::InUse(path.to_owned()),
        error => KernelError::file("lock", path)(error.into()),
    })
}

/// Makes a directory that only its owner may enter, whatever the umask. One that is there already
/// must be root's, and is closed to everybody else. What somebody else made in its place is moved
/// aside, so that nobody can keep the agent from starting.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(OWNER_ONLY).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !is_ours(path)? {
                move_aside(path)?;
                return make_directory(path);
            }
        }
        Err(error) => return Err(KernelError::file("create", path)(error)),
    }
    let only_owner = fs::Permissions::from_mode(OWNER_ONLY);
    fs::set_permissions(path, only_owner).map_err(KernelError::file("restrict access to", path))
}

/// Whether this is a directory of the user that the agent runs as, which is root.
fn is_ours(path: &Path) -> Result<bool> {
    let found = fs::symlink_metadata(path).map_err(KernelError::file("look at", path))?;
    Ok(found.is_dir() && found.uid() == nix::unistd::Uid::effective().as_raw())
}

fn move_aside(path: &Path) -> Result<()> {
    for number in 0..ASIDE {
        let aside = path.with_file_name(format!("not_of_felid_{number}"));
        if fs::symlink_metadata(&aside).is_ok() {
            continue;
        }
        fs::rename(path, &aside).map_err(KernelError::file("move aside", path))?;
        tracing::warn!(
            path = %path.display(),
            moved_to = %aside.display(),
            "somebody else made what only felid may make: it is moved aside and not used"
        );
        return Ok(());
    }
    let error = io::Error::other("somebody else made it, and too many such were moved aside already: remove them");
    Err(KernelError::file("use", path)(error))
}

/// Makes sure that a bpffs is mounted at `path` and outlives the agent, unless it is `private`:
/// programs, and with them policy, end with the last mount of the bpffs that they are pinned in.
pub(super) fn mount_bpffs(path: &Path, private: bool) -> Result<()> {
    fs::create_dir_all(path).map_err(KernelError::file("create", path))?;
    if is_bpffs(path)? {
        return if private || outlives_agent(path)? {
            Ok(())
        } else {
            Err(KernelError::PrivateBpffs(path.to_owned()))
        };
    }
    // Otherwise anybody on the host could make directories in it.
    mount(Some("bpffs"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| KernelError::file("mount a bpffs at", path)(error.into()))?;
    // In a container only a mount that is passed on to the host outlives it.
    let outlives = if is_hosts_process_namespace() {
        outlives_agent(path)
    } else {
        is_shared(path)
    };
    if private || outlives? {
        return Ok(());
    }
    umount2(path, MntFlags::MNT_DETACH).map_err(|error| KernelError::file("unmount", path)(error.into()))?;
    Err(KernelError::PrivateBpffs(path.to_owned()))
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let found = statfs(path).map_err(|error| KernelError::file("look at", path)(error.into()))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether the first process sees the same bpffs somewhere. In a container without the host's
/// processes that is the container's own, and a bpffs that it has is taken for the host's, which
/// the runtime has put there.
fn outlives_agent(path: &Path) -> Result<bool> {
    let device = fs::metadata(path).map_err(KernelError::file("look at", path))?.dev();
    let Ok(mounts) = fs::read_to_string("/proc/1/mountinfo") else {
        // Without a look at it there is nothing to go by.
        return Ok(true);
    };
    let wanted = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(wanted.as_str())))
}

/// Whether the mount at a path is passed on to other mount namespaces.
fn is_shared(path: &Path) -> Result<bool> {
    let file = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(file).map_err(KernelError::file("read", file))?;
    let path = path.canonicalize().map_err(KernelError::file("look at", path))?;
    let mut mounts = mounts
        .lines()
        .filter(|line| line.split(' ').nth(4).map(Path::new) == Some(&path));
    // The fields after the sixth, up to a dash, say how the mount is shared.
    let shared = |line: &str| {
        line.split(' ')
            .skip(6)
            .take_while(|field| *field != "-")
            .any(|field| field.starts_with("shared:"))
    };
    Ok(mounts.next_back().is_some_and(shared))
}

/// Whether the process namespace is the host's. The kernel gives that one a fixed number.
fn is_hosts_process_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == HOSTS_PROCESS_NAMESPACE)
}

/// Refuses kernels that cannot run felid; warns of what makes it slow or unsafe. Returns the
/// kernel's release (`uname -r`).
pub(super) fn check_kernel() -> Result<String> {
    let name =
        nix::sys::utsname::uname().map_err(|error| KernelError::call("ask for the kernel's name")(error.into()))?;
    let release = name.release().to_string_lossy().into_owned();
    let version = aya::util::KernelVersion::current()
        .map_err(|error| KernelError::call("ask for the kernel's version")(io::Error::other(error.to_string())))?;
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
        return Err(KernelError::Unsupported {
            release,
            missing: "net.core.bpf_jit_enable is 0, and programs that are not compiled to machine code may not read the kernel's own \
                      description of a packet",
        });
    }
    if read("/proc/sys/net/core/bpf_jit_harden").trim() == "2" {
        tracing::warn!("net.core.bpf_jit_harden is 2: loading policy programs takes 10 to 20 times as long");
    }
    Ok(release)
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
