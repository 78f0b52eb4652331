//! The thread around the core: waits for inotify, decides when a file may be read, reads it, and hands on what follows.
//!
//! When a file is read: when someone who wrote to it closes it, or when it is renamed into place. Not while someone writes to it. A
//! change that is only found by looking (a rescan, a new directory) is read once the file has been left alone for [`SETTLE`]. So
//! a half-written file is not taken for a whole one.
//!
//! When a file counts as gone: when it has been away for a moment ([`crate::Options::vanish`]); editors and version control remove a file and create it
//! anew. Not as long as the root or something above the file cannot be read, nor while a returned root is being filled.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use felid_model::{BadPolicy, Kind, ResourceKey};
use tokio::sync::mpsc as channel;
use tokio::sync::mpsc::error::TrySendError;

use crate::journal::Journal;
use crate::problem::{InForce, Problem, Problems};
use crate::state::{Entry, Outcome, State};
use crate::view::{Body, Digest, Doc, FilePath, View};
use crate::walk::{Stamp, Tree};
use crate::watch::{Message, Watch, change};
use crate::{Batch, Update};

/// A file that was left alone for this long is whole.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);
/// With more files than this on their way out, wait until no more follow: the whole tree may be going.
pub(crate) const MASS: usize = 32;
/// But not longer than this.
pub(crate) const MASS_LIMIT: Duration = Duration::from_secs(5);
/// A root that came back is complete when nothing has changed for this long.
pub(crate) const RETURN: Duration = Duration::from_secs(1);
/// A file that someone keeps open for writing is read after this long without a write.
pub(crate) const KEPT_OPEN: Duration = Duration::from_secs(10);
/// How often to look for a root that is not there.
const LOST_POLL: Duration = Duration::from_secs(1);
/// Stands in for a file of the policies that a damaged journal may have forgotten; no file has such a path.
const LOST: &str = "//lost";
/// How soon to offer a batch again to a receiver that is busy.
const BUSY: Duration = Duration::from_millis(2);

/// What a file's view was made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) stamp: Stamp,
    pub(crate) digest: Option<Digest>,
}

pub(crate) struct Shell {
    pub(crate) directory: PathBuf,
    pub(crate) rescan: Duration,
    pub(crate) vanish: Duration,
    pub(crate) journal: Journal,
    pub(crate) state: State,
    pub(crate) receiver: Receiver<Message>,
    pub(crate) batches: channel::Sender<Batch>,
    pub(crate) watch: Watch,
    pub(crate) watch_fault: Option<String>,
    pub(crate) tree: Tree,
    /// Files with a view; `None` = what the view was made of must be read again.
    pub(crate) known: BTreeMap<FilePath, Option<Known>>,
    /// Files to read now.
    pub(crate) reads: BTreeSet<FilePath>,
    /// Files to read when they have settled: the stamp last seen, and when to look next.
    pub(crate) unsettled: BTreeMap<FilePath, (Option<Stamp>, Instant)>,
    /// Files that someone writes to, by their paths without links: when the last write was seen.
    pub(crate) writing: HashMap<PathBuf, Instant>,
    /// Files that are away, and since when.
    pub(crate) vanishing: BTreeMap<FilePath, Instant>,
    pub(crate) last_gone: Instant,
    /// Something changed that only a walk can tell.
    pub(crate) walk_needed: bool,
    /// Links or directories arrived whole in this round: what is new behind them is complete.
    pub(crate) swapped: bool,
    pub(crate) next_rescan: Instant,
    pub(crate) root_lost: bool,
    /// When the last change was seen in a root that came back.
    pub(crate) returned: Option<Instant>,
    /// Mount points whose file system went away, leaving an empty directory.
    pub(crate) unmounted: BTreeSet<FilePath>,
    pub(crate) places: BTreeSet<FilePath>,
    pub(crate) problems: Arc<Problems>,
    pub(crate) outbox: Option<Batch>,
    /// The end was told in the middle of a round.
    pub(crate) stopped: bool,
}

impl Shell {
    pub(crate) fn new(
        directory: PathBuf,
        (rescan, vanish): (Duration, Duration),
        journal: Journal,
        entries: BTreeMap<ResourceKey, Entry>,
        (sender, receiver): (Sender<Message>, Receiver<Message>),
        batches: channel::Sender<Batch>,
    ) -> Self {
        let now = Instant::now();
        Self {
            directory,
            rescan: rescan.max(Duration::from_millis(10)),
            vanish,
            journal,
            state: State::new(entries),
            receiver,
            batches,
            watch: Watch::new(sender),
            watch_fault: None,
            tree: Tree::default(),
            known: BTreeMap::new(),
            reads: BTreeSet::new(),
            unsettled: BTreeMap::new(),
            writing: HashMap::new(),
            vanishing: BTreeMap::new(),
            last_gone: now,
            walk_needed: false,
            swapped: false,
            next_rescan: now + rescan,
            root_lost: false,
            returned: None,
            unmounted: BTreeSet::new(),
            places: BTreeSet::new(),
            problems: Arc::default(),
            outbox: None,
            stopped: false,
        }
    }

    /// Until the store is dropped or nobody receives any more.
    pub(crate) fn run(mut self) {
        if !self.begin() {
            return;
        }
        while self.wait() {
            self.step();
            if !self.deliver() {
                return;
            }
        }
    }

    /// Waits for the root, if nothing is known of an earlier life, and reads everything. False = end.
    fn begin(&mut self) -> bool {
        loop {
            self.survey(true);
            if !self.is_blind() || self.state.entry_files().next().is_some() {
                break;
            }
            self.report();
            if !self.deliver() || !self.wait() {
                return false;
            }
        }
        let mut outcome = self.read_everything();
        outcome.append(self.find_lost());
        self.publish(outcome, true);
        self.report();
        self.deliver()
    }

    fn read_everything(&mut self) -> Outcome {
        let mut held: BTreeSet<FilePath> = self
            .state
            .entry_files()
            .filter(|path| self.is_held(path))
            .cloned()
            .collect();
        if let Some((_, id)) = self.tree.root {
            let replaced = self.journal.root().is_some_and(|known| known != id);
            if replaced && self.tree.files.is_empty() && self.state.entry_files().next().is_some() {
                self.returned = Some(Instant::now());
                held = self.state.entry_files().cloned().collect();
            } else {
                self.journal.set_root(id);
            }
        }
        let now = SystemTime::now();
        let fresh = |tree: &Tree| tree.files.values().any(|found| !found.stamp.older_than(SETTLE, now));
        if fresh(&self.tree) {
            // Someone may be writing at this moment.
            std::thread::sleep(SETTLE);
            self.survey(false);
        }
        let now = SystemTime::now();
        for (path, found) in &self.tree.files {
            if found.stamp.older_than(SETTLE, now) {
                self.reads.insert(Arc::clone(path));
            } else {
                self.unsettled
                    .insert(Arc::clone(path), (Some(found.stamp), Instant::now() + SETTLE));
                held.insert(Arc::clone(path));
            }
        }
        let mut views: Vec<(FilePath, View)> = held.into_iter().map(|path| (path, View::Held)).collect();
        self.vanishing.clear();
        self.known
            .extend(views.iter().map(|(path, _)| (Arc::clone(path), None)));
        if self.returned.is_some() {
            // All of them are missing; they go when the root holds something again.
            let now = Instant::now();
            self.vanishing
                .extend(self.known.keys().map(|path| (Arc::clone(path), now)));
        }
        let read = self.read();
        views.extend(read.into_iter().filter_map(|(path, view)| Some((path, view?))));
        if self.journal.has_lost() {
            views.push((Arc::from(LOST), lost()));
        }
        let journal = &self.journal;
        self.state.begin(views, &|key| journal.recall(key))
    }

    /// Waits for something to do. False = end.
    fn wait(&mut self) -> bool {
        if self.stopped {
            return false;
        }
        let timeout = self.deadline().saturating_duration_since(Instant::now());
        match self.receiver.recv_timeout(timeout) {
            Ok(message) => {
                if !self.take(message) {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.drain()
    }

    /// Takes what has come in meanwhile, without waiting. False = end.
    pub(crate) fn drain(&mut self) -> bool {
        while let Ok(message) = self.receiver.try_recv() {
            if !self.take(message) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Event(Ok(event)) => {
                if let Some((change, path)) = change(&event) {
                    self.happened(change, path);
                }
            }
            Message::Event(Err(error)) => {
                tracing::warn!(target: "felid::datastore", "inotify: {error}");
                self.next_rescan = Instant::now();
            }
            Message::Rescan => self.next_rescan = Instant::now(),
            Message::Stop => return false,
        }
        true
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let mut deadline = self.next_rescan;
        let mut by = |instant: Instant| deadline = deadline.min(instant);
        if self.walk_needed || !self.reads.is_empty() {
            by(now);
        }
        if self.outbox.is_some() {
            by(now + BUSY);
        }
        if self.is_blind() {
            by(now + LOST_POLL);
        }
        if let Some((_, due)) = self.unsettled.values().min_by_key(|(_, due)| *due) {
            by(*due);
        }
        match self.returned {
            Some(since) if !self.tree.files.is_empty() => by(since + RETURN),
            Some(_) => {}
            None => {
                if let Some(due) = self.vanish_due() {
                    by(due);
                }
            }
        }
        deadline.max(now)
    }

    /// One round: look where needed, read, decide, hand on.
    fn step(&mut self) {
        let now = Instant::now();
        if self.next_rescan <= now {
            self.survey(true);
            self.journal.tidy();
        } else if self.walk_needed || self.is_blind() {
            self.survey(false);
        }
        self.settle(now);
        let mut changes = self.read();
        let departures = self.departures(now, &changes);
        changes.extend(departures);
        self.swapped = false;
        let mut outcome = if changes.is_empty() {
            Outcome::default()
        } else {
            let journal = &self.journal;
            self.state.update(changes, &|key| journal.recall(key))
        };
        outcome.append(self.find_lost());
        self.publish(outcome, false);
        self.report();
    }

    /// Opens what was closed for the sake of forgotten policies, once everything could be read.
    fn find_lost(&mut self) -> Outcome {
        if !self.journal.has_lost() || self.is_blind() || !self.tree.unknown.is_empty() || self.state.is_in_the_dark() {
            return Outcome::default();
        }
        self.journal.found();
        let journal = &self.journal;
        self.state
            .update(vec![(Arc::from(LOST), None)], &|key| journal.recall(key))
    }

    /// Writes to the journal and puts the updates into the outbox.
    fn publish(&mut self, outcome: Outcome, in_sync: bool) {
        self.journal.write(outcome.records);
        let mut updates = outcome.updates;
        updates.extend(in_sync.then_some(Update::InSync));
        if !updates.is_empty() {
            let problems = Arc::clone(&self.problems);
            self.outbox
                .get_or_insert_with(|| Batch {
                    updates: Vec::new(),
                    problems,
                })
                .updates
                .extend(updates);
        }
    }

    /// Brings the list of problems up to date.
    fn report(&mut self) {
        let root = self.directory.display();
        let mut places = problems_of(&self.directory, &self.tree);
        for place in &self.unmounted {
            let reason = "the file system that was mounted here is gone, and the directory below it is empty";
            places.insert(
                Arc::clone(place),
                Problem::error(reason, InForce::Unchanged).at(place, None),
            );
        }
        if self.returned.is_some() && self.tree.root.is_some() && self.tree.files.is_empty() {
            let reason = format!(
                "directory {root} was replaced by an empty one; a file in it, even an empty one, says that this is meant"
            );
            places.insert(Arc::from(""), Problem::error(reason, InForce::Unchanged));
        }
        if let Some(fault) = &self.watch_fault {
            let reason = format!("{fault}: changes are seen only every {:?}", self.rescan);
            places.insert(Arc::from("//inotify"), Problem::warning(reason));
        }
        if let Some(fault) = self.journal.fault() {
            let reason = format!("last good versions cannot be kept for a restart: {fault}");
            places.insert(Arc::from("//journal"), Problem::error(reason, InForce::Document));
        }
        places.extend(self.damage().map(|problem| (Arc::from("//damage"), problem)));
        for gone in self.places.iter().filter(|place| !places.contains_key(*place)) {
            self.state.set_place(gone, None);
        }
        self.places = places.keys().cloned().collect();
        for (place, problem) in places {
            self.state.set_place(&place, Some(problem));
        }
        let problems = self.state.problems();
        if *problems != *self.problems {
            problems.log_changes(&self.problems);
            self.problems = Arc::clone(&problems);
            self.outbox.get_or_insert_with(|| Batch {
                updates: Vec::new(),
                problems: Arc::default(),
            });
        }
        if let Some(batch) = &mut self.outbox {
            batch.problems = Arc::clone(&self.problems);
        }
    }

    /// What is in doubt because the journal was damaged.
    fn damage(&self) -> Option<Problem> {
        const NAMED: usize = 5;
        let doubtful = self.journal.doubtful();
        let found = self.journal.damage();
        if doubtful.is_empty() && !self.journal.has_lost() {
            let found = found?;
            return Some(Problem::warning(format!(
                "{found}; everything was read anew, nothing is in doubt"
            )));
        }
        let mut reason = found
            .unwrap_or("lines of the record of last good versions were damaged")
            .to_owned();
        if !doubtful.is_empty() {
            let names: Vec<String> = doubtful.iter().take(NAMED).map(ToString::to_string).collect();
            let more = match doubtful.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            reason += &format!("; last good versions may be out of date, of {}{more}", names.join(", "));
        }
        if self.journal.has_lost() {
            reason +=
                "; resources of files that cannot be read or understood may be forgotten: all endpoints are closed";
        }
        Some(Problem::error(reason, InForce::Unchanged))
    }

    /// Offers the outbox to the receiver. False = there is none any more.
    fn deliver(&mut self) -> bool {
        let Some(batch) = self.outbox.take() else {
            return !self.batches.is_closed();
        };
        match self.batches.try_send(batch) {
            Ok(()) => true,
            Err(TrySendError::Full(batch)) => {
                self.outbox = Some(batch);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// Stands for the policies that a damaged journal may have forgotten: closes everything.
fn lost() -> View {
    let reason = "the last good versions of policies may be lost".to_owned();
    let policy = BadPolicy {
        key: ResourceKey::new(Kind::GlobalNetworkPolicy, None, "lost"),
        selector: None,
        namespace_selector: None,
        reason,
    };
    View::parsed(vec![Doc {
        line: 1,
        body: Body::Unreadable {
            policy: Some(Arc::new(policy)),
        },
        hides: None,
        // Told by [`Shell::damage`].
        findings: Vec::new(),
        digest: Digest::of(LOST.as_bytes()),
        text: None,
    }])
}

/// What is wrong with the tree itself, by place.
fn problems_of(directory: &Path, tree: &Tree) -> BTreeMap<FilePath, Problem> {
    let unknown = tree.unknown.iter().map(|(place, reason)| {
        let problem = match &**place {
            "" => Problem::error(
                format!("directory {}: {reason}", directory.display()),
                InForce::Unchanged,
            ),
            _ => Problem::error(format!("cannot be read: {reason}"), InForce::Unchanged).at(place, None),
        };
        (Arc::clone(place), problem)
    });
    let odd = tree.odd.iter().map(|(place, reason)| {
        let problem = Problem {
            in_force: InForce::Nothing,
            ..Problem::warning(format!("ignored: {reason}"))
        };
        (Arc::clone(place), problem.at(place, None))
    });
    unknown.chain(odd).collect()
}

/// Tells a state what is wrong with the tree itself.
pub(crate) fn report_tree(state: &mut State, directory: &Path, tree: &Tree) {
    for (place, problem) in problems_of(directory, tree) {
        state.set_place(&place, Some(problem));
    }
}
