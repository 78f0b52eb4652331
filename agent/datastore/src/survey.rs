//! Looking at the whole tree, reading what changed, and telling what is gone from what is merely out of sight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::read::{Content, Job, read_all};
use crate::shell::{Known, MASS, MASS_LIMIT, RETURN, SETTLE, Shell};
use crate::view::{FilePath, View};
use crate::walk::{Stamp, directory_id, is_at_or_below, walk};

/// What a directory, watched in the end, may change while it is being walked.
const WALKS: usize = 5;

const EMPTY: &str = "the file is empty, as after a write that failed; delete the file to delete its records";

impl Shell {
    /// Walks the tree, watches its directories and notes what changed. `whole` = also renew watches and retry what could not be
    /// read.
    pub(crate) fn survey(&mut self, whole: bool) {
        let before = std::mem::take(&mut self.tree);
        let mut again = whole;
        for _ in 0..WALKS {
            self.tree = walk(&self.directory);
            let watched = self.tree.watched();
            // What appears in a directory between the walk and the watch would be missed.
            let settled = watched.iter().all(|directory| self.watch.covers(directory));
            self.watch_fault = self.watch.set(&watched, again).err();
            again = false;
            if settled || self.watch_fault.is_some() {
                break;
            }
        }
        let now = Instant::now();
        self.walk_needed = false;
        if whole {
            self.next_rescan = now + self.rescan;
        }
        self.note_unmounted(&before.mounts);
        self.note_root(now);
        self.compare(now);
    }

    /// Whether nothing at all can be seen of the directory.
    pub(crate) fn is_blind(&self) -> bool {
        self.tree.root.is_none() || self.tree.unknown.contains_key("")
    }

    fn note_unmounted(&mut self, mounts: &BTreeSet<FilePath>) {
        let tree = &self.tree;
        let empty = |place: &FilePath| {
            let stands = tree.directories.values().any(|directory| directory == place);
            let below: FilePath = Arc::from(format!("{place}/"));
            let bare = tree
                .files
                .range(below..)
                .next()
                .is_none_or(|(path, _)| !is_at_or_below(path, place));
            stands && bare && !tree.mounts.contains(place)
        };
        let lost = mounts
            .iter()
            .chain(&self.unmounted)
            .filter(|place| empty(place))
            .cloned()
            .collect();
        self.unmounted = lost;
    }

    fn note_root(&mut self, now: Instant) {
        match self.tree.root {
            None => self.root_lost = true,
            Some((_, id)) => {
                let replaced = self.journal.root().is_some_and(|known| known != id);
                if (self.root_lost || replaced) && self.returned.is_none() && !self.known.is_empty() {
                    self.returned = Some(now);
                }
                self.root_lost = false;
            }
        }
    }

    /// Whether nothing is known about a file, so that its absence means nothing.
    pub(crate) fn is_held(&self, path: &str) -> bool {
        self.tree.is_unknown(path) || self.unmounted.iter().any(|place| is_at_or_below(path, place))
    }

    fn compare(&mut self, now: Instant) {
        let clock = SystemTime::now();
        let mut later = Vec::new();
        for (path, found) in &self.tree.files {
            self.vanishing.remove(path);
            if let Some(Some(known)) = self.known.get(path)
                && known.stamp == found.stamp
            {
                continue;
            }
            let swapped = self.swapped
                && match self.known.get(path) {
                    Some(Some(known)) => !known.stamp.same_file(&found.stamp),
                    Some(None) | None => true,
                };
            if self.writing.contains_key(&found.real) || !(swapped || found.stamp.older_than(SETTLE, clock)) {
                later.push(Arc::clone(path));
            } else {
                self.reads.insert(Arc::clone(path));
            }
        }
        for path in later {
            self.look_later(path);
        }
        let missing: Vec<FilePath> = self
            .known
            .keys()
            .filter(|path| !self.tree.files.contains_key(*path) && !self.is_held(path))
            .cloned()
            .collect();
        self.vanishing.retain(|path, _| missing.binary_search(path).is_ok());
        for path in missing {
            self.vanishing.entry(path).or_insert(now);
        }
    }

    /// Reads the files that are to be read now. What someone began to write to meanwhile is left for later.
    pub(crate) fn read(&mut self) -> Vec<(FilePath, Option<View>)> {
        let reads = std::mem::take(&mut self.reads);
        let jobs: Vec<Job<'_>> = reads
            .iter()
            .filter_map(|path| Some((path, self.tree.files.get(path)?)))
            .filter(|(_, found)| !self.writing.contains_key(&found.real))
            .map(|(path, found)| Job {
                path: Arc::clone(path),
                real: &found.real,
                digest: self.known.get(path).copied().flatten().and_then(|known| known.digest),
            })
            .collect();
        if jobs.is_empty() {
            return Vec::new();
        }
        // What can be read is not gone, unless an event says so from here on.
        let away: BTreeMap<FilePath, Instant> = jobs
            .iter()
            .filter_map(|job| self.vanishing.remove_entry(&job.path))
            .collect();
        let results = read_all(jobs);
        // Events that came while reading tell of writers that the content alone does not betray. An end is found by the next wait.
        self.stopped |= !self.drain();
        let mut changes = Vec::new();
        for (path, stamp, content) in results {
            let being_written = self
                .tree
                .files
                .get(&path)
                .is_some_and(|found| self.writing.contains_key(&found.real));
            if being_written {
                self.look_later(path);
                continue;
            }
            self.unsettled.remove(&path);
            if matches!(content, Content::Gone) {
                let since = away.get(&path).copied().unwrap_or_else(Instant::now);
                self.vanishing.entry(path).or_insert(since);
                continue;
            }
            if let Some(view) = self.judge(&path, stamp, content) {
                changes.push((path, Some(view)));
            }
        }
        if !changes.is_empty() && self.returned.is_some() {
            self.returned = Some(Instant::now());
        }
        changes
    }

    /// What the content of a file means; `None` = nothing new.
    fn judge(&mut self, path: &FilePath, stamp: Option<Stamp>, content: Content) -> Option<View> {
        let known = self.known.get(path).copied().flatten();
        let (view, digest) = match content {
            Content::Same => (None, known.and_then(|known| known.digest)),
            Content::New(digest, view) => (Some(view), Some(digest)),
            Content::Empty if !self.state.holds(path) => (Some(View::parsed(Vec::new())), None),
            Content::Empty => {
                // Perhaps only for this moment.
                let settled = stamp.is_some_and(|stamp| stamp.older_than(SETTLE, SystemTime::now()));
                if !settled {
                    self.look_later(Arc::clone(path));
                    return None;
                }
                (Some(View::Unreadable(EMPTY.to_owned())), None)
            }
            Content::Torn => {
                self.look_later(Arc::clone(path));
                return None;
            }
            Content::Gone => return None,
            Content::Failed(reason) => {
                self.known.insert(Arc::clone(path), None);
                return Some(View::Unreadable(reason));
            }
        };
        self.known
            .insert(Arc::clone(path), stamp.map(|stamp| Known { stamp, digest }));
        view
    }

    /// When to look whether files are gone.
    pub(crate) fn vanish_due(&self) -> Option<Instant> {
        let first = *self.vanishing.values().min()?;
        if self.vanishing.len() > MASS {
            return Some(
                (self.last_gone + self.vanish)
                    .min(first + MASS_LIMIT)
                    .max(first + self.vanish),
            );
        }
        Some(first + self.vanish)
    }

    /// Files that are gone for good, as changes.
    pub(crate) fn departures(
        &mut self,
        now: Instant,
        arrived: &[(FilePath, Option<View>)],
    ) -> Vec<(FilePath, Option<View>)> {
        if self.vanishing.is_empty() {
            self.end_return(now);
            return Vec::new();
        }
        let mut due = self.replaced_by(arrived);
        if self.returned.is_none() && self.vanish_due().is_some_and(|due| due <= now) {
            due.extend(
                self.vanishing
                    .iter()
                    .filter(|(_, since)| **since + self.vanish <= now)
                    .map(|(p, _)| Arc::clone(p)),
            );
        } else if self.returned.is_some() {
            self.end_return(now);
        }
        if due.is_empty() || !self.root_stands() {
            return Vec::new();
        }
        // Only a walk tells a file that was deleted from one that is out of sight together with its directory or behind a link.
        let plain = |path: &FilePath| match self.tree.files.get(path) {
            Some(found) => {
                let parent = found.real.parent();
                parent.is_some_and(|parent| self.tree.directories.contains_key(parent) && parent.is_dir())
            }
            None => true,
        };
        if !due.iter().all(plain) {
            self.survey(false);
            if self.tree.root.is_none() || self.returned.is_some() {
                return Vec::new();
            }
        }
        let mut gone = Vec::new();
        for path in due {
            if self.vanishing.remove(&path).is_none() {
                continue;
            }
            let there = self.tree.files.get(&path).map(|found| found.real.symlink_metadata());
            match there {
                Some(Ok(_)) => self.look_later(path),
                Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => self.walk_needed = true,
                _ => {
                    self.tree.remove(&path);
                    self.unsettled.remove(&path);
                    if self.known.remove(&path).is_some() {
                        gone.push((path, None));
                    }
                }
            }
        }
        gone
    }

    /// Files on their way out whose records are in files that just arrived: renamed, so there is nothing to wait for.
    fn replaced_by(&self, arrived: &[(FilePath, Option<View>)]) -> BTreeSet<FilePath> {
        if self.returned.is_some() {
            return BTreeSet::new();
        }
        let views = arrived.iter().filter_map(|(_, view)| view.as_ref());
        let files = views.flat_map(|view| self.state.holders(view)).collect::<BTreeSet<_>>();
        files
            .into_iter()
            .filter(|path| self.vanishing.contains_key(path))
            .collect()
    }

    /// Whether the root is the one that was walked; else everything is out of sight.
    fn root_stands(&mut self) -> bool {
        let stands = self.tree.root.as_ref().is_some_and(|(real, id)| {
            real.metadata()
                .is_ok_and(|metadata| metadata.is_dir() && directory_id(&metadata) == *id)
        });
        if !stands {
            self.root_lost = true;
            self.walk_needed = true;
        }
        stands
    }

    /// Ends the time in which a root that came back is being filled.
    fn end_return(&mut self, now: Instant) {
        let Some((_, id)) = self.tree.root else { return };
        match self.returned {
            Some(since) => {
                let complete = self.vanishing.is_empty() || now.duration_since(since) >= RETURN;
                if !self.tree.files.is_empty() && complete {
                    self.returned = None;
                    self.journal.set_root(id);
                }
            }
            None => self.journal.set_root(id),
        }
    }
}
