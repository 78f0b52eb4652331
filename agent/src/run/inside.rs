//! A whole agent inside a process that is not `felid run`: records come through a channel instead of a datastore, and nobody serves
//! metrics or health. `felid test --engine live` has one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use felid_compile::planner::Planner;
use felid_dataplane::kernel::Conntrack;
use felid_datastore::{Batch, Problems, Update};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Static;
use crate::metrics::Metrics;

use super::handle::{Handle, Question};
use super::health::Health;
use super::pipeline::Parts;
use super::{Addresses, PATIENCE, ROUTE_PROTOCOL, kernel_config, planner_options, start_pipeline};

/// How long records may take to come into force.
const SLOWEST: Duration = Duration::from_secs(30);

/// The agent. Dropping it ends it; what it has pinned stays.
pub(crate) struct Inside {
    batches: mpsc::Sender<Batch>,
    handle: Handle,
    flows: Arc<Conntrack>,
    stop: watch::Sender<bool>,
    ended: Option<oneshot::Receiver<Result<(), String>>>,
    runtime: Runtime,
    sent: u64,
}

impl Inside {
    /// Starts it in the network namespace of the calling thread.
    pub(crate) fn start(config: Static) -> anyhow::Result<Self> {
        let settings = config.settings();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let options = felid_dataplane::Options {
            kernel: kernel_config(&settings),
            route_protocol: ROUTE_PROTOCOL,
        };
        let (dataplane, adopted) = runtime.block_on(felid_dataplane::Dataplane::open(&options))?;
        let flows = dataplane.kernel().conntrack();
        let planner = Planner::new(planner_options(&dataplane.kernel().capacities()), adopted);
        let (batches, receiver) = mpsc::channel(1);
        let (handle, questions) = Handle::new(PATIENCE);
        let (stop, stopping) = watch::channel(false);
        let parts = Parts {
            dataplane,
            planner,
            metrics: Arc::new(Metrics::new(settings.metrics_max_policies.0 as usize)?),
            config,
            batches: receiver,
            questions,
            health: Arc::new(Health::default()),
            log: None,
            logged: Arc::default(),
            addresses: Addresses::default(),
        };
        let ended = start_pipeline(parts, stopping)?;
        let mut this = Self {
            batches,
            handle,
            flows,
            stop,
            ended: Some(ended),
            runtime,
            sent: 0,
        };
        this.put(vec![Update::InSync])?;
        Ok(this)
    }

    /// Puts records in force: when it returns, they are enforced, and every endpoint has its interface.
    pub(crate) fn put(&mut self, updates: Vec<Update>) -> anyhow::Result<()> {
        self.sent += updates
            .iter()
            .filter(|update| !matches!(update, Update::InSync))
            .count() as u64;
        let batch = Batch {
            updates,
            problems: Arc::new(Problems::default()),
        };
        self.runtime
            .block_on(self.batches.send(batch))
            .map_err(|_| anyhow!("the agent has ended"))?;
        let end = Instant::now() + SLOWEST;
        loop {
            let (taken, pending) = self.ask(Question::Progress)?;
            let status = (taken >= self.sent && pending == 0)
                .then(|| self.ask(Question::Status))
                .transpose()?;
            if let Some(status) = &status
                && status.counts.waiting == 0
            {
                return Ok(());
            }
            if Instant::now() > end {
                let status = self.ask(Question::Status)?;
                bail!(
                    "records are not in force after {SLOWEST:?}: {:?} {:?}",
                    status.not_ready,
                    status.failures
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What keeps it from being ready.
    pub(crate) fn troubles(&self) -> anyhow::Result<Vec<String>> {
        Ok(self
            .ask(Question::Status)?
            .failures
            .into_iter()
            .map(|failure| format!("{failure:?}"))
            .collect())
    }

    /// Forgets all flows.
    pub(crate) fn forget_flows(&self) -> anyhow::Result<()> {
        Ok(self.flows.clear()?)
    }

    fn ask<T>(&self, question: impl FnOnce(super::handle::Reply<T>) -> Question) -> anyhow::Result<T> {
        self.runtime
            .block_on(self.handle.ask(question))
            .context("ask the agent")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Ended already: then there is nobody to be told.
        let _ = self.stop.send(true);
        if let Some(ended) = self.ended.take() {
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, ended).await });
        }
    }
}
