//! The directory where everything is pinned, which keeps it in force when the agent is gone: made,
//! locked, and kept as it shall be.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use felid_common::ABI_VERSION;
use nix::fcntl::Flock;

use super::host::{lock, make_directory, mount_bpffs};
use super::maps::NAMES;
use crate::error::{KernelError, Result};
use crate::sys;

/// Parts of the directory, one a kind of object.
const PARTS: [&str; 5] = ["maps", "links", "netfilter", "programs", "embedded"];

/// `<bpffs>/felid/v<ABI_VERSION>`.
pub(super) fn directory(bpffs: &Path) -> PathBuf {
    bpffs.join("felid").join(format!("v{ABI_VERSION}"))
}

/// Where everything is pinned. It belongs to one agent at a time.
pub(super) struct PinDirectory {
    bpffs: PathBuf,
    pub(super) path: PathBuf,
    lock: Flock<File>,
    /// Whether the bpffs may end with the agent.
    private: bool,
    /// The maps, held open so that they can be pinned again.
    maps: Vec<(&'static str, OwnedFd)>,
    /// Links at netfilter's hooks by their pins, held open likewise.
    netfilter_links: Vec<(PathBuf, OwnedFd)>,
}

impl PinDirectory {
    /// Makes what is missing, mounting a bpffs if there is none, and locks the whole. `private`:
    /// the bpffs need not outlive the agent.
    pub(super) fn open(bpffs: &Path, private: bool) -> Result<Self> {
        mount_bpffs(bpffs, private)?;
        let path = directory(bpffs);
        make_parts(bpffs, &path)?;
        Ok(Self {
            bpffs: bpffs.to_owned(),
            lock: lock(&path)?,
            path,
            private,
            maps: Vec::new(),
            netfilter_links: Vec::new(),
        })
    }

    /// Refuses to go on while an agent of another version has its directory in this bpffs.
    pub(super) fn check_other_versions(&self) -> Result<()> {
        for other in self.other_versions() {
            drop(lock(&other)?);
        }
        Ok(())
    }

    /// Removes what other versions left. `is_taken_over` says whether a link, by its id, is this
    /// agent's by now. A version that has a link which is still attached and is not, stays as a
    /// whole: its interface may be in another network namespace.
    pub(super) fn remove_other_versions(&self, is_taken_over: impl Fn(u32) -> bool) {
        for other in self.other_versions() {
            let shown = other.display();
            let foreign = entries(&other.join("links")).into_iter().find(|pin| {
                let info = sys::open_pin(pin).and_then(|link| sys::link_info(link.as_fd()));
                info.is_ok_and(|info| info.ifindex != 0 && !is_taken_over(info.id))
            });
            if let Some(pin) = foreign {
                tracing::warn!(
                    "{shown} of another version stays: {} is attached to an interface elsewhere",
                    pin.display()
                );
                continue;
            }
            match remove_version(&other) {
                Ok(()) => tracing::info!("{shown}, which another version left, is removed"),
                Err(error) => tracing::warn!(%error, "{shown}, which another version left, stays"),
            }
        }
    }

    fn other_versions(&self) -> Vec<PathBuf> {
        let all = entries(&self.bpffs.join("felid")).into_iter();
        all.filter(|path| *path != self.path && path.is_dir()).collect()
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.path.join("maps")
    }

    /// Holds every map open by its pin.
    pub(super) fn hold_maps(&mut self) -> Result<()> {
        let maps = self.maps();
        for name in NAMES {
            let pin = maps.join(name);
            let map = sys::open_pin(&pin).map_err(KernelError::file("open", &pin))?;
            self.maps.push((name, map));
        }
        Ok(())
    }

    /// Whether this is still the directory that was locked: it is not if it was removed, or if the
    /// bpffs was unmounted or another was mounted over it.
    pub(super) fn is_intact(&self) -> bool {
        let same = |held: &fs::Metadata, found: &fs::Metadata| (held.dev(), held.ino()) == (found.dev(), found.ino());
        match (self.lock.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(found)) => same(&held, &found) && PARTS.iter().all(|part| self.path.join(part).is_dir()),
            _ => false,
        }
    }

    /// Makes the directory anew, in whatever bpffs there is now.
    pub(super) fn restore(&mut self) -> Result<()> {
        mount_bpffs(&self.bpffs, self.private)?;
        make_parts(&self.bpffs, &self.path)?;
        match lock(&self.path) {
            Ok(lock) => self.lock = lock,
            // The directory is still the same one, and locked by this agent.
            Err(KernelError::InUse(_)) if self.is_intact() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Holds links at netfilter's hooks open, by their pins, so that they can be pinned again.
    pub(super) fn hold_links(&mut self, links: Vec<(PathBuf, OwnedFd)>) {
        self.netfilter_links = links;
    }

    /// Pins the maps and the links at netfilter's hooks that are no longer pinned. Returns their
    /// number.
    pub(super) fn repin(&self) -> Result<usize> {
        let directory = self.maps();
        let mut count = 0;
        for (path, link) in &self.netfilter_links {
            count += usize::from(repin(path, link.as_fd())?);
        }
        for (name, map) in &self.maps {
            count += usize::from(repin(&directory.join(name), map.as_fd())?);
        }
        Ok(count)
    }
}

/// What a directory holds; nothing if it cannot be read.
pub(super) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes everything of one version. Links first, since what they run must not find its maps gone;
/// and first of them those at netfilter's hooks, which drop what no program at an interface saw.
pub(super) fn remove_version(path: &Path) -> Result<()> {
    for part in ["netfilter", "links", "programs", "embedded", "maps"] {
        remove_tree(&path.join(part))?;
    }
    remove_tree(path)
}

/// Removes a directory and all that is in it. Nothing there is fine.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Pins an object where nothing is pinned. Returns whether that was necessary.
pub(super) fn repin(path: &Path, object: BorrowedFd<'_>) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            sys::pin(object, path).map_err(KernelError::file("pin", path))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn make_parts(bpffs: &Path, path: &Path) -> Result<()> {
    make_directory(&bpffs.join("felid"))?;
    make_directory(path)?;
    PARTS.iter().try_for_each(|part| make_directory(&path.join(part)))
}
