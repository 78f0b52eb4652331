//! When a file counts as gone: when it has been away for a moment, since editors and version
//! control remove a file and create it anew; and not while a file waits to be read, which may hold
//! its records from now on.
//!
//! In: which files are away and which are back, each with its time. Out: the files that are gone
//! for good. Never: a clock, a file system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::content::SourceId;

/// With more files than this on their way out, wait until no more follow: the whole tree may be
/// going.
const MASS: usize = 32;
/// But not longer than this.
const MASS_LIMIT: Duration = Duration::from_secs(5);

/// The files that are away.
#[derive(Debug)]
pub(super) struct Departures {
    /// How long a file must be away to be gone.
    vanish: Duration,
    /// Since when each is away.
    away: BTreeMap<SourceId, Instant>,
    /// When the last one was seen to go.
    last_gone: Option<Instant>,
}

impl Departures {
    pub(super) const fn new(vanish: Duration) -> Self {
        Self {
            vanish,
            away: BTreeMap::new(),
            last_gone: None,
        }
    }

    /// The file was seen to be removed or renamed.
    pub(super) fn went(&mut self, file: SourceId, now: Instant) {
        self.last_gone = Some(now);
        self.is_away(file, now);
    }

    /// The file is not there, since when nobody knows: at the latest since now.
    pub(super) fn is_away(&mut self, file: SourceId, now: Instant) {
        self.away.entry(file).or_insert(now);
    }

    /// The file is there. Since when it was away, if it was.
    pub(super) fn is_back(&mut self, file: &str) -> Option<Instant> {
        self.away.remove(file)
    }

    /// Only these files are away.
    pub(super) fn retain(&mut self, missing: &[SourceId]) {
        self.away.retain(|file, _| missing.binary_search(file).is_ok());
    }

    /// Whether the file is away.
    pub(super) fn contains(&self, file: &str) -> bool {
        self.away.contains_key(file)
    }

    /// The files that are away.
    pub(super) fn files(&self) -> impl Iterator<Item = &SourceId> {
        self.away.keys()
    }

    /// Whether no file is away.
    pub(super) fn is_empty(&self) -> bool {
        self.away.is_empty()
    }

    /// When to look whether files are gone for good.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = *self.away.values().min()?;
        let due = first + self.vanish;
        if self.away.len() <= MASS {
            return Some(due);
        }
        let quiet = self.last_gone.map_or(due, |last| last + self.vanish);
        Some(quiet.min(first + MASS_LIMIT).max(due))
    }

    /// The files that have been away for long enough. None of them before the
    /// [`Departures::deadline`].
    pub(super) fn due(&self, now: Instant) -> BTreeSet<SourceId> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return BTreeSet::new();
        }
        let long = self.away.iter().filter(|(_, since)| **since + self.vanish <= now);
        long.map(|(file, _)| Arc::clone(file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VANISH: Duration = Duration::from_millis(50);

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn names(files: BTreeSet<SourceId>) -> Vec<String> {
        files.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_is_gone_after_a_moment_unless_it_comes_back() {
        let start = Instant::now();
        let mut departures = Departures::new(VANISH);
        assert_eq!(departures.deadline(), None);
        departures.went(Arc::from("a"), start);
        departures.went(Arc::from("b"), at(start, 10));
        assert_eq!(departures.deadline(), Some(at(start, 50)));
        assert!(departures.due(at(start, 49)).is_empty());
        assert_eq!(names(departures.due(at(start, 50))), ["a"]);
        assert_eq!(departures.is_back("a"), Some(start));
        assert_eq!(names(departures.due(at(start, 60))), ["b"]);
        departures.retain(&[]);
        assert!(departures.is_empty());
    }

    #[test]
    fn a_second_look_does_not_begin_the_time_anew() {
        let start = Instant::now();
        let mut departures = Departures::new(VANISH);
        departures.is_away(Arc::from("a"), start);
        departures.is_away(Arc::from("a"), at(start, 40));
        assert_eq!(names(departures.due(at(start, 50))), ["a"]);
    }

    #[test]
    fn when_many_go_the_first_waits_for_the_last() {
        let start = Instant::now();
        let mut departures = Departures::new(VANISH);
        for number in 0..=MASS {
            departures.went(Arc::from(format!("f{number}")), at(start, 10 * number as u64));
        }
        let last = 10 * MASS as u64;
        assert_eq!(departures.deadline(), Some(at(start, last + 50)));
        assert!(departures.due(at(start, last + 49)).is_empty());
        assert_eq!(departures.due(at(start, last + 50)).len(), MASS + 1);
    }

    #[test]
    fn but_not_for_ever() {
        let start = Instant::now();
        let mut departures = Departures::new(VANISH);
        for number in 0..200 {
            departures.went(Arc::from(format!("f{number}")), at(start, 40 * number));
        }
        assert_eq!(departures.deadline(), Some(start + MASS_LIMIT));
        assert!(!departures.due(start + MASS_LIMIT).is_empty());
    }
}
