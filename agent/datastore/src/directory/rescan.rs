//! Scans the whole tree, and notes what has to be read and what is missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::core::content::SourceId;
use crate::core::source::{Event, Known};
use crate::directory::readiness::{Moment, QUIESCENCE};
use crate::directory::root::DirectoryId;
use crate::directory::scan::{FileTree, is_at_or_below, scan};
use crate::directory::watcher::DirectoryWatcher;

/// How often a tree that changes while it is being scanned is scanned again.
const SCANS: usize = 5;

impl DirectoryWatcher {
    /// Scans the tree, watches its directories and notes what changed. `whole` = also renew watches
    /// and retry what could not be read.
    pub(super) fn rescan(&mut self, known: &Known<'_>, whole: bool) {
        let before = std::mem::take(&mut self.tree);
        let mut again = whole;
        for _ in 0..SCANS {
            self.tree = scan(&self.directory);
            let watched = self.tree.watched();
            // What appears in a directory between the scan and the watch would be missed.
            let covered = watched.iter().all(|directory| self.watches.covers(directory));
            self.watches.set(&watched, again);
            again = false;
            if covered || self.watches.fault().is_some() {
                break;
            }
        }
        let at = Moment::now();
        self.schedule.needed = false;
        if whole {
            self.schedule.next = at.now + self.schedule.interval;
        }
        self.unmounted = unmounted(&self.tree, before.mounts.iter().chain(&self.unmounted));
        let found = self.tree.root.as_ref().map(|(_, id)| *id);
        let remembered = self.remembered(known);
        self.root.looked(found, remembered, !self.known.is_empty(), at.now);
        self.compare(at);
    }

    /// The root of which the versions in force are.
    pub(super) fn remembered(&self, known: &Known<'_>) -> Option<DirectoryId> {
        serde_json::from_value(known.bookmark()?.clone()).ok()
    }

    /// Remembers the root as it is now.
    pub(super) fn remember(&self) -> Option<Event> {
        let (_, id) = self.tree.root.as_ref()?;
        serde_json::to_value(id).ok().map(Event::Bookmark)
    }

    /// Whether nothing can be known about a file, so that its absence means nothing.
    pub(super) fn is_out_of_sight(&self, path: &str) -> bool {
        self.tree.is_unknown(path) || self.unmounted.iter().any(|place| is_at_or_below(path, place))
    }

    fn compare(&mut self, at: Moment) {
        let mut later = Vec::new();
        for (path, found) in &self.tree.files {
            self.departures.is_back(path);
            let known = self.known.get(path).copied().flatten();
            if known.is_some_and(|known| known.stamp == found.stamp) {
                continue;
            }
            let swapped = self.schedule.swapped && known.is_none_or(|known| !known.stamp.same_file(&found.stamp));
            let whole = swapped || found.stamp.older_than(QUIESCENCE, at.clock);
            if whole && !self.readiness.is_written(&found.real) {
                self.readiness.found_whole(Arc::clone(path));
            } else {
                later.push(Arc::clone(path));
            }
        }
        let files = &self.tree.files;
        self.writers.retain(|file| files.contains_key(file));
        for path in later {
            self.readiness.touched(path, at.now);
        }
        let missing: Vec<SourceId> = self
            .known
            .keys()
            .filter(|path| !self.tree.files.contains_key(*path) && !self.is_out_of_sight(path))
            .cloned()
            .collect();
        self.departures.retain(&missing);
        for path in missing {
            self.departures.is_away(path, at.now);
        }
    }

    /// Notes that the root is not the one that was scanned, if so: then everything is out of sight.
    pub(super) fn root_stands(&mut self) -> bool {
        let stands = self.tree.root.as_ref().is_some_and(|(real, id)| {
            real.metadata()
                .is_ok_and(|metadata| metadata.is_dir() && crate::directory::scan::directory_id(&metadata) == *id)
        });
        if !stands {
            self.root.is_lost();
            self.schedule.needed = true;
        }
        stands
    }

    /// Remembers the root when it is complete.
    pub(super) fn end_return(&mut self, now: Instant) -> Option<Event> {
        self.tree.root.as_ref()?;
        let (empty, missing) = (self.tree.files.is_empty(), !self.departures.is_empty());
        self.root.is_complete(empty, missing, now).then(|| self.remember())?
    }
}

/// Those of the places where a file system was mounted that are empty directories without one now.
fn unmounted<'a>(tree: &FileTree, places: impl Iterator<Item = &'a SourceId>) -> BTreeSet<SourceId> {
    let is_empty = |place: &&SourceId| {
        let stands = tree.directories.values().any(|directory| directory == *place);
        let below: SourceId = Arc::from(format!("{place}/"));
        let mut files = tree.files.range(below..);
        let bare = files.next().is_none_or(|(path, _)| !is_at_or_below(path, place));
        stands && bare && !tree.mounts.contains(*place)
    };
    places.filter(is_empty).cloned().collect()
}
