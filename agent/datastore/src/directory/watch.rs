//! What changes in a directory, as a command sees it that watches without an agent.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use felid_model::ResourceKey;

use crate::directory::inotify::{Message, Watches};
use crate::directory::list::list;
use crate::directory::scan::scan;
use crate::store::{Listing, StoreError, StoredResource, WatchEvent};

/// How long a directory must be quiet before it is listed: whoever saves a file does so in several
/// steps.
const QUIET: Duration = Duration::from_millis(100);
/// A directory that is never quiet is listed all the same.
const MOST_EVENTS: usize = 10_000;
/// How often to look without any event, for what inotify does not tell.
const INTERVAL: Duration = Duration::from_secs(10);

/// An endless iterator of changes.
pub(super) struct DirectoryWatch {
    directory: PathBuf,
    watches: Watches,
    messages: Receiver<Message>,
    seen: BTreeMap<ResourceKey, StoredResource>,
    events: VecDeque<WatchEvent>,
}

impl DirectoryWatch {
    /// Changes since this listing of the directory.
    pub(super) fn new(directory: PathBuf, since: Listing) -> Result<Self, StoreError> {
        let (sender, messages) = mpsc::channel();
        let mut watch = Self {
            directory,
            watches: Watches::new(sender),
            messages,
            seen: by_key(since),
            events: VecDeque::new(),
        };
        watch.watch_tree();
        match watch.watches.fault() {
            Some(fault) => Err(StoreError::Watch(fault.to_owned())),
            None => Ok(watch),
        }
    }

    fn watch_tree(&mut self) {
        let watched = scan(&self.directory).watched();
        self.watches.set(&watched, false);
    }

    /// Waits until something may have changed and is at rest again.
    fn wait(&self) {
        if self.messages.recv_timeout(INTERVAL).is_ok() {
            for _ in 0..MOST_EVENTS {
                if self.messages.recv_timeout(QUIET).is_err() {
                    break;
                }
            }
        }
    }

    fn list(&self) -> Result<BTreeMap<ResourceKey, StoredResource>, StoreError> {
        let listing = list(&self.directory).map_err(|source| StoreError::Io {
            path: self.directory.clone(),
            source,
            done: Vec::new(),
        })?;
        Ok(by_key(listing))
    }

    fn look(&mut self) -> Result<(), StoreError> {
        self.watch_tree();
        let mut now = self.list()?;
        if self.seen.keys().any(|key| !now.contains_key(key)) {
            // Perhaps only for the moment in which a file is replaced.
            std::thread::sleep(QUIET);
            now = self.list()?;
        }
        let gone = self.seen.extract_if(.., |key, _| !now.contains_key(key));
        self.events.extend(gone.map(|(_, stored)| WatchEvent::Deleted(stored)));
        for (key, stored) in now {
            match self.seen.insert(key, stored.clone()) {
                None => self.events.push_back(WatchEvent::Added(stored)),
                Some(before) if before.resource_version != stored.resource_version => {
                    self.events.push_back(WatchEvent::Modified(stored));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Iterator for DirectoryWatch {
    type Item = Result<WatchEvent, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            // At once for the first time: something may have changed between the listing and the
            // watches.
            if let Err(error) = self.look() {
                return Some(Err(error));
            }
            if self.events.is_empty() {
                self.wait();
            }
        }
    }
}

/// The resources of a listing; where one stands twice, the first.
fn by_key(listing: Listing) -> BTreeMap<ResourceKey, StoredResource> {
    let mut resources = BTreeMap::new();
    for stored in listing.resources {
        resources.entry(stored.key.clone()).or_insert(stored);
    }
    resources
}
