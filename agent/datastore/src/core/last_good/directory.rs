//! The state directory: private to its owner, used by one agent alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::LastGoodError;

/// Makes the state directory, for its owner alone whatever the umask. One that others may write is
/// closed to them; one of another user is refused, who could replace accepted versions of records.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let metadata = std::fs::metadata(directory)?;
    let own = std::fs::metadata("/proc/self")?.uid();
    if metadata.uid() != own && metadata.uid() != 0 {
        let text = format!(
            "it belongs to the user {}, who could replace accepted versions of records",
            metadata.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mode = metadata.permissions().mode();
    if mode & 0o022 == 0 {
        return Ok(());
    }
    tracing::warn!(
        "{} could be written by others (mode {:o}): it is its owner's alone now",
        directory.display(),
        mode & 0o7777
    );
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> LastGoodError {
    let path = path.to_owned();
    |source| LastGoodError::Io { path, source }
}

/// Whether this is an error of a file system that cannot be written at present.
pub(super) fn is_unwritable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(super) fn memory_file() -> io::Result<File> {
    let file = nix::sys::memfd::memfd_create(c"felid-in-force", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    Ok(File::from(file))
}

/// Keeps other agents away from the state directory as long as the lock is open.
pub(super) fn take_lock(directory: &Path) -> Result<File, LastGoodError> {
    let path = directory.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        // A link in its place would make a file elsewhere.
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&path)
        .map_err(io_error(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LastGoodError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error(&path)(source)),
    }
}

/// Opens a file of the directory, or makes it; `anew` = an empty one in place of what is there.
/// Where a link stands no other file is opened: it may be of a time when others could write here.
pub(super) fn open_file(path: &Path, anew: bool) -> io::Result<File> {
    if anew
        && let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    OpenOptions::new()
        .create(true)
        .create_new(anew)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}
