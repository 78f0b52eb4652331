//! How the connection to the datastore stands, for the log, the metric `felix_resync_state` and
//! `felid status`.

use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{self, ResyncState};
use crate::metrics::Metrics;

/// The connection to the datastore as the datastore's updates tell it.
#[derive(Debug)]
pub(super) struct Connection {
    state: ResyncState,
    since: SystemTime,
    /// Why the connection is lost, while it is.
    reason: Option<Arc<str>>,
    /// Whether the datastore has been in sync since the agent started: the kernel may be programmed
    /// from then on.
    was_in_sync: bool,
}

impl Connection {
    /// A connection that waits for the datastore.
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics.records.set_resync_state(ResyncState::WaitForDatastore);
        Self {
            state: ResyncState::WaitForDatastore,
            since: SystemTime::now(),
            reason: None,
            was_in_sync: false,
        }
    }

    /// The datastore is read from the start.
    pub(super) fn resync_begins(&mut self, metrics: &Metrics) {
        if self.was_in_sync {
            tracing::info!("resync with the datastore begins");
        }
        self.change(ResyncState::ResyncInProgress, None, metrics);
    }

    /// Everything that the datastore holds is known.
    pub(super) fn in_sync(&mut self, metrics: &Metrics) {
        self.was_in_sync = true;
        if self.state != ResyncState::InSync {
            tracing::info!("in sync with the datastore");
            self.change(ResyncState::InSync, None, metrics);
        }
    }

    /// The datastore cannot be reached.
    pub(super) fn lost(&mut self, reason: Arc<str>, metrics: &Metrics) {
        if self.reason.as_ref() == Some(&reason) {
            return;
        }
        tracing::warn!("the connection to the datastore is lost: {reason}; what was last read stays in force");
        self.change(ResyncState::WaitForDatastore, Some(reason), metrics);
    }

    fn change(&mut self, state: ResyncState, reason: Option<Arc<str>>, metrics: &Metrics) {
        (self.state, self.since, self.reason) = (state, SystemTime::now(), reason);
        metrics.records.set_resync_state(state);
    }

    /// Whether the datastore has been read completely since the agent started.
    pub(super) const fn was_in_sync(&self) -> bool {
        self.was_in_sync
    }

    /// The connection as `felid status` shows it.
    pub(super) fn report(&self) -> api::Resync {
        api::Resync {
            state: self.state,
            since: api::rfc3339(self.since),
            reason: self.reason.as_ref().map(ToString::to_string),
        }
    }
}
