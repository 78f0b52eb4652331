//! One agent per run directory, and per pin directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Name of the lock in the run directory.
const LOCK: &str = "felid.lock";

/// Holds the run directory for as long as it lives; the kernel lets go of it when the process dies,
/// however it dies.
#[derive(Debug)]
pub struct RunLock {
    file: Flock<File>,
    path: PathBuf,
}

impl RunLock {
    /// Makes the directory if need be and takes it; fails if another agent has it.
    pub fn take(run_dir: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir)
            .with_context(|| format!("{}: cannot make the run directory", run_dir.display()))?;
        let path = run_dir.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .context("cannot write the lock")?;
                Ok(Self { file, path })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut owner = String::new();
                let _ = file.rewind().and_then(|()| file.read_to_string(&mut owner));
                let owner = owner.trim();
                let owner = if owner.is_empty() {
                    String::new()
                } else {
                    format!(" (process {owner})")
                };
                bail!(
                    "another agent{owner} uses {}: stop it, or choose another --run-dir",
                    run_dir.display()
                );
            }
            Err((_, error)) => Err(error).with_context(|| format!("{}: cannot lock", path.display())),
        }
    }

    /// Path of the lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run directory.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Whether the lock is still the file of that name, so that no other agent can have another
    /// one.
    pub fn stands(&self) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let there = std::fs::symlink_metadata(&self.path).map(id);
        there.is_ok_and(|there| self.file.metadata().map(id).is_ok_and(|own| own == there))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("a/b");
        let lock = RunLock::take(&run).unwrap();
        let error = RunLock::take(&run).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(lock);
        RunLock::take(&run).unwrap();
    }
}
