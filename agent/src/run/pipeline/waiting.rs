//! Who waits until something is so: kept by the pipeline, and answered in the round in which it
//! becomes so.
//!
//! ```text
//! request -> barrier in the datastore -> what it held has been taken in: the target revision
//!         -> a transaction with it is complete, nothing speaks against it -> answer
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_dataplane::DataplaneDriver;
use felid_datastore::Control;

use crate::api::{Wait, WaitFor, Waited};
use crate::run::handle::Reply;
use crate::run::handlers::wait::{Look, Target};

use super::{Pipeline, Round};

/// The datastore is given this time to be read, whatever the waiter's own is: a look at what it
/// held a moment ago would answer another question.
const READING: Duration = Duration::from_secs(2);

/// Those who wait. The servers limit how many there may be.
pub(super) struct Waiting {
    datastore: Arc<dyn Control>,
    /// The last barrier that was asked for.
    barriers: u64,
    waiters: Vec<Waiter>,
}

/// One of them.
struct Waiter {
    wait: Wait,
    reply: Reply<Waited>,
    began: Instant,
    stage: Stage,
}

/// How far it has come.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The datastore has not told everything yet that it held then.
    Reading(u64),
    /// A record is there that is to be gone.
    StillThere,
    /// This has to be enforced.
    Enforcing(Target),
}

impl Waiter {
    fn due(&self) -> Instant {
        let limit = match self.stage {
            Stage::Reading(_) => self.wait.timeout.max(READING),
            Stage::StillThere | Stage::Enforcing(_) => self.wait.timeout,
        };
        self.began + limit
    }
}

impl Waiting {
    pub(super) fn new(datastore: Arc<dyn Control>) -> Self {
        Self {
            datastore,
            barriers: 0,
            waiters: Vec::new(),
        }
    }

    /// Takes somebody in.
    pub(super) fn add(&mut self, wait: Wait, reply: Reply<Waited>) {
        let stage = match wait.what {
            WaitFor::Ready => Stage::Enforcing(Target(0)),
            WaitFor::Enforced(_) | WaitFor::Deleted(_) => {
                self.barriers += 1;
                self.datastore.barrier(self.barriers);
                Stage::Reading(self.barriers)
            }
        };
        self.waiters.push(Waiter {
            wait,
            reply,
            began: Instant::now(),
            stage,
        });
    }

    /// Notes that all barriers up to this one are passed, and what has been taken in by then.
    pub(super) fn passed(&mut self, barrier: u64, revision: u64) {
        for waiter in &mut self.waiters {
            if matches!(waiter.stage, Stage::Reading(number) if number <= barrier) {
                waiter.stage = Stage::Enforcing(Target(revision));
            }
        }
    }

    /// Waits until the time of somebody is over.
    pub(super) async fn until_due(&self) {
        match self.waiters.iter().map(Waiter::due).min() {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl<D: DataplaneDriver> Pipeline<D> {
    /// Answers those who have waited for long enough. That changes nothing in the kernel.
    pub(super) fn answer_waiters(&mut self) -> Round {
        let waiters = std::mem::take(&mut self.waiting.waiters);
        let now = Instant::now();
        for mut waiter in waiters {
            if waiter.reply.is_closed() {
                continue;
            }
            match self.look(&mut waiter) {
                Look::Done(waited) => drop(waiter.reply.send(Ok(waited))),
                Look::Never(refusal) => drop(waiter.reply.send(Err(refusal))),
                Look::NotYet(reason) if waiter.due() <= now => drop(waiter.reply.send(Ok(unmet(reason)))),
                Look::NotYet(_) => self.waiting.waiters.push(waiter),
            }
        }
        Round::Idle
    }

    fn look(&self, waiter: &mut Waiter) -> Look {
        let view = self.view();
        if let WaitFor::Deleted(key) = &waiter.wait.what {
            match waiter.stage {
                Stage::Enforcing(_) if view.is_there(key) => waiter.stage = Stage::StillThere,
                Stage::StillThere if !view.is_there(key) => {
                    waiter.stage = Stage::Enforcing(Target(self.revisions.seen()));
                }
                Stage::Reading(_) | Stage::StillThere | Stage::Enforcing(_) => {}
            }
        }
        match waiter.stage {
            Stage::Reading(_) => Look::NotYet(view.unread()),
            Stage::StillThere => Look::NotYet("it is still there".to_owned()),
            Stage::Enforcing(target) => view.look(&waiter.wait.what, target),
        }
    }

    /// Counts what has just been enforced, with how long each change took.
    pub(super) fn report_enforced(&self, times: &[Duration]) {
        let metrics = &self.reporting.metrics().programming;
        for time in times {
            metrics.enforced_seconds.observe(time.as_secs_f64());
        }
        if let Some((revision, _)) = self.revisions.enforced() {
            metrics.revision_enforced.set(revision as i64);
        }
    }
}

fn unmet(reason: String) -> Waited {
    Waited {
        reason: Some(reason),
        ..Waited::default()
    }
}
