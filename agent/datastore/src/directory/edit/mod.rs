//! Editing the directory: what `felid apply`, `create`, `replace` and `delete` do.
//!
//! A new resource gets a file of its own, `KIND.NAMESPACE.NAME.yaml` (`KIND.NAME.yaml` without
//! namespace). A resource that is there is changed in place: only the lines of its document (or, in
//! a list, of its item) are rewritten, everything else in the file stays byte for byte; deleting
//! the only document of a file deletes the file. Before a file is written, the new text is parsed
//! again: unless it holds exactly the documents that it should, nothing is done. Files are replaced
//! whole (temporary file, flush, rename, flush of the directory) under a lock that keeps commands
//! apart. Everything is checked before the first file is written.

mod items;
mod json;
mod rewrite;
mod text;
mod write;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_model::{Decoded, Document, ResourceKey, decode, documents};

use crate::core::content::{Digest, SourceId};
use crate::directory::list::{resource_version, tree};
use crate::directory::scan::FileTree;
use crate::record::{Record, take_resource_version};
use crate::store::{Action, Done, LOCK_TIMEOUT, StoreError, Verb};

use rewrite::{rewrite, text_for_new_file};
use text::Rewrite;
use write::{remove_file, write_file};

const LOCK_FILE: &str = ".felid.lock";
/// Longest file name that file systems take.
const MAX_NAME: usize = 255;

fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.into();
    move |source| StoreError::Io {
        path,
        source,
        done: Vec::new(),
    }
}

/// What to do with one resource.
enum Task {
    Write(Verb, Record),
    Delete(ResourceKey),
}

impl Task {
    const fn key(&self) -> &ResourceKey {
        match self {
            Task::Write(_, record) => record.key(),
            Task::Delete(key) => key,
        }
    }
}

/// Does `verb` with each record.
pub(super) fn write(directory: &Path, verb: Verb, records: Vec<Record>) -> Result<Vec<Done>, StoreError> {
    carry_out(
        directory,
        records.into_iter().map(|record| Task::Write(verb, record)).collect(),
    )
}

/// Deletes resources by their keys; each must exist.
pub(super) fn delete(directory: &Path, keys: &[ResourceKey]) -> Result<Vec<Done>, StoreError> {
    carry_out(directory, keys.iter().cloned().map(Task::Delete).collect())
}

fn carry_out(directory: &Path, tasks: Vec<Task>) -> Result<Vec<Done>, StoreError> {
    let edit = Edit::begin(directory)?;
    let plan = edit.plan(tasks)?;
    edit.carry_out(plan)
}

/// Why something that was asked is not done.
enum PlanError {
    /// The record is based on a version that is no longer the latest.
    Conflict(String),
    Other(String),
}

impl From<&str> for PlanError {
    fn from(reason: &str) -> Self {
        PlanError::Other(reason.to_owned())
    }
}

impl From<String> for PlanError {
    fn from(reason: String) -> Self {
        PlanError::Other(reason)
    }
}

/// A file of the directory as it was read under the lock.
struct Stored {
    real: PathBuf,
    /// Reached through a link.
    linked: bool,
    text: String,
    documents: Vec<(Document, Option<ResourceKey>)>,
}

struct Edit {
    root: PathBuf,
    tree: FileTree,
    files: BTreeMap<SourceId, Stored>,
    /// Files and positions of the documents of each resource.
    places: BTreeMap<ResourceKey, Vec<(SourceId, usize)>>,
    _lock: File,
}

/// What to write.
#[derive(Default)]
struct Plan {
    /// Rewrites by file and position.
    rewrites: BTreeMap<SourceId, BTreeMap<usize, Rewrite>>,
    new_files: BTreeMap<SourceId, String>,
    done: Vec<Done>,
}

impl Plan {
    fn note(&mut self, key: ResourceKey, file: &SourceId, action: Action) {
        let file = Arc::clone(file);
        self.done.push(Done { key, file, action });
    }
}

/// Whether the record is based on this version, or on none in particular.
fn is_latest(record: &Record, latest: &str) -> Result<(), PlanError> {
    match &record.resource_version {
        Some(version) if version != latest => Err(PlanError::Conflict(format!(
            "resource version '{version}' is out of date (latest: {latest}); get the resource again and repeat the change"
        ))),
        _ => Ok(()),
    }
}

impl Edit {
    fn begin(directory: &Path) -> Result<Self, StoreError> {
        let listed = tree(directory).map_err(io_error(directory))?;
        let Some((root, _)) = listed.root else {
            return Err(io_error(directory)(io::Error::other("not there")));
        };
        let lock = lock(&root.join(LOCK_FILE))?;
        // Again, now that no other command changes it.
        let tree = tree(&root).map_err(io_error(directory))?;
        let mut files = BTreeMap::new();
        let mut places: BTreeMap<ResourceKey, Vec<(SourceId, usize)>> = BTreeMap::new();
        for (path, found) in &tree.files {
            let bytes = std::fs::read(&found.real).map_err(io_error(&found.real))?;
            // What is not text holds nothing that could be edited; an agent reports it.
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let documents: Vec<_> = documents(&text)
                .into_iter()
                .map(|document| {
                    let key = key_of(&document);
                    (document, key)
                })
                .collect();
            for (index, (_, key)) in documents.iter().enumerate() {
                if let Some(key) = key {
                    places.entry(key.clone()).or_default().push((Arc::clone(path), index));
                }
            }
            let linked = found.real != root.join(&**path);
            files.insert(
                Arc::clone(path),
                Stored {
                    real: found.real.clone(),
                    linked,
                    text,
                    documents,
                },
            );
        }
        Ok(Self {
            root,
            tree,
            files,
            places,
            _lock: lock,
        })
    }

    fn plan(&self, tasks: Vec<Task>) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        let (mut refused, mut conflict) = (Vec::new(), false);
        for task in tasks {
            let key = task.key().clone();
            match self.plan_one(task, &mut plan) {
                Ok(()) => {}
                Err(PlanError::Conflict(reason)) => {
                    conflict = true;
                    refused.push(format!("update conflict: {key}: {reason}"));
                }
                Err(PlanError::Other(reason)) => refused.push(format!("{key}: {reason}")),
            }
        }
        match (refused.is_empty(), conflict) {
            (true, _) => Ok(plan),
            (false, false) => Err(StoreError::Refused(refused)),
            (false, true) => Err(StoreError::Conflict(refused)),
        }
    }

    fn plan_one(&self, task: Task, plan: &mut Plan) -> Result<(), PlanError> {
        let (file, index) = match (self.places.get(task.key()).map(Vec::as_slice), &task) {
            (None | Some([]), Task::Delete(_) | Task::Write(Verb::Replace, _)) => return Err("not found".into()),
            (None | Some([]), Task::Write(_, record)) => return self.plan_new(record, plan),
            (Some([(file, index)]), _) => (file, *index),
            (Some(places), _) => {
                let files: Vec<String> = places.iter().map(|(file, index)| self.place(file, *index)).collect();
                let files = files.join(", ");
                return Err(format!("it is there more than once ({files}); remove all but one first").into());
            }
        };
        if matches!(task, Task::Write(Verb::Create, _)) {
            return Err(format!("exists already, in {}", self.place(file, index)).into());
        }
        let stored = self.files.get(file).ok_or("not found")?;
        let (document, _) = stored.documents.get(index).ok_or("not found")?;
        let Ok(old_value) = &document.content else {
            let place = self.place(file, index);
            return Err(format!("its document in {place} cannot be parsed; mend or remove it by hand").into());
        };
        let key = task.key().clone();
        let (rewrite, action) = match task {
            Task::Delete(_) => (Rewrite::Remove, Action::Deleted),
            Task::Write(_, record) => {
                let mut old = old_value.clone();
                take_resource_version(&mut old);
                if old == record.value {
                    plan.note(key, file, Action::Unchanged);
                    return Ok(());
                }
                is_latest(&record, &resource_version(old_value))?;
                let Record { text, value, .. } = record;
                (Rewrite::Replace { text, value }, Action::Updated)
            }
        };
        if stored.linked {
            let real = stored.real.display();
            let reason =
                format!("{file} is reached through a link ({real}), as in a mounted ConfigMap; change it there");
            return Err(reason.into());
        }
        plan.rewrites
            .entry(Arc::clone(file))
            .or_default()
            .insert(index, rewrite);
        plan.note(key, file, action);
        Ok(())
    }

    fn plan_new(&self, record: &Record, plan: &mut Plan) -> Result<(), PlanError> {
        let text = text_for_new_file(record.text.as_deref(), &record.value)?;
        let file = self.new_name(&record.key, plan)?;
        plan.new_files.insert(Arc::clone(&file), text);
        plan.note(record.key.clone(), &file, Action::Created);
        Ok(())
    }

    fn place(&self, file: &SourceId, index: usize) -> String {
        let line = self
            .files
            .get(file)
            .and_then(|stored| Some(stored.documents.get(index)?.0.line));
        line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"))
    }

    /// A name for the file of a new resource that nothing else has.
    fn new_name(&self, key: &ResourceKey, plan: &Plan) -> Result<SourceId, String> {
        let parts = [
            Some(key.kind.to_string()),
            key.namespace.as_deref().map(str::to_owned),
            Some(key.name.to_string()),
        ];
        let base = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
        if base.contains(['/', '\0']) {
            return Err("its name cannot be a file's name".to_owned());
        }
        let base: String = match base.len() + ".yaml".len() + "-99".len() <= MAX_NAME {
            true => base,
            false => {
                let digest = Digest::of(base.as_bytes());
                let short: String = base.chars().take(150).collect();
                format!("{short}-{digest:?}")
            }
        };
        let names = std::iter::once(format!("{base}.yaml")).chain((2..100).map(|n| format!("{base}-{n}.yaml")));
        let free = |name: &String| {
            !self.tree.is_unknown(name)
                && !plan.new_files.contains_key(name.as_str())
                && self
                    .root
                    .join(name)
                    .symlink_metadata()
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        names
            .into_iter()
            .find(free)
            .map(Arc::from)
            .ok_or_else(|| format!("no file name is free: {base}.yaml and others exist"))
    }

    fn carry_out(self, plan: Plan) -> Result<Vec<Done>, StoreError> {
        // First everything in memory, so that what cannot be done is refused before anything is
        // written.
        let mut texts = Vec::new();
        let mut refused = Vec::new();
        for (file, rewrites) in &plan.rewrites {
            let Some(stored) = self.files.get(file) else { continue };
            let documents = stored.documents.iter().map(|(document, _)| document);
            match rewrite(&stored.text, &documents.collect::<Vec<_>>(), rewrites) {
                Ok(text) => texts.push((file, stored, text)),
                Err(reason) => refused.push(format!("{file}: {reason}")),
            }
        }
        if !refused.is_empty() {
            return Err(StoreError::Refused(refused));
        }
        let mut written: Vec<SourceId> = Vec::new();
        let failed = |path: &Path, source: io::Error, written: &[SourceId]| {
            let done = plan
                .done
                .iter()
                .filter(|done| written.contains(&done.file))
                .cloned()
                .collect();
            StoreError::Io {
                path: path.to_owned(),
                source,
                done,
            }
        };
        for (file, stored, text) in texts {
            let result = match text {
                Some(text) => write_file(&stored.real, text.as_bytes(), Some(stored.text.as_bytes())),
                None => remove_file(&stored.real, stored.text.as_bytes()),
            };
            result.map_err(|source| failed(&stored.real, source, &written))?;
            written.push(Arc::clone(file));
        }
        for (file, text) in &plan.new_files {
            let real = self.root.join(&**file);
            write_file(&real, text.as_bytes(), None).map_err(|source| failed(&real, source, &written))?;
            written.push(Arc::clone(file));
        }
        Ok(plan.done)
    }
}

fn key_of(document: &Document) -> Option<ResourceKey> {
    match decode(document) {
        Decoded::Resource { resource, .. } => Some(resource.key().clone()),
        Decoded::Bad { key, .. } => key,
        Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => None,
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        // A link in its place would make a file elsewhere.
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(io_error(path))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(io_error(path)(io::Error::other("not a file; remove it")));
    }
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error(path)(source)),
        }
    }
}
