//! The thread that follows a source: takes its events, decides what is in force, keeps that for a
//! restart, and hands it on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use felid_model::{BadPolicy, Kind, ResourceKey};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::core::content::{Body, Digest, Doc, Position, SourceContent, SourceId};
use crate::core::last_good::{LastGoodError, LastGoodLog};
use crate::core::problem::{InForce, Problem, Problems};
use crate::core::source::{Control, Event, Known, Next, Source};
use crate::core::state::{Decisions, Versions};
use crate::core::update::{Batch, Update};

/// Batches that wait for the receiver; more are merged.
const CHANNEL: usize = 16;
/// With more updates than this that wait for a busy receiver, no more are taken in.
const BACKLOG: usize = 100_000;
/// How soon to offer a batch again to a receiver that is busy.
const BUSY: Duration = Duration::from_millis(2);
/// How often to look after the state directory.
const TIDY: Duration = Duration::from_secs(5);
/// Stands in for a source of the policies that a damaged log of last good versions may have
/// forgotten; no source has this name.
const FORGOTTEN: &str = "//lost";

/// Why a datastore cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error(transparent)]
    LastGood(#[from] LastGoodError),
    /// A relative path cannot be made absolute.
    #[error("directory {path}: {source}")]
    Directory {
        /// The path as given.
        path: std::path::PathBuf,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// The socket on which records should arrive cannot be opened.
    #[error("{path}: {source}")]
    Socket {
        /// The path of the socket.
        path: std::path::PathBuf,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// No thread can be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A datastore that is being followed by a thread of its own. Dropping it ends that.
pub struct Reading {
    control: Arc<dyn Control>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl Reading {
    /// Asks the source to look at everything again, now. It does not wait.
    pub fn rescan(&self) {
        self.control.rescan();
    }

    /// Returns the handle with which other threads influence the source.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.control)
    }

    /// Ends it as dropping does, but waits no longer than `limit` for what is under way, which
    /// otherwise ends with the process.
    pub fn end(mut self, limit: Duration) {
        self.control.stop();
        let end = Instant::now() + limit;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= end {
                tracing::warn!(target: "felid::datastore", "the datastore is still being read; that is given up");
                self.thread = None;
            }
            std::thread::sleep(BUSY);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "felid::datastore", "the thread that reads the datastore ended by a panic");
        }
    }
}

/// Follows a datastore on a thread of its own. Versions in force are kept in the directory `state`,
/// which is created if absent and serves one agent at a time, so that a restart begins with the
/// same last good versions.
///
/// What is in force comes in batches: first everything, with [`Update::InSync`] at its end, then
/// what changes.
///
/// # Errors
///
/// If the state directory cannot be used or another agent uses it, or if no thread can be started.
pub fn start<S: Source + 'static>(source: S, state: &Path) -> Result<(Reading, mpsc::Receiver<Batch>), StartError> {
    let (last_good, entries) = LastGoodLog::open(state)?;
    let (batches, output) = mpsc::channel(CHANNEL);
    let control = Arc::from(source.control());
    let mut engine = Engine {
        state: Versions::new(entries),
        last_good,
        told: None,
        was_in_sync: false,
        places: BTreeSet::new(),
        problems: Arc::default(),
        outbox: None,
        batches,
        next_tidy: Instant::now() + TIDY,
    };
    let thread = std::thread::Builder::new()
        .name("felid-records".to_owned())
        .spawn(move || engine.run(source))
        .map_err(StartError::Thread)?;
    let reading = Reading {
        control,
        thread: Some(thread),
    };
    Ok((reading, output))
}

struct Engine {
    state: Versions,
    last_good: LastGoodLog,
    /// In a resync: the sources that were told.
    told: Option<BTreeSet<SourceId>>,
    was_in_sync: bool,
    /// Places with a problem.
    places: BTreeSet<SourceId>,
    problems: Arc<Problems>,
    outbox: Option<Batch>,
    batches: mpsc::Sender<Batch>,
    next_tidy: Instant,
}

/// Sources that changed, with what they hold now; `None` = the source is gone.
type Changes = Vec<(SourceId, Option<SourceContent>)>;

impl Engine {
    /// Runs until the source is stopped or nobody receives any more.
    fn run(&mut self, mut source: impl Source) {
        loop {
            let known = Known {
                state: &self.state,
                last_good: &self.last_good,
                backlog: self.outbox.as_ref().is_some_and(|batch| batch.updates.len() > BACKLOG),
            };
            let Next::Events(events) = source.next(&known, self.deadline()) else {
                return;
            };
            self.take(events);
            self.recover(&source);
            if self.next_tidy <= Instant::now() {
                self.last_good.tidy();
                self.next_tidy = Instant::now() + TIDY;
            }
            self.report(&source);
            if !self.deliver() {
                return;
            }
        }
    }

    fn deadline(&self) -> Instant {
        match self.outbox {
            Some(_) => Instant::now() + BUSY,
            None => self.next_tidy,
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        let mut changes: Changes = Vec::new();
        for event in events {
            match event {
                Event::Apply(source, content) => {
                    self.note(&source);
                    changes.push((source, Some(content)));
                }
                Event::Delete(source) => changes.push((source, None)),
                Event::Keep(source) => self.note(&source),
                Event::Bookmark(bookmark) => self.last_good.set_bookmark(bookmark),
                Event::ResyncBegins => {
                    self.put_in_force(std::mem::take(&mut changes));
                    self.told = Some(BTreeSet::new());
                    self.publish(vec![Update::ResyncBegins]);
                }
                Event::InSync => {
                    self.end_resync(std::mem::take(&mut changes));
                    self.publish(vec![Update::InSync]);
                }
                Event::Lost(reason) => {
                    self.put_in_force(std::mem::take(&mut changes));
                    self.told = None;
                    self.publish(vec![Update::Lost(reason)]);
                }
                Event::Barrier(number) => {
                    self.put_in_force(std::mem::take(&mut changes));
                    self.publish(vec![Update::Barrier(number)]);
                }
            }
        }
        self.put_in_force(changes);
    }

    fn note(&mut self, source: &SourceId) {
        if let Some(told) = &mut self.told {
            told.insert(Arc::clone(source));
        }
    }

    /// Puts the last changes of a resync in force, and takes away what was not told.
    fn end_resync(&mut self, mut changes: Changes) {
        if let Some(told) = self.told.take() {
            let gone = self.state.all_sources().filter(|source| !told.contains(&**source));
            let gone: Changes = gone
                .filter(|source| &***source != FORGOTTEN)
                .map(|source| (Arc::clone(source), None))
                .collect();
            // What moves from one source to another is one change.
            changes.extend(gone);
            if !self.was_in_sync && self.last_good.is_incomplete() {
                changes.push((Arc::from(FORGOTTEN), Some(forgotten())));
            }
            self.was_in_sync = true;
        }
        self.put_in_force(changes);
    }

    fn put_in_force(&mut self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let last_good = &self.last_good;
        let outcome = self.state.update(changes, &|key| last_good.recall(key));
        self.commit(outcome);
    }

    /// Opens what was closed for the sake of forgotten policies, once everything could be read and
    /// understood.
    fn recover(&mut self, source: &impl Source) {
        let incomplete = self.was_in_sync && self.told.is_none() && self.last_good.is_incomplete();
        if incomplete && source.sees_everything() && !self.state.may_contain_more() {
            self.last_good.set_recovered();
            self.put_in_force(vec![(Arc::from(FORGOTTEN), None)]);
        }
    }

    /// Keeps what is in force for a restart, and then hands it on.
    fn commit(&mut self, outcome: Decisions) {
        self.last_good.write(outcome.records);
        self.publish(outcome.updates);
    }

    fn publish(&mut self, updates: Vec<Update>) {
        if !updates.is_empty() {
            self.outbox().updates.extend(updates);
        }
    }

    fn outbox(&mut self) -> &mut Batch {
        let problems = &self.problems;
        self.outbox.get_or_insert_with(|| Batch {
            updates: Vec::new(),
            problems: Arc::clone(problems),
        })
    }

    /// Brings the list of problems up to date.
    fn report(&mut self, source: &impl Source) {
        let mut places: BTreeMap<SourceId, Problem> = source.problems();
        if let Some(fault) = self.last_good.fault() {
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
            self.outbox();
        }
        if let Some(batch) = &mut self.outbox {
            batch.problems = problems;
        }
    }

    /// What is in doubt because the log of last good versions was damaged.
    fn damage(&self) -> Option<Problem> {
        let suspect = self.last_good.suspect();
        let found = self.last_good.damage();
        if suspect.is_empty() && !self.last_good.is_incomplete() {
            let reason = format!("{}; everything was read anew, nothing is in doubt", found?);
            return Some(Problem::warning(reason));
        }
        let mut reason = found
            .unwrap_or("lines of the record of last good versions were damaged")
            .to_owned();
        if !suspect.is_empty() {
            reason += &format!("; last good versions may be out of date, of {}", names(suspect));
        }
        if self.last_good.is_incomplete() {
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

/// The first few of many resources.
fn names(keys: &BTreeSet<ResourceKey>) -> String {
    const NAMED: usize = 5;
    let names: Vec<String> = keys.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match keys.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", names.join(", "))
}

/// Stands for the policies that a damaged log may have forgotten: closes everything.
fn forgotten() -> SourceContent {
    let policy = BadPolicy {
        key: ResourceKey::new(Kind::GlobalNetworkPolicy, None, "lost"),
        selector: None,
        namespace_selector: None,
        reason: "the last good versions of policies may be lost".to_owned(),
    };
    SourceContent::parsed(vec![Doc {
        position: Position::Line(1),
        body: Body::Unreadable {
            policy: Some(Arc::new(policy)),
        },
        ambiguity: None,
        // [`Engine::damage`] says it.
        findings: Vec::new(),
        digest: Digest::of(FORGOTTEN.as_bytes()),
        text: None,
    }])
}
