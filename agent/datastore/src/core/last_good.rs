//! The state directory: which text of which source is in force for each resource, so that a restart
//! knows the last good versions.
//!
//! One append-only file of JSON lines, each with a check. A record is written *before* its update
//! is handed on, so that what the agent acted on is always known to its successor, however the
//! agent dies. The flush to the disk follows at once on a thread of its own: what a crash of the
//! whole machine may lose is the last moment, and then the version before it is the last good one,
//! which matters only if the file was broken in that very moment too. A torn line at the end is cut
//! off at the next start. When the file has grown to several times what is live, it is written anew
//! (temporary file, flush, rename, flush of the directory).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_model::{BadPolicy, Resource, ResourceKey};
use serde_json::Value;

mod directory;
mod flush;
mod line;
mod replay;

use directory::{io_error, is_unwritable, make_private, memory_file, open_file, take_lock};
use flush::Flusher;
use line::{LogLine, checked, encode};

use crate::core::content::{Digest, SourceId};
use crate::core::parse;
use crate::core::state::{Entry, LogEntry};

const FORMAT: u32 = 1;
const FILE: &str = "in-force.jsonl";
/// A copy of a damaged journal, for people.
const DAMAGED: &str = "in-force.damaged";
/// Digest of no text: a version in doubt is written again when its document is good.
const NO_DIGEST: Digest = Digest(0);
/// Below this size the file is not written anew.
const COMPACT_FROM: u64 = 4 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// A file or directory in it, or the directory itself, cannot be created, read or written.
    #[error("state directory {path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("state directory {0} is in use by another agent")]
    InUse(PathBuf),
}

/// Where a text stands in the file.
#[derive(Debug)]
struct Slot {
    offset: u64,
    length: usize,
    /// The file that it belongs to now, if not the one in the line.
    moved: Option<SourceId>,
}

/// Where the journal is kept.
#[derive(Debug)]
enum LogStorage {
    /// In the state directory, which nobody else may use as long as the lock is held.
    Directory { _lock: File },
    /// In memory, since the state directory cannot be written, for this reason.
    Memory { reason: String },
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct LastGoodLog {
    directory: PathBuf,
    file: Arc<File>,
    place: LogStorage,
    slots: HashMap<ResourceKey, Slot>,
    size: u64,
    bookmark: Option<Value>,
    /// Records that could not be written yet.
    waiting: Vec<LogEntry>,
    fault: Option<String>,
    flusher: Flusher,
    /// Resources of which a later version may have been in a damaged line.
    suspect: BTreeSet<ResourceKey>,
    /// A damaged line may have been about a resource of which nothing else is known.
    incomplete: bool,
    /// What was found at this start.
    damage: Option<String>,
}

impl LastGoodLog {
    /// Opens or creates the journal, with the entries that it holds. Where nothing can be written
    /// (a read-only or full file system), it is read and then kept in memory until it can.
    pub(crate) fn open(directory: &Path) -> Result<(Self, BTreeMap<ResourceKey, Entry>), LastGoodError> {
        match Self::open_in_place(directory) {
            Err(LastGoodError::Io { path, source }) if is_unwritable(&source) => {
                let reason = format!("{}: {source}", path.display());
                Self::open_in_memory(directory, reason)
            }
            result => result,
        }
    }

    fn open_in_place(directory: &Path) -> Result<(Self, BTreeMap<ResourceKey, Entry>), LastGoodError> {
        make_private(directory).map_err(io_error(directory))?;
        let lock = take_lock(directory)?;
        let path = directory.join(FILE);
        let file = open_file(&path, false).map_err(io_error(&path))?;
        Self::with(directory, file, LogStorage::Directory { _lock: lock })
    }

    fn open_in_memory(directory: &Path, reason: String) -> Result<(Self, BTreeMap<ResourceKey, Entry>), LastGoodError> {
        let path = directory.join(FILE);
        let known = match std::fs::read(&path) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let file = memory_file().map_err(io_error(directory))?;
        file.write_all_at(&known, 0).map_err(io_error(directory))?;
        Self::with(directory, file, LogStorage::Memory { reason })
    }

    fn with(
        directory: &Path,
        file: File,
        place: LogStorage,
    ) -> Result<(Self, BTreeMap<ResourceKey, Entry>), LastGoodError> {
        let file = Arc::new(file);
        let flusher = Flusher::start(Arc::clone(&file)).map_err(io_error(directory))?;
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            place,
            slots: HashMap::new(),
            size: 0,
            bookmark: None,
            waiting: Vec::new(),
            fault: None,
            flusher,
            suspect: BTreeSet::new(),
            incomplete: false,
            damage: None,
        };
        let entries = journal.replay().map_err(io_error(&directory.join(FILE)))?;
        Ok((journal, entries))
    }

    /// The version that the journal holds of a resource. For a policy that cannot be read, or may
    /// be out of date, what closes everything that it may select.
    pub(crate) fn recall(&self, key: &ResourceKey) -> Option<Resource> {
        let slot = self.slots.get(key)?;
        let line = self.read(slot);
        if let Err(error) = &line {
            tracing::error!(target: "felid::datastore", "the last good version of {key} cannot be read: {error}");
        }
        match line {
            Ok(LogLine::Put { text, .. }) if !(self.suspect.contains(key) && key.kind.is_policy()) => {
                parse::recalled(&text, key)
            }
            _ if key.kind.is_policy() => Some(Resource::BadPolicy(Arc::new(BadPolicy {
                key: key.clone(),
                selector: None,
                namespace_selector: None,
                reason: "its last good version was damaged or may be out of date".to_owned(),
            }))),
            _ => None,
        }
    }

    /// What was found to be damaged at this start.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Resources of which the version that is known may be out of date.
    pub(crate) fn suspect(&self) -> &BTreeSet<ResourceKey> {
        &self.suspect
    }

    /// Whether resources may have been forgotten. They are found again when everything in the
    /// directory can be read and understood.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Everything was read and understood: what the directory does not hold does not exist.
    pub(crate) fn set_recovered(&mut self) {
        if std::mem::take(&mut self.incomplete) {
            let result = self.rewrite();
            self.outcome(result);
        }
    }

    fn read(&self, slot: &Slot) -> io::Result<LogLine> {
        let mut line = vec![0; slot.length];
        self.file.read_exact_at(&mut line, slot.offset)?;
        checked(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged line"))
    }

    /// What the source wanted to be kept for a restart, beside the versions in force.
    pub(crate) fn bookmark(&self) -> Option<&Value> {
        self.bookmark.as_ref()
    }

    /// Keeps something for the source over a restart, in place of what it had kept before.
    pub(crate) fn set_bookmark(&mut self, bookmark: Value) {
        if self.bookmark.as_ref() != Some(&bookmark) {
            let written = self.append(&[LogLine::Bookmark(bookmark.clone())]).map(|_| ());
            self.bookmark = Some(bookmark);
            self.outcome(written);
        }
    }

    /// Why records cannot be written at present.
    pub(crate) fn fault(&self) -> Option<String> {
        let place = match &self.place {
            LogStorage::Memory { reason } => Some(reason.clone()),
            LogStorage::Directory { .. } => None,
        };
        self.fault.clone().or(place).or_else(|| self.flusher.fault())
    }

    /// Writes records; those that cannot be written are kept and tried again with the next ones.
    pub(crate) fn write(&mut self, records: Vec<LogEntry>) {
        if records.is_empty() && self.waiting.is_empty() {
            return;
        }
        self.waiting.extend(records);
        let records = std::mem::take(&mut self.waiting);
        let lines: Vec<LogLine> = records.iter().map(LogLine::from).collect();
        match self.append(&lines) {
            Ok(places) => {
                for (record, (offset, length)) in records.into_iter().zip(places) {
                    self.index(record, offset, length);
                }
                self.outcome(Ok(()));
            }
            Err(error) => {
                self.waiting = records;
                self.outcome(Err(error));
            }
        }
    }

    fn index(&mut self, record: LogEntry, offset: u64, length: usize) {
        match record {
            LogEntry::Put { key, .. } => {
                self.suspect.remove(&key);
                self.slots.insert(
                    key,
                    Slot {
                        offset,
                        length,
                        moved: None,
                    },
                );
            }
            LogEntry::Move { key, path } => {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.moved = Some(path);
                }
            }
            LogEntry::Drop { key } => {
                self.suspect.remove(&key);
                self.slots.remove(&key);
            }
        }
    }

    fn outcome(&mut self, result: io::Result<()>) {
        self.fault = result
            .err()
            .map(|error| format!("{}: {error}", self.directory.join(FILE).display()));
    }

    /// Appends lines; all or nothing. Their places.
    fn append(&mut self, lines: &[LogLine]) -> io::Result<Vec<(u64, usize)>> {
        let mut buffer = Vec::new();
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            let start = buffer.len();
            encode(line, &mut buffer)?;
            places.push((self.size + start as u64, buffer.len() - start));
        }
        if let Err(error) = self.file.write_all_at(&buffer, self.size) {
            // The next write begins at the same place; what was written of this one must not
            // outlive a restart before it.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += buffer.len() as u64;
        self.flusher.flush();
        Ok(places)
    }

    /// For quiet moments: retries what could not be written, and writes the file anew when most of
    /// it is out of date.
    pub(crate) fn tidy(&mut self) {
        if !self.is_in_place() {
            let result = self.move_in_place();
            self.outcome(result);
        }
        self.write(Vec::new());
        let live: u64 = self.slots.values().map(|slot| slot.length as u64).sum();
        if self.size > COMPACT_FROM && self.size / 3 > live && self.waiting.is_empty() {
            let result = self.rewrite();
            self.outcome(result);
        }
    }

    /// Whether the file is the one that the next start will find.
    fn is_in_place(&self) -> bool {
        let LogStorage::Directory { .. } = self.place else {
            return false;
        };
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let found = std::fs::symlink_metadata(self.directory.join(FILE)).map(id);
        matches!((found, self.file.metadata().map(id)), (Ok(found), Ok(own)) if found == own)
    }

    /// Writes everything into the state directory, which was deleted or could not be written
    /// before.
    fn move_in_place(&mut self) -> io::Result<()> {
        make_private(&self.directory)?;
        let lock = take_lock(&self.directory).map_err(io::Error::other)?;
        let before = std::mem::replace(&mut self.place, LogStorage::Directory { _lock: lock });
        let result = self.rewrite();
        if let (Err(_), LogStorage::Memory { .. }) = (&result, &before) {
            self.place = before;
        }
        result
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let temporary = self.directory.join("in-force.new");
        let path = self.directory.join(FILE);
        let file = match self.place {
            LogStorage::Directory { .. } => open_file(&temporary, true)?,
            LogStorage::Memory { .. } => memory_file()?,
        };
        let mut slots = HashMap::with_capacity(self.slots.len());
        let mut buffer = Vec::new();
        encode(&LogLine::Format(FORMAT), &mut buffer)?;
        if let Some(bookmark) = &self.bookmark {
            encode(&LogLine::Bookmark(bookmark.clone()), &mut buffer)?;
        }
        if self.incomplete {
            encode(&LogLine::Incomplete, &mut buffer)?;
        }
        for (key, slot) in &self.slots {
            let start = buffer.len();
            let mut line = self.read(slot)?;
            if let LogLine::Put { path, suspect, .. } = &mut line {
                *suspect = self.suspect.contains(key);
                if let Some(moved) = &slot.moved {
                    *path = Arc::clone(moved);
                }
            }
            encode(&line, &mut buffer)?;
            let place = Slot {
                offset: start as u64,
                length: buffer.len() - start,
                moved: None,
            };
            slots.insert(key.clone(), place);
        }
        (&file).write_all(&buffer)?;
        if let LogStorage::Directory { .. } = self.place {
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()?;
        }
        self.file = Arc::new(file);
        self.flusher.replace(Arc::clone(&self.file));
        self.slots = slots;
        self.size = buffer.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn links_in_the_state_directory_lead_nowhere() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("state");
        let victim = above.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(&directory).unwrap();
        for name in ["lock", FILE] {
            std::os::unix::fs::symlink(&victim, directory.join(name)).unwrap();
            let error = LastGoodLog::open(&directory).map(drop).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            std::fs::remove_file(directory.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(&victim, directory.join("in-force.new")).unwrap();
        let (mut log, _) = LastGoodLog::open(&directory).unwrap();
        log.rewrite().unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert!(directory.join(FILE).symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn the_state_directory_is_its_owners_alone() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("state");
        let mode = || std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777;
        drop(LastGoodLog::open(&directory).unwrap());
        assert_eq!(mode(), 0o700);
        // One that an older version made under a umask of 0.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
        drop(LastGoodLog::open(&directory).unwrap());
        assert_eq!(mode(), 0o700);
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            std::os::unix::fs::chown(&directory, Some(65534), None).unwrap();
            let error = LastGoodLog::open(&directory).map(drop).unwrap_err().to_string();
            assert!(error.contains("belongs to the user 65534"), "{error}");
        }
    }
}
