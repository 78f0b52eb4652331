//! A connection that stays open while policy changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::shop::Shop;

/// Time between two questions.
const PACE: Duration = Duration::from_millis(5);
/// A question without an answer for so long: the connection is cut.
const PATIENCE: Duration = Duration::from_millis(500);

/// An open connection that asks and is answered all the time.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<StreamSummary>>,
}

/// What became of it.
pub(super) struct StreamSummary {
    answers: u64,
    last: Instant,
    longest_gap: Duration,
    cut: bool,
}

impl Stream {
    pub(super) fn open(shop: &Shop, from: &'static str, to: &'static str) -> Result<Self> {
        let namespace = &shop
            .workload(from)
            .with_context(|| format!("no workload {from}"))?
            .namespace;
        let destinations = shop.destinations();
        let (_, addresses, port) = destinations
            .iter()
            .find(|(name, _, _)| *name == to)
            .context("no such destination")?;
        let address = SocketAddr::new(*addresses.first().context("no address")?, *port);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // The socket belongs to the namespace in which it was made, whichever thread uses it later.
        let stream = namespace.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
        let stream = stream.with_context(|| format!("{from} -> {to}"))?;
        Ok(Self {
            stop,
            thread: std::thread::spawn(move || talk(stream, &stopped)),
        })
    }

    pub(super) fn finish(self) -> Result<StreamSummary> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the connection's thread panicked"))?
    }
}

fn talk(mut stream: TcpStream, stop: &AtomicBool) -> Result<StreamSummary> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut outcome = StreamSummary {
        answers: 0,
        last: Instant::now(),
        longest_gap: Duration::ZERO,
        cut: false,
    };
    while !stop.load(Ordering::Relaxed) {
        let mut answer = [0; 8];
        if stream.write_all(b"question").is_err() || stream.read_exact(&mut answer).is_err() {
            outcome.cut = true;
            break;
        }
        let now = Instant::now();
        outcome.longest_gap = outcome.longest_gap.max(now - outcome.last);
        outcome.last = now;
        outcome.answers += 1;
        std::thread::sleep(PACE);
    }
    Ok(outcome)
}

impl StreamSummary {
    pub(super) fn alive(&self) -> bool {
        !self.cut
    }

    /// What happened, for people; `applied` is when the edit began.
    pub(super) fn told(&self, applied: Instant) -> String {
        if self.cut {
            let after = self.last.saturating_duration_since(applied);
            format!(
                "cut; the last answer came {} ms after `felid apply` was started",
                after.as_millis()
            )
        } else {
            format!(
                "untouched: {} answers, longest wait {} ms",
                self.answers,
                self.longest_gap.as_millis()
            )
        }
    }
}
