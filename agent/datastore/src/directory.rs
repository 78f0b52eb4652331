//! The directory datastore as others see it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc as channel;

use crate::Batch;
use crate::journal::{Journal, JournalError};
use crate::shell::Shell;
use crate::watch::Message;

/// Batches that wait for the receiver; more are merged.
const CHANNEL: usize = 16;

/// Where records are, and how to watch them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory with the records.
    pub directory: PathBuf,
    /// The state directory, for the versions in force; created if absent. One agent at a time.
    pub state: PathBuf,
    /// How often to look at everything again, for what inotify does not tell.
    pub rescan: Duration,
    /// How long a file must be away to be gone: editors and version control remove a file and create it anew.
    pub vanish: Duration,
}

impl Options {
    /// With a rescan every ten seconds, and files gone after 50 ms.
    pub fn new(directory: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            state: state.into(),
            rescan: Duration::from_secs(10),
            vanish: Duration::from_millis(50),
        }
    }
}

/// Why the store cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A relative path cannot be made absolute.
    #[error("directory {path}: {source}")]
    Directory {
        /// The path as given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A watched directory. Ends when it is dropped.
#[derive(Debug)]
pub struct DirectoryStore {
    sender: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl DirectoryStore {
    /// Starts to watch. The directory need not be there yet. What is in force comes in batches: first everything, with
    /// [`crate::Update::InSync`] at its end, then what changes.
    pub fn start(options: Options) -> Result<(Self, channel::Receiver<Batch>), StartError> {
        let directory = absolute(&options.directory)?;
        let (journal, entries) = Journal::open(&options.state)?;
        let (sender, receiver) = mpsc::channel();
        let (batches, output) = channel::channel(CHANNEL);
        let shell = Shell::new(
            directory,
            (options.rescan, options.vanish),
            journal,
            entries,
            (sender.clone(), receiver),
            batches,
        );
        let thread = std::thread::Builder::new()
            .name("felid-records".to_owned())
            .spawn(move || shell.run())
            .map_err(StartError::Thread)?;
        Ok((
            Self {
                sender,
                thread: Some(thread),
            },
            output,
        ))
    }

    /// Looks at everything again, now.
    pub fn rescan(&self) {
        // Fails only when the thread has ended, because nobody receives any more.
        let _ = self.sender.send(Message::Rescan);
    }
}

impl Drop for DirectoryStore {
    fn drop(&mut self) {
        let _ = self.sender.send(Message::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "felid::datastore", "the thread that watches the records ended by a panic");
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path).map_err(|source| StartError::Directory {
        path: path.to_owned(),
        source,
    })
}
