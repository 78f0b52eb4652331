//! Configuration of the agent by a resource.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ResourceKey;

/// The fields of `FelixConfiguration` that felid follows; `None` means that the resource does not
/// say.
#[derive(Clone, Debug, PartialEq)]
pub struct FelixConfiguration {
    /// The identity: `default` for all nodes, or `node.NAME` for one.
    pub key: ResourceKey,
    /// `logSeverityScreen`: the least severe message that is logged.
    pub log_severity_screen: Option<LogSeverity>,
    /// `interfacePrefix`: beginnings of the names of workloads' interfaces, split at commas.
    pub interface_prefix: Option<Vec<String>>,
    /// `defaultEndpointToHostAction`: what happens to allowed traffic from a workload to its host.
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,
    /// `floatingIPs`: whether the translations that `ipNATs` describe are in force.
    pub floating_ips: Option<bool>,
    /// `workloadSourceSpoofing`: whether workloads may send from the prefixes that they ask for.
    pub workload_source_spoofing: Option<WorkloadSourceSpoofing>,
    /// `externalIPAnnouncement`, a setting of felid's own: whether the host answers ARP and
    /// neighbour discovery for external addresses.
    pub external_ip_announcement: Option<bool>,
    /// `externalIPAllowed`, a setting of felid's own: the networks that external addresses may be
    /// in.
    pub external_ip_allowed: Option<Vec<IpNet>>,
    /// `ipNATOutbound`, a setting of felid's own: whether workloads show their external addresses
    /// when they begin a flow.
    pub ip_nat_outbound: Option<bool>,
    /// `ipNATClusterCIDRs`, a setting of felid's own: networks in which they show their own
    /// address.
    pub ip_nat_cluster_cidrs: Option<Vec<IpNet>>,
}

impl FelixConfiguration {
    /// Returns a configuration that sets nothing.
    pub fn new(key: ResourceKey) -> FelixConfiguration {
        FelixConfiguration {
            key,
            log_severity_screen: None,
            interface_prefix: None,
            default_endpoint_to_host_action: None,
            floating_ips: None,
            workload_source_spoofing: None,
            external_ip_announcement: None,
            external_ip_allowed: None,
            ip_nat_outbound: None,
            ip_nat_cluster_cidrs: None,
        }
    }
}

/// Whether a workload may send from addresses that are not its own, within the prefixes that its
/// resource asks for (`allowSpoofedSourcePrefixes`, or a pod's annotation
/// `cni.projectcalico.org/allowedSourcePrefixes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadSourceSpoofing {
    /// It may not: the prefixes have no effect.
    #[default]
    Disabled,
    /// It may, whatever the prefixes are.
    Any,
}

/// How severe a message must be to be logged, by Calico's names, the least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogSeverity {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

/// What happens to packets from a workload to its own host that the egress policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointToHostAction {
    /// They are dropped.
    Drop,
    /// They go on into the host's own rules.
    Return,
    /// They are accepted past the host's own rules.
    Accept,
}
