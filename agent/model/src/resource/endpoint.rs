//! Endpoints: workloads' and hosts', and what their addresses and ports are.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LabelMap, Protocol, ResourceKey};

/// The interface of a container or virtual machine to its host, as a `WorkloadEndpoint` or `Pod`
/// describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEndpoint {
    /// The identity of the resource it comes from; the namespace is always present.
    pub key: ResourceKey,
    /// `metadata.labels`, with `projectcalico.org/namespace` and `projectcalico.org/orchestrator`
    /// set by felid, and without labels that begin with `pcns.` or `pcsa.`, which only profiles may
    /// give.
    pub labels: LabelMap,
    /// The name of the workload that the endpoint belongs to.
    pub workload: Option<String>,
    /// The orchestrator that created the endpoint, such as `k8s`.
    pub orchestrator: String,
    /// The name of the node that the endpoint is on.
    pub node: String,
    /// The container's id, which CNI passes as `CNI_CONTAINERID`.
    pub container_id: Option<String>,
    /// The name of the Kubernetes pod.
    pub pod: Option<String>,
    /// The name of the interface inside of the container, such as `eth0`.
    pub endpoint: String,
    /// The name of the service account that the workload runs as.
    pub service_account: Option<String>,
    /// The workload's own addresses, each as a /32 or a /128.
    pub ip_networks: Vec<IpNet>,
    /// The external addresses that lead to the workload, one to one.
    pub ip_nats: Vec<IpNat>,
    /// Elastic IPs, which the cloud translates. They are shown to users and have no other effect.
    pub aws_elastic_ips: Vec<IpAddr>,
    /// Prefixes beside its own addresses that the workload may send from. Such packets are judged
    /// as coming from the address that they carry.
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// Whether the resource names `qosControls`, which felid does not enforce.
    pub qos_controls: bool,
    /// The gateway that the workload uses for IPv4; `None` means 169.254.1.1.
    pub ipv4_gateway: Option<std::net::Ipv4Addr>,
    /// The gateway that the workload uses for IPv6; `None` means the link-local address of the
    /// host-side interface.
    pub ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// The names of the endpoint's profiles, in the order in which they are asked.
    pub profiles: Vec<String>,
    /// The name of the host-side interface.
    pub interface_name: String,
    /// The MAC address of the workload's interface; `None` if the resource does not name it.
    pub mac: Option<[u8; 6]>,
    /// The workload's ports: those with a name, which rules can use, and those that the host
    /// forwards to.
    pub ports: Vec<EndpointPort>,
}

/// A one-to-one translation of an address of an endpoint. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpNat {
    /// The address that the workload itself has.
    pub internal: IpAddr,
    /// The address by which others know the workload.
    pub external: IpAddr,
}

/// A host's interface, as far as it matters to workloads: its addresses and ports can be selected
/// as peers.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpoint {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// `metadata.labels`.
    pub labels: LabelMap,
    /// `expectedIPs`: the addresses of the host.
    pub expected_ips: Vec<IpAddr>,
    /// The names of the profiles whose labels it inherits, in order.
    pub profiles: Vec<String>,
    /// The host's named ports.
    pub ports: Vec<EndpointPort>,
}

/// A range of addresses from which workloads get theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct IpPool {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// The range.
    pub cidr: IpNet,
}

/// Addresses and ports behind a service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// The name of the service, from the label `kubernetes.io/service-name`; `None` if the slice
    /// belongs to no service.
    pub service: Option<String>,
    /// The addresses of all endpoints in the slice.
    pub addresses: Vec<IpAddr>,
    /// The protocol and number of each port; a number of `None` means every port of that protocol.
    pub ports: Vec<(Protocol, Option<u16>)>,
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name by which rules can name the port; empty if the port is only forwarded from the
    /// host.
    pub name: String,
    /// The protocol: TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number of the port at the workload.
    pub port: u16,
    /// The port of the host that others, such as a CNI plugin, forward to this one. It is shown to
    /// users and has no other effect.
    pub host_port: Option<u16>,
    /// The address of the host that `host_port` is opened at; `None` means all of its addresses.
    pub host_ip: Option<IpAddr>,
}

/// Returns the network that holds a single address: a /32 or a /128.
pub fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
