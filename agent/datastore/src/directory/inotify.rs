//! inotify, by way of notify: one watch for each directory, and what an event means for the
//! records.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};

/// What may come in.
#[derive(Debug)]
pub(crate) enum Message {
    /// From inotify.
    Event(notify::Result<Event>),
    /// Look at everything now.
    Rescan,
    /// Say so when everything has been told that is there at this moment.
    Barrier(u64),
    /// End.
    Stop,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileChange {
    /// Someone writes to it.
    Written,
    /// Someone who wrote to it has closed it.
    Closed,
    /// Created: a file that is about to be written, a link, a directory.
    Created,
    /// Renamed to this name: complete.
    Arrived,
    /// Renamed from this name or deleted.
    Gone,
    /// Owner, mode, times, number of links.
    Touched,
    /// inotify lost events.
    Lost,
}

/// The change and its path; `None` = nothing of interest.
pub(crate) fn change(event: &Event) -> Option<(FileChange, &Path)> {
    if event.need_rescan() {
        return Some((FileChange::Lost, Path::new("")));
    }
    let change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => FileChange::Closed,
        EventKind::Create(CreateKind::File | CreateKind::Folder | CreateKind::Any | CreateKind::Other) => {
            FileChange::Created
        }
        EventKind::Modify(ModifyKind::Data(_)) => FileChange::Written,
        EventKind::Modify(ModifyKind::Metadata(_)) => FileChange::Touched,
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => FileChange::Arrived,
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => FileChange::Gone,
        EventKind::Remove(RemoveKind::File | RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other) => {
            FileChange::Gone
        }
        // The two halves of a rename were told one by one; who reads is nobody's business.
        _ => return None,
    };
    Some((change, event.paths.first()?))
}

/// The watches in place.
#[derive(Debug)]
pub(crate) struct Watches {
    watcher: Option<INotifyWatcher>,
    watched: HashSet<PathBuf>,
    sender: Sender<Message>,
    /// What went wrong at the last attempt.
    fault: Option<String>,
}

impl Watches {
    pub(crate) fn new(sender: Sender<Message>) -> Self {
        Self {
            watcher: None,
            watched: HashSet::new(),
            sender,
            fault: None,
        }
    }

    /// A handle that sends messages to the same receiver.
    pub(crate) fn sender(&self) -> Sender<Message> {
        self.sender.clone()
    }

    /// Why changes are not told at once, if so.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Watches exactly these directories. `again` = also those that are watched already, in case
    /// the watch was lost unseen (a directory that was replaced, a file system mounted over it).
    pub(crate) fn set(&mut self, wanted: &HashSet<PathBuf>, again: bool) {
        self.fault = self.try_set(wanted, again).err();
    }

    fn try_set(&mut self, wanted: &HashSet<PathBuf>, again: bool) -> Result<(), String> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => {
                let sender = self.sender.clone();
                let handler = move |event| {
                    // Fails only when the store has ended.
                    let _ = sender.send(Message::Event(event));
                };
                let watcher = INotifyWatcher::new(handler, Config::default().with_follow_symlinks(false))
                    .map_err(|error| format!("inotify: {error}"))?;
                self.watcher.insert(watcher)
            }
        };
        // First what is no longer wanted: a directory that was moved keeps its watch, and it must
        // not be removed by its old name after it was added by the new one.
        self.watched.retain(|path| {
            let keep = wanted.contains(path);
            if !keep {
                let _ = watcher.unwatch(path);
            }
            keep
        });
        let mut outcome = Ok(());
        for path in wanted {
            if self.watched.contains(path) && !again {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone());
                }
                Err(error) => {
                    self.watched.remove(path);
                    if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                        outcome = Err(format!("inotify cannot watch {}: {error}", path.display()));
                    }
                }
            }
        }
        outcome
    }

    /// Forgets the watches of a directory that was moved or deleted, and of those below it: notify
    /// has dropped them.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.watched.retain(|watched| !watched.starts_with(path));
    }

    /// Whether this directory is watched.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        self.watched.contains(path)
    }
}
