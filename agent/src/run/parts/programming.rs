//! Where the pipeline stands between the records and the kernel.

use std::time::{Duration, Instant, SystemTime};

use felid_compile::transaction::Transaction;
use felid_dataplane::{Enforcement, Grace};

/// A pause before the second half of a transaction that has failed once.
const PAUSE: Duration = Duration::from_secs(1);

/// What has been taken in and is not enforced yet, and what became of what was.
#[derive(Debug)]
pub(in crate::run) struct Programming {
    /// The kernel has been programmed once since the start.
    programmed: bool,
    /// The first transaction is not complete yet.
    starting: bool,
    /// Changes since the last transaction.
    pending: usize,
    /// When the first of them came.
    pending_since: Option<Instant>,
    /// The transaction whose second half is to come, and when its first half began.
    under_way: Option<(Transaction, Instant)>,
    /// The second half failed the last time.
    slow_down: bool,
    last: Option<Last>,
    /// Transactions in force since the start.
    total: u64,
}

/// The last transaction.
#[derive(Debug, Clone, Copy)]
pub(in crate::run) struct Last {
    pub(in crate::run) at: SystemTime,
    /// From the arrival of its first change to its enforcement.
    pub(in crate::run) latency: Duration,
    pub(in crate::run) updates: usize,
}

impl Programming {
    pub(in crate::run) const fn new() -> Self {
        Self {
            programmed: false,
            starting: true,
            pending: 0,
            pending_since: None,
            under_way: None,
            slow_down: false,
            last: None,
            total: 0,
        }
    }

    /// Notes changes of records that have been taken in.
    pub(in crate::run) fn take_in(&mut self, changes: usize) {
        if changes > 0 {
            self.pending += changes;
            self.pending_since.get_or_insert_with(Instant::now);
        }
    }

    /// Returns how many changes of records are not enforced yet.
    pub(in crate::run) const fn pending(&self) -> usize {
        self.pending
    }

    /// Returns whether the kernel has been programmed since the start.
    pub(in crate::run) const fn is_programmed(&self) -> bool {
        self.programmed
    }

    /// Returns whether a transaction waits for its second half.
    pub(in crate::run) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Returns the last transaction, and how many there were since the start.
    pub(in crate::run) fn last(&self) -> Option<(Last, u64)> {
        Some((self.last?, self.total))
    }

    /// Notes that what was taken in changes nothing for this node.
    pub(in crate::run) const fn nothing_to_do(&mut self) {
        self.programmed = true;
        self.pending = 0;
        self.pending_since = None;
    }

    /// Notes that a transaction is in force, whose first half began then. Returns what became of
    /// it.
    pub(in crate::run) fn in_force(&mut self, began: Instant) -> Last {
        let last = Last {
            at: SystemTime::now(),
            latency: self.pending_since.unwrap_or(began).elapsed(),
            updates: self.pending,
        };
        self.nothing_to_do();
        self.last = Some(last);
        self.total += 1;
        last
    }

    /// Keeps a transaction that is in force until it is complete.
    pub(in crate::run) fn wait_for_grace(&mut self, transaction: Transaction, began: Instant) {
        self.under_way = Some((transaction, began));
    }

    /// Returns the wait before the second half of the transaction under way, if there is one.
    pub(in crate::run) fn grace(&self, dataplane: &impl Enforcement) -> Option<Grace> {
        self.under_way.as_ref()?;
        let grace = dataplane.grace();
        if !self.slow_down {
            return Some(grace);
        }
        Some(Box::pin(async move {
            tokio::time::sleep(PAUSE).await;
            grace.await
        }))
    }

    /// Takes the transaction under way out, to complete it.
    pub(in crate::run) fn take_under_way(&mut self) -> Option<(Transaction, Instant)> {
        self.under_way.take()
    }

    /// Notes that a transaction is complete. Returns whether it was the first.
    pub(in crate::run) const fn completed(&mut self) -> bool {
        self.slow_down = false;
        std::mem::replace(&mut self.starting, false)
    }

    /// Puts a transaction back whose second half has failed: it is tried again after another grace
    /// period.
    pub(in crate::run) fn not_completed(&mut self, transaction: Transaction, began: Instant) {
        self.slow_down = true;
        self.under_way = Some((transaction, began));
    }
}
