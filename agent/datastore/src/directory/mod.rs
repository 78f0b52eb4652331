//! The directory of YAML and JSON files: followed by an agent ([`DirectoryWatcher`]), listed and
//! edited by commands ([`DirectoryStore`]).

mod barriers;
mod departures;
mod edit;
mod events;
mod inotify;
mod list;
mod read;
mod readiness;
mod reading;
mod rescan;
mod root;
mod scan;
mod stamp;
mod watch;
mod watcher;
mod writers;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use felid_model::ResourceKey;

use crate::core::engine::StartError;
use crate::record::Record;
use crate::store::{Done, Listing, Store, StoreError, Verb, Watch};

pub use watcher::DirectoryWatcher;

/// Says whether somebody has a file open for writing, which was itself opened for reading; an error
/// where the file system does not tell.
pub type WriterCheck = fn(&File) -> io::Result<bool>;

/// Where records are, and how to follow them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory with the records.
    pub directory: PathBuf,
    /// The time between two looks at everything, for what inotify does not tell.
    pub rescan: Duration,
    /// The time that a file must be away to be gone: editors and version control remove a file and
    /// create it anew.
    pub vanish: Duration,
    /// How to find out whether a file is still being written. `None` = only inotify and the stamps
    /// of files tell.
    pub writers: Option<WriterCheck>,
}

impl Options {
    /// Returns options with a rescan every ten seconds, and files gone after 50 ms.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            rescan: Duration::from_secs(10),
            vanish: Duration::from_millis(50),
            writers: None,
        }
    }
}

impl DirectoryWatcher {
    /// Returns a directory that is not followed yet; [`crate::start`] follows it. The directory
    /// need not be there yet.
    ///
    /// # Errors
    ///
    /// The path is relative, and there is no working directory.
    pub fn open(options: &Options) -> Result<Self, StartError> {
        let path = &options.directory;
        let directory = std::path::absolute(path).map_err(|source| StartError::Directory {
            path: path.clone(),
            source,
        })?;
        let mut watcher = Self::new(directory, (options.rescan, options.vanish), mpsc::channel());
        watcher.is_open = options.writers;
        Ok(watcher)
    }
}

/// A directory as commands see it.
///
/// A new resource gets a file of its own, `KIND.NAMESPACE.NAME.yaml` (`KIND.NAME.yaml` without
/// namespace). A resource that is there is changed in place: only the lines of its document (or, in
/// a list, of its item) are rewritten, everything else in the file stays byte for byte; deleting
/// the only document of a file deletes the file. The resource version is a digest of what the
/// document says. It is never written into a file.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    directory: PathBuf,
}

impl DirectoryStore {
    /// Returns the store in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Returns the path of the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn error(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            path: self.directory.clone(),
            source,
            done: Vec::new(),
        }
    }
}

impl Store for DirectoryStore {
    fn list(&self) -> Result<Listing, StoreError> {
        list::list(&self.directory).map_err(|source| self.error(source))
    }

    fn write(&self, verb: Verb, records: Vec<Record>) -> Result<Vec<Done>, StoreError> {
        edit::write(&self.directory, verb, records)
    }

    fn delete(&self, keys: &[ResourceKey]) -> Result<Vec<Done>, StoreError> {
        edit::delete(&self.directory, keys)
    }

    fn watch(&self, since: Listing) -> Result<Watch, StoreError> {
        let directory = std::path::absolute(&self.directory).map_err(|source| self.error(source))?;
        Ok(Box::new(watch::DirectoryWatch::new(directory, since)?))
    }
}
