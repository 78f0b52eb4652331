//! The stream as a source.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::core::content::{Body, Doc, SourceContent, SourceId};
use crate::core::engine::StartError;
use crate::core::parse::{Decoder, literally};
use crate::core::problem::{InForce, Origin, Problem};
use crate::core::source::{Control, Event, Known, Next, Source};
use crate::stream::input::{Happened, StreamAddress, StreamInput};
use crate::stream::lines::{Lines, StreamLine};
use crate::stream::message::{Message, may_be_any, read};

/// So many lines that cannot be understood are remembered one by one.
const MAX_UNREADABLE: usize = 64;
/// So much is read before what it says comes into force.
const MAX_ROUND: usize = 1 << 20;

/// A stream of JSON lines that is followed; see the module's page for what they say.
#[derive(Debug)]
pub struct StreamSource {
    /// As messages name it: `stream:-`.
    name: Arc<str>,
    input: StreamInput,
    lines: Lines,
    /// How records are decoded.
    decoder: Decoder,
    unreadable: Unreadable,
    /// In a resync: what was told since it began.
    told: Option<BTreeSet<SourceId>>,
    /// Resources that the last resync did not name and that stay nevertheless.
    kept: usize,
    begun: bool,
    stopped: Arc<AtomicBool>,
    /// What others want to be told of when everything that is there has been read.
    barriers: Arc<Mutex<Vec<u64>>>,
    /// Wakes the source from other threads.
    wake: Arc<UnixStream>,
}

/// Lines of which nobody knows what they are about.
#[derive(Debug, Default)]
struct Unreadable {
    docs: Vec<Doc>,
    /// Those at the beginning that are of the time before the resync that is under way.
    earlier: usize,
    /// More of them than are remembered.
    more: usize,
    changed: bool,
}

struct Wake {
    stopped: Arc<AtomicBool>,
    barriers: Arc<Mutex<Vec<u64>>>,
    wake: Arc<UnixStream>,
}

impl Control for Wake {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // If the buffer is full, the source is being woken already.
        let _ = (&*self.wake).write(&[0]);
    }

    fn barrier(&self, number: u64) {
        self.barriers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(number);
        // As above.
        let _ = (&*self.wake).write(&[0]);
    }
}

impl StreamSource {
    /// A stream that is not followed yet: see [`crate::start`]. A socket is made, with mode 0600,
    /// and removed at the end.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made, because something else is there or another process listens on
    /// it.
    pub fn open(address: &StreamAddress) -> Result<Self, StartError> {
        let (wake, woken) = wake()?;
        Ok(Self::new(
            &address.to_string(),
            StreamInput::open(address, woken)?,
            wake,
        ))
    }

    /// A stream from a connection that is there already. `name` names it in messages.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptors left.
    pub fn connected(connection: OwnedFd, name: &str) -> Result<Self, StartError> {
        let (wake, woken) = wake()?;
        Ok(Self::new(name, StreamInput::connected(connection, woken), wake))
    }

    /// The same stream, but its records are taken as they stand, as
    /// [`decode_literal`](felid_model::decode_literal) does. It is meant for policy tests, which
    /// try on purpose what no datastore would take; no agent that guards anything may use it.
    #[must_use]
    pub fn taken_literally(self) -> Self {
        Self {
            decoder: literally,
            ..self
        }
    }

    fn new(name: &str, input: StreamInput, wake: UnixStream) -> Self {
        Self {
            name: Arc::from(name),
            input,
            lines: Lines::default(),
            decoder: felid_model::decode,
            unreadable: Unreadable::default(),
            told: None,
            kept: 0,
            begun: false,
            stopped: Arc::new(AtomicBool::new(false)),
            barriers: Arc::default(),
            wake: Arc::new(wake),
        }
    }

    /// What was in force in an earlier life is in force again, until a producer says what there is
    /// now.
    fn begin(&mut self, known: &Known<'_>) -> Vec<Event> {
        let mut events = Vec::new();
        if known.sources().next().is_some() {
            events.push(Event::ResyncBegins);
            let sources = known.sources().cloned();
            events.extend(sources.map(|source| Event::Apply(source, SourceContent::Unreachable)));
            events.push(Event::InSync);
        }
        if self.input.is_connected() {
            events.extend(self.resync_begins());
        } else {
            events.push(Event::Lost(Arc::from(format!(
                "no producer is connected to {}",
                self.name
            ))));
        }
        events
    }

    fn resync_begins(&mut self) -> Option<Event> {
        self.told = Some(BTreeSet::new());
        self.unreadable.earlier = self.unreadable.docs.len();
        Some(Event::ResyncBegins)
    }

    fn take(&mut self, known: &Known<'_>, line: &StreamLine, events: &mut Vec<Event>) {
        match read(line, self.decoder) {
            Message::Apply(objects) => {
                for (source, doc) in objects {
                    self.note(&source);
                    events.push(Event::Apply(source, SourceContent::parsed(vec![doc])));
                }
            }
            Message::Delete(sources) => {
                for source in sources {
                    if let Some(told) = &mut self.told {
                        told.remove(&source);
                    }
                    events.push(Event::Delete(source));
                }
            }
            Message::Resync => events.extend(self.resync_begins()),
            Message::InSync => self.end_resync(known, events),
            Message::Unreadable(docs) => docs.into_iter().for_each(|doc| self.unreadable.push(doc)),
        }
    }

    fn note(&mut self, source: &SourceId) {
        if let Some(told) = &mut self.told {
            told.insert(Arc::clone(source));
        }
    }

    /// The end of a resync, which deletes what it has not named, unless one of its lines may have
    /// done so unreadably.
    fn end_resync(&mut self, known: &Known<'_>, events: &mut Vec<Event>) {
        if let Some(told) = self.told.take() {
            self.unreadable.forget_earlier();
            self.kept = 0;
            if self.unreadable.docs.iter().any(may_be_any) || self.unreadable.more > 0 {
                let missing = known
                    .sources()
                    .filter(|source| !told.contains(*source) && **source != self.name);
                let held: Vec<Event> = missing
                    .map(|source| Event::Apply(Arc::clone(source), SourceContent::Unreachable))
                    .collect();
                self.kept = held.len();
                events.extend(held);
            }
            self.unreadable.changed = true;
        }
        events.extend(self.told_unreadable());
        events.push(Event::InSync);
    }

    /// The lines that are not understood, as a source of their own, if they have changed.
    fn told_unreadable(&mut self) -> Option<Event> {
        if !std::mem::take(&mut self.unreadable.changed) {
            return None;
        }
        let name = Arc::clone(&self.name);
        Some(match self.unreadable.docs.as_slice() {
            [] => Event::Delete(name),
            docs => Event::Apply(name, SourceContent::parsed(docs.to_vec())),
        })
    }

    /// Takes the barriers that are asked for, unless nobody can tell at present what the datastore
    /// holds.
    fn asked_barriers(&self) -> Vec<u64> {
        if !self.sees_everything() {
            return Vec::new();
        }
        std::mem::take(&mut self.barriers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the barriers that are passed: all of them, if everything was read that had come.
    fn passed(&self, barriers: Vec<u64>, read: usize) -> Vec<Event> {
        if read < MAX_ROUND && self.sees_everything() {
            return barriers.into_iter().map(Event::Barrier).collect();
        }
        let mut asked = self.barriers.lock().unwrap_or_else(PoisonError::into_inner);
        asked.extend(barriers);
        Vec::new()
    }

    fn ended(&mut self, reason: &str) -> Event {
        let mut reason = reason.to_owned();
        if self.told.take().is_some() {
            reason += ", before {\"inSync\": true} was said";
        }
        if self.lines.take_rest().is_some() {
            reason += "; the last line has no end and was not read";
        }
        self.lines = Lines::default();
        Event::Lost(Arc::from(reason))
    }
}

impl Source for StreamSource {
    fn control(&self) -> Box<dyn Control> {
        Box::new(Wake {
            stopped: Arc::clone(&self.stopped),
            barriers: Arc::clone(&self.barriers),
            wake: Arc::clone(&self.wake),
        })
    }

    fn next(&mut self, known: &Known<'_>, deadline: Instant) -> Next {
        if !std::mem::replace(&mut self.begun, true) {
            return Next::Events(self.begin(known));
        }
        let mut events = Vec::new();
        // What is asked for from here on needs another round.
        let barriers = self.asked_barriers();
        let mut read = 0;
        let mut until = if barriers.is_empty() { deadline } else { Instant::now() };
        while read < MAX_ROUND
            && let Some(happened) = self.input.wait(until, known.has_backlog())
        {
            if self.stopped.load(Ordering::Acquire) {
                return Next::End;
            }
            match happened {
                Happened::Connected => events.extend(self.resync_begins()),
                Happened::Bytes(bytes) => {
                    read += bytes.len().max(1);
                    for line in self.lines.push(&bytes) {
                        self.take(known, &line, &mut events);
                    }
                }
                Happened::Ended(reason) => {
                    events.extend(self.told_unreadable());
                    events.push(self.ended(&reason));
                }
                Happened::Woken => {}
            }
            // What is there already belongs to the same round.
            until = Instant::now();
        }
        events.extend(self.told_unreadable());
        events.extend(self.passed(barriers, read));
        Next::Events(events)
    }

    fn problems(&self) -> BTreeMap<Arc<str>, Problem> {
        let mut problems = BTreeMap::new();
        let origin = || Origin::File {
            path: Arc::clone(&self.name),
            line: None,
        };
        if self.unreadable.more > 0 {
            let reason = format!("{} more lines are not understood", self.unreadable.more);
            problems.insert(
                Arc::from("//more"),
                Problem::error(reason, InForce::Unchanged).from(origin()),
            );
        }
        if self.kept > 0 {
            let reason = format!(
                "the last resync did not name {} resources that were in force, and had lines that are not understood",
                self.kept
            );
            problems.insert(
                Arc::from("//kept"),
                Problem::error(reason, InForce::Unchanged).from(origin()),
            );
        }
        problems
    }

    fn sees_everything(&self) -> bool {
        self.input.is_connected() && self.told.is_none()
    }
}

impl Unreadable {
    fn push(&mut self, doc: Doc) {
        self.changed = true;
        if self.docs.len() < MAX_UNREADABLE {
            self.docs.push(doc);
            return;
        }
        self.more += 1;
        // What one of those closes that are not remembered must be closed: then everything is.
        if let (Body::Unreadable { policy: Some(policy) }, Some(last)) = (doc.body, self.docs.last_mut()) {
            let mut policy = policy;
            let wide = Arc::make_mut(&mut policy);
            (wide.selector, wide.namespace_selector) = (None, None);
            wide.key.namespace = None;
            wide.key.kind = felid_model::Kind::GlobalNetworkPolicy;
            last.body = Body::Unreadable { policy: Some(policy) };
        }
    }

    fn forget_earlier(&mut self) {
        let earlier = std::mem::take(&mut self.earlier).min(self.docs.len());
        self.docs.drain(..earlier);
        if earlier > 0 {
            self.more = 0;
        }
    }
}

fn wake() -> Result<(UnixStream, UnixStream), StartError> {
    let pair = || {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok((wake, woken))
    };
    pair().map_err(StartError::Thread)
}
