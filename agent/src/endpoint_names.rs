//! What people call a workload endpoint: one rule for every command.
//!
//! In: what is known of an endpoint, and the text of a user. Out: whether the user means that
//! endpoint. A text is one of
//!
//! - the name of the resource, or of the pod, workload or container behind it;
//! - `NAMESPACE/` and one of these;
//! - the host-side interface;
//! - an address of the endpoint, or an external address that leads to it.

use std::net::{IpAddr, SocketAddr};

use felid_model::names::Identifiers;
use felid_model::resolved::LocalEndpoint;
use felid_model::{ResourceKey, WorkloadEndpoint};

/// All that one endpoint is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointNames {
    namespace: String,
    /// Of the resource, and of what is behind it.
    names: Vec<String>,
    interface: String,
    /// Its own and the external ones.
    addresses: Vec<IpAddr>,
}

impl EndpointNames {
    /// Returns the names that follow from those of a resource and an interface. The name of a
    /// `WorkloadEndpoint` says which pod, workload or container it belongs to.
    pub fn new(namespace: &str, name: &str, interface: &str) -> Self {
        let ids = Identifiers::parse(name).unwrap_or_default();
        // A name without a separator is that of a pod or of a workload itself.
        let inner = [ids.pod, ids.workload, ids.container_id];
        let inner = inner.into_iter().filter(|inner| !inner.is_empty());
        Self {
            namespace: namespace.to_owned(),
            names: inner.chain([name.to_owned()]).collect(),
            interface: interface.to_owned(),
            addresses: Vec::new(),
        }
    }

    /// As [`EndpointNames::new`], of a key.
    pub fn of_key(key: &ResourceKey, interface: &str) -> Self {
        Self::new(key.namespace.as_deref().unwrap_or_default(), &key.name, interface)
    }

    /// Adds addresses, own and external ones.
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// Returns the names of an endpoint of this node.
    pub fn of_local(endpoint: &LocalEndpoint) -> Self {
        let external = endpoint.ip_nats.iter().map(|nat| nat.external);
        Self::of_key(&endpoint.key, &endpoint.interface_name)
            .with_addresses(endpoint.addresses.iter().copied())
            .with_addresses(external)
            .with_addresses(endpoint.aws_elastic_ips.iter().copied())
    }

    /// Returns the names of a resource, on whichever node it is.
    pub fn of_resource(endpoint: &WorkloadEndpoint) -> Self {
        let own = endpoint.ip_networks.iter().map(|net| net.addr());
        let external = endpoint.ip_nats.iter().map(|nat| nat.external);
        let mut names = Self::of_key(&endpoint.key, &endpoint.interface_name)
            .with_addresses(own)
            .with_addresses(external)
            .with_addresses(endpoint.aws_elastic_ips.iter().copied());
        let inner = [&endpoint.pod, &endpoint.workload, &endpoint.container_id];
        names.names.extend(inner.into_iter().flatten().cloned());
        names
    }

    /// Returns whether a user may mean this endpoint by a text.
    pub fn are_meant_by(&self, text: &str) -> bool {
        if let Some(address) = address(text) {
            return self.addresses.contains(&address);
        }
        let is_name = |text: &str| self.names.iter().any(|name| name == text);
        match text.split_once('/') {
            Some((namespace, name)) => namespace == self.namespace && is_name(name),
            None => !text.is_empty() && (self.interface == text || is_name(text)),
        }
    }
}

/// Returns the address of `ADDRESS`, `ADDRESS/32`, `ADDRESS/128`, `ADDRESS:PORT` or
/// `[ADDRESS]:PORT`.
pub fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let host = || {
        let net: ipnet::IpNet = text.parse().ok()?;
        (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
    };
    let found = bare().or_else(with_port).or_else(host)?;
    Some(found.to_canonical())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_known_by_all_its_names() {
        let addresses = ["10.0.0.1", "fd00::1", "203.0.113.7"].map(|text| text.parse().unwrap());
        let web = EndpointNames::new("shop", "node1-k8s-web--0-eth0", "cali1").with_addresses(addresses);
        for text in [
            "web-0",
            "shop/web-0",
            "node1-k8s-web--0-eth0",
            "shop/node1-k8s-web--0-eth0",
            "cali1",
            "10.0.0.1",
            "10.0.0.1/32",
            "fd00:0::1",
            "[fd00::1]:80",
            "203.0.113.7:443",
            "::ffff:10.0.0.1",
        ] {
            assert!(web.are_meant_by(text), "{text}");
        }
        for text in [
            "",
            "web",
            "dev/web-0",
            "shop/cali1",
            "shop/",
            "/web-0",
            "10.0.0.2",
            "10.0.0.0/24",
        ] {
            assert!(!web.are_meant_by(text), "{text:?}");
        }
        let pod = EndpointNames::new("shop", "web", "cali2");
        assert!(pod.are_meant_by("shop/web") && pod.are_meant_by("web"));
    }
}
