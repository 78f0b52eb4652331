//! Editing the directory: what `felid apply`, `create`, `replace` and `delete` do.
//!
//! A new resource gets a file of its own, `KIND.NAMESPACE.NAME.yaml` (`KIND.NAME.yaml` without namespace). A resource that is there is
//! changed in place: only the lines of its document (or, in a list, of its item) are rewritten, everything else in the file stays
//! byte for byte; deleting the only document of a file deletes the file. Before a file is written, the new text is parsed
//! again: unless it holds exactly the documents that it should, nothing is done. Files are replaced whole (temporary file, flush, rename, flush of the directory)
//! under a lock that keeps commands apart. Everything is checked before the first file is written.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_model::{Decoded, Document, ResourceKey, decode, documents};
use serde_json::Value;

use crate::input::{Wanted, read_input};
use crate::list::tree;
use crate::rewrite::{Rewrite, rewrite, text_for_new_file};
use crate::view::FilePath;
use crate::walk::Tree;
use crate::write::{remove_file, write_file};

/// How long to wait for another command that edits the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_FILE: &str = ".felid.lock";
/// Longest file name that file systems take.
const MAX_NAME: usize = 255;

/// What to do with resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Create or replace.
    Apply,
    /// Create; it must not exist.
    Create,
    /// Replace; it must exist.
    Replace,
    /// Delete; it must exist.
    Delete,
}

/// What was done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Created,
    /// Its document was rewritten.
    Updated,
    /// Its document said the same already.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Created => "created",
            Action::Updated => "updated",
            Action::Unchanged => "unchanged",
            Action::Deleted => "deleted",
        })
    }
}

/// What was done with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The resource.
    pub key: ResourceKey,
    /// Its file, relative to the directory.
    pub file: Arc<str>,
    /// What was done.
    pub action: Action,
}

/// `Kind/namespace/name created (file)`.
impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.key, self.action, self.file)
    }
}

/// Why nothing was done, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The input has documents that are not accepted.
    #[error("{}", lines(.0))]
    Input(Vec<String>),
    /// What was asked does not fit what is there; one line for each resource.
    #[error("{}", lines(.0))]
    Refused(Vec<String>),
    /// Another command holds the lock.
    #[error("{0} is locked: another command has been editing the directory for more than {LOCK_PATIENCE:?}")]
    Locked(PathBuf),
    /// A file or the directory cannot be read or written. What was done before stands.
    #[error("{path}: {source}{}", done_before(.done))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What was done before it failed.
        done: Vec<Done>,
    },
}

fn lines(lines: &[String]) -> String {
    lines.join("\n")
}

fn done_before(done: &[Done]) -> String {
    done.iter().map(|done| format!("\nbefore that: {done}")).collect()
}

fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EditError {
    let path = path.into();
    move |source| EditError::Io {
        path,
        source,
        done: Vec::new(),
    }
}

/// Does `verb` with each document of `input`. `source` names the input in messages.
pub fn run(directory: &Path, verb: Verb, input: &str, source: &str) -> Result<Vec<Done>, EditError> {
    let wanted = read_input(verb, input, source)?;
    let edit = Edit::begin(directory)?;
    let plan = edit.plan(verb, wanted)?;
    edit.carry_out(plan)
}

/// Deletes resources by their keys; each must exist.
pub fn delete(directory: &Path, keys: &[ResourceKey]) -> Result<Vec<Done>, EditError> {
    let wanted = keys
        .iter()
        .map(|key| Wanted {
            key: key.clone(),
            value: Value::Null,
            text: None,
        })
        .collect();
    let edit = Edit::begin(directory)?;
    let plan = edit.plan(Verb::Delete, wanted)?;
    edit.carry_out(plan)
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
    tree: Tree,
    files: BTreeMap<FilePath, Stored>,
    /// Files and positions of the documents of each resource.
    places: BTreeMap<ResourceKey, Vec<(FilePath, usize)>>,
    _lock: File,
}

/// What to write.
#[derive(Default)]
struct Plan {
    /// Rewrites by file and position.
    rewrites: BTreeMap<FilePath, BTreeMap<usize, Rewrite>>,
    new_files: BTreeMap<FilePath, String>,
    done: Vec<Done>,
}

impl Edit {
    fn begin(directory: &Path) -> Result<Self, EditError> {
        let listed = tree(directory).map_err(io_error(directory))?;
        let Some((root, _)) = listed.root else {
            return Err(io_error(directory)(io::Error::other("not there")));
        };
        let lock = lock(&root.join(LOCK_FILE))?;
        // Again, now that no other command changes it.
        let tree = tree(&root).map_err(io_error(directory))?;
        let mut files = BTreeMap::new();
        let mut places: BTreeMap<ResourceKey, Vec<(FilePath, usize)>> = BTreeMap::new();
        for (path, found) in &tree.files {
            let bytes = std::fs::read(&found.real).map_err(io_error(&found.real))?;
            // What is not text holds nothing that could be edited; an agent reports it.
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let mut documents = documents(&text)
                .into_iter()
                .map(|document| (key_of(&document), document));
            let documents: Vec<_> = documents.by_ref().map(|(key, document)| (document, key)).collect();
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

    fn plan(&self, verb: Verb, wanted: Vec<Wanted>) -> Result<Plan, EditError> {
        let mut plan = Plan::default();
        let mut refused = Vec::new();
        for wanted in wanted {
            let key = wanted.key.clone();
            if let Err(reason) = self.plan_one(verb, wanted, &mut plan) {
                refused.push(format!("{key}: {reason}"));
            }
        }
        if refused.is_empty() {
            Ok(plan)
        } else {
            Err(EditError::Refused(refused))
        }
    }

    fn plan_one(&self, verb: Verb, wanted: Wanted, plan: &mut Plan) -> Result<(), String> {
        let key = wanted.key;
        let (file, index) = match self.places.get(&key).map(Vec::as_slice) {
            None | Some([]) => {
                if matches!(verb, Verb::Replace | Verb::Delete) {
                    return Err("not found".to_owned());
                }
                let text = text_for_new_file(wanted.text.as_deref(), &wanted.value)?;
                let file = self.new_name(&key, plan)?;
                plan.new_files.insert(Arc::clone(&file), text);
                plan.done.push(Done {
                    key,
                    file,
                    action: Action::Created,
                });
                return Ok(());
            }
            Some([place]) => place,
            Some(places) => {
                let files: Vec<String> = places.iter().map(|(file, index)| self.place(file, *index)).collect();
                return Err(format!(
                    "it is there more than once ({}); remove all but one first",
                    files.join(", ")
                ));
            }
        };
        if verb == Verb::Create {
            return Err(format!("exists already, in {}", self.place(file, *index)));
        }
        let Some(stored) = self.files.get(file) else {
            return Err("not found".to_owned());
        };
        let Some((document, _)) = stored.documents.get(*index) else {
            return Err("not found".to_owned());
        };
        let place = self.place(file, *index);
        let Ok(old) = &document.content else {
            return Err(format!(
                "its document in {place} cannot be parsed; mend or remove it by hand"
            ));
        };
        if verb != Verb::Delete && *old == wanted.value {
            plan.done.push(Done {
                key,
                file: Arc::clone(file),
                action: Action::Unchanged,
            });
            return Ok(());
        }
        if stored.linked {
            let real = stored.real.display();
            return Err(format!(
                "{file} is reached through a link ({real}), as in a mounted ConfigMap; change it there"
            ));
        }
        let (rewrite, action) = match verb {
            Verb::Delete => (Rewrite::Remove, Action::Deleted),
            _ => (
                Rewrite::Replace {
                    text: wanted.text,
                    value: wanted.value,
                },
                Action::Updated,
            ),
        };
        plan.rewrites
            .entry(Arc::clone(file))
            .or_default()
            .insert(*index, rewrite);
        plan.done.push(Done {
            key,
            file: Arc::clone(file),
            action,
        });
        Ok(())
    }

    fn place(&self, file: &FilePath, index: usize) -> String {
        let line = self
            .files
            .get(file)
            .and_then(|stored| Some(stored.documents.get(index)?.0.line));
        line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"))
    }

    /// A name for the file of a new resource that nothing else has.
    fn new_name(&self, key: &ResourceKey, plan: &Plan) -> Result<FilePath, String> {
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
                let digest = crate::view::Digest::of(base.as_bytes());
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

    fn carry_out(self, plan: Plan) -> Result<Vec<Done>, EditError> {
        // First everything in memory, so that what cannot be done is refused before anything is written.
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
            return Err(EditError::Refused(refused));
        }
        let mut written: Vec<FilePath> = Vec::new();
        let failed = |path: &Path, source: io::Error, written: &[FilePath]| {
            let done = plan
                .done
                .iter()
                .filter(|done| written.contains(&done.file))
                .cloned()
                .collect();
            EditError::Io {
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
        Decoded::Foreign { .. } | Decoded::Empty => None,
    }
}

fn lock(path: &Path) -> Result<File, EditError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_error(path))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(EditError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error(path)(source)),
        }
    }
}
