//! Kinds: their names, as Calico's records and `calicoctl` write them.

use std::fmt;
use std::sync::Arc;

use crate::{Kind, ResourceKey};

/// The `apiVersion` of Calico's own resources.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// Name, plural, aliases beside these (all lower case).
const NAMES: [(Kind, &str, &str, &[&str]); 22] = [
    (
        Kind::WorkloadEndpoint,
        "WorkloadEndpoint",
        "workloadendpoints",
        &["wep", "weps"],
    ),
    (Kind::Profile, "Profile", "profiles", &["pro", "pros"]),
    (
        Kind::NetworkPolicy,
        "NetworkPolicy",
        "networkpolicies",
        &[
            "np",
            "nps",
            "policy",
            "policies",
            "pol",
            "pols",
            "cnp",
            "caliconetworkpolicy",
        ],
    ),
    (
        Kind::GlobalNetworkPolicy,
        "GlobalNetworkPolicy",
        "globalnetworkpolicies",
        &["gnp", "gnps", "cgnp"],
    ),
    (Kind::Tier, "Tier", "tiers", &[]),
    (Kind::NetworkSet, "NetworkSet", "networksets", &["netset", "netsets"]),
    (
        Kind::GlobalNetworkSet,
        "GlobalNetworkSet",
        "globalnetworksets",
        &["gnetset", "gnetsets", "gns"],
    ),
    (
        Kind::FelixConfiguration,
        "FelixConfiguration",
        "felixconfigurations",
        &["felixconfig", "felixconfigs", "fconfig", "fconfigs"],
    ),
    (
        Kind::StagedNetworkPolicy,
        "StagedNetworkPolicy",
        "stagednetworkpolicies",
        &["snp", "snps"],
    ),
    (
        Kind::StagedGlobalNetworkPolicy,
        "StagedGlobalNetworkPolicy",
        "stagedglobalnetworkpolicies",
        &["sgnp", "sgnps"],
    ),
    (
        Kind::StagedKubernetesNetworkPolicy,
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        &["sknp", "sknps"],
    ),
    (Kind::HostEndpoint, "HostEndpoint", "hostendpoints", &["hep", "heps"]),
    (Kind::IpPool, "IPPool", "ippools", &["ipp", "ipps", "pool", "pools"]),
    (
        Kind::KubernetesNetworkPolicy,
        "KubernetesNetworkPolicy",
        "kubernetesnetworkpolicies",
        &["knp", "knps"],
    ),
    (
        Kind::AdminNetworkPolicy,
        "AdminNetworkPolicy",
        "adminnetworkpolicies",
        &["anp", "anps"],
    ),
    (
        Kind::BaselineAdminNetworkPolicy,
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        &["banp", "banps"],
    ),
    (
        Kind::ClusterNetworkPolicy,
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        &[],
    ),
    (Kind::Namespace, "Namespace", "namespaces", &["ns"]),
    (Kind::ServiceAccount, "ServiceAccount", "serviceaccounts", &["sa"]),
    (Kind::Pod, "Pod", "pods", &["po"]),
    (Kind::Service, "Service", "services", &["svc"]),
    (Kind::EndpointSlice, "EndpointSlice", "endpointslices", &[]),
];

impl Kind {
    /// Every kind that felid acts on.
    pub const ALL: [Kind; 22] = [
        Kind::WorkloadEndpoint,
        Kind::Profile,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::Tier,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::FelixConfiguration,
        Kind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
        Kind::HostEndpoint,
        Kind::IpPool,
        Kind::KubernetesNetworkPolicy,
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::Namespace,
        Kind::ServiceAccount,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
    ];

    /// Returns the `apiVersion` of resources of this kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::KubernetesNetworkPolicy => "networking.k8s.io/v1",
            Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => "policy.networking.k8s.io/v1alpha1",
            Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Kind::Namespace | Kind::ServiceAccount | Kind::Pod | Kind::Service => "v1",
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            _ => API_VERSION,
        }
    }

    /// Returns what stands in the field `kind` of such resources. Two kinds are both written
    /// `NetworkPolicy` there, and differ by their `apiVersion`.
    pub fn record_kind(self) -> &'static str {
        match self {
            Kind::KubernetesNetworkPolicy => Kind::NetworkPolicy.as_str(),
            _ => self.as_str(),
        }
    }

    /// Returns the kind of resources with this `apiVersion` and `kind`.
    pub fn from_record(api_version: &str, kind: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|known| known.api_version() == api_version && known.record_kind() == kind)
    }

    /// Returns the name that no other kind has. It is what stands in the field `kind`, except for
    /// `KubernetesNetworkPolicy`.
    pub fn as_str(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, name, ..)| name)
    }

    /// Returns the plural in lower case, as the command line takes it.
    pub fn plural(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, _, plural, _)| plural)
    }

    /// Returns whether resources of this kind live in namespaces.
    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Kind::WorkloadEndpoint
                | Kind::NetworkPolicy
                | Kind::NetworkSet
                | Kind::StagedNetworkPolicy
                | Kind::StagedKubernetesNetworkPolicy
                | Kind::KubernetesNetworkPolicy
                | Kind::ServiceAccount
                | Kind::Pod
                | Kind::Service
                | Kind::EndpointSlice
        )
    }

    /// Returns whether resources of this kind are policies, staged ones included.
    pub fn is_policy(self) -> bool {
        self.is_staged()
            || matches!(
                self,
                Kind::NetworkPolicy
                    | Kind::GlobalNetworkPolicy
                    | Kind::KubernetesNetworkPolicy
                    | Kind::AdminNetworkPolicy
                    | Kind::BaselineAdminNetworkPolicy
                    | Kind::ClusterNetworkPolicy
            )
    }

    /// Returns whether resources of this kind are staged policies, which are never enforced.
    pub fn is_staged(self) -> bool {
        matches!(
            self,
            Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedKubernetesNetworkPolicy
        )
    }

    /// Returns the kind of exactly this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        NAMES
            .iter()
            .find(|(_, known, ..)| *known == name)
            .map(|(kind, ..)| *kind)
    }

    /// Returns the kind that a user of the command line means: a name, plural or alias, in any
    /// case, with or without `-`.
    pub fn from_alias(alias: &str) -> Option<Kind> {
        let alias: String = alias
            .chars()
            .filter(|c| *c != '-')
            .flat_map(char::to_lowercase)
            .collect();
        NAMES
            .iter()
            .find(|(_, name, plural, aliases)| {
                alias == name.to_lowercase() || alias == *plural || aliases.contains(&alias.as_str())
            })
            .map(|(kind, ..)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ResourceKey {
    /// Makes a key. For namespaced kinds an absent or empty namespace is `default`; for others the
    /// namespace is left out.
    pub fn new(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = kind
            .is_namespaced()
            .then(|| Arc::from(namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default")));
        ResourceKey {
            kind,
            namespace,
            name: Arc::from(name),
        }
    }
}

/// `Kind/name` or `Kind/namespace/name`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}
