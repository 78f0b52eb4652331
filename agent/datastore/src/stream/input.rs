//! Where the lines come from: standard input, a connection that is there, or a socket to which one
//! producer at a time connects.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::core::engine::StartError;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// Where a stream of records comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAddress {
    /// Standard input.
    Stdin,
    /// A Unix socket, which felid makes at this path for its own user alone.
    Socket(PathBuf),
}

/// `stream:-` or `stream:PATH`.
impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamAddress::Stdin => f.write_str("stream:-"),
            StreamAddress::Socket(path) => write!(f, "stream:{}", path.display()),
        }
    }
}

/// What has happened at the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// A producer has connected.
    Connected,
    /// These bytes came.
    Bytes(Vec<u8>),
    /// The connection is over, for this reason.
    Ended(String),
    /// Another thread wants to be heard.
    Woken,
}

/// The input.
#[derive(Debug)]
pub(super) struct StreamInput {
    listener: Option<Listener>,
    connection: Option<File>,
    /// Becomes readable when another thread wants to be heard.
    wake: UnixStream,
}

/// A socket that is removed when it is dropped.
#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(target: "felid::datastore", "{}: {error}", self.path.display());
        }
    }
}

impl StreamInput {
    /// An input at this address.
    pub(super) fn open(address: &StreamAddress, wake: UnixStream) -> Result<Self, StartError> {
        Ok(match address {
            StreamAddress::Stdin => {
                let stdin = io::stdin()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|source| StartError::Socket {
                        path: PathBuf::from("-"),
                        source,
                    })?;
                Self::connected(stdin, wake)
            }
            StreamAddress::Socket(path) => {
                let socket = make_socket(path).map_err(|source| StartError::Socket {
                    path: path.clone(),
                    source,
                })?;
                let path = path.clone();
                Self {
                    listener: Some(Listener { socket, path }),
                    connection: None,
                    wake,
                }
            }
        })
    }

    /// An input that is connected already.
    pub(super) fn connected(connection: OwnedFd, wake: UnixStream) -> Self {
        Self {
            listener: None,
            connection: Some(File::from(connection)),
            wake,
        }
    }

    /// Whether a producer is connected.
    pub(super) const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Waits until something happens, but not longer than until `deadline`. `only_wake` = leave the
    /// producer waiting.
    pub(super) fn wait(&mut self, deadline: Instant, only_wake: bool) -> Option<Happened> {
        loop {
            let (woken, connectable, readable) = self.poll(deadline, only_wake)?;
            if woken {
                let mut bytes = [0; 16];
                // Whether there is anything to be heard, the flag says that goes with it.
                let _ = self.wake.read(&mut bytes);
                return Some(Happened::Woken);
            }
            if connectable && let Some(happened) = self.accept() {
                return Some(happened);
            }
            if readable {
                return Some(self.read());
            }
        }
    }

    /// What is ready; `None` = nothing until the deadline.
    fn poll(&self, deadline: Instant, only_wake: bool) -> Option<(bool, bool, bool)> {
        let listener = self
            .listener
            .as_ref()
            .filter(|_| !only_wake)
            .map(|listener| listener.socket.as_fd());
        let connection = self.connection.as_ref().filter(|_| !only_wake).map(AsFd::as_fd);
        let all: Vec<BorrowedFd<'_>> = [Some(self.wake.as_fd()), listener, connection]
            .into_iter()
            .flatten()
            .collect();
        let mut polled: Vec<PollFd<'_>> = all.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::EINTR) => return Some((false, false, false)),
            Err(error) => {
                // Out of memory for the moment, if anything.
                tracing::warn!(target: "felid::datastore", "poll: {error}");
                std::thread::sleep(std::time::Duration::from_millis(100));
                return None;
            }
        }
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |there: bool| there && ready.next().unwrap_or(false);
        Some((next(true), next(listener.is_some()), next(connection.is_some())))
    }

    fn accept(&mut self) -> Option<Happened> {
        let listener = self.listener.as_ref()?;
        match listener.socket.accept() {
            Ok((connection, _)) if self.connection.is_none() => {
                self.connection = Some(File::from(OwnedFd::from(connection)));
                Some(Happened::Connected)
            }
            // One producer at a time: two would take each other's records away. The second one sees
            // its connection closed.
            Ok(_) => {
                let path = listener.path.display();
                tracing::warn!(target: "felid::datastore", "{path}: a second producer was turned away, since one is connected");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::warn!(target: "felid::datastore", "{}: {error}", listener.path.display());
                std::thread::sleep(std::time::Duration::from_millis(100));
                None
            }
        }
    }

    fn read(&mut self) -> Happened {
        let Some(connection) = &mut self.connection else {
            return Happened::Woken;
        };
        let mut bytes = vec![0; CHUNK];
        let ended = match connection.read(&mut bytes) {
            Ok(0) if self.listener.is_some() => "the producer has closed the connection".to_owned(),
            Ok(0) => "the end of the input".to_owned(),
            Ok(length) => {
                bytes.truncate(length);
                return Happened::Bytes(bytes);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                return Happened::Bytes(Vec::new());
            }
            Err(error) => format!("the connection is broken: {error}"),
        };
        self.connection = None;
        Happened::Ended(ended)
    }
}

/// A socket at this path that only the same user can connect to.
fn make_socket(path: &Path) -> io::Result<UnixListener> {
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("it exists and is no socket"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::other("another process listens on it"));
        }
        // What a process has left that was killed.
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listening = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&listening), &UnixAddr::new(path)?)?;
    // Nobody can connect before `listen`, so the mode is in place in time.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&listening, Backlog::new(8)?)?;
    Ok(UnixListener::from(listening))
}
