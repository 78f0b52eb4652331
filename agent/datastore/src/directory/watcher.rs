//! Follows a directory: waits for inotify, decides when a file may be read, reads it, and says what
//! follows.
//!
//! The decisions are made by small machines that know no clock and no file system: [`Readiness`]
//! (when a file may be read), [`Writers`] (what becomes of files that somebody has open for
//! writing), [`Departures`] (when a file counts as gone) and
//! [`Root`] (whether what is missing may be deleted at all).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use crate::core::content::{Digest, SourceContent, SourceId};
use crate::core::problem::{InForce, Problem};
use crate::core::source::{Control, Event, Known, Next, Source};
use crate::directory::WriterCheck;
use crate::directory::barriers::Barriers;
use crate::directory::departures::Departures;
use crate::directory::inotify::{Message, Watches, change};
use crate::directory::readiness::{Moment, QUIESCENCE, Readiness};
use crate::directory::root::Root;
use crate::directory::scan::{FileTree, problems_of};
use crate::directory::stamp::Stamp;
use crate::directory::writers::Writers;

/// How often to look for a root that is not there.
const LOST_POLL: Duration = Duration::from_secs(1);

/// What the content of a file was made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint {
    pub(super) stamp: Stamp,
    pub(super) digest: Option<Digest>,
}

/// Where the watcher stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was looked at yet.
    New,
    /// There is no directory, and nothing is known of an earlier life.
    Waiting,
    /// Everything was read. `lost` = at present, nothing of the directory can be seen.
    Following { lost: bool },
    /// The end was told.
    Stopped,
}

/// When to scan the tree.
#[derive(Debug)]
pub(super) struct Schedule {
    /// How often without a reason.
    pub(super) interval: Duration,
    pub(super) next: Instant,
    /// Something changed that only a scan can tell.
    pub(super) needed: bool,
    /// Links or directories arrived whole in this round: what is new behind them is complete.
    pub(super) swapped: bool,
}

/// A directory that is followed.
#[derive(Debug)]
pub struct DirectoryWatcher {
    pub(super) directory: PathBuf,
    messages: Receiver<Message>,
    pub(super) watches: Watches,
    pub(super) tree: FileTree,
    /// Mount points whose file system went away, leaving an empty directory.
    pub(super) unmounted: BTreeSet<SourceId>,
    /// Files that were told; `None` = what the content was made of must be read again.
    pub(super) known: BTreeMap<SourceId, Option<Fingerprint>>,
    pub(super) readiness: Readiness,
    pub(super) writers: Writers,
    /// Asks whether somebody has a file open for writing.
    pub(super) is_open: Option<WriterCheck>,
    /// What the first such question came to: why it cannot be answered here, or nothing.
    pub(super) unanswered: Option<Option<String>>,
    pub(super) departures: Departures,
    pub(super) root: Root,
    pub(super) schedule: Schedule,
    pub(super) barriers: Barriers,
    phase: Phase,
}

/// Wakes the watcher from other threads.
struct Wake(Sender<Message>);

impl Control for Wake {
    fn stop(&self) {
        // Fails only when the watcher has ended.
        let _ = self.0.send(Message::Stop);
    }

    fn rescan(&self) {
        let _ = self.0.send(Message::Rescan);
    }

    fn barrier(&self, number: u64) {
        let _ = self.0.send(Message::Barrier(number));
    }
}

impl Source for DirectoryWatcher {
    fn control(&self) -> Box<dyn Control> {
        Box::new(Wake(self.watches.sender()))
    }

    fn next(&mut self, known: &Known<'_>, deadline: Instant) -> Next {
        if self.phase != Phase::New && !self.wait(deadline) {
            return Next::End;
        }
        match self.phase {
            Phase::New | Phase::Waiting => Next::Events(self.begin(known)),
            Phase::Following { lost } => Next::Events(self.step(known, lost)),
            Phase::Stopped => Next::End,
        }
    }

    fn problems(&self) -> BTreeMap<SourceId, Problem> {
        let mut places = problems_of(&self.directory, &self.tree);
        for place in &self.unmounted {
            let reason = "the file system that was mounted here is gone, and the directory below it is empty";
            let problem = Problem::error(reason, InForce::Unchanged).at(place, None);
            places.insert(Arc::clone(place), problem);
        }
        if self.root.is_returning() && self.tree.root.is_some() && self.tree.files.is_empty() {
            let reason = format!(
                "directory {} was replaced by an empty one; a file in it, even an empty one, says that this is meant",
                self.directory.display()
            );
            places.insert(Arc::from(""), Problem::error(reason, InForce::Unchanged));
        }
        places.extend(self.writers.problems());
        if let Some(Some(fault)) = &self.unanswered {
            let reason = format!(
                "whether somebody still writes to a file cannot be asked here ({fault}): one that is left alone in the middle for long is taken for whole"
            );
            places.insert(Arc::from("//leases"), Problem::warning(reason));
        }
        if let Some(fault) = self.watches.fault() {
            let reason = format!("{fault}: changes are seen only every {:?}", self.schedule.interval);
            places.insert(Arc::from("//inotify"), Problem::warning(reason));
        }
        places
    }

    fn sees_everything(&self) -> bool {
        !self.is_blind() && self.tree.unknown.is_empty()
    }
}

impl DirectoryWatcher {
    pub(super) fn new(
        directory: PathBuf,
        (rescan, vanish): (Duration, Duration),
        (sender, messages): (Sender<Message>, Receiver<Message>),
    ) -> Self {
        Self {
            directory,
            messages,
            watches: Watches::new(sender),
            tree: FileTree::default(),
            unmounted: BTreeSet::new(),
            known: BTreeMap::new(),
            readiness: Readiness::default(),
            writers: Writers::default(),
            is_open: None,
            unanswered: None,
            departures: Departures::new(vanish),
            root: Root::default(),
            schedule: Schedule {
                interval: rescan.max(Duration::from_millis(10)),
                next: Instant::now() + rescan,
                needed: false,
                swapped: false,
            },
            barriers: Barriers::default(),
            phase: Phase::New,
        }
    }

    /// Whether nothing at all can be seen of the directory.
    pub(super) fn is_blind(&self) -> bool {
        self.tree.root.is_none() || self.tree.unknown.contains_key("")
    }

    /// Why nothing of the directory can be seen.
    fn blindness(&self) -> Arc<str> {
        let reason = self.tree.unknown.get("").map_or("not there", String::as_str);
        Arc::from(format!("directory {}: {reason}", self.directory.display()))
    }

    /// Reads everything, if there is a directory or something is known of an earlier life.
    fn begin(&mut self, known: &Known<'_>) -> Vec<Event> {
        self.rescan(known, true);
        if self.is_blind() && known.sources().next().is_none() {
            return match std::mem::replace(&mut self.phase, Phase::Waiting) {
                Phase::Waiting => Vec::new(),
                _ => vec![Event::Lost(self.blindness())],
            };
        }
        let lost = self.is_blind();
        let mut events = vec![Event::ResyncBegins];
        events.extend(self.read_everything(known));
        events.push(Event::InSync);
        if lost {
            events.push(Event::Lost(self.blindness()));
        }
        if self.phase != Phase::Stopped {
            self.phase = Phase::Following { lost };
        }
        events
    }

    fn read_everything(&mut self, known: &Known<'_>) -> Vec<Event> {
        let mut events = Vec::new();
        let now = Instant::now();
        let mut unreachable: BTreeSet<SourceId> = known
            .sources()
            .filter(|path| self.is_out_of_sight(path))
            .cloned()
            .collect();
        if let Some((_, id)) = self.tree.root {
            let replaced = self.remembered(known).is_some_and(|remembered| remembered != id);
            if replaced && self.tree.files.is_empty() && known.sources().next().is_some() {
                self.root.begins_to_return(now);
                unreachable = known.sources().cloned().collect();
            } else {
                events.extend(self.remember());
            }
        }
        let clock = SystemTime::now();
        let fresh = |found: &crate::directory::scan::ScannedFile| !found.stamp.older_than(QUIESCENCE, clock);
        if self.tree.files.values().any(fresh) {
            // Someone may be writing at this moment.
            std::thread::sleep(QUIESCENCE);
            self.rescan(known, false);
        }
        let moment = Moment::now();
        // What the scan has found is decided anew here, since nothing was told yet.
        self.readiness.take_ready();
        for (path, found) in &self.tree.files {
            if found.stamp.older_than(QUIESCENCE, moment.clock) {
                self.readiness.done(path);
                self.readiness.found_whole(Arc::clone(path));
            } else {
                self.readiness.seen(Arc::clone(path), found.stamp, moment.now);
                unreachable.insert(Arc::clone(path));
            }
        }
        self.departures.retain(&[]);
        let read = self.read(known);
        unreachable.extend(self.unread_at_start(known));
        unreachable.extend(self.gone_before_they_were_read(known, &unreachable, moment.now));
        self.known
            .extend(unreachable.iter().map(|path| (Arc::clone(path), None)));
        if self.root.is_returning() {
            // All of them are missing; they go when the root holds something again.
            let missing = self.known.keys().cloned();
            missing.for_each(|path| self.departures.is_away(path, moment.now));
        }
        events.extend(
            unreachable
                .into_iter()
                .map(|path| Event::Apply(path, SourceContent::Unreachable)),
        );
        events.extend(read);
        events
    }

    /// Files that are there and could not be read yet: somebody writes to them, or may do so.
    fn unread_at_start(&mut self, known: &Known<'_>) -> Vec<SourceId> {
        let is_there = |path: &&SourceId| self.tree.files.contains_key(*path);
        let unread: Vec<SourceId> = self.readiness.waiting().filter(is_there).cloned().collect();
        for path in &unread {
            self.writers.unread_at_start(path, known.holds(path));
        }
        unread
    }

    /// Files that are gone while others were not read yet, which may hold what these have held.
    /// They leave when that is known.
    fn gone_before_they_were_read(
        &mut self,
        known: &Known<'_>,
        unreachable: &BTreeSet<SourceId>,
        now: Instant,
    ) -> Vec<SourceId> {
        if !self.readiness.has_waiting() {
            return Vec::new();
        }
        let is_gone = |path: &&SourceId| !self.tree.files.contains_key(*path) && !unreachable.contains(*path);
        let gone: Vec<SourceId> = known.sources().filter(is_gone).cloned().collect();
        for path in &gone {
            self.departures.is_away(Arc::clone(path), now);
        }
        gone
    }

    /// Waits for something to do. False = end.
    fn wait(&mut self, deadline: Instant) -> bool {
        if self.phase == Phase::Stopped {
            return false;
        }
        let now = Instant::now();
        let timeout = self.deadline(now).min(deadline).saturating_duration_since(now);
        match self.messages.recv_timeout(timeout) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.phase = Phase::Stopped,
        }
        self.drain();
        self.phase != Phase::Stopped
    }

    /// Takes what has come in meanwhile, without waiting.
    pub(super) fn drain(&mut self) {
        while self.phase != Phase::Stopped
            && let Ok(message) = self.messages.try_recv()
        {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(Ok(event)) => {
                if let Some((change, path)) = change(&event) {
                    self.happened(change, path);
                }
            }
            Message::Event(Err(error)) => {
                tracing::warn!(target: "felid::datastore", "inotify: {error}");
                self.schedule.next = Instant::now();
            }
            Message::Barrier(number) => self.barriers.ask(number),
            Message::Rescan => self.schedule.next = Instant::now(),
            Message::Stop => self.phase = Phase::Stopped,
        }
    }

    /// Whether a file waits to be read that may hold what others have held.
    pub(super) fn has_unread(&self, now: Instant) -> bool {
        self.readiness.has_unread(|file| self.writers.is_passed_over(file, now))
    }

    fn deadline(&self, now: Instant) -> Instant {
        let departures = || self.departures.deadline().filter(|_| !self.has_unread(now));
        let leaving = match self.root.is_returning() {
            true => self.root.deadline(self.tree.files.is_empty()),
            false => departures(),
        };
        let reasons = [
            self.schedule.needed.then_some(now),
            self.is_blind().then(|| now + LOST_POLL),
            (self.barriers.is_asked() && !self.is_blind()).then_some(now),
            self.readiness.deadline(now),
            leaving,
        ];
        let first = reasons.into_iter().flatten().min();
        first
            .map_or(self.schedule.next, |first| first.min(self.schedule.next))
            .max(now)
    }

    /// One round: looks where needed, reads, and says what is gone.
    fn step(&mut self, known: &Known<'_>, was_lost: bool) -> Vec<Event> {
        let now = Instant::now();
        if self.schedule.next <= now {
            self.rescan(known, true);
        } else if self.schedule.needed || self.is_blind() || self.barriers.is_asked() {
            self.rescan(known, false);
        }
        self.look_at_waiting(Moment {
            now,
            clock: SystemTime::now(),
        });
        self.begin_barriers(now);
        let mut events = self.read(known);
        let gone = self.leave(known, now, &events);
        events.extend(gone);
        self.schedule.swapped = false;
        events.extend(self.reachability(was_lost));
        events.extend(self.passed_barriers(Instant::now()));
        events
    }

    /// Says whether the directory is out of reach, if that has changed. A root that comes back is
    /// in sync again when it is complete.
    fn reachability(&mut self, was_lost: bool) -> Vec<Event> {
        let lost = match was_lost {
            true => self.is_blind() || self.root.is_returning(),
            false => self.is_blind(),
        };
        if lost == was_lost || self.phase == Phase::Stopped {
            return Vec::new();
        }
        self.phase = Phase::Following { lost };
        if lost {
            return vec![Event::Lost(self.blindness())];
        }
        let mut events = vec![Event::ResyncBegins];
        events.extend(self.known.keys().cloned().map(Event::Keep));
        events.push(Event::InSync);
        events
    }
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            now: Instant::now(),
            clock: SystemTime::now(),
        }
    }
}
