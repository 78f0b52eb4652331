//! Whether somebody has a file open for writing, which only a lease tells.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};

/// Chooses the signal of `fcntl(2)`; the crate `libc` does not have it.
const F_SETSIG: libc::c_int = 10;

/// Returns whether anybody has this file open for writing, or mapped so. The file must have been
/// opened for reading alone.
///
/// # Errors
///
/// If the file system knows no leases, or the file is another user's and the capability
/// `CAP_LEASE` is missing.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    let fd = file.as_raw_fd();
    // Whoever opens the file for writing while the lease is held makes the kernel send a signal,
    // which would be SIGIO and end the process. This one is ignored unless somebody asks for it.
    control(fd, F_SETSIG, libc::SIGURG)?;
    match control(fd, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => control(fd, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

fn control(fd: RawFd, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take a number, and the caller has the file open.
    if unsafe { libc::fcntl(fd, command, argument) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        // Where the temporary directory knows no leases there is nothing to see.
        let Ok(open) = is_open_for_writing(&reader) else { return };
        assert!(open);
        drop(writer);
        assert!(!is_open_for_writing(&reader).unwrap());
        let again = File::options().append(true).open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap());
        drop(again);
        assert!(!is_open_for_writing(&reader).unwrap());
    }

    /// A writer that comes in the middle ends nobody by a signal.
    #[test]
    fn a_writer_that_comes_meanwhile_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        drop(File::create(&path).unwrap());
        let reader = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2_000).for_each(|_| drop(File::options().append(true).open(&path).unwrap())));
            for _ in 0..2_000 {
                let _ = is_open_for_writing(&reader);
            }
        });
        assert!(!is_open_for_writing(&reader).unwrap_or(false));
    }
}
