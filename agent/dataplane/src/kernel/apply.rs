//! Carrying out a transaction: the idle bank, the switch, the grace period, the other bank.

use std::collections::BTreeSet;

use felid_compile::transaction::{EndpointChange, Transaction};

use super::Kernel;
use super::shares::Population;
use super::switch::NextIds;
use crate::error::{KernelError, Result};
use crate::sys;

/// A switch that has happened: the new state is enforced, and the old one still stands in the other
/// bank. [`Kernel::complete`] ends it after a [`grace`] period.
#[must_use = "complete it after a grace period"]
#[derive(Debug)]
pub struct Flip {
    /// What went wrong at interfaces. The endpoints concerned are closed or have no interface; the
    /// rest is in force.
    pub link_errors: Vec<KernelError>,
}

/// A transaction that is complete: both banks are equal, and what it freed may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The epoch in force since its switch.
    pub epoch: u32,
}

/// Waits until no packet is under way that saw the state before the switch: 8 to 24 ms, on a thread
/// that may block. It fails if neither `membarrier` nor the replacement of an inner map can wait.
pub async fn grace() -> Result<()> {
    tokio::task::spawn_blocking(sys::membarrier)
        .await
        .map_err(|error| KernelError::call("wait for a grace period")(std::io::Error::other(error)))?
        .map_err(KernelError::call("wait for a grace period"))
}

impl Kernel {
    /// Carries out the first half of a transaction. When it returns, packets are judged by the new
    /// state.
    ///
    /// # Errors
    ///
    /// A program that the verifier refuses, a table that is too small, a transaction that
    /// contradicts itself, the one before that is not complete, or a failing system call. Nothing
    /// has changed for any packet then, and the same transaction may be tried again. What fails at
    /// single interfaces is in [`Flip::link_errors`] instead.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<Flip> {
        if self.switch.unfinished {
            return Err(KernelError::Unfinished);
        }
        // What an earlier failure left unwritten.
        self.flush()?;
        self.tables.commit();
        self.endpoints.commit();
        self.programs.policies.commit();
        self.tables.reserve(transaction)?;
        self.endpoints.check(transaction)?;
        let new = self.programs.load(transaction)?;
        if let Err(error) = self.stage(transaction) {
            self.undo();
            self.programs.generated.unload(&new);
            return Err(error);
        }
        let (endpoints, attach) = self.at_interfaces();
        let link_errors = endpoints.switch(transaction, &attach);
        Ok(Flip { link_errors })
    }

    /// Puts everything back as it was before the transaction that failed. What cannot be written
    /// now stays pending, and is written before the next attempt.
    fn undo(&mut self) {
        for undone in [
            self.programs.roll_back(),
            self.endpoints.roll_back(),
            self.tables.roll_back(),
            self.write_settings(),
        ] {
            if let Err(error) = undone {
                tracing::error!(%error, "cannot undo a change at once");
            }
        }
    }

    /// Everything up to the switch, and the switch itself, which is the last thing that can fail.
    fn stage(&mut self, transaction: &Transaction) -> Result<()> {
        let active = self.switch.active();
        self.raise_next_endpoint_id(transaction.next_endpoint_id)?;
        self.tables.write_classes(transaction)?;
        self.tables.stage(transaction, active);
        // Before the first entry of a table that was empty, and for as long as there is one; and
        // before the first packet of an endpoint that is new.
        self.write_settings_for(self.population(transaction))?;
        self.tables.flush()?;
        self.endpoints.stage(transaction)?;
        self.programs
            .want(transaction, self.switch.idle(), self.switch.is_first);
        self.programs.flush()?;
        self.counters.clear(transaction.new_counters.keys().copied())?;
        self.switch.flip()
    }

    /// The endpoints that there are, and those that come with a transaction.
    fn population(&self, transaction: &Transaction) -> Population {
        let there = self.endpoints.records().map(|(index, _)| index);
        let set = transaction.endpoints.iter();
        let coming = set.filter(|(_, change)| matches!(change, EndpointChange::Set(_)));
        let indexes: BTreeSet<u32> = there.chain(coming.map(|(id, _)| id.index)).collect();
        Population::of(indexes.into_iter())
    }

    fn raise_next_endpoint_id(&mut self, next: u32) -> Result<()> {
        if next <= self.next_ids.endpoint {
            return Ok(());
        }
        self.write_next_ids(NextIds {
            endpoint: next,
            ..self.next_ids
        })
    }

    pub(super) fn raise_next_nat_id(&mut self, next: u32) -> Result<()> {
        if next <= self.next_ids.nat {
            return Ok(());
        }
        self.write_next_ids(NextIds {
            nat: next,
            ..self.next_ids
        })
    }

    fn write_next_ids(&mut self, next: NextIds) -> Result<()> {
        next.write(self.endpoints.table().map())?;
        self.next_ids = next;
        Ok(())
    }

    /// Carries out the second half of a transaction, after [`grace`]. After an error it is called
    /// again, after another grace period, until it succeeds; only then the next transaction is
    /// accepted.
    pub fn complete(&mut self, transaction: &Transaction) -> Result<Completed> {
        // The grace period before this came after whatever was written before the switch.
        self.nats.finish();
        let was_first = self.switch.is_first;
        if self.switch.unfinished {
            self.revoke()?;
            self.endpoints.finish(transaction);
            self.tables.finish(transaction);
            self.programs
                .want(transaction, self.switch.idle(), self.switch.is_first);
            self.switch.unfinished = false;
            self.switch.is_first = false;
        }
        if let Err(error) = self.flush() {
            self.switch.unfinished = true;
            return Err(error);
        }
        if was_first {
            let links = self.endpoints.links();
            self.pins.remove_other_versions(|link| links.contains(link));
        }
        self.programs.generated.unload(&transaction.old_programs);
        self.programs.generated.drop_inherited();
        Ok(Completed {
            epoch: self.switch.epoch,
        })
    }

    /// Writes whatever is pending.
    fn flush(&mut self) -> Result<()> {
        self.endpoints.flush()?;
        self.tables.flush()?;
        self.programs.flush()?;
        self.write_settings()
    }
}
