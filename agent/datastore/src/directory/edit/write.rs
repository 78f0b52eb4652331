//! Replacing a file whole, so that whoever reads it sees the old text or the new one, also after a
//! crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Writes a file that must still have the content `expected` (`None` = must not exist).
pub(crate) fn write_file(path: &Path, content: &[u8], expected: Option<&[u8]>) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::other("a file without directory"))?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Hidden, so that no agent reads it.
    let temporary = directory.join(format!(".felid.{}.{count}.tmp", std::process::id()));
    let result = write_temporary(&temporary, path, content, expected.is_some()).and_then(|()| match expected {
        Some(expected) => {
            unchanged(path, expected)?;
            std::fs::rename(&temporary, path)
        }
        None => rename_new(&temporary, path),
    });
    if result.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    result?;
    File::open(directory)?.sync_all()
}

/// Renames, but does not replace what somebody has created meanwhile.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know this way of renaming.
        Err(Errno::INVAL | Errno::NOSYS) if !to.try_exists()? => std::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
        result => result.map_err(io::Error::from),
    }
}

/// Deletes a file that must still have the content `expected`.
pub(crate) fn remove_file(path: &Path, expected: &[u8]) -> io::Result<()> {
    unchanged(path, expected)?;
    std::fs::remove_file(path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn unchanged(path: &Path, expected: &[u8]) -> io::Result<()> {
    if std::fs::read(path)? == expected {
        return Ok(());
    }
    Err(io::Error::other("somebody changed it at the same moment; try again"))
}

fn write_temporary(temporary: &Path, path: &Path, content: &[u8], replaces: bool) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o644)
        .open(temporary)?;
    if replaces {
        let metadata = path.metadata()?;
        file.set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        // Only root may give files away; without it, the file becomes the editor's own.
        let _ = fchown(&file, Some(metadata.uid()), Some(metadata.gid()));
    }
    file.write_all(content)?;
    file.sync_all()
}
