//! The seam for reading: what a datastore has to do so that felid can follow it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::core::content::{Doc, SourceContent, SourceId};
use crate::core::last_good::LastGoodLog;
use crate::core::problem::Problem;
use crate::core::state::Versions;

/// A datastore that is read: it says what it holds, source by source (a file, an object), and then
/// what changes.
///
/// What is in force follows from what it says, and from the versions that were in force before;
/// that is the engine's work ([`crate::start`]), and is the same for every datastore. An
/// implementation has to keep to this order:
///
/// 1. [`Event::ResyncBegins`], then [`Event::Apply`] or [`Event::Keep`] for each source that is
///    there, then [`Event::InSync`]: what was not told between the two is gone.
/// 2. [`Event::Apply`] and [`Event::Delete`] as things change.
/// 3. [`Event::Lost`] when the datastore cannot be reached; nothing is deleted by it. Then again
///    from 1.
/// 4. [`Event::Barrier`] once for each call of [`Control::barrier`], after everything that the
///    datastore held at that time.
///
/// # Examples
///
/// A datastore with one object that never changes.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Instant;
///
/// use felid_datastore::{Control, Event, Known, Next, Source, SourceContent, Update, start};
///
/// struct Constant {
///     told: bool,
///     orders: mpsc::Receiver<Option<u64>>,
///     order: mpsc::Sender<Option<u64>>,
/// }
///
/// struct Order(mpsc::Sender<Option<u64>>);
///
/// impl Control for Order {
///     fn stop(&self) {
///         let _ = self.0.send(None);
///     }
///
///     fn barrier(&self, number: u64) {
///         let _ = self.0.send(Some(number));
///     }
/// }
///
/// impl Source for Constant {
///     fn control(&self) -> Box<dyn Control> {
///         Box::new(Order(self.order.clone()))
///     }
///
///     fn next(&mut self, _known: &Known<'_>, deadline: Instant) -> Next {
///         if !std::mem::replace(&mut self.told, true) {
///             let tier = r#"{"apiVersion": "projectcalico.org/v3", "kind": "Tier",
///                 "metadata": {"name": "net"}, "spec": {}}"#;
///             let object = Event::Apply("Tier/net".into(), SourceContent::object(tier));
///             return Next::Events(vec![Event::ResyncBegins, object, Event::InSync]);
///         }
///         match self.orders.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
///             Ok(Some(number)) => Next::Events(vec![Event::Barrier(number)]),
///             Err(mpsc::RecvTimeoutError::Timeout) => Next::Events(Vec::new()),
///             _ => Next::End,
///         }
///     }
/// }
///
/// let state = tempfile::tempdir()?;
/// let (order, orders) = mpsc::channel();
/// let source = Constant { told: false, orders, order };
/// let (reading, mut batches) = start(source, state.path())?;
/// let batch = batches.blocking_recv().expect("the source tells what it holds");
/// assert!(matches!(batch.updates[..], [Update::ResyncBegins, Update::Apply(_), Update::InSync]));
/// assert!(batch.problems.is_empty());
///
/// reading.control().barrier(7);
/// let batch = batches.blocking_recv().expect("the source tells that it has come so far");
/// assert_eq!(batch.updates, [Update::Barrier(7)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Source: Send {
    /// Returns a handle with which other threads influence the source.
    fn control(&self) -> Box<dyn Control>;

    /// Waits until there is something to tell, but not longer than until `deadline`, and tells it.
    /// Events that are told together come into force together. Ends after [`Control::stop`].
    fn next(&mut self, known: &Known<'_>, deadline: Instant) -> Next;

    /// What is wrong with the source itself at this moment (and not with what it holds), by the
    /// place that is wrong.
    fn problems(&self) -> BTreeMap<Arc<str>, Problem> {
        BTreeMap::new()
    }

    /// Whether everything that the datastore holds can be seen at this moment.
    fn sees_everything(&self) -> bool {
        true
    }
}

/// The influence of other threads on a [`Source`].
pub trait Control: Send + Sync {
    /// Lets [`Source::next`] return [`Next::End`] soon. It does not wait.
    fn stop(&self);

    /// Asks the source to look at everything again, now. Sources that are told of every change need
    /// not do anything.
    fn rescan(&self) {}

    /// Asks the source to tell [`Event::Barrier`] with this number once everything has been told
    /// that the datastore holds at this moment, or later versions of it. A source that cannot be
    /// read tells it when it can be again. It does not wait.
    fn barrier(&self, number: u64);
}

/// What [`Source::next`] returns.
#[derive(Debug)]
pub enum Next {
    /// What there is to tell. It is empty if the deadline has passed.
    Events(Vec<Event>),
    /// The source was stopped.
    End,
}

/// One thing that a source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The source holds this now.
    Apply(SourceId, SourceContent),
    /// The source is gone for certain.
    Delete(SourceId),
    /// In a resync: the source is there as it was told before.
    Keep(SourceId),
    /// The datastore is read from the start.
    ResyncBegins,
    /// What was not told since [`Event::ResyncBegins`] does not exist. Outside of a resync, it says
    /// nothing new.
    InSync,
    /// The datastore cannot be reached, for this reason.
    Lost(Arc<str>),
    /// What the datastore held when [`Control::barrier`] was called with this number has been told.
    Barrier(u64),
    /// Something that the source wants to find again in [`Known::bookmark`] after a restart: which
    /// directory it was, up to which resource version an API was read.
    Bookmark(Value),
}

/// What the engine knows, for a source that has to decide what to tell.
#[derive(Debug)]
pub struct Known<'a> {
    pub(crate) state: &'a Versions,
    pub(crate) last_good: &'a LastGoodLog,
    pub(crate) backlog: bool,
}

impl Known<'_> {
    /// Returns the sources of which something is in force, from this life or an earlier one.
    pub fn sources(&self) -> impl Iterator<Item = &SourceId> {
        self.state.sources()
    }

    /// Returns whether something of this source is in force.
    pub fn holds(&self, source: &str) -> bool {
        self.state.holds(source)
    }

    /// Returns the sources of which resources are in force that this content holds, too: it may
    /// have been moved from there.
    pub fn holders(&self, content: &SourceContent) -> impl Iterator<Item = SourceId> {
        let keys = content.docs().iter().filter_map(Doc::key);
        keys.filter_map(|key| self.state.source_of(key).cloned())
    }

    /// Returns whether so many changes wait for the receiver that the source should not take in
    /// more for the moment, if it can let others wait.
    pub fn has_backlog(&self) -> bool {
        self.backlog
    }

    /// Returns what the last [`Event::Bookmark`] held, also from an earlier life.
    pub fn bookmark(&self) -> Option<&Value> {
        self.last_good.bookmark()
    }
}
