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
pub(crate) enum LabelledItem {
    /// `WorkloadEndpoint`.
    Endpoint(Arc<WorkloadEndpoint>),
    /// `NetworkSet` or `GlobalNetworkSet`.
    Networks(Arc<NetworkSet>),
    /// `HostEndpoint`: only a peer.
    Host(Arc<HostEndpoint>),
}

impl LabelledItem {
    /// Identity of its record.
    pub(crate) fn key(&self) -> &ResourceKey {
        match self {
            LabelledItem::Endpoint(endpoint) => &endpoint.key,
            LabelledItem::Networks(set) => &set.key,
            LabelledItem::Host(host) => &host.key,
        }
    }

    /// Its own labels.
    pub(crate) fn labels(&self) -> &LabelMap {
        match self {
            LabelledItem::Endpoint(endpoint) => &endpoint.labels,
            LabelledItem::Networks(set) => &set.labels,
            LabelledItem::Host(host) => &host.labels,
        }
    }

    /// The profiles from which it inherits, in order. A network set inherits from its namespace's,
    /// as in Felix.
    pub(crate) fn profiles(&self) -> Cow<'_, [String]> {
        match self {
            LabelledItem::Endpoint(endpoint) => Cow::Borrowed(&endpoint.profiles),
            LabelledItem::Host(host) => Cow::Borrowed(&host.profiles),
            LabelledItem::Networks(set) => set.key.namespace.iter().map(|ns| namespace_profile(ns)).collect(),
        }
    }

    /// Its prefixes, sorted, each once.
    pub(crate) fn prefixes(&self) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = match self {
            LabelledItem::Endpoint(endpoint) => endpoint.ip_networks.iter().map(|net| host_net(net.addr())).collect(),
            LabelledItem::Networks(set) => set.nets.iter().map(IpNet::trunc).collect(),
            LabelledItem::Host(host) => host.expected_ips.iter().copied().map(host_net).collect(),
        };
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// Its named ports.
    pub(crate) fn named_ports(&self) -> impl Iterator<Item = &EndpointPort> {
        let ports = match self {
            LabelledItem::Endpoint(endpoint) => endpoint.ports.as_slice(),
            LabelledItem::Host(host) => host.ports.as_slice(),
            LabelledItem::Networks(_) => &[],
        };
        ports.iter().filter(|port| !port.name.is_empty())
    }
}

/// Labels of a item and, where it lacks them itself, of its profiles: the first profile that has a
/// label gives its value.
#[derive(Clone, Debug)]
pub(crate) struct InheritedLabels {
    /// The item.
    pub(crate) item: LabelledItem,
    /// Its profiles as far as they exist, in the item's order.
    pub(crate) profiles: Vec<Arc<Profile>>,
}

impl Labels for InheritedLabels {
    fn get(&self, key: &str) -> Option<&str> {
        let own = self.item.labels().get(key);
        own.or_else(|| {
            self.profiles
                .iter()
                .find_map(|profile| profile.labels_to_apply.get(key))
        })
        .map(String::as_str)
    }
}

impl InheritedLabels {
    /// Every label that holds, once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let inherited = self.profiles.iter().enumerate().flat_map(move |(position, profile)| {
            profile.labels_to_apply.iter().filter(move |(key, _)| {
                let nearer = self.profiles.iter().take(position);
                !self.item.labels().contains_key(*key)
                    && !nearer
                        .into_iter()
                        .any(|profile| profile.labels_to_apply.contains_key(*key))
            })
        });
        self.item
            .labels()
            .iter()
            .chain(inherited)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether both give the same labels.
    pub(crate) fn same_labels(&self, other: &InheritedLabels) -> bool {
        let same_sources = self.item.labels() == other.item.labels() && self.profiles == other.profiles;
        same_sources
            || (self.iter().count() == other.iter().count()
                && self.iter().all(|(key, value)| Labels::get(other, key) == Some(value)))
    }
}
