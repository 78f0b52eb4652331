//! Reads the files that may be read, and tells files that are gone from files that are merely out
//! of sight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::core::content::{SourceContent, SourceId};
use crate::core::source::{Event, Known};
use crate::directory::read::{Job, ReadOutcome, open, read_all};
use crate::directory::readiness::QUIESCENCE;
use crate::directory::stamp::Stamp;
use crate::directory::watcher::{DirectoryWatcher, Fingerprint};

const EMPTY: &str = "the file is empty, as after a write that failed; delete the file to delete its records";

impl DirectoryWatcher {
    /// Reads the files that are to be read now. What someone began to write to meanwhile is left
    /// for later.
    pub(super) fn read(&mut self, known: &Known<'_>) -> Vec<Event> {
        let now = Instant::now();
        let mut ready = self.readiness.take_ready();
        let is_written = |path: &SourceId| {
            let found = self.tree.files.get(path);
            found.is_some_and(|found| self.readiness.is_written(&found.real))
        };
        let written: Vec<SourceId> = ready.extract_if(.., is_written).collect();
        for path in written {
            self.readiness.touched(path, now);
        }
        let jobs: Vec<Job<'_>> = ready
            .iter()
            .filter_map(|path| Some((path, self.tree.files.get(path)?)))
            .map(|(path, found)| Job {
                path: Arc::clone(path),
                real: &found.real,
                digest: self.known.get(path).copied().flatten().and_then(|known| known.digest),
                as_it_is: self.writers.is_overdue(path, now),
            })
            .collect();
        let Some(first) = jobs.first() else {
            return Vec::new();
        };
        if let (None, Some(is_open)) = (&self.unanswered, self.is_open)
            && let Ok(file) = open(first.real)
        {
            self.unanswered = Some(is_open(&file).err().map(|error| error.to_string()));
        }
        // What can be read is not gone, unless an event says so from here on.
        let away: BTreeMap<SourceId, Instant> = jobs
            .iter()
            .filter_map(|job| Some((Arc::clone(&job.path), self.departures.is_back(&job.path)?)))
            .collect();
        let results = read_all(jobs, self.is_open);
        // Events that came while reading tell of writers that the content alone does not betray.
        self.drain();
        let mut events = Vec::new();
        for (path, stamp, outcome) in results {
            let found = self.tree.files.get(&path);
            if found.is_some_and(|found| self.readiness.is_written(&found.real)) {
                self.readiness.touched(path, Instant::now());
                continue;
            }
            self.readiness.done(&path);
            if matches!(outcome, ReadOutcome::Open) {
                let due = self.writers.found_open(&path, known.holds(&path), Instant::now());
                self.readiness.again(path, stamp, due);
                continue;
            }
            if matches!(outcome, ReadOutcome::Gone) {
                let since = away.get(&path).copied().unwrap_or_else(Instant::now);
                self.departures.is_away(path, since);
                continue;
            }
            if let Some(content) = self.judge(known, &path, stamp, outcome) {
                events.push(Event::Apply(path, content));
            }
        }
        if !events.is_empty() {
            self.root.filled(Instant::now());
        }
        events
    }

    /// What was read of a file; `None` = nothing new.
    fn judge(
        &mut self,
        known: &Known<'_>,
        path: &SourceId,
        stamp: Option<Stamp>,
        outcome: ReadOutcome,
    ) -> Option<SourceContent> {
        let before = self.known.get(path).copied().flatten();
        let (content, digest) = match outcome {
            ReadOutcome::Same => (None, before.and_then(|before| before.digest)),
            ReadOutcome::New(digest, content) => (Some(content), Some(digest)),
            ReadOutcome::Empty if !known.holds(path) => (Some(SourceContent::parsed(Vec::new())), None),
            ReadOutcome::Empty => {
                // Perhaps only for this moment.
                let quiet = stamp.is_some_and(|stamp| stamp.older_than(QUIESCENCE, SystemTime::now()));
                if !quiet {
                    self.readiness.touched(Arc::clone(path), Instant::now());
                    return None;
                }
                (Some(SourceContent::Unreadable(EMPTY.to_owned())), None)
            }
            ReadOutcome::Torn => {
                self.readiness.touched(Arc::clone(path), Instant::now());
                return None;
            }
            ReadOutcome::Unfinished(content) => {
                // It is read again when it is closed, even if its bytes stay the same.
                self.known.insert(Arc::clone(path), None);
                let due = self.writers.taken(path, Instant::now());
                self.readiness.again(Arc::clone(path), stamp, due);
                return Some(content);
            }
            ReadOutcome::Gone | ReadOutcome::Open => return None,
            ReadOutcome::Failed(reason) => {
                self.writers.done(path);
                self.known.insert(Arc::clone(path), None);
                return Some(SourceContent::Unreadable(reason));
            }
        };
        self.writers.done(path);
        let fingerprint = stamp.map(|stamp| Fingerprint { stamp, digest });
        self.known.insert(Arc::clone(path), fingerprint);
        content
    }

    /// Files that are gone for good.
    pub(super) fn leave(&mut self, known: &Known<'_>, now: Instant, arrived: &[Event]) -> Vec<Event> {
        if self.departures.is_empty() || self.root.is_returning() {
            return self.end_return(now).into_iter().collect();
        }
        let mut due = self.replaced_by(known, arrived);
        // As long as a file waits to be read, nobody knows whether it holds what others have held.
        if !self.has_unread(now) {
            due.extend(self.departures.due(now));
        }
        if due.is_empty() || !self.root_stands() {
            return Vec::new();
        }
        // Only a scan tells a file that was deleted from one that is out of sight together with its
        // directory or behind a link.
        let is_plain = |path: &SourceId| match self.tree.files.get(path) {
            Some(found) => {
                let parent = found.real.parent();
                parent.is_some_and(|parent| self.tree.directories.contains_key(parent) && parent.is_dir())
            }
            None => true,
        };
        if !due.iter().all(is_plain) {
            self.rescan(known, false);
            if self.tree.root.is_none() || self.root.is_returning() {
                return Vec::new();
            }
        }
        due.into_iter().filter_map(|path| self.depart(path, now)).collect()
    }

    /// Takes a file out of the tree if it is still not there.
    fn depart(&mut self, path: SourceId, now: Instant) -> Option<Event> {
        self.departures.is_back(&path)?;
        let there = self.tree.files.get(&path).map(|found| found.real.symlink_metadata());
        match there {
            Some(Ok(_)) => self.readiness.touched(path, now),
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => self.schedule.needed = true,
            _ => {
                self.tree.remove(&path);
                self.readiness.done(&path);
                self.writers.done(&path);
                self.known.remove(&path)?;
                return Some(Event::Delete(path));
            }
        }
        None
    }

    /// Files on their way out whose records are in files that just arrived: renamed, so there is
    /// nothing to wait for.
    fn replaced_by(&self, known: &Known<'_>, arrived: &[Event]) -> BTreeSet<SourceId> {
        let contents = arrived.iter().filter_map(|event| match event {
            Event::Apply(_, content) => Some(content),
            _ => None,
        });
        contents
            .flat_map(|content| known.holders(content))
            .filter(|path| self.departures.contains(path))
            .collect()
    }
}
