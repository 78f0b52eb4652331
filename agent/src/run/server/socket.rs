//! The Unix socket, which only root and the agent's own user may use.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;

use crate::api::SOCKET;
use crate::run::lock::RunLock;

/// How often to look whether the socket is still there.
const LOOK: Duration = Duration::from_secs(1);

/// The lock of the run directory, which is taken anew where the directory was removed.
pub type SharedLock = Arc<Mutex<RunLock>>;

/// Makes the socket in the run directory that the lock is of.
pub fn bind_socket(lock: SharedLock) -> anyhow::Result<OwnerOnly> {
    let run_dir = lock
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .directory()
        .to_owned();
    let (listener, id) = bind(&run_dir)?;
    Ok(OwnerOnly {
        listener,
        id,
        run_dir,
        lock,
        complaint: None,
    })
}

/// Makes the socket where nobody else can reach it, then moves it into place. Returns device and
/// inode, too.
fn bind(run_dir: &Path) -> anyhow::Result<(UnixListener, (u64, u64))> {
    let path = run_dir.join(SOCKET);
    let private = run_dir.join(".felid.sock");
    let _ = std::fs::remove_dir_all(&private);
    let context = || format!("{}: cannot make the socket", path.display());
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .with_context(context)?;
    let made = private.join("s");
    let listener = UnixListener::bind(&made).with_context(context)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600)).with_context(context)?;
    let id = id(&made).with_context(context)?;
    std::fs::rename(&made, &path).with_context(context)?;
    let _ = std::fs::remove_dir(&private);
    Ok((listener, id))
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A listener that hangs up on everyone but root and the agent's own user, and that makes its
/// socket anew where somebody has removed it.
#[derive(Debug)]
pub struct OwnerOnly {
    listener: UnixListener,
    /// The socket's device and inode.
    id: (u64, u64),
    run_dir: PathBuf,
    lock: SharedLock,
    /// Why the socket cannot be made anew, as it was last logged.
    complaint: Option<String>,
}

impl OwnerOnly {
    /// Makes the socket anew if it is gone, and the run directory and its lock if those are.
    fn look(&mut self) {
        let path = self.run_dir.join(SOCKET);
        if id(&path).is_ok_and(|there| there == self.id) {
            return;
        }
        match self.make_again() {
            Ok(()) => {
                self.complaint = None;
                tracing::warn!("{}: somebody removed the socket; it was made again", path.display());
            }
            Err(error) => {
                let complaint = format!("{error:#}");
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!("somebody removed the socket, and it cannot be made again: {complaint}");
                }
                self.complaint = Some(complaint);
            }
        }
    }

    fn make_again(&mut self) -> anyhow::Result<()> {
        // Who has no lock may not take the place of another agent's socket.
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !lock.stands() {
            *lock = RunLock::take(&self.run_dir)?;
        }
        (self.listener, self.id) = bind(&self.run_dir)?;
        Ok(())
    }
}

impl axum::serve::Listener for OwnerOnly {
    type Io = tokio::net::UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok(accepted) = tokio::time::timeout(LOOK, self.listener.accept()).await else {
                self.look();
                continue;
            };
            match accepted {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => {
                        return (stream, address);
                    }
                    Ok(peer) => tracing::warn!("socket: user {} may not ask", peer.uid()),
                    Err(error) => tracing::warn!("socket: {error}"),
                },
                Err(error) => {
                    // Too many open files, most likely: give it time.
                    tracing::warn!("socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
