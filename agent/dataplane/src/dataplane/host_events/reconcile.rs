//! Sysctls, routes and neighbours of interfaces.

use std::collections::{BTreeMap, BTreeSet};

use super::AT_ONCE;
use crate::dataplane::{Dataplane, EndpointInterface};
use crate::error::DataplaneError;
use crate::net::{EndpointNet, NetError, Present, Reconciled};

/// Interfaces from which on one list of everything costs less than a list for each.
const MANY: usize = 4;

impl Dataplane {
    /// Looks at some of the interfaces that still wait for it.
    pub(in crate::dataplane) async fn work_off(&mut self) -> Vec<DataplaneError> {
        let mut some = BTreeMap::new();
        while some.len() < AT_ONCE
            && let Some((index, present)) = self.routing.backlog.pop_first()
        {
            some.insert(index, present);
        }
        let indexes: BTreeSet<u32> = some.keys().copied().collect();
        let found = self.find_peers(&indexes).await;
        let mut errors = self.update_kernel(&found);
        errors.extend(self.reconcile_from(some).await);
        errors
    }

    /// Sysctls, routes and neighbours of interfaces. Before the first transaction nothing is
    /// touched: what an earlier run left holds.
    pub(in crate::dataplane) async fn reconcile(
        &mut self,
        interfaces: impl IntoIterator<Item = u32>,
    ) -> Vec<DataplaneError> {
        if !self.synced {
            return Vec::new();
        }
        let interfaces: BTreeSet<u32> = interfaces.into_iter().collect();
        if interfaces.len() >= MANY {
            let mut present = match self.net.present().await {
                Ok(present) => present,
                Err(error) => return vec![error.into()],
            };
            let some = interfaces.into_iter();
            let some = some.map(|index| (index, present.remove(&index).unwrap_or_default()));
            return self.reconcile_from(some.collect()).await;
        }
        let mut errors = Vec::new();
        for index in interfaces {
            let Some((endpoint, wanted, up)) = self.endpoint_net(index) else {
                continue;
            };
            let mut failed = self.sysctls(&endpoint);
            let report = self.net.reconcile(&endpoint, up).await;
            failed.extend(self.outcome(&endpoint, report).await);
            failed.extend(self.hidden(&endpoint, up, &failed).await);
            errors.extend(self.note(endpoint, wanted, failed));
        }
        errors
    }

    /// Sysctls, routes and neighbours of interfaces, given which routes and neighbours stand at
    /// each.
    async fn reconcile_from(&mut self, interfaces: BTreeMap<u32, Present>) -> Vec<DataplaneError> {
        if !self.synced {
            return Vec::new();
        }
        let mut errors = Vec::new();
        for (index, present) in interfaces {
            let Some((endpoint, wanted, up)) = self.endpoint_net(index) else {
                continue;
            };
            let mut failed = self.sysctls(&endpoint);
            let report = self.net.reconcile_from(&endpoint, up, present).await;
            failed.extend(self.outcome(&endpoint, report).await);
            failed.extend(self.hidden(&endpoint, up, &failed).await);
            errors.extend(self.note(endpoint, wanted, failed));
        }
        errors
    }

    /// What failed. Routes to external addresses may still lead to the workloads that had them
    /// before.
    async fn outcome(&self, endpoint: &EndpointNet, report: Reconciled) -> Vec<NetError> {
        let mut errors = report.errors;
        if !report.taken.is_empty() {
            let workloads = self.host.links.values().filter(|link| self.concerns(link));
            let workloads = workloads.map(|link| link.index).collect();
            errors.extend(self.net.take_over(endpoint, &report.taken, &workloads).await);
        }
        errors
    }

    /// Routes of others that packets to an endpoint take instead of felid's, if everything else
    /// could be done.
    async fn hidden(&self, endpoint: &EndpointNet, up: bool, failed: &[NetError]) -> Vec<NetError> {
        if up && failed.is_empty() {
            self.net.hidden(endpoint).await
        } else {
            Vec::new()
        }
    }

    /// What an interface needs, whether an endpoint has it, and whether it is up.
    fn endpoint_net(&self, index: u32) -> Option<(EndpointNet, bool, bool)> {
        let link = self.host.links.get(&index)?;
        let wanted: Option<&EndpointInterface> = self.routing.wanted.get(&link.name);
        let endpoint = EndpointNet {
            ifindex: index,
            interface: link.name.clone(),
            addresses: wanted.map(|wanted| wanted.addresses.clone()).unwrap_or_default(),
            nats: wanted.map(|wanted| self.kernel.nats_of(wanted.id)).unwrap_or_default(),
            mac: wanted.and_then(|wanted| wanted.mac),
        };
        Some((endpoint, wanted.is_some(), link.up))
    }

    /// Sets the sysctls of an interface, if an endpoint has it.
    fn sysctls(&mut self, endpoint: &EndpointNet) -> Vec<NetError> {
        let Some(wanted) = self.routing.wanted.get(&endpoint.interface) else {
            return Vec::new();
        };
        let may_spoof = wanted.may_spoof;
        let configured = self.net.configure_interface(&endpoint.interface, may_spoof);
        let before = self.routing.configured.insert(endpoint.ifindex, may_spoof);
        if before == Some(may_spoof) && !configured.changed.is_empty() {
            self.guard.sysctls_repaired(&endpoint.interface, &configured.changed);
        }
        configured.errors
    }

    /// Remembers what came of a reconciliation.
    fn note(&mut self, endpoint: EndpointNet, wanted: bool, failed: Vec<NetError>) -> Vec<DataplaneError> {
        // What was listed before is older than this.
        self.routing.backlog.remove(&endpoint.ifindex);
        if wanted {
            self.routing.managed.insert(endpoint.ifindex);
        } else {
            self.routing.managed.remove(&endpoint.ifindex);
        }
        if failed.is_empty() {
            self.routing.problems.remove(&endpoint.interface);
        } else {
            let told = failed.iter().map(ToString::to_string).collect();
            self.routing.problems.insert(endpoint.interface, told);
        }
        failed.into_iter().map(DataplaneError::from).collect()
    }
}
