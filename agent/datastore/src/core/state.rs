//! Which version of which resource is in force: the pure core of every datastore.
//!
//! In: what files hold ([`SourceContent`]), file by file, and the versions accepted in an earlier
//! life ([`Entry`]). Out: updates, the current problems, and what to write to the journal so that a
//! restart begins where this life ends. Never: I/O, clocks.
//!
//! For each resource the outcome depends only on the documents that name it, on the files that may
//! hide it, and on its entry; so any order of the same changes that leaves the same entries ends
//! the same, and a restart (all views at once, entries from the journal) ends like the life before
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{Resource, ResourceKey};

use crate::core::content::{Body, Digest, Doc, Position, SourceContent, SourceId};
use crate::core::problem::{InForce, Problem, Problems};
use crate::core::update::Update;

/// The version in force of one resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The file that it is from.
    pub(crate) path: SourceId,
    /// Digest of the document's text.
    pub(crate) digest: Digest,
    /// Whether it was accepted; else it is a policy that was bad from the start.
    pub(crate) good: bool,
    /// The resource; `None` = its text is in the journal and was not needed yet.
    pub(crate) resource: Option<Resource>,
}

/// What to write to the journal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LogEntry {
    /// This text, from this file, is in force for the resource.
    Put {
        key: ResourceKey,
        path: SourceId,
        digest: Digest,
        good: bool,
        text: Arc<str>,
    },
    /// The text known for the resource now belongs to this file.
    Move { key: ResourceKey, path: SourceId },
    /// The resource is gone.
    Drop { key: ResourceKey },
}

/// What a change led to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decisions {
    /// Deletions, then the rest, each in the order of keys.
    pub(crate) updates: Vec<Update>,
    /// For the journal.
    pub(crate) records: Vec<LogEntry>,
}

/// Looks a version up in the journal: a resource, or the [`Resource::BadPolicy`] that stands for
/// it.
pub(crate) type Recall<'a> = &'a dyn Fn(&ResourceKey) -> Option<Resource>;

/// What a problem belongs to; its problems are replaced together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A part of the shell: a directory, the journal, the watch.
    Place(SourceId),
    /// A file's documents without key.
    File(SourceId),
    /// A resource.
    Key(ResourceKey),
    /// A foreign kind.
    Foreign(String),
}

/// The core. See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    pub(super) contents: BTreeMap<SourceId, SourceContent>,
    /// Files with a document of the resource.
    pub(super) claims: BTreeMap<ResourceKey, BTreeSet<SourceId>>,
    pub(super) entries: BTreeMap<ResourceKey, Entry>,
    pub(super) entries_of: BTreeMap<SourceId, BTreeSet<ResourceKey>>,
    /// Policies without readable key, closed under keys made of the file's name and the document's
    /// number.
    pub(super) nameless: BTreeMap<ResourceKey, Resource>,
    pub(super) nameless_of: BTreeMap<SourceId, BTreeSet<ResourceKey>>,
    foreign: BTreeMap<String, BTreeSet<(SourceId, Position)>>,
    /// What was said to be in force.
    published: BTreeMap<ResourceKey, Resource>,
    problems: BTreeMap<Owner, Vec<Problem>>,
    current: Arc<Problems>,
    stale: bool,
}

impl Versions {
    /// A state with the entries of an earlier life, of which nothing was published yet.
    /// [`Versions::begin`] must follow.
    pub(crate) fn new(entries: BTreeMap<ResourceKey, Entry>) -> Self {
        let mut state = Self::default();
        for (key, entry) in &entries {
            state
                .entries_of
                .entry(Arc::clone(&entry.path))
                .or_default()
                .insert(key.clone());
        }
        state.entries = entries;
        state
    }

    /// Files of which something is in force.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &SourceId> {
        self.entries_of.keys()
    }

    /// Whether anything of this file is in force, so that an empty file means a write under way and
    /// not a file without records.
    pub(crate) fn holds(&self, path: &str) -> bool {
        self.entries_of.contains_key(path)
    }

    /// Whether anything in the directory cannot be read or understood, so that it may hold
    /// resources that nobody knows of.
    pub(crate) fn may_contain_more(&self) -> bool {
        self.contents.values().any(SourceContent::may_contain_anything)
    }

    /// The source that the version in force of a resource is from.
    pub(crate) fn source_of(&self, key: &ResourceKey) -> Option<&SourceId> {
        self.entries.get(key).map(|entry| &entry.path)
    }

    /// Every source that holds something, or did so in an earlier life.
    pub(crate) fn all_sources(&self) -> impl Iterator<Item = &SourceId> {
        let earlier = self.entries_of.keys();
        self.contents
            .keys()
            .chain(earlier.filter(|source| !self.contents.contains_key(*source)))
    }

    /// The first views: everything that the directory holds. Entries that no file claims are
    /// dropped.
    pub(crate) fn begin(&mut self, views: Vec<(SourceId, SourceContent)>, recall: Recall<'_>) -> Decisions {
        let known = self.entries.keys().cloned().collect();
        let changes = views.into_iter().map(|(path, view)| (path, Some(view))).collect();
        self.apply(changes, known, recall)
    }

    /// Files that changed, with what they hold now; `None` = the file is gone.
    pub(crate) fn update(&mut self, changes: Vec<(SourceId, Option<SourceContent>)>, recall: Recall<'_>) -> Decisions {
        self.apply(changes, BTreeSet::new(), recall)
    }

    /// Replaces the problem of a place that the shell watches.
    pub(crate) fn set_place(&mut self, place: &SourceId, problem: Option<Problem>) {
        self.set_problems(Owner::Place(Arc::clone(place)), problem.into_iter().collect());
    }

    /// Everything that is wrong now.
    pub(crate) fn problems(&mut self) -> Arc<Problems> {
        if self.stale {
            self.current = Arc::new(Problems::new(self.problems.values().flatten().cloned()));
            self.stale = false;
        }
        Arc::clone(&self.current)
    }

    fn apply(
        &mut self,
        changes: Vec<(SourceId, Option<SourceContent>)>,
        mut keys: BTreeSet<ResourceKey>,
        recall: Recall<'_>,
    ) -> Decisions {
        let mut files = BTreeSet::new();
        let mut foreign = BTreeSet::new();
        for (path, view) in changes {
            self.replace_view(&path, view, &mut keys, &mut foreign);
            if let Some(held) = self.entries_of.get(&path) {
                keys.extend(held.iter().cloned());
            }
            files.insert(path);
        }
        let mut outcome = Decisions::default();
        for key in &keys {
            self.decide(key, recall, &mut files, &mut outcome.records);
        }
        for path in &files {
            self.decide_source(path, &mut keys);
        }
        for kind in foreign {
            self.decide_foreign(kind);
        }
        outcome.updates = self.publish(keys);
        outcome
    }

    fn replace_view(
        &mut self,
        path: &SourceId,
        view: Option<SourceContent>,
        keys: &mut BTreeSet<ResourceKey>,
        foreign: &mut BTreeSet<String>,
    ) {
        let old = self.contents.remove(path);
        for doc in old.iter().flat_map(SourceContent::docs) {
            if let Some(key) = doc.key() {
                if let Some(files) = self.claims.get_mut(key) {
                    files.remove(path);
                    if files.is_empty() {
                        self.claims.remove(key);
                    }
                }
                keys.insert(key.clone());
            } else if let Body::Foreign(kind) = &doc.body {
                if let Some(places) = self.foreign.get_mut(kind) {
                    places.remove(&(Arc::clone(path), doc.position.clone()));
                }
                foreign.insert(kind.clone());
            }
        }
        for doc in view.iter().flat_map(SourceContent::docs) {
            if let Some(key) = doc.key() {
                self.claims.entry(key.clone()).or_default().insert(Arc::clone(path));
                keys.insert(key.clone());
            } else if let Body::Foreign(kind) = &doc.body {
                self.foreign
                    .entry(kind.clone())
                    .or_default()
                    .insert((Arc::clone(path), doc.position.clone()));
                foreign.insert(kind.clone());
            }
        }
        if let Some(view) = view {
            self.contents.insert(Arc::clone(path), view);
        }
    }

    /// The document of the resource in a file that counts: the first good one, else the first.
    pub(super) fn doc(&self, path: &str, key: &ResourceKey) -> Option<&Doc> {
        let mut docs = self.contents.get(path)?.docs_of(key);
        let first = docs.next()?;
        if matches!(first.body, Body::Good(_)) {
            return Some(first);
        }
        Some(docs.find(|doc| matches!(doc.body, Body::Good(_))).unwrap_or(first))
    }

    fn decide_foreign(&mut self, kind: String) {
        let problem = match self
            .foreign
            .get(&kind)
            .and_then(|places| Some((places.first()?, places.len())))
        {
            Some(((path, position), count)) => {
                let reason = match count {
                    1 => format!("{kind} is none of felid's kinds: ignored"),
                    _ => format!(
                        "{kind} is none of felid's kinds: ignored, here and in {} more documents",
                        count - 1
                    ),
                };
                Some(
                    Problem {
                        in_force: InForce::Nothing,
                        ..Problem::warning(reason)
                    }
                    .from(position.origin(path)),
                )
            }
            None => {
                self.foreign.remove(&kind);
                None
            }
        };
        self.set_problems(Owner::Foreign(kind), problem.into_iter().collect());
    }

    pub(super) fn set_problems(&mut self, owner: Owner, problems: Vec<Problem>) {
        let old = match problems.is_empty() {
            true => self.problems.remove(&owner),
            false => self.problems.insert(owner.clone(), problems),
        };
        self.stale |= old.as_ref() != self.problems.get(&owner);
    }

    /// The difference between what is in force and what was said to be.
    fn publish(&mut self, keys: BTreeSet<ResourceKey>) -> Vec<Update> {
        let mut updates = Vec::new();
        let mut applied = Vec::new();
        for key in keys {
            let entry = self.entries.get(&key).and_then(|entry| entry.resource.as_ref());
            match entry.or_else(|| self.nameless.get(&key)) {
                Some(resource) => {
                    if self.published.get(&key) != Some(resource) {
                        applied.push(Update::Apply(resource.clone()));
                        self.published.insert(key, resource.clone());
                    }
                }
                None => {
                    if self.published.remove(&key).is_some() {
                        updates.push(Update::Delete(key));
                    }
                }
            }
        }
        updates.extend(applied);
        updates
    }
}

#[cfg(test)]
mod tests;
