//! Translations: the kernel's table and the routes of external addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::nat::{Change, Mappings};
use felid_compile::transaction::EndpointId;

use super::{Dataplane, DataplaneError};
use crate::error::KernelError;

impl Dataplane {
    /// Ends the translations that are not among these; to be called before a transaction takes something away that they need. Their
    /// routes go with the transaction.
    pub fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), KernelError> {
        self.noting_changes(|this| this.kernel.retire_nats(wanted))
    }

    /// Makes these translations those in force, between two transactions. Returns the external addresses for which there is no room,
    /// and what went wrong with routes.
    pub async fn set_nats(
        &mut self,
        wanted: &Mappings,
    ) -> Result<(BTreeSet<IpAddr>, Vec<DataplaneError>), KernelError> {
        let change = self.kernel.plan_nats(wanted);
        let done = self.carry_out(&change).await;
        // Also after a failure: routes follow what is in force.
        let names: BTreeSet<Arc<str>> = self.take_rerouted();
        let interfaces: Vec<u32> = self
            .links
            .values()
            .filter(|link| names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        let errors = self.reconcile(interfaces).await;
        done.map(|()| (change.crowded, errors))
    }

    async fn carry_out(&mut self, change: &Change) -> Result<(), KernelError> {
        if change.is_empty() {
            return Ok(());
        }
        self.noting_changes(|this| this.kernel.end_nats(change))?;
        if change.wait {
            Self::grace().await?;
        }
        self.noting_changes(|this| this.kernel.begin_nats(change))
    }

    fn noting_changes(&mut self, change: impl FnOnce(&mut Self) -> Result<(), KernelError>) -> Result<(), KernelError> {
        let before = self.kernel.nats_by_endpoint().clone();
        let done = change(self);
        let now = self.kernel.nats_by_endpoint();
        let all: BTreeSet<EndpointId> = before.keys().chain(now.keys()).copied().collect();
        let changed = all.into_iter().filter(|id| before.get(id) != now.get(id));
        self.rerouted.extend(changed);
        done
    }

    /// Interfaces of endpoints whose translations have changed.
    pub(super) fn take_rerouted(&mut self) -> BTreeSet<Arc<str>> {
        let rerouted = std::mem::take(&mut self.rerouted);
        let wanted = self.wanted.iter().filter(|(_, wanted)| rerouted.contains(&wanted.id));
        wanted.map(|(name, _)| name.clone()).collect()
    }
}
