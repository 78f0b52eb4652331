//! When a file may be read: when nobody is writing to it any more.
//!
//! A file is read when someone who wrote to it closes it, or when it is renamed into place. A
//! change that is only found by looking (a rescan, a new directory) is read once the file has been
//! left alone for [`QUIESCENCE`]. So a half-written file is not taken for a whole one. Where the
//! file system tells who has a file open for writing, that decides in the end (see `writers`).
//!
//! In: what happens to files, and what a look at them shows, each with its time. Out: the files to
//! look at, and those to read. Never: a clock, a file system.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::core::content::SourceId;
use crate::directory::stamp::Stamp;

/// A file that was left alone for this long is whole.
pub(super) const QUIESCENCE: Duration = Duration::from_millis(100);
/// A file that someone wrote to and did not close is looked at after this long without a write.
const KEPT_OPEN: Duration = Duration::from_secs(10);

/// The moment in which something is seen, by the clock that only goes forward and by the clock of
/// the files' stamps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) clock: SystemTime,
}

/// A file that has to be left alone before it is read.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The stamp that the file had at the last look.
    stamp: Option<Stamp>,
    /// When to look next.
    due: Instant,
}

/// Which files are to be read now, and which later.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    ready: BTreeSet<SourceId>,
    waiting: BTreeMap<SourceId, Waiting>,
    /// Files that someone writes to, by their paths without links, and when the last write was
    /// seen.
    written: HashMap<PathBuf, Instant>,
}

impl Readiness {
    /// Someone writes to the file.
    pub(super) fn written(&mut self, real: &Path, now: Instant) {
        self.written.insert(real.to_owned(), now);
    }

    /// The file is whole: its writer has closed it, or it was renamed into place.
    pub(super) fn closed(&mut self, file: SourceId, real: &Path) {
        self.written.remove(real);
        self.ready.insert(file);
    }

    /// The file may be read now, as far as a look at it can tell.
    pub(super) fn found_whole(&mut self, file: SourceId) {
        self.ready.insert(file);
    }

    /// The file is to be read when nobody has touched it for a moment.
    pub(super) fn touched(&mut self, file: SourceId, now: Instant) {
        let due = now + QUIESCENCE;
        self.waiting.entry(file).or_insert(Waiting { stamp: None, due });
    }

    /// As [`Readiness::touched`], for a file of which the stamp is known.
    pub(super) fn seen(&mut self, file: SourceId, stamp: Stamp, now: Instant) {
        let due = now + QUIESCENCE;
        let stamp = Some(stamp);
        self.waiting.insert(file, Waiting { stamp, due });
    }

    /// As [`Readiness::seen`], to be looked at again at this time: somebody has the file open.
    pub(super) fn again(&mut self, file: SourceId, stamp: Option<Stamp>, due: Instant) {
        self.waiting.insert(file, Waiting { stamp, due });
    }

    /// The path leads to nothing any more, or to something else.
    pub(super) fn left(&mut self, real: &Path) {
        self.written.remove(real);
    }

    /// The file was read, or is gone for good.
    pub(super) fn done(&mut self, file: &str) {
        self.waiting.remove(file);
    }

    /// Events were lost: who writes to what is no longer known.
    pub(super) fn forget_writers(&mut self) {
        self.written.clear();
    }

    /// Whether someone is known to write to the file.
    pub(super) fn is_written(&self, real: &Path) -> bool {
        self.written.contains_key(real)
    }

    /// Takes the files that are due to be looked at; each must be followed by
    /// [`Readiness::looked`], unless its content is known or it is gone.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(SourceId, Option<Stamp>)> {
        let due: Vec<SourceId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.due <= now)
            .map(|(file, _)| Arc::clone(file))
            .collect();
        let taken = due.into_iter().filter_map(|file| self.waiting.remove_entry(&file));
        taken.map(|(file, waiting)| (file, waiting.stamp)).collect()
    }

    /// A look at a file showed this stamp, where the look before showed `before`: it is ready, or
    /// is looked at again.
    pub(super) fn looked(&mut self, file: SourceId, real: &Path, (before, stamp): (Option<Stamp>, Stamp), at: Moment) {
        let last_write = self.written.get(real);
        let kept_open = last_write.is_some_and(|last| at.now.duration_since(*last) < KEPT_OPEN);
        let left_alone = before == Some(stamp) || stamp.older_than(QUIESCENCE, at.clock);
        if !kept_open && left_alone {
            self.written.remove(real);
            self.ready.insert(file);
        } else {
            self.seen(file, stamp, at.now);
        }
    }

    /// Takes the files that are to be read now.
    pub(super) fn take_ready(&mut self) -> BTreeSet<SourceId> {
        std::mem::take(&mut self.ready)
    }

    /// Whether a file waits to be read: nobody knows yet what it holds. Files that are
    /// `passed_over` do not count.
    pub(super) fn has_unread(&self, passed_over: impl Fn(&SourceId) -> bool) -> bool {
        !self.ready.is_empty() || !self.waiting.keys().all(passed_over)
    }

    /// The files that wait to be read.
    pub(super) fn unread(&self) -> impl Iterator<Item = &SourceId> {
        self.ready.iter().chain(self.waiting.keys())
    }

    /// Whether a file waits to be read.
    pub(super) fn is_unread(&self, file: &str) -> bool {
        self.ready.contains(file) || self.waiting.contains_key(file)
    }

    /// The files that have to be left alone before they are read.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &SourceId> {
        self.waiting.keys()
    }

    /// Whether a file has to be left alone before it is read.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When there is something to do; `None` = when something happens.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        if !self.ready.is_empty() {
            return Some(now);
        }
        self.waiting.values().map(|waiting| waiting.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, in milliseconds since the beginning.
    enum Happening {
        Written,
        Closed,
        Touched,
        /// A look shows a file that was changed last at this time.
        Look {
            changed: u64,
        },
    }
    use Happening::{Closed, Look, Touched, Written};

    /// Plays a list of events; the times at which the file could be read.
    fn reads(events: &[(u64, Happening)]) -> Vec<u64> {
        let (start, clock) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
        let mut readiness = Readiness::default();
        let (file, real): (SourceId, _) = (Arc::from("a.yaml"), Path::new("/records/a.yaml"));
        let mut reads = Vec::new();
        for (at, event) in events {
            let since = Duration::from_millis(*at);
            let moment = Moment {
                now: start + since,
                clock: clock + since,
            };
            match event {
                Written => readiness.written(real, moment.now),
                Closed => readiness.closed(Arc::clone(&file), real),
                Touched => readiness.touched(Arc::clone(&file), moment.now),
                Look { changed } => {
                    let stamp = Stamp::at(clock + Duration::from_millis(*changed));
                    for (file, before) in readiness.take_due(moment.now) {
                        readiness.looked(file, real, (before, stamp), moment);
                    }
                }
            }
            if readiness.take_ready().contains(&file) {
                reads.push(*at);
            }
        }
        reads
    }

    #[test]
    fn a_file_is_read_when_its_writer_closes_it() {
        assert_eq!(reads(&[(0, Written), (5, Written), (9, Closed)]), [9]);
        assert!(reads(&[(0, Written), (5, Written)]).is_empty());
    }

    #[test]
    fn a_file_found_by_looking_is_read_when_it_was_left_alone() {
        assert_eq!(
            reads(&[(0, Touched), (50, Look { changed: 0 }), (100, Look { changed: 0 })]),
            [100]
        );
        let grows = [
            (0, Touched),
            (100, Look { changed: 90 }),
            (200, Look { changed: 190 }),
            (300, Look { changed: 190 }),
        ];
        assert_eq!(reads(&grows), [300]);
    }

    #[test]
    fn a_file_that_is_kept_open_is_read_after_long_silence() {
        let kept = [
            (0, Written),
            (0, Touched),
            (100, Look { changed: 0 }),
            (5_000, Look { changed: 0 }),
            (9_999, Look { changed: 0 }),
            (10_100, Look { changed: 0 }),
        ];
        assert_eq!(reads(&kept), [10_100]);
    }

    #[test]
    fn what_waits_is_known_to_be_unread() {
        let mut readiness = Readiness::default();
        let now = Instant::now();
        assert!(!readiness.has_unread(|_| false) && readiness.deadline(now).is_none());
        readiness.touched(Arc::from("a"), now);
        assert!(readiness.has_unread(|_| false) && !readiness.has_unread(|_| true));
        assert_eq!(readiness.deadline(now), Some(now + QUIESCENCE));
        readiness.done("a");
        assert!(!readiness.has_unread(|_| false));
        readiness.found_whole(Arc::from("a"));
        assert_eq!(readiness.deadline(now), Some(now));
    }
}
