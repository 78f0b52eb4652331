//! What a node's calculation holds, as one value: told by the running agent, or worked out from
//! records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_calc::{Calc, CalcOptions};
use felid_model::Resource;
use felid_model::resolved::{LocalEndpoint, NamedPortMember, SetId, SetIds};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::verdict::PolicyState;

/// Everything that decides packets of one node's workloads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The node.
    pub node: String,
    /// Its endpoints with their policies.
    pub endpoints: Vec<Arc<LocalEndpoint>>,
    /// Members of the sets that the policies name.
    pub members: Vec<(IpNet, Arc<SetIds>)>,
    /// Members with ports.
    pub named_ports: Vec<(NamedPortMember, Arc<SetIds>)>,
    /// The sets in words.
    pub sets: Vec<(SetId, String)>,
    /// Addresses of the node itself, if known.
    pub host_addresses: BTreeSet<IpAddr>,
    /// Packets from workloads to the node are dropped, whatever policy says.
    pub host_closed: bool,
}

impl Snapshot {
    /// What a calculation holds after its last flush.
    pub fn new(node: &str, calc: &Calc, host_addresses: BTreeSet<IpAddr>, host_closed: bool) -> Self {
        let delta = calc.snapshot();
        let endpoints = delta.endpoints.into_values().flatten().collect();
        let kept = |(net, sets): (IpNet, Option<Arc<SetIds>>)| Some((net, sets?));
        let members = delta.members.into_iter().filter_map(kept).collect();
        let named_ports = delta.named_ports.into_iter();
        Self {
            node: node.to_owned(),
            endpoints,
            members,
            named_ports: named_ports.filter_map(|(port, sets)| Some((port, sets?))).collect(),
            sets: calc.set_texts().into_iter().collect(),
            host_addresses,
            host_closed,
        }
    }

    /// Works it out from records.
    pub(crate) fn of(node: &str, resources: &[Resource]) -> Self {
        let mut calc = Calc::new(CalcOptions { node: node.to_owned() });
        for resource in resources {
            calc.apply(resource.clone());
        }
        let settings = config::flush_with_records(&mut calc, |_| ());
        let host_closed = settings.is_none_or(|settings| settings.closes_host());
        Self::new(node, &calc, BTreeSet::new(), host_closed)
    }

    /// The same for verdicts; of the endpoints only those that `wanted` accepts.
    pub(crate) fn state(&self, wanted: impl Fn(&LocalEndpoint) -> bool) -> PolicyState {
        let endpoints = self.endpoints.iter().filter(|endpoint| wanted(endpoint));
        let mut state = PolicyState {
            endpoints: endpoints
                .map(|endpoint| (endpoint.key.clone(), Arc::clone(endpoint)))
                .collect(),
            members: self.members.iter().cloned().collect(),
            named_ports: self.named_ports.iter().cloned().collect(),
            host_closed: self.host_closed,
            ..PolicyState::default()
        };
        if !self.host_addresses.is_empty() {
            state.host.clone_from(&self.host_addresses);
        }
        state
    }

    /// Words of the sets.
    pub(crate) fn texts(&self) -> BTreeMap<&str, &str> {
        self.sets.iter().map(|(id, text)| (&*id.0, text.as_str())).collect()
    }
}
