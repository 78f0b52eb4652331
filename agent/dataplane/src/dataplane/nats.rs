//! Translations: the kernel's table and the routes of external addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::nat::{Change, Mappings};
use felid_compile::transaction::EndpointId;

use super::{Dataplane, DataplaneError};
use crate::error::KernelError;
use crate::net::{NetError, Proxy};

/// Whether the host answers ARP and neighbour discovery for external addresses.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    wanted: bool,
    /// The entries are what they shall be, as far as felid knows; at first there may be those of an earlier run.
    done: bool,
    /// Interfaces that stand in [`Dataplane::problems`] because of this.
    troubled: BTreeSet<Arc<str>>,
}

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
        let mut errors = self.reconcile(interfaces).await;
        if !change.is_empty() || !self.announcing.done {
            errors.extend(self.announce().await);
        }
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

    /// Whether the host answers ARP and neighbour discovery for external addresses from now on, in the networks of its own interfaces
    /// that they belong to. Follows with the next [`Dataplane::set_nats`].
    pub fn set_announcement(&mut self, wanted: bool) {
        if wanted != self.announcing.wanted {
            self.announcing.wanted = wanted;
            self.announcing.done = false;
        }
    }

    /// Brings proxy neighbours in line: also when the host's addresses or interfaces have changed, or it is time to look again, for
    /// removing those of an earlier run may have failed.
    pub(super) async fn announce(&mut self) -> Vec<DataplaneError> {
        if !self.synced || !self.announcing.wanted && self.announcing.done {
            return Vec::new();
        }
        self.announcing.done = false;
        let desired = match self.proxies().await {
            Ok(desired) => desired,
            Err(error) => return vec![error.into()],
        };
        let uplinks: BTreeSet<u32> = desired.iter().map(|(index, _)| *index).collect();
        let mut failed: Vec<(u32, NetError)> = Vec::new();
        for index in uplinks {
            if let Some(link) = self.links.get(&index) {
                let errors = self.net.configure_proxy(&link.name);
                failed.extend(errors.into_iter().map(|error| (index, error)));
            }
        }
        failed.extend(self.net.follow_proxies(&desired).await);
        self.announcing.done = failed.is_empty();
        let mut troubles: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
        for (index, error) in &failed {
            let name = self
                .links
                .get(index)
                .map_or_else(|| "uplinks".into(), |link| link.name.clone());
            troubles.entry(name).or_default().push(error.to_string());
        }
        for name in std::mem::take(&mut self.announcing.troubled) {
            self.problems.remove(&name);
        }
        self.announcing.troubled = troubles.keys().cloned().collect();
        self.problems.extend(troubles);
        failed.into_iter().map(|(_, error)| error.into()).collect()
    }

    /// External addresses in force, on every interface in whose network they are.
    async fn proxies(&self) -> Result<BTreeSet<Proxy>, NetError> {
        if !self.announcing.wanted {
            return Ok(BTreeSet::new());
        }
        let external: BTreeSet<IpAddr> = self
            .kernel
            .nats_by_endpoint()
            .values()
            .flat_map(|nats| nats.keys().copied())
            .collect();
        if external.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut proxies = BTreeSet::new();
        for (index, net) in self.net.connected().await? {
            let is_uplink = self.links.get(&index).is_some_and(|link| !self.concerns(link));
            if is_uplink && net.prefix_len() < net.max_prefix_len() {
                proxies.extend(
                    external
                        .iter()
                        .filter(|address| net.contains(*address))
                        .map(|address| (index, *address)),
                );
            }
        }
        Ok(proxies)
    }

    /// Interfaces of endpoints whose translations have changed.
    pub(super) fn take_rerouted(&mut self) -> BTreeSet<Arc<str>> {
        let rerouted = std::mem::take(&mut self.rerouted);
        let wanted = self.wanted.iter().filter(|(_, wanted)| rerouted.contains(&wanted.id));
        wanted.map(|(name, _)| name.clone()).collect()
    }
}
