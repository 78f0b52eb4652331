//! What bears labels, and which labels it has once its profiles' are inherited.

use std::borrow::Cow;
use std::sync::Arc;

use felid_model::{
    EndpointPort, HostEndpoint, LabelMap, Labels, NetworkSet, Profile, ResourceKey, WorkloadEndpoint, host_net,
    namespace_profile,
};
use ipnet::IpNet;

/// Something that selectors select: an endpoint of any node, or a network set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bearer {
    /// `WorkloadEndpoint`.
    Endpoint(Arc<WorkloadEndpoint>),
    /// `NetworkSet` or `GlobalNetworkSet`.
    Networks(Arc<NetworkSet>),
    /// `HostEndpoint`: only a peer.
    Host(Arc<HostEndpoint>),
}

impl Bearer {
    /// Identity of its record.
    pub(crate) fn key(&self) -> &ResourceKey {
        match self {
            Bearer::Endpoint(endpoint) => &endpoint.key,
            Bearer::Networks(set) => &set.key,
            Bearer::Host(host) => &host.key,
        }
    }

    /// Its own labels.
    pub(crate) fn labels(&self) -> &LabelMap {
        match self {
            Bearer::Endpoint(endpoint) => &endpoint.labels,
            Bearer::Networks(set) => &set.labels,
            Bearer::Host(host) => &host.labels,
        }
    }

    /// The profiles from which it inherits, in order. A network set inherits from its namespace's, as in Felix.
    pub(crate) fn profiles(&self) -> Cow<'_, [String]> {
        match self {
            Bearer::Endpoint(endpoint) => Cow::Borrowed(&endpoint.profiles),
            Bearer::Host(host) => Cow::Borrowed(&host.profiles),
            Bearer::Networks(set) => set.key.namespace.iter().map(|ns| namespace_profile(ns)).collect(),
        }
    }

    /// Its prefixes, sorted, each once.
    pub(crate) fn prefixes(&self) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = match self {
            Bearer::Endpoint(endpoint) => endpoint.ip_networks.iter().map(|net| host_net(net.addr())).collect(),
            Bearer::Networks(set) => set.nets.iter().map(IpNet::trunc).collect(),
            Bearer::Host(host) => host.expected_ips.iter().copied().map(host_net).collect(),
        };
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// Its named ports.
    pub(crate) fn named_ports(&self) -> impl Iterator<Item = &EndpointPort> {
        let ports = match self {
            Bearer::Endpoint(endpoint) => endpoint.ports.as_slice(),
            Bearer::Host(host) => host.ports.as_slice(),
            Bearer::Networks(_) => &[],
        };
        ports.iter().filter(|port| !port.name.is_empty())
    }
}

/// Labels of a bearer and, where it lacks them itself, of its profiles: the first profile that has a label gives its value.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    /// The bearer.
    pub(crate) bearer: Bearer,
    /// Its profiles as far as they exist, in the bearer's order.
    pub(crate) profiles: Vec<Arc<Profile>>,
}

impl Labels for Inherited {
    fn get(&self, key: &str) -> Option<&str> {
        let own = self.bearer.labels().get(key);
        own.or_else(|| {
            self.profiles
                .iter()
                .find_map(|profile| profile.labels_to_apply.get(key))
        })
        .map(String::as_str)
    }
}

impl Inherited {
    /// Every label that holds, once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let inherited = self.profiles.iter().enumerate().flat_map(move |(position, profile)| {
            profile.labels_to_apply.iter().filter(move |(key, _)| {
                let nearer = self.profiles.iter().take(position);
                !self.bearer.labels().contains_key(*key)
                    && !nearer
                        .into_iter()
                        .any(|profile| profile.labels_to_apply.contains_key(*key))
            })
        });
        self.bearer
            .labels()
            .iter()
            .chain(inherited)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether both give the same labels.
    pub(crate) fn same_labels(&self, other: &Inherited) -> bool {
        let same_sources = self.bearer.labels() == other.bearer.labels() && self.profiles == other.profiles;
        same_sources
            || (self.iter().count() == other.iter().count()
                && self.iter().all(|(key, value)| Labels::get(other, key) == Some(value)))
    }
}
