//! What stands behind services: the addresses and ports of their endpoint slices, as far as an
//! active set asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::NamedPortMember;
use felid_model::{EndpointSlice, ResourceKey};

use crate::intern::SetNumber;
use crate::rules::ServiceName;

/// One service.
#[derive(Debug, Default)]
struct Service {
    slices: BTreeMap<ResourceKey, Arc<EndpointSlice>>,
    /// The active set of its addresses, and what was said to be in it.
    address_set: Option<SetNumber>,
    addresses: BTreeSet<IpAddr>,
    /// The active set of its ports, and what was said to be in it.
    port_set: Option<SetNumber>,
    ports: BTreeSet<NamedPortMember>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<ServiceName, Service>,
    /// Which service each slice belongs to.
    owners: BTreeMap<ResourceKey, ServiceName>,
    /// Members of active sets of ports.
    ports: BTreeMap<NamedPortMember, Vec<SetNumber>>,
}

/// What came into sets and what went out of them.
#[derive(Debug, Default)]
pub(crate) struct ServiceChanges {
    pub(crate) addresses_new: Vec<(SetNumber, IpAddr)>,
    pub(crate) addresses_gone: Vec<(SetNumber, IpAddr)>,
    /// (address, protocol, port)s whose sets changed.
    pub(crate) ports: Vec<NamedPortMember>,
}

impl Services {
    /// Sets a slice; `None` = gone.
    pub(crate) fn put(&mut self, key: &ResourceKey, slice: Option<Arc<EndpointSlice>>) -> ServiceChanges {
        let mut changes = ServiceChanges::default();
        let owner = slice.as_ref().and_then(|slice| {
            Some(ServiceName {
                namespace: key.namespace.clone()?,
                name: slice.service.as_deref()?.into(),
            })
        });
        if let Some(old) = self.owners.remove(key) {
            if let Some(service) = self.services.get_mut(&old) {
                service.slices.remove(key);
            }
            if owner.as_ref() != Some(&old) {
                self.recompute(&old, &mut changes);
            }
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            self.services
                .entry(owner.clone())
                .or_default()
                .slices
                .insert(key.clone(), slice);
            self.recompute(&owner, &mut changes);
            self.owners.insert(key.clone(), owner);
        }
        changes
    }

    /// A set over the service becomes active.
    pub(crate) fn start(&mut self, name: &ServiceName, ports: bool, number: SetNumber) -> ServiceChanges {
        let service = self.services.entry(name.clone()).or_default();
        if ports {
            service.port_set = Some(number);
        } else {
            service.address_set = Some(number);
        }
        let mut changes = ServiceChanges::default();
        self.recompute(name, &mut changes);
        changes
    }

    /// A set over the service is no longer active.
    pub(crate) fn stop(&mut self, name: &ServiceName, ports: bool) -> ServiceChanges {
        let mut changes = ServiceChanges::default();
        let Some(service) = self.services.get_mut(name) else {
            return changes;
        };
        if ports {
            if let Some(number) = service.port_set.take() {
                for member in std::mem::take(&mut service.ports) {
                    leave(&mut self.ports, member, number);
                    changes.ports.push(member);
                }
            }
        } else if let Some(number) = service.address_set.take() {
            let gone = std::mem::take(&mut service.addresses);
            changes.addresses_gone = gone.into_iter().map(|address| (number, address)).collect();
        }
        self.recompute(name, &mut changes);
        changes
    }

    /// The active sets that hold a port of an address.
    pub(crate) fn sets_of(&self, member: &NamedPortMember) -> impl Iterator<Item = SetNumber> {
        self.ports.get(member).into_iter().flatten().copied()
    }

    /// Compares what the slices of a service hold with what its sets are said to hold.
    fn recompute(&mut self, name: &ServiceName, changes: &mut ServiceChanges) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if let Some(number) = service.address_set {
            let now: BTreeSet<IpAddr> = service
                .slices
                .values()
                .flat_map(|slice| slice.addresses.iter().copied())
                .collect();
            let old = std::mem::replace(&mut service.addresses, now);
            let now = &service.addresses;
            changes
                .addresses_gone
                .extend(old.difference(now).map(|address| (number, *address)));
            changes
                .addresses_new
                .extend(now.difference(&old).map(|address| (number, *address)));
        }
        if let Some(number) = service.port_set {
            let now: BTreeSet<NamedPortMember> = service.slices.values().flat_map(|slice| members(slice)).collect();
            for member in service.ports.difference(&now) {
                leave(&mut self.ports, *member, number);
                changes.ports.push(*member);
            }
            for member in now.difference(&service.ports) {
                self.ports.entry(*member).or_default().push(number);
                changes.ports.push(*member);
            }
            service.ports = now;
        }
        if service.slices.is_empty() && service.address_set.is_none() && service.port_set.is_none() {
            self.services.remove(name);
        }
    }
}

/// Takes a set away from a port.
fn leave(ports: &mut BTreeMap<NamedPortMember, Vec<SetNumber>>, member: NamedPortMember, number: SetNumber) {
    if let Some(sets) = ports.get_mut(&member) {
        sets.retain(|set| *set != number);
        if sets.is_empty() {
            ports.remove(&member);
        }
    }
}

/// Every port of every address of a slice. One without a number means every port, which, as in
/// Felix, makes no member: there is no port that a rule could then be said to name.
fn members(slice: &EndpointSlice) -> impl Iterator<Item = NamedPortMember> {
    slice.addresses.iter().flat_map(|address| {
        slice.ports.iter().filter_map(|(protocol, port)| {
            Some(NamedPortMember {
                address: *address,
                protocol: *protocol,
                port: (*port)?,
            })
        })
    })
}
