//! What `/metrics` answers, built once for many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Mutex;

use crate::metrics::Metrics;
use crate::run::handle::{Handle, Request};

/// A text is given to everybody who asks within so many times what it took to build: asking without
/// pause costs this share of a processor at most.
const SHARE: u32 = 20;
/// No text is older than this.
const OLDEST: Duration = Duration::from_secs(1);

/// The metrics as text, and how old it is.
pub(super) struct Scrape {
    metrics: Arc<Metrics>,
    handle: Handle,
    last: Mutex<Option<Built>>,
}

/// A text that has been built.
struct Built {
    text: Bytes,
    at: Instant,
    valid: Duration,
}

impl Scrape {
    pub(super) fn new(metrics: Arc<Metrics>, handle: Handle) -> Self {
        Self {
            metrics,
            handle,
            last: Mutex::new(None),
        }
    }

    /// Returns the text. The kernel's counters in it are brought up to date first, unless the
    /// pipeline is busy.
    pub(super) async fn text(&self) -> Result<Bytes, prometheus::Error> {
        // Whoever comes while it is built waits for it.
        let mut last = self.last.lock().await;
        if let Some(built) = last.as_ref().filter(|built| built.at.elapsed() < built.valid) {
            return Ok(built.text.clone());
        }
        let began = Instant::now();
        if let Err(refusal) = self.handle.ask(Request::Sample).await {
            tracing::debug!("metrics without fresh kernel counters: {refusal}");
        }
        let text = Bytes::from(self.metrics.text()?);
        let built = Built {
            text: text.clone(),
            at: Instant::now(),
            valid: (began.elapsed() * SHARE).min(OLDEST),
        };
        *last = Some(built);
        Ok(text)
    }
}
