//! Carrying out a transaction: the idle bank, the switch, the grace period, the other bank.

use felid_common::{EGRESS, Endpoint, INGRESS, policy_index};
use felid_compile::transaction::{EndpointChange, Transaction};
use zerocopy::IntoBytes as _;

use super::Kernel;
use crate::error::{KernelError, Result};
use crate::sys;

/// A switch that has happened: the new state is enforced, the old one still stands in the other bank. To be completed after
/// [`grace`].
#[must_use = "complete it after a grace period"]
#[derive(Debug)]
pub struct Flip {
    /// What went wrong at interfaces. The endpoints concerned are closed or have no interface; the rest is in force.
    pub link_errors: Vec<KernelError>,
}

/// A transaction that is complete: both banks are equal, what it freed may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The epoch since its switch.
    pub epoch: u32,
}

/// Waits until no packet is under way that saw the state before the switch: 8 to 24 ms, on a thread that may block.
pub async fn grace() -> Result<()> {
    tokio::task::spawn_blocking(sys::membarrier)
        .await
        .map_err(|error| KernelError::call("wait for a grace period")(std::io::Error::other(error)))?
        .map_err(KernelError::call("wait for a grace period"))
}

impl Kernel {
    /// First half of a transaction. When it returns, packets are judged by the new state. After an error nothing has changed for any
    /// packet, and the same transaction may be tried again.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<Flip> {
        if self.unfinished {
            return Err(KernelError::Unfinished);
        }
        // What an earlier failure left unwritten.
        self.flush()?;
        self.tables.commit();
        self.endpoints.commit();
        self.policies.commit();
        self.check(transaction)?;
        let new = self.generated.load(&transaction.new_programs, &self.map_fds)?;
        if let Err(error) = self.stage(transaction) {
            for undone in [
                self.policies.roll_back(self.generated.loaded()),
                self.endpoints.roll_back(),
                self.tables.roll_back(),
                self.write_settings(),
            ] {
                if let Err(error) = undone {
                    // The next attempt begins with writing what is still pending.
                    tracing::error!(%error, "cannot undo a change at once");
                }
            }
            self.generated.unload(&new);
            return Err(error);
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.unfinished = true;
        let (endpoints, attach) = self.at_interfaces();
        let link_errors = endpoints.switch(transaction, &attach);
        Ok(Flip { link_errors })
    }

    fn check(&self, transaction: &Transaction) -> Result<()> {
        self.tables.reserve(transaction, self.classes.max_entries())?;
        self.endpoints.check(transaction)?;
        for (class, row) in &transaction.classes {
            if *class >= self.classes.max_entries() || row.len() * 8 != self.classes.value_size() {
                return Err(KernelError::Inconsistent(format!(
                    "class {class} with {} words",
                    row.len()
                )));
            }
        }
        Ok(())
    }

    /// Everything up to the switch, and the switch itself, which is the last thing that can fail.
    fn stage(&mut self, transaction: &Transaction) -> Result<()> {
        let active = self.active();
        let idle = u32::from(active == 0);
        self.write_next_endpoint_id(transaction.next_endpoint_id)?;
        let keys: Vec<u8> = transaction
            .classes
            .iter()
            .flat_map(|(class, _)| class.to_ne_bytes())
            .collect();
        let rows: Vec<u8> = transaction
            .classes
            .iter()
            .flat_map(|(_, row)| row.as_bytes())
            .copied()
            .collect();
        self.classes
            .update_batch(&keys, &rows)
            .map_err(|error| KernelError::call("write the map classes")(error.error))?;
        self.tables.stage(transaction, active);
        // Before the first entry of a table that was empty, and for as long as there is one.
        self.write_settings()?;
        self.tables.flush()?;
        self.endpoints.stage(transaction)?;
        self.want_policies(transaction, idle);
        self.policies.flush(self.generated.loaded())?;
        self.counters.clear(transaction.new_counters.keys().copied())?;
        self.epoch_map
            .update(&0_u32.to_ne_bytes(), &self.epoch.wrapping_add(1).to_ne_bytes())
            .map_err(KernelError::call("write the map epoch"))
    }

    fn want_policies(&mut self, transaction: &Transaction, bank: u32) {
        for (id, change) in &transaction.endpoints {
            let (egress, ingress) = match change {
                EndpointChange::Set(plan) => (Some(plan.egress), Some(plan.ingress)),
                EndpointChange::Gone { .. } => (None, None),
            };
            self.policies.want(policy_index(bank, EGRESS, id.index), egress);
            self.policies.want(policy_index(bank, INGRESS, id.index), ingress);
        }
        if self.first {
            self.policies.clear_inherited(bank);
        }
    }

    /// Keeps the number from which new ids are taken in the unused record 0: it must not go back even if every endpoint is gone.
    fn write_next_endpoint_id(&mut self, next: u32) -> Result<()> {
        if next <= self.next_endpoint_id {
            return Ok(());
        }
        let record = Endpoint {
            reserved: [next, self.next_nat_id],
            ..Endpoint::default()
        };
        let table = self.endpoints.table().map();
        table
            .update(&0_u32.to_ne_bytes(), record.as_bytes())
            .map_err(KernelError::call("write the map endpoints"))?;
        self.next_endpoint_id = next;
        Ok(())
    }

    /// Likewise the ids of translations, beside it.
    pub(super) fn write_next_nat_id(&mut self, next: u32) -> Result<()> {
        if next <= self.next_nat_id {
            return Ok(());
        }
        let record = Endpoint {
            reserved: [self.next_endpoint_id, next],
            ..Endpoint::default()
        };
        let table = self.endpoints.table().map();
        table
            .update(&0_u32.to_ne_bytes(), record.as_bytes())
            .map_err(KernelError::call("write the map endpoints"))?;
        self.next_nat_id = next;
        Ok(())
    }

    /// Second half, after [`grace`]. May be repeated after an error, until it succeeds: only then the next transaction is accepted.
    pub fn complete(&mut self, transaction: &Transaction) -> Result<Completed> {
        // The grace period before this came after whatever was written before the switch.
        self.nats.settle();
        if self.unfinished {
            self.revoke()?;
            let idle = u32::from(self.active() == 0);
            self.endpoints.settle(transaction);
            self.tables.settle(transaction);
            self.want_policies(transaction, idle);
            self.unfinished = false;
            self.first = false;
        }
        if let Err(error) = self.flush() {
            self.unfinished = true;
            return Err(error);
        }
        self.generated.unload(&transaction.old_programs);
        self.generated.drop_inherited();
        Ok(Completed { epoch: self.epoch })
    }

    fn flush(&mut self) -> Result<()> {
        self.endpoints.flush()?;
        self.tables.flush()?;
        self.policies.flush(self.generated.loaded())?;
        self.write_settings()
    }
}
