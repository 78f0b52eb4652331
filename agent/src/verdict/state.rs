//! What the calculation has said so far: local endpoints with their policies, and who is a member
//! of what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_calc::Calc;
use felid_compile::reference::Membership;
use felid_model::resolved::{Delta, LocalEndpoint, NamedPortMember, SetId, SetIds};
use felid_model::{Protocol, ResourceKey};
use ipnet::IpNet;

use crate::config;

use super::probe::{HOST_V4, HOST_V6};

/// The sum of all deltas.
#[derive(Debug, Clone)]
pub(crate) struct PolicyState {
    pub(crate) endpoints: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    pub(crate) members: BTreeMap<IpNet, Arc<SetIds>>,
    pub(crate) named_ports: BTreeMap<NamedPortMember, Arc<SetIds>>,
    /// Packets from workloads to the node are dropped, whatever policy says.
    pub(crate) host_closed: bool,
    /// Addresses of the node itself.
    pub(crate) host: BTreeSet<IpAddr>,
}

impl Default for PolicyState {
    fn default() -> Self {
        Self {
            endpoints: BTreeMap::new(),
            members: BTreeMap::new(),
            named_ports: BTreeMap::new(),
            host_closed: true,
            host: [HOST_V4.into(), HOST_V6.into()].into(),
        }
    }
}

impl PolicyState {
    /// Flushes the calculation, and takes over what changed.
    pub(crate) fn flush(&mut self, calc: &mut Calc) {
        let settings = config::flush_with_records(calc, |output| {
            merge(&mut self.endpoints, &output.delta.endpoints);
            merge(&mut self.members, &output.delta.members);
            merge(&mut self.named_ports, &output.delta.named_ports);
        });
        if let Some(settings) = settings {
            self.host_closed = settings.closes_host();
        }
    }

    /// The delta that leads from here to `next`.
    pub(crate) fn delta_to(&self, next: &PolicyState) -> Delta {
        Delta {
            endpoints: difference(&self.endpoints, &next.endpoints),
            members: difference(&self.members, &next.members),
            named_ports: difference(&self.named_ports, &next.named_ports),
        }
    }
}

fn merge<K: Ord + Clone, V>(whole: &mut BTreeMap<K, Arc<V>>, changes: &BTreeMap<K, Option<Arc<V>>>) {
    for (key, value) in changes {
        match value {
            Some(value) => whole.insert(key.clone(), value.clone()),
            None => whole.remove(key),
        };
    }
}

fn difference<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
) -> BTreeMap<K, Option<Arc<V>>> {
    let gone = old.keys().filter(|key| !new.contains_key(key));
    let gone = gone.map(|key| (key.clone(), None));
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(*value));
    gone.chain(changed.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}

impl Membership for PolicyState {
    fn contains(&self, set: &SetId, address: IpAddr) -> bool {
        let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
        // Every prefix that covers the address.
        (0..=longest)
            .filter_map(|length| IpNet::new(address, length).ok())
            .any(|net| {
                let sets = self.members.get(&net.trunc());
                sets.is_some_and(|sets| sets.contains(set))
            })
    }

    fn contains_port(&self, set: &SetId, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let member = NamedPortMember {
            address,
            protocol,
            port,
        };
        self.named_ports.get(&member).is_some_and(|sets| sets.contains(set))
    }
}
