//! Translations: the kernel's table and the routes of external addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::nat::{Mappings, NatChange};
use felid_compile::transaction::EndpointId;
use ipnet::IpNet;

use super::Dataplane;
use crate::driver::AddressTranslation;
use crate::error::{DataplaneError, KernelError};
use crate::kernel;
use crate::net::{NetError, Proxy};

/// Whether the host answers ARP and neighbour discovery for external addresses.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    wanted: bool,
    /// The entries are what they shall be, as far as felid knows; at first there may be those of an
    /// earlier run.
    done: bool,
    /// Interfaces that stand in [`crate::Inspection::problems`] because of this.
    troubled: BTreeSet<Arc<str>>,
}

impl AddressTranslation for Dataplane {
    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        self.kernel.set_cluster(prefixes)
    }

    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), KernelError> {
        self.noting_changes(|this| this.kernel.retire_nats(wanted))
    }

    async fn set_nats(&mut self, wanted: &Mappings) -> Result<(BTreeSet<IpAddr>, Vec<DataplaneError>), KernelError> {
        let change = self.kernel.plan_nats(wanted);
        let done = self.carry_out(&change).await;
        // Also after a failure: routes follow what is in force.
        let names: BTreeSet<Arc<str>> = self.take_rerouted();
        let interfaces: Vec<u32> = self
            .host
            .links
            .values()
            .filter(|link| names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        let mut errors = self.reconcile(interfaces).await;
        if !change.is_empty() || !self.nat_routes.announcing.done {
            errors.extend(self.announce().await);
        }
        done.map(|()| (change.no_room, errors))
    }

    fn set_announcement(&mut self, wanted: bool) {
        if wanted != self.nat_routes.announcing.wanted {
            self.nat_routes.announcing.wanted = wanted;
            self.nat_routes.announcing.done = false;
        }
    }
}

impl Dataplane {
    async fn carry_out(&mut self, change: &NatChange) -> Result<(), KernelError> {
        if change.is_empty() {
            return Ok(());
        }
        self.noting_changes(|this| this.kernel.end_nats(change))?;
        if change.wait {
            kernel::grace().await?;
        }
        self.noting_changes(|this| this.kernel.begin_nats(change))
    }

    fn noting_changes(&mut self, change: impl FnOnce(&mut Self) -> Result<(), KernelError>) -> Result<(), KernelError> {
        let before = self.kernel.nats_by_endpoint().clone();
        let done = change(self);
        let now = self.kernel.nats_by_endpoint();
        let all: BTreeSet<EndpointId> = before.keys().chain(now.keys()).copied().collect();
        let changed = all.into_iter().filter(|id| before.get(id) != now.get(id));
        self.nat_routes.rerouted.extend(changed);
        done
    }

    /// Brings proxy neighbours in line: also when the host's addresses or interfaces have changed,
    /// or it is time to look again, for removing those of an earlier run may have failed.
    pub(super) async fn announce(&mut self) -> Vec<DataplaneError> {
        if !self.synced || !self.nat_routes.announcing.wanted && self.nat_routes.announcing.done {
            return Vec::new();
        }
        self.nat_routes.announcing.done = false;
        let desired = match self.proxies().await {
            Ok(desired) => desired,
            Err(error) => return vec![error.into()],
        };
        let uplinks: BTreeSet<u32> = desired.iter().map(|(index, _)| *index).collect();
        let mut failed: Vec<(u32, NetError)> = Vec::new();
        for index in uplinks {
            if let Some(link) = self.host.links.get(&index) {
                let errors = self.net.configure_proxy(&link.name);
                failed.extend(errors.into_iter().map(|error| (index, error)));
            }
        }
        failed.extend(self.net.follow_proxies(&desired).await);
        self.nat_routes.announcing.done = failed.is_empty();
        let mut troubles: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
        for (index, error) in &failed {
            let name = self
                .host
                .links
                .get(index)
                .map_or_else(|| "uplinks".into(), |link| link.name.clone());
            troubles.entry(name).or_default().push(error.to_string());
        }
        for name in std::mem::take(&mut self.nat_routes.announcing.troubled) {
            self.routing.problems.remove(&name);
        }
        self.nat_routes.announcing.troubled = troubles.keys().cloned().collect();
        self.routing.problems.extend(troubles);
        failed.into_iter().map(|(_, error)| error.into()).collect()
    }

    /// External addresses in force, on every interface in whose network they are.
    async fn proxies(&self) -> Result<BTreeSet<Proxy>, NetError> {
        if !self.nat_routes.announcing.wanted {
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
            let is_uplink = self.host.links.get(&index).is_some_and(|link| !self.concerns(link));
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
        let rerouted = std::mem::take(&mut self.nat_routes.rerouted);
        let wanted = self
            .routing
            .wanted
            .iter()
            .filter(|(_, wanted)| rerouted.contains(&wanted.id));
        wanted.map(|(name, _)| name.clone()).collect()
    }
}
