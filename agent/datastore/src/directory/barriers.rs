//! Barriers: others want to be told when everything has been told that was there at a moment.
//!
//! A scan at that moment, or later, finds the files that are to be read and those that are on their
//! way out; a barrier is passed when each of them has been read or is gone. What happens to other
//! files meanwhile does not hold it up. A file that somebody keeps open for writing does so for as
//! long as others wait for it, too (`writers`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::core::content::SourceId;
use crate::core::source::Event;
use crate::directory::watcher::DirectoryWatcher;

/// The barriers that are not passed yet.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    /// Asked for since the last scan.
    asked: Vec<u64>,
    /// Scanned for, with the files that were not told then.
    begun: Vec<(u64, BTreeSet<SourceId>)>,
}

impl Barriers {
    /// Somebody asks for one.
    pub(super) fn ask(&mut self, number: u64) {
        self.asked.push(number);
    }

    /// Whether a scan is needed.
    pub(super) const fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// A scan found that these files are not told yet.
    fn begin(&mut self, open: &BTreeSet<SourceId>) {
        let asked = self.asked.drain(..);
        self.begun.extend(asked.map(|number| (number, open.clone())));
    }

    /// Takes those of which no file is open any more.
    fn passed(&mut self, is_open: impl Fn(&SourceId) -> bool) -> Vec<u64> {
        for (_, open) in &mut self.begun {
            open.retain(&is_open);
        }
        self.begun
            .extract_if(.., |(_, open)| open.is_empty())
            .map(|(number, _)| number)
            .collect()
    }
}

impl DirectoryWatcher {
    /// Notes which files are not told yet, after a scan.
    pub(super) fn begin_barriers(&mut self, now: Instant) {
        if !self.barriers.is_asked() || self.is_blind() {
            return;
        }
        let unread = self
            .readiness
            .unread()
            .filter(|file| !self.writers.is_passed_over(file, now));
        let open: BTreeSet<SourceId> = unread.chain(self.departures.files()).map(Arc::clone).collect();
        self.barriers.begin(&open);
    }

    /// Tells the barriers that are passed.
    pub(super) fn passed_barriers(&mut self, now: Instant) -> Vec<Event> {
        // A root that is being replaced keeps what it held before for a while.
        if self.is_blind() || self.root.is_returning() {
            return Vec::new();
        }
        let passed = self.barriers.passed(|file| {
            let unread = self.readiness.is_unread(file) && !self.writers.is_passed_over(file, now);
            unread || self.departures.contains(file)
        });
        passed.into_iter().map(Event::Barrier).collect()
    }
}
