//! How the servers ask the pipeline: requests through a channel, each with a way back.
//!
//! The pipeline answers between two rounds, so an answer is one consistent moment, and no lock is
//! held while the kernel is programmed.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::{Endpoint, FlowFilter, Flows, Nat, ProgramListing, Refusal, Status, Wait, Waited};
use crate::explain::Snapshot;
use felid_model::Direction;

/// Requests that wait; more are turned away.
const QUEUE: usize = 64;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the pipeline.
#[derive(Debug)]
pub enum Request {
    /// State of the whole agent.
    Status(Reply<Status>),
    /// Local endpoints.
    Endpoints(Reply<Vec<Endpoint>>),
    /// Flows.
    Flows(FlowFilter, Reply<Flows>),
    /// Translations.
    Nats(Reply<Vec<Nat>>),
    /// Loaded programs of one endpoint: its name, `namespace/name` or interface; direction, `None`
    /// = both.
    Program(String, Option<Direction>, Reply<Vec<ProgramListing>>),
    /// Everything that decides packets.
    Snapshot(Reply<Snapshot>),
    /// How far the pipeline is with the updates of records.
    Progress(Reply<Progress>),
    /// Bring the metrics up to date with the kernel's counters.
    Sample(Reply<()>),
    /// Answer when something is so.
    Wait(Wait, Reply<Waited>),
}

/// How far the pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How often the datastore has said since the start that it is in sync. What it had told before
    /// that has been taken in.
    pub synced: u64,
    /// Updates of records that have been taken in and are not enforced yet.
    pub pending: usize,
}

/// Asks the pipeline; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    timeout: Duration,
}

impl Handle {
    /// A handle, and the pipeline's end of it.
    pub fn new(timeout: Duration) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        (Self { requests, timeout }, receiver)
    }

    /// Asks and waits for the answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|_| Refusal::Busy)?;
        answered(self.timeout, answer).await
    }

    /// Asks to be told when something is so, and waits for that.
    pub async fn wait(&self, wait: Wait) -> Result<Waited, Refusal> {
        let (reply, answer) = oneshot::channel();
        let limit = wait.timeout + self.timeout;
        // Many may come at once; they have the time.
        let request = self.requests.send(Request::Wait(wait, reply));
        match tokio::time::timeout(self.timeout, request).await {
            Ok(Ok(())) => answered(limit, answer).await,
            Ok(Err(_)) | Err(_) => Err(Refusal::Busy),
        }
    }
}

async fn answered<T>(limit: Duration, answer: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Refusal::Failed("the agent is stopping".to_owned())),
        Err(_) => Err(Refusal::Busy),
    }
}
