//! How the servers ask the pipeline: questions through a channel, each with a way back.
//!
//! The pipeline answers between two rounds, so an answer is one consistent moment, and no lock is held while the kernel is
//! programmed.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::{Endpoint, Flows, Nat, ProgramListing, Status, Way};
use crate::explain::Snapshot;

use super::flows::FlowFilter;

/// Questions that wait; more are turned away.
const QUEUE: usize = 64;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The question names something that does not exist, or cannot be understood.
    Unknown(String),
    /// The pipeline cannot answer.
    Failed(String),
    /// Not within the time.
    Busy,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(reason) | Self::Failed(reason) => f.write_str(reason),
            Self::Busy => f.write_str("the agent is busy programming the kernel; ask again"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A question to the pipeline.
#[derive(Debug)]
pub enum Question {
    /// State of the whole agent.
    Status(Reply<Status>),
    /// Local endpoints.
    Endpoints(Reply<Vec<Endpoint>>),
    /// Flows.
    Flows(FlowFilter, Reply<Flows>),
    /// Translations.
    Nats(Reply<Vec<Nat>>),
    /// Loaded programs of one endpoint: its name, `namespace/name` or interface; direction, `None` = both.
    Program(String, Option<Way>, Reply<Vec<ProgramListing>>),
    /// Everything that decides packets.
    Snapshot(Reply<Snapshot>),
    /// How many updates of records have been taken in since the start, and how many of them are not enforced yet.
    Progress(Reply<(u64, usize)>),
    /// Bring the metrics up to date with the kernel's counters.
    Sample(Reply<()>),
}

/// Asks the pipeline; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    patience: Duration,
}

impl Handle {
    /// A handle, and the pipeline's end of it.
    pub fn new(patience: Duration) -> (Self, mpsc::Receiver<Question>) {
        let (questions, receiver) = mpsc::channel(QUEUE);
        (Self { questions, patience }, receiver)
    }

    /// Asks and waits for the answer.
    pub async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.questions.try_send(question(reply)).map_err(|_| Refusal::Busy)?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refusal::Failed("the agent is stopping".to_owned())),
            Err(_) => Err(Refusal::Busy),
        }
    }
}
