//! Endpoint records and interfaces: who is behind which interface, and what stands at its hooks.

mod attach;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use felid_common::{EGRESS, ENDPOINT_CHECK_MAC, ENDPOINT_FAST, ENDPOINT_SPOOFS, Endpoint, INGRESS, MAX_ENDPOINTS};
use felid_compile::planner::identity;
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, Transaction};
use felid_model::ResourceKey;

pub(crate) use attach::Attach;

use super::expedite::Expedited;
use super::links::{Foreign, Links, Role};
use super::mirror::Mirror;
use super::tables::words;
use crate::error::{KernelError, Result};
use crate::link::LinkState;

/// Gateway of IPv4 workloads whose record names none.
const DEFAULT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// An endpoint of this node and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its id and index.
    pub id: EndpointId,
    /// Its record.
    pub key: ResourceKey,
    /// Name of its interface.
    pub interface: Arc<str>,
    /// Index of its interface; `None` = waits for it to appear.
    pub ifindex: Option<u32>,
    /// Its programs stand at both hooks of its interface.
    pub attached: bool,
    /// Packets are redirected straight into it.
    pub fast: bool,
    /// Another endpoint has its interface.
    pub conflict: Option<ResourceKey>,
    /// Programs of others at its interface.
    pub foreign: Foreign,
    /// Generations of its policies: egress, ingress.
    pub generations: [u32; 2],
}

/// Records, interfaces and links together.
pub(crate) struct Endpoints {
    records: Mirror<u32, Endpoint>,
    links: Links,
    /// Interfaces of the host, by index.
    interfaces: BTreeMap<u32, LinkState>,
    by_name: BTreeMap<Arc<str>, u32>,
    /// Endpoints whose programs are in force.
    live: BTreeMap<EndpointId, EndpointPlan>,
    /// Who wants an interface: the least key gets it.
    claims: BTreeMap<Arc<str>, BTreeMap<ResourceKey, EndpointId>>,
    foreign: BTreeMap<u32, Foreign>,
    prefixes: Vec<String>,
    /// Whether a transaction has been applied: before that inherited links are left alone.
    synced: bool,
    /// Whether the interfaces of the host are known: likewise.
    known: bool,
}

impl Endpoints {
    pub(crate) fn new(records: Mirror<u32, Endpoint>, links: Links, prefixes: Vec<String>) -> Self {
        Self {
            records,
            links,
            interfaces: BTreeMap::new(),
            by_name: BTreeMap::new(),
            live: BTreeMap::new(),
            claims: BTreeMap::new(),
            foreign: BTreeMap::new(),
            prefixes,
            synced: false,
            known: false,
        }
    }

    /// Records in use.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u32, &Endpoint)> {
        self.records
            .actual()
            .iter()
            .filter(|(_, record)| record.id != 0)
            .map(|(index, record)| (*index, record))
    }

    pub(crate) const fn table(&self) -> &Mirror<u32, Endpoint> {
        &self.records
    }

    pub(crate) fn links_directory(&self) -> &Path {
        self.links.directory()
    }

    /// An error if a record would lie outside the table or replace another one's.
    pub(crate) fn check(&self, transaction: &Transaction) -> Result<()> {
        for id in transaction.endpoints.keys() {
            if id.index == 0 || id.index >= MAX_ENDPOINTS || id.id == 0 {
                return Err(KernelError::Inconsistent(format!("endpoint {} at {}", id.id, id.index)));
            }
            match self.records.get(&id.index) {
                Some(record) if record.id != 0 && record.id != id.id => {
                    let (index, old) = (id.index, record.id);
                    return Err(KernelError::Inconsistent(format!(
                        "record {index} still belongs to endpoint {old}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the records of new and changed endpoints, generations as they are. A new one becomes valid last.
    pub(crate) fn stage(&mut self, transaction: &Transaction) -> Result<()> {
        let mut new = Vec::new();
        for (&id, change) in &transaction.endpoints {
            let EndpointChange::Set(plan) = change else { continue };
            let old = self.records.get(&id.index).copied().filter(|record| record.id == id.id);
            let record = self.record(id, plan, old.as_ref());
            if old.is_none() {
                self.records.want(id.index, Some(Endpoint { id: 0, ..record }));
                new.push((id.index, record));
            } else {
                self.records.want(id.index, Some(record));
            }
        }
        self.records.flush()?;
        for (index, record) in new {
            self.records.want(index, Some(record));
        }
        self.records.flush()
    }

    pub(crate) fn commit(&mut self) {
        self.records.commit();
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.records.flush()
    }

    /// Records as they were at the last commit. One that was not there becomes a free one: an array keeps its elements.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.records.roll_back(Some(Endpoint::default()));
        self.records.flush()
    }

    /// After the switch: the endpoints of `transaction` are (or are not) in force from now on.
    pub(crate) fn switch(&mut self, transaction: &Transaction, attach: &Attach<'_>) -> Vec<KernelError> {
        let mut names = BTreeSet::new();
        for (&id, change) in &transaction.endpoints {
            let old = self.live.remove(&id);
            if let (Some(old), EndpointChange::Set(plan)) = (&old, change)
                && old.endpoint.interface_name == plan.endpoint.interface_name
                && old.endpoint.key == plan.endpoint.key
            {
                self.live.insert(id, plan.clone());
                continue;
            }
            if let Some(old) = old {
                let name = Arc::clone(&old.endpoint.interface_name);
                if let Some(claims) = self.claims.get_mut(&name) {
                    claims.remove(&old.endpoint.key);
                    if claims.is_empty() {
                        self.claims.remove(&name);
                    }
                }
                names.insert(name);
            }
            if let EndpointChange::Set(plan) = change {
                let name = Arc::clone(&plan.endpoint.interface_name);
                self.claims
                    .entry(Arc::clone(&name))
                    .or_default()
                    .insert(plan.endpoint.key.clone(), id);
                self.live.insert(id, plan.clone());
                names.insert(name);
            }
        }
        let first = !std::mem::replace(&mut self.synced, true);
        let interfaces: Vec<u32> = if first {
            // What a previous run left on other interfaces goes now, too.
            self.interfaces
                .keys()
                .copied()
                .chain(self.links.interfaces())
                .collect::<BTreeSet<u32>>()
                .into_iter()
                .collect()
        } else {
            names
                .iter()
                .filter_map(|name| self.by_name.get(name).copied())
                .collect()
        };
        self.reconcile(&interfaces, attach)
    }

    /// After the grace period: generations rise, records that are gone become free.
    pub(crate) fn settle(&mut self, transaction: &Transaction) {
        for (id, change) in &transaction.endpoints {
            let Some(record) = self.records.get(&id.index).copied().filter(|record| record.id == id.id) else {
                continue;
            };
            match change {
                EndpointChange::Set(plan) => {
                    let mut raised = record;
                    if plan.revoke_egress {
                        raised.egress_generation = next_generation(record.egress_generation);
                    }
                    if plan.revoke_ingress {
                        raised.ingress_generation = next_generation(record.ingress_generation);
                    }
                    self.records.want(id.index, Some(raised));
                }
                EndpointChange::Gone { .. } => self.records.want(id.index, Some(Endpoint::default())),
            }
        }
    }

    /// Raises generations of all endpoints, in the directions whose bits are set.
    pub(crate) fn raise(&mut self, directions: u32) {
        let records: Vec<(u32, Endpoint)> = self.records().map(|(index, record)| (index, *record)).collect();
        for (index, _) in records {
            let Some(mut record) = self.records.get(&index).copied() else {
                continue;
            };
            if directions & 1 << EGRESS != 0 {
                record.egress_generation = next_generation(record.egress_generation);
            }
            if directions & 1 << INGRESS != 0 {
                record.ingress_generation = next_generation(record.ingress_generation);
            }
            self.records.want(index, Some(record));
        }
    }

    /// The record of an endpoint, from its plan and its interface.
    fn record(&self, id: EndpointId, plan: &EndpointPlan, old: Option<&Endpoint>) -> Endpoint {
        let endpoint = &plan.endpoint;
        let state = self.interface_of(id, plan);
        let mut flags = 0;
        let mac = endpoint.mac.or_else(|| state.and_then(|state| state.peer?.mac));
        if endpoint.mac.is_some() {
            flags |= ENDPOINT_CHECK_MAC;
        }
        if !endpoint.allow_spoofed_source_prefixes.is_empty() {
            flags |= ENDPOINT_SPOOFS;
        }
        if let (Some(state), Some(_)) = (state, mac)
            && state.peer.is_some()
            && self.foreign.get(&state.ifindex).is_some_and(|foreign| !foreign.any())
        {
            flags |= ENDPOINT_FAST;
        }
        let gateway = endpoint.ipv4_gateway.unwrap_or(DEFAULT_GATEWAY);
        Endpoint {
            id: id.id,
            ifindex: state.map_or(0, |state| state.ifindex),
            flags,
            mtu: state.map_or(0, |state| state.mtu),
            egress_generation: old.map_or(1, |old| old.egress_generation),
            ingress_generation: old.map_or(1, |old| old.ingress_generation),
            mac: mac.unwrap_or_default(),
            host_mac: state.and_then(|state| state.mac).unwrap_or_default(),
            gateway_v4: u32::from_ne_bytes(gateway.octets()),
            gateway_v6: endpoint.ipv6_gateway.map_or([0; 4], |gateway| words(gateway.octets())),
            identity: match old {
                Some(old) => old.identity,
                None => identity(&endpoint.key, &endpoint.interface_name),
            },
            reserved: [0; 2],
        }
    }

    /// The interface of an endpoint, unless another endpoint has it.
    fn interface_of(&self, id: EndpointId, plan: &EndpointPlan) -> Option<&LinkState> {
        let name = &plan.endpoint.interface_name;
        if self.owner(name).is_some_and(|(_, owner)| owner != id) {
            return None;
        }
        self.interfaces.get(self.by_name.get(name)?)
    }

    fn owner(&self, name: &str) -> Option<(&ResourceKey, EndpointId)> {
        self.claims.get(name)?.first_key_value().map(|(key, id)| (key, *id))
    }

    fn has_prefix(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Every interface of the host as it is now; what is not among them is gone.
    pub(crate) fn set_interfaces(&mut self, states: Vec<LinkState>, attach: &Attach<'_>) -> Vec<KernelError> {
        let before = std::mem::take(&mut self.interfaces);
        self.by_name.clear();
        self.known = true;
        for state in states {
            self.by_name.insert(Arc::clone(&state.name), state.ifindex);
            self.interfaces.insert(state.ifindex, state);
        }
        let all: BTreeSet<u32> = before
            .into_keys()
            .chain(self.interfaces.keys().copied())
            .chain(self.links.interfaces())
            .collect();
        self.reconcile(&all.into_iter().collect::<Vec<_>>(), attach)
    }

    /// One interface that is new or has changed.
    pub(crate) fn set_interface(&mut self, state: LinkState, attach: &Attach<'_>) -> Vec<KernelError> {
        let ifindex = state.ifindex;
        let mut touched = vec![ifindex];
        if let Some(old) = self.interfaces.get(&ifindex)
            && self.by_name.get(&old.name) == Some(&ifindex)
        {
            self.by_name.remove(&old.name);
        }
        // Another one of this name: it has been renamed or is gone, and its own event is on the way.
        touched.extend(self.by_name.insert(Arc::clone(&state.name), ifindex));
        self.interfaces.insert(ifindex, state);
        self.reconcile(&touched, attach)
    }

    /// An interface that is gone.
    pub(crate) fn remove_interface(&mut self, ifindex: u32, attach: &Attach<'_>) -> Vec<KernelError> {
        if let Some(old) = self.interfaces.remove(&ifindex)
            && self.by_name.get(&old.name) == Some(&ifindex)
        {
            self.by_name.remove(&old.name);
        }
        self.reconcile(&[ifindex], attach)
    }

    /// Other prefixes of workload interfaces from now on.
    pub(crate) fn set_prefixes(&mut self, prefixes: Vec<String>, attach: &Attach<'_>) -> Vec<KernelError> {
        self.prefixes = prefixes;
        let all: Vec<u32> = self.interfaces.keys().copied().collect();
        self.reconcile(&all, attach)
    }

    /// What should stand at an interface; `None` = nothing of ours.
    fn role(&self, ifindex: u32) -> Option<Role> {
        let Some(state) = self.interfaces.get(&ifindex) else {
            return self.links.role(ifindex).filter(|_| !self.known);
        };
        if self.by_name.get(&state.name) != Some(&ifindex) {
            return self.has_prefix(&state.name).then_some(Role::Closed);
        }
        if let Some((_, id)) = self.owner(&state.name) {
            return Some(Role::Stub(id));
        }
        if !self.synced && self.links.role(ifindex).is_some() {
            return Some(Role::Inherited);
        }
        self.has_prefix(&state.name).then_some(Role::Closed)
    }

    /// Brings hooks and records of interfaces in line. Goes on after an error: one interface must not keep others open.
    fn reconcile(&mut self, interfaces: &[u32], attach: &Attach<'_>) -> Vec<KernelError> {
        let mut errors = Vec::new();
        let changes = interfaces
            .iter()
            .filter(|&&ifindex| self.role(ifindex).is_some() != self.links.role(ifindex).is_some());
        let expedited = Expedited::start(attach.directory, 2 * changes.count());
        for &ifindex in interfaces {
            match self.reconcile_one(ifindex, attach) {
                Ok(Some(mut foreign)) => {
                    if let Some(state) = self.interfaces.get(&ifindex) {
                        foreign.filters = Arc::clone(&state.filters);
                    }
                    self.foreign.insert(ifindex, foreign);
                    continue;
                }
                Ok(None) => {}
                // It went away meanwhile: its event is on the way.
                Err(KernelError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => errors.push(error),
            }
            self.foreign.remove(&ifindex);
        }
        drop(expedited);
        errors.extend(self.refresh_records().err());
        errors
    }

    /// One of them. Returns the programs of others, if it is one where ours stand.
    fn reconcile_one(&mut self, ifindex: u32, attach: &Attach<'_>) -> Result<Option<Foreign>> {
        let inspected = self.role(ifindex).map(|_| self.links.inspect(ifindex));
        // Asked again: the inspection may have found that a link is another interface's.
        let Some(role) = self.role(ifindex) else {
            self.links.remove(ifindex)?;
            return Ok(None);
        };
        if self.links.role(ifindex) == Some(role) {
            return inspected.transpose();
        }
        self.attach(ifindex, role, attach)?;
        self.links.inspect(ifindex).map(Some)
    }

    /// Writes what interfaces changed about the records.
    fn refresh_records(&mut self) -> Result<()> {
        let ids: Vec<EndpointId> = self.live.keys().copied().collect();
        for id in ids {
            self.refresh_record(id);
        }
        self.records.flush()
    }

    fn refresh_record(&mut self, id: EndpointId) {
        let old = self.records.get(&id.index).copied().filter(|record| record.id == id.id);
        if let (Some(plan), Some(old)) = (self.live.get(&id), old) {
            let record = self.record(id, plan, Some(&old));
            if record != old {
                self.records.want(id.index, Some(record));
            }
        }
    }

    /// Where every endpoint stands.
    pub(crate) fn states(&self) -> Vec<EndpointState> {
        self.live
            .iter()
            .map(|(&id, plan)| {
                let record = self.records.get(&id.index).copied().unwrap_or_default();
                let interface = Arc::clone(&plan.endpoint.interface_name);
                let conflict = self
                    .owner(&interface)
                    .filter(|(_, owner)| *owner != id)
                    .map(|(key, _)| key.clone());
                EndpointState {
                    id,
                    key: plan.endpoint.key.clone(),
                    ifindex: (record.ifindex != 0).then_some(record.ifindex),
                    attached: self.links.role(record.ifindex) == Some(Role::Stub(id)),
                    fast: record.flags & ENDPOINT_FAST != 0,
                    conflict,
                    foreign: self.foreign.get(&record.ifindex).cloned().unwrap_or_default(),
                    generations: [record.egress_generation, record.ingress_generation],
                    interface,
                }
            })
            .collect()
    }

    /// What stands at each interface that felid is attached to.
    pub(crate) fn roles(&self) -> BTreeMap<u32, Option<Role>> {
        self.links
            .interfaces()
            .into_iter()
            .map(|ifindex| (ifindex, self.links.role(ifindex)))
            .collect()
    }
}

/// The generation after this one. 0 and the maximum have meanings of their own; four thousand million changes of one endpoint's policy
/// are not to be expected, but must not end in "always valid".
const fn next_generation(generation: u32) -> u32 {
    if generation >= u32::MAX - 1 { 1 } else { generation + 1 }
}

#[cfg(test)]
mod tests {
    use super::next_generation;

    #[test]
    fn generations_skip_the_reserved_ones() {
        assert_eq!(next_generation(1), 2);
        assert_eq!(next_generation(u32::MAX - 2), u32::MAX - 1);
        assert_eq!(next_generation(u32::MAX - 1), 1);
    }
}
