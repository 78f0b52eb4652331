//! The state directory: which text of which file is in force for each resource, so that a restart knows the last good versions.
//!
//! One append-only file of JSON lines, each with a check. A record is written *before* its update is handed on, so that what
//! the agent acted on is always known to its successor, however the agent dies. The flush to the disk follows at once on a thread
//! of its own: what a crash of the whole machine may lose is the last moment, and then the version before it is the last good
//! one, which matters only if the file was broken in that very moment too. A torn line at the end is cut off at the next start.
//! When the file has grown to several times what is live, it is written anew (temporary file, flush, rename, flush of
//! the directory).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_model::{BadPolicy, Resource, ResourceKey};
use serde::{Deserialize, Serialize};

mod line;

use line::{Line, checked, encode};

use crate::flush::Flusher;
use crate::parse;
use crate::state::{Entry, Record};
use crate::view::{Digest, FilePath};

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
pub enum JournalError {
    /// It cannot be created, read or written.
    #[error("state directory {path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("state directory {0} is in use by another agent")]
    InUse(PathBuf),
}

/// What tells one directory from another at the same path: device, inode, and time of birth where the file system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) born: u128,
}

/// Where a text stands in the file.
#[derive(Debug)]
struct Slot {
    offset: u64,
    length: usize,
    /// The file that it belongs to now, if not the one in the line.
    moved: Option<FilePath>,
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    file: Arc<File>,
    /// Held as long as the journal is open.
    _lock: File,
    slots: HashMap<ResourceKey, Slot>,
    size: u64,
    root: Option<DirectoryId>,
    /// Records that could not be written yet.
    waiting: Vec<Record>,
    fault: Option<String>,
    flusher: Flusher,
    /// Resources of which a later version may have been in a damaged line.
    doubtful: BTreeSet<ResourceKey>,
    /// A damaged line may have been about a resource of which nothing else is known.
    lost: bool,
    /// What was found at this start.
    damage: Option<String>,
}

impl Journal {
    /// Opens or creates the journal, with the entries that it holds.
    pub(crate) fn open(directory: &Path) -> Result<(Self, BTreeMap<ResourceKey, Entry>), JournalError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| JournalError::Io { path, source }
        };
        std::fs::create_dir_all(directory).map_err(error(directory))?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => return Err(error(&lock_path)(source)),
        }
        let path = directory.join(FILE);
        let file = open_file(&path, false).map_err(error(&path))?;
        let file = Arc::new(file);
        let flusher = Flusher::start(Arc::clone(&file)).map_err(error(directory))?;
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            _lock: lock,
            slots: HashMap::new(),
            size: 0,
            root: None,
            waiting: Vec::new(),
            fault: None,
            flusher,
            doubtful: BTreeSet::new(),
            lost: false,
            damage: None,
        };
        let entries = journal.replay().map_err(error(&path))?;
        Ok((journal, entries))
    }

    fn replay(&mut self) -> io::Result<BTreeMap<ResourceKey, Entry>> {
        let mut entries = BTreeMap::new();
        let file = Arc::clone(&self.file);
        let mut reader = BufReader::new(&*file);
        let mut line = Vec::new();
        let mut damaged = 0;
        let mut known_format = false;
        let mut after_damage = false;
        let mut size = 0;
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            let offset = size;
            size += length as u64;
            match checked(&line) {
                Some(Line::Format(format)) => known_format = format == FORMAT,
                Some(line) if known_format => self.replay_line(&mut entries, line, (offset, length)),
                _ => {
                    if !after_damage {
                        self.doubtful.extend(entries.keys().cloned());
                    }
                    damaged += 1;
                    after_damage = true;
                    continue;
                }
            }
            after_damage = false;
        }
        if size > 0 && !known_format {
            // Written by another version, or something else altogether: kept for people, not for felid.
            let aside = self.directory.join("in-force.unreadable");
            std::fs::rename(self.directory.join(FILE), &aside)?;
            let reason = "the record of last good versions is not one of this version of felid";
            self.damage = Some(format!("{reason}: moved to {}", aside.display()));
            self.slots.clear();
            self.doubtful.clear();
            self.lost = true;
            return self.rewrite().map(|()| BTreeMap::new());
        }
        if damaged > 0 {
            let (path, aside) = (self.directory.join(FILE), self.directory.join(DAMAGED));
            std::fs::copy(&path, &aside)?;
            let lines = if damaged == 1 { "line" } else { "lines" };
            self.damage = Some(format!(
                "{damaged} {lines} of {} were damaged; they are kept in {}",
                path.display(),
                aside.display()
            ));
            self.lost = true;
        }
        self.doubtful.retain(|key| entries.contains_key(key));
        for key in &self.doubtful {
            if let Some(entry) = entries.get_mut(key) {
                entry.digest = NO_DIGEST;
            }
        }
        self.file.set_len(size)?;
        self.size = size;
        let live: u64 = self.slots.values().map(|slot| slot.length as u64).sum();
        if size == 0 || damaged > 0 || size / 2 > live {
            self.rewrite()?;
        }
        Ok(entries)
    }

    fn replay_line(&mut self, entries: &mut BTreeMap<ResourceKey, Entry>, line: Line, (offset, length): (u64, usize)) {
        match line {
            Line::Put {
                key,
                path,
                digest,
                good,
                doubtful,
                ..
            } => {
                let Some(key) = key.resource() else { return };
                if doubtful {
                    self.doubtful.insert(key.clone());
                } else {
                    self.doubtful.remove(&key);
                }
                self.slots.insert(
                    key.clone(),
                    Slot {
                        offset,
                        length,
                        moved: None,
                    },
                );
                entries.insert(
                    key,
                    Entry {
                        path,
                        digest,
                        good,
                        resource: None,
                    },
                );
            }
            Line::Move { key, path } => {
                let Some(key) = key.resource() else { return };
                if let (Some(slot), Some(entry)) = (self.slots.get_mut(&key), entries.get_mut(&key)) {
                    slot.moved = Some(Arc::clone(&path));
                    entry.path = path;
                }
            }
            Line::Drop { key } => {
                let Some(key) = key.resource() else { return };
                self.doubtful.remove(&key);
                self.slots.remove(&key);
                entries.remove(&key);
            }
            Line::Root(id) => self.root = Some(id),
            Line::Lost => self.lost = true,
            Line::Format(_) => {}
        }
    }

    /// The version that the journal holds of a resource. For a policy that cannot be read, or may be out of date, what closes
    /// everything that it may select.
    pub(crate) fn recall(&self, key: &ResourceKey) -> Option<Resource> {
        let slot = self.slots.get(key)?;
        let line = self.read(slot);
        if let Err(error) = &line {
            tracing::error!(target: "felid::datastore", "the last good version of {key} cannot be read: {error}");
        }
        match line {
            Ok(Line::Put { text, .. }) if !(self.doubtful.contains(key) && key.kind.is_policy()) => {
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
    pub(crate) fn doubtful(&self) -> &BTreeSet<ResourceKey> {
        &self.doubtful
    }

    /// Whether resources may have been forgotten. They are found again when everything in the directory can be read and
    /// understood.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost
    }

    /// Everything was read and understood: what the directory does not hold does not exist.
    pub(crate) fn found(&mut self) {
        if std::mem::take(&mut self.lost) {
            let result = self.rewrite();
            self.outcome(result);
        }
    }

    fn read(&self, slot: &Slot) -> io::Result<Line> {
        let mut line = vec![0; slot.length];
        self.file.read_exact_at(&mut line, slot.offset)?;
        checked(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged line"))
    }

    /// The directory that the entries are from.
    pub(crate) fn root(&self) -> Option<DirectoryId> {
        self.root
    }

    /// Remembers the directory that the entries are from.
    pub(crate) fn set_root(&mut self, root: DirectoryId) {
        if self.root != Some(root) {
            self.root = Some(root);
            let written = self.append(&[Line::Root(root)]).map(|_| ());
            self.outcome(written);
        }
    }

    /// Why records cannot be written at present.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.clone().or_else(|| self.flusher.fault())
    }

    /// Writes records; those that cannot be written are kept and tried again with the next ones.
    pub(crate) fn write(&mut self, records: Vec<Record>) {
        if records.is_empty() && self.waiting.is_empty() {
            return;
        }
        self.waiting.extend(records);
        let records = std::mem::take(&mut self.waiting);
        let lines: Vec<Line> = records.iter().map(Line::from).collect();
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

    fn index(&mut self, record: Record, offset: u64, length: usize) {
        match record {
            Record::Put { key, .. } => {
                self.doubtful.remove(&key);
                self.slots.insert(
                    key,
                    Slot {
                        offset,
                        length,
                        moved: None,
                    },
                );
            }
            Record::Move { key, path } => {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.moved = Some(path);
                }
            }
            Record::Drop { key } => {
                self.doubtful.remove(&key);
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
    fn append(&mut self, lines: &[Line]) -> io::Result<Vec<(u64, usize)>> {
        let mut buffer = Vec::new();
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            let start = buffer.len();
            encode(line, &mut buffer)?;
            places.push((self.size + start as u64, buffer.len() - start));
        }
        if let Err(error) = self.file.write_all_at(&buffer, self.size) {
            // The next write begins at the same place; what was written of this one must not outlive a restart before it.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += buffer.len() as u64;
        self.flusher.flush();
        Ok(places)
    }

    /// For quiet moments: retries what could not be written, and writes the file anew when most of it is out of date.
    pub(crate) fn tidy(&mut self) {
        self.write(Vec::new());
        let live: u64 = self.slots.values().map(|slot| slot.length as u64).sum();
        if self.size > COMPACT_FROM && self.size / 3 > live && self.waiting.is_empty() {
            let result = self.rewrite();
            self.outcome(result);
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let temporary = self.directory.join("in-force.new");
        let path = self.directory.join(FILE);
        let file = open_file(&temporary, true)?;
        let mut slots = HashMap::with_capacity(self.slots.len());
        let mut buffer = Vec::new();
        encode(&Line::Format(FORMAT), &mut buffer)?;
        if let Some(root) = self.root {
            encode(&Line::Root(root), &mut buffer)?;
        }
        if self.lost {
            encode(&Line::Lost, &mut buffer)?;
        }
        for (key, slot) in &self.slots {
            let start = buffer.len();
            let mut line = self.read(slot)?;
            if let Line::Put { path, doubtful, .. } = &mut line {
                *doubtful = self.doubtful.contains(key);
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
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(&self.directory)?.sync_all()?;
        self.file = Arc::new(file);
        self.flusher.replace(Arc::clone(&self.file));
        self.slots = slots;
        self.size = buffer.len() as u64;
        Ok(())
    }
}

fn open_file(path: &Path, anew: bool) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(anew)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}
