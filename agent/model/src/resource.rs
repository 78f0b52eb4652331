//! The resources that felid acts on.

mod configuration;
mod endpoint;
mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use configuration::{EndpointToHostAction, FelixConfiguration, LogSeverity, WorkloadSourceSpoofing};
pub use endpoint::{EndpointPort, EndpointSlice, HostEndpoint, IpNat, IpPool, WorkloadEndpoint, host_net};
pub use policy::{
    Action, BadPolicy, EntityRule, NetworkSet, Policy, Port, Profile, Protocol, Rule, ServiceAccountMatch,
    ServiceMatch, Tier,
};

/// Kinds of resources that felid acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `WorkloadEndpoint` of Calico: the interface of a container or virtual machine. It is
    /// namespaced.
    WorkloadEndpoint,
    /// `Profile` of Calico: labels and rules that endpoints inherit.
    Profile,
    /// `NetworkPolicy` of Calico (`projectcalico.org/v3`). It is namespaced.
    NetworkPolicy,
    /// `GlobalNetworkPolicy` of Calico, which holds in all namespaces.
    GlobalNetworkPolicy,
    /// `Tier` of Calico: an ordered group of policies.
    Tier,
    /// `NetworkSet` of Calico: networks that selectors can select. It is namespaced.
    NetworkSet,
    /// `GlobalNetworkSet` of Calico: a network set outside of all namespaces.
    GlobalNetworkSet,
    /// `FelixConfiguration` of Calico: settings of all nodes or of one.
    FelixConfiguration,
    /// `StagedNetworkPolicy` of Calico: judged and counted, never enforced. It is namespaced.
    StagedNetworkPolicy,
    /// `StagedGlobalNetworkPolicy` of Calico: judged and counted, never enforced.
    StagedGlobalNetworkPolicy,
    /// `StagedKubernetesNetworkPolicy` of Calico: a Kubernetes policy that is judged and counted,
    /// never enforced. It is namespaced.
    StagedKubernetesNetworkPolicy,
    /// `HostEndpoint` of Calico. Its addresses can be selected as peers; felid does not police the
    /// host's own interface.
    HostEndpoint,
    /// `IPPool` of Calico: addresses from which workloads get theirs.
    IpPool,
    /// `NetworkPolicy` of Kubernetes (`networking.k8s.io/v1`). It is namespaced.
    KubernetesNetworkPolicy,
    /// `AdminNetworkPolicy` of Kubernetes (`policy.networking.k8s.io/v1alpha1`).
    AdminNetworkPolicy,
    /// `BaselineAdminNetworkPolicy` of Kubernetes (`policy.networking.k8s.io/v1alpha1`).
    BaselineAdminNetworkPolicy,
    /// `ClusterNetworkPolicy` of Kubernetes (`policy.networking.k8s.io/v1alpha2`).
    ClusterNetworkPolicy,
    /// `Namespace` of Kubernetes (`v1`), which implies the profile `kns.NAME`.
    Namespace,
    /// `ServiceAccount` of Kubernetes (`v1`), which implies the profile `ksa.NAMESPACE.NAME`. It is
    /// namespaced.
    ServiceAccount,
    /// `Pod` of Kubernetes (`v1`), which implies a workload endpoint. It is namespaced.
    Pod,
    /// `Service` of Kubernetes (`v1`). It is namespaced, and has no effect of its own.
    Service,
    /// `EndpointSlice` of Kubernetes (`discovery.k8s.io/v1`), in which the field `services` of
    /// rules looks up addresses and ports. It is namespaced.
    EndpointSlice,
}

/// The identity of a resource: its kind, its namespace and its name. A namespaced kind always has a
/// namespace, and no other kind ever has one. Keys are cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// The kind of the resource.
    pub kind: Kind,
    /// The namespace; `None` for kinds that are not namespaced.
    pub namespace: Option<Arc<str>>,
    /// The name, which is unique among the resources of this kind and namespace.
    pub name: Arc<str>,
}

/// The labels of an endpoint, network set or profile: values by key, in the order of the keys.
pub type LabelMap = BTreeMap<String, String>;

/// A resource that has been decoded, validated and accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// From a `WorkloadEndpoint` or a `Pod`.
    WorkloadEndpoint(Arc<WorkloadEndpoint>),
    /// From a `HostEndpoint`.
    HostEndpoint(Arc<HostEndpoint>),
    /// From a `Profile`, or what a `Namespace` or `ServiceAccount` implies.
    Profile(Arc<Profile>),
    /// From a policy of Calico or of Kubernetes, staged policies included.
    Policy(Arc<Policy>),
    /// From a `Tier`.
    Tier(Arc<Tier>),
    /// From a `NetworkSet` or `GlobalNetworkSet`.
    NetworkSet(Arc<NetworkSet>),
    /// From a `FelixConfiguration`.
    FelixConfiguration(Arc<FelixConfiguration>),
    /// From an `IPPool`.
    IpPool(Arc<IpPool>),
    /// From an `EndpointSlice`.
    EndpointSlice(Arc<EndpointSlice>),
    /// A valid resource that has no effect of its own, such as a `Service`, a pod on the host's
    /// network, or a policy for host endpoints alone.
    Inert(ResourceKey),
    /// A policy of which no good version has ever been read. Every endpoint that it may select is
    /// closed.
    BadPolicy(Arc<BadPolicy>),
}

impl Resource {
    /// Returns the identity of the resource.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Resource::WorkloadEndpoint(r) => &r.key,
            Resource::Profile(r) => &r.key,
            Resource::Policy(r) => &r.key,
            Resource::Tier(r) => &r.key,
            Resource::NetworkSet(r) => &r.key,
            Resource::FelixConfiguration(r) => &r.key,
            Resource::HostEndpoint(r) => &r.key,
            Resource::IpPool(r) => &r.key,
            Resource::EndpointSlice(r) => &r.key,
            Resource::Inert(key) => key,
            Resource::BadPolicy(r) => &r.key,
        }
    }
}
