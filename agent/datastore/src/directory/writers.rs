//! Files that somebody has open for writing: they are not whole, however long they are left alone.
//!
//! What such a file holds is not looked at until its writer has closed it. A writer that never
//! does holds it back for no longer than [`LIMIT`]: then the file is taken as it is, but what it
//! lacks does not count as deleted.
//!
//! In: files that were found open for writing, events, and the time. Out: when to look again, which
//! files to take as they are, and what to tell. Never: a clock, a file system.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::content::SourceId;
use crate::core::problem::{InForce, Problem};

/// How soon a file is looked at again at first: its writer may be on the point of closing it.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// How often it is looked at when that takes long. A close that inotify tells is seen at once.
const SELDOM: Duration = Duration::from_millis(500);
/// A file that was found open for so long is told.
const TOLD: Duration = Duration::from_secs(5);
/// After so long nothing else waits for the file any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long the file is taken as it is.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// A file that somebody has open for writing.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Since when, or since when it was last taken as it is.
    since: Instant,
    /// How long to wait until the next look.
    delay: Duration,
    /// It was taken as it is.
    taken: bool,
    /// It is told.
    told: bool,
    /// Something of it is in force.
    known: bool,
}

/// Files that cannot be read yet.
#[derive(Debug, Default)]
pub(super) struct Writers {
    held: BTreeMap<SourceId, Held>,
    /// Files that could not be read at the start, and whether something of them is in force.
    from_the_start: BTreeMap<SourceId, bool>,
}

impl Writers {
    /// A look has found the file open for writing. `known` = something of it is in force. Returns
    /// when to look again.
    pub(super) fn found_open(&mut self, file: &SourceId, known: bool, now: Instant) -> Instant {
        let held = self.held.entry(Arc::clone(file)).or_insert(Held {
            since: now,
            delay: FIRST_LOOK,
            taken: false,
            told: false,
            known,
        });
        held.known = known;
        held.told |= now.duration_since(held.since) >= TOLD;
        let next = now + held.delay;
        held.delay = (held.delay * 2).min(SELDOM);
        next
    }

    /// Whether the file is to be taken as it is, although somebody has it open.
    pub(super) fn is_overdue(&self, file: &str, now: Instant) -> bool {
        let held = self.held.get(file);
        held.is_some_and(|held| now.duration_since(held.since) >= LIMIT)
    }

    /// The file was taken as it is. Returns when to look again.
    pub(super) fn taken(&mut self, file: &SourceId, now: Instant) -> Instant {
        if let Some(held) = self.held.get_mut(file) {
            held.since = now;
            held.taken = true;
        }
        self.from_the_start.remove(file);
        now + SELDOM
    }

    /// A writer has closed the file. The kernel says so shortly before it has forgotten the writer.
    pub(super) fn closed(&mut self, file: &str) {
        if let Some(held) = self.held.get_mut(file) {
            held.delay = FIRST_LOOK;
        }
    }

    /// The file could not be read at the start. `known` = something of it is in force.
    pub(super) fn unread_at_start(&mut self, file: &SourceId, known: bool) {
        self.from_the_start.insert(Arc::clone(file), known);
    }

    /// The file was read whole, or is gone.
    pub(super) fn done(&mut self, file: &str) {
        self.held.remove(file);
        self.from_the_start.remove(file);
    }

    /// Only these files are there.
    pub(super) fn retain(&mut self, there: impl Fn(&SourceId) -> bool) {
        self.held.retain(|file, _| there(file));
        self.from_the_start.retain(|file, _| there(file));
    }

    /// Whether others wait no longer for what the file may hold.
    pub(super) fn is_passed_over(&self, file: &str, now: Instant) -> bool {
        let held = self.held.get(file);
        held.is_some_and(|held| held.taken || now.duration_since(held.since) >= PATIENCE)
    }

    /// What to tell of these files.
    pub(super) fn problems(&self) -> impl Iterator<Item = (SourceId, Problem)> + '_ {
        let held = self.held.iter().filter(|(_, held)| held.told || held.taken);
        let held = held.map(|(file, held)| (Arc::clone(file), held.problem()));
        let unread = self.from_the_start.iter().map(|(file, known)| {
            let problem = match known {
                true => Problem {
                    in_force: InForce::Unchanged,
                    ..Problem::warning("somebody is writing to it: it is read when that is finished")
                },
                false => Problem::error(
                    "somebody is writing to it, and it was never read before: it is read when that is finished",
                    InForce::Nothing,
                ),
            };
            (Arc::clone(file), problem)
        });
        // What could not be read at the start matters more: later of the same name wins.
        held.chain(unread)
            .map(|(file, problem)| (Arc::clone(&file), problem.at(&file, None)))
    }
}

impl Held {
    fn problem(&self) -> Problem {
        let reason = match (self.taken, self.known) {
            (true, _) => format!(
                "somebody has had it open for writing for more than {} minutes: it was read as it is, and what it lacks counts as deleted only once it is closed",
                LIMIT.as_secs() / 60
            ),
            (false, true) => "somebody has it open for writing: the last good versions of its records stay in force until it is closed".to_owned(),
            (false, false) => "somebody has it open for writing: it is not read until it is closed".to_owned(),
        };
        let in_force = match (self.taken, self.known) {
            (true, _) => InForce::Document,
            (false, true) => InForce::Unchanged,
            (false, false) => InForce::Nothing,
        };
        match in_force {
            // Nothing enforces it meanwhile.
            InForce::Nothing => Problem::error(reason, in_force),
            _ => Problem {
                in_force,
                ..Problem::warning(reason)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> SourceId {
        Arc::from("a.yaml")
    }

    fn told(writers: &Writers) -> Vec<String> {
        writers.problems().map(|(_, problem)| problem.to_string()).collect()
    }

    /// Looks at the file whenever it is due, for as long as it stays open.
    fn look_until(writers: &mut Writers, (start, end): (Instant, Instant)) -> usize {
        let (mut now, mut looks) = (start, 0);
        while now < end {
            now = writers.found_open(&file(), true, now);
            looks += 1;
        }
        looks
    }

    #[test]
    fn a_file_that_stays_open_is_looked_at_ever_more_seldom() {
        let (mut writers, start) = (Writers::default(), Instant::now());
        assert_eq!(writers.found_open(&file(), true, start), start + FIRST_LOOK);
        let looks = look_until(&mut writers, (start + FIRST_LOOK, start + Duration::from_secs(4)));
        assert!((8..30).contains(&looks), "{looks}");
        assert_eq!(
            writers.found_open(&file(), true, start + Duration::from_secs(4)),
            start + Duration::from_secs(4) + SELDOM
        );
        // Its writer closes it: at once.
        writers.closed("a.yaml");
        let now = start + Duration::from_millis(4_100);
        assert_eq!(writers.found_open(&file(), true, now), now + FIRST_LOOK);
    }

    #[test]
    fn it_is_told_when_it_takes_long_and_no_longer_when_it_was_read() {
        let (mut writers, start) = (Writers::default(), Instant::now());
        look_until(&mut writers, (start, start + TOLD));
        assert_eq!(told(&writers), Vec::<String>::new());
        writers.found_open(&file(), true, start + TOLD);
        assert!(
            told(&writers).concat().contains("the last good versions"),
            "{:?}",
            told(&writers)
        );
        writers.done("a.yaml");
        assert_eq!(told(&writers), Vec::<String>::new());
    }

    #[test]
    fn a_writer_that_never_closes_holds_nothing_for_ever() {
        let (mut writers, start) = (Writers::default(), Instant::now());
        writers.found_open(&file(), true, start);
        let at = |since: Duration| start + since;
        assert!(!writers.is_passed_over("a.yaml", at(PATIENCE / 2)));
        assert!(writers.is_passed_over("a.yaml", at(PATIENCE)));
        assert!(!writers.is_overdue("a.yaml", at(LIMIT - SELDOM)));
        assert!(writers.is_overdue("a.yaml", at(LIMIT)));
        writers.taken(&file(), at(LIMIT));
        assert!(
            told(&writers).concat().contains("it was read as it is"),
            "{:?}",
            told(&writers)
        );
        // And again after as long.
        assert!(!writers.is_overdue("a.yaml", at(LIMIT + SELDOM)));
        assert!(writers.is_overdue("a.yaml", at(2 * LIMIT)));
        assert!(writers.is_passed_over("a.yaml", at(LIMIT + SELDOM)));
    }

    #[test]
    fn what_was_never_read_at_the_start_is_an_error() {
        let mut writers = Writers::default();
        writers.unread_at_start(&file(), false);
        writers.unread_at_start(&Arc::from("b.yaml"), true);
        let severities: Vec<_> = writers.problems().map(|(_, problem)| problem.severity).collect();
        use crate::core::problem::Severity::{Error, Warning};
        assert_eq!(severities, [Error, Warning]);
        writers.done("a.yaml");
        assert_eq!(told(&writers).len(), 1);
    }
}
