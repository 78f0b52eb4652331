//! A whole agent inside a process that is not `felid run`: nobody serves metrics or health, and the
//! process itself is the producer of the stream from which the agent has its records. `felid test
//! --engine live` has one.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use felid_dataplane::kernel::Conntrack;
use felid_datastore::{Reading, StreamSource};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::config::Static;
use crate::metrics::Metrics;

use super::handle::{Handle, Reply, Request};
use super::pipeline::{Outlets, Setup};
use super::{TIMEOUT, open_dataplane, start_pipeline};

/// How long records may take to come into force.
const SLOWEST: Duration = Duration::from_secs(30);
/// The stream as messages name it.
const STREAM: &str = "stream:felid-test";
/// What has been told until here is all that there is.
const IN_SYNC: &str = "{\"inSync\": true}\n";

/// The agent. Dropping it ends it; what it has pinned stays.
pub(crate) struct Inside {
    producer: UnixStream,
    handle: Handle,
    flows: Arc<Conntrack>,
    stop: watch::Sender<bool>,
    ended: Option<oneshot::Receiver<Result<(), String>>>,
    runtime: Runtime,
    /// How often the stream has said that it is in sync.
    synced: u64,
    // Last: the agent takes the end of it for a failure.
    _reading: Reading,
}

impl Inside {
    /// Starts it in the network namespace of the calling thread. It takes the records of its stream
    /// as they stand.
    pub(crate) fn start(config: Static) -> anyhow::Result<Self> {
        let settings = config.settings();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (producer, connection) = UnixStream::pair()?;
        producer.set_write_timeout(Some(SLOWEST))?;
        let source = StreamSource::connected(OwnedFd::from(connection), STREAM)?.taken_literally();
        let (reading, batches) = felid_datastore::start(source, &settings.state_dir.join("records"))?;
        let (dataplane, planner) = runtime.block_on(open_dataplane(&settings))?;
        let flows = dataplane.kernel().conntrack();
        let (handle, requests) = Handle::new(TIMEOUT);
        let (stop, stopping) = watch::channel(false);
        let setup = Setup {
            dataplane,
            planner,
            config,
            batches,
            datastore: reading.control(),
            requests,
            outlets: Outlets::new(Metrics::new(settings.metrics_max_policies.0 as usize)?),
        };
        let ended = start_pipeline(setup, stopping)?;
        let mut this = Self {
            producer,
            handle,
            flows,
            stop,
            ended: Some(ended),
            runtime,
            synced: 0,
            _reading: reading,
        };
        this.tell("")?;
        Ok(this)
    }

    /// Tells the agent lines of its stream, and then that it is in sync. When this returns, what
    /// they say is enforced, and every endpoint has its interface.
    pub(crate) fn tell(&mut self, lines: &str) -> anyhow::Result<()> {
        let text = format!("{lines}{IN_SYNC}");
        self.producer
            .write_all(text.as_bytes())
            .map_err(|error| anyhow!("the agent reads no more records: {error}"))?;
        self.synced += text.lines().filter(|line| *line == IN_SYNC.trim_end()).count() as u64;
        let end = Instant::now() + SLOWEST;
        loop {
            let progress = self.ask(Request::Progress)?;
            let status = (progress.synced >= self.synced && progress.pending == 0)
                .then(|| self.ask(Request::Status))
                .transpose()?;
            if let Some(status) = &status
                && status.counts.waiting == 0
            {
                return Ok(());
            }
            if Instant::now() > end {
                let status = self.ask(Request::Status)?;
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
            .ask(Request::Status)?
            .failures
            .into_iter()
            .map(|failure| format!("{failure:?}"))
            .collect())
    }

    /// Forgets all flows.
    pub(crate) fn forget_flows(&self) -> anyhow::Result<()> {
        Ok(self.flows.clear()?)
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> anyhow::Result<T> {
        self.runtime.block_on(self.handle.ask(request)).context("ask the agent")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Ended already: then there is nobody to be told.
        let _ = self.stop.send(true);
        if let Some(ended) = self.ended.take() {
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(TIMEOUT, ended).await });
        }
    }
}
