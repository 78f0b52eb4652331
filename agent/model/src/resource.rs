//! The resources that felid acts on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Selector;

/// Kinds of resources that felid acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `WorkloadEndpoint`, namespaced.
    WorkloadEndpoint,
    /// `Profile`.
    Profile,
    /// `NetworkPolicy` (projectcalico.org), namespaced.
    NetworkPolicy,
    /// `GlobalNetworkPolicy`.
    GlobalNetworkPolicy,
    /// `Tier`.
    Tier,
    /// `NetworkSet`, namespaced.
    NetworkSet,
    /// `GlobalNetworkSet`.
    GlobalNetworkSet,
    /// `FelixConfiguration`.
    FelixConfiguration,
    /// `StagedNetworkPolicy`, namespaced.
    StagedNetworkPolicy,
    /// `StagedGlobalNetworkPolicy`.
    StagedGlobalNetworkPolicy,
    /// `StagedKubernetesNetworkPolicy`, namespaced.
    StagedKubernetesNetworkPolicy,
    /// `HostEndpoint`: a peer of selectors; its own interface is out of felid's scope.
    HostEndpoint,
    /// `IPPool`.
    IpPool,
    /// `NetworkPolicy` of Kubernetes (networking.k8s.io/v1), namespaced.
    KubernetesNetworkPolicy,
    /// `AdminNetworkPolicy` (policy.networking.k8s.io/v1alpha1).
    AdminNetworkPolicy,
    /// `BaselineAdminNetworkPolicy` (policy.networking.k8s.io/v1alpha1).
    BaselineAdminNetworkPolicy,
    /// `ClusterNetworkPolicy` (policy.networking.k8s.io/v1alpha2).
    ClusterNetworkPolicy,
    /// `Namespace` (v1): implies the profile `kns.NAME`.
    Namespace,
    /// `ServiceAccount` (v1), namespaced: implies the profile `ksa.NAMESPACE.NAME`.
    ServiceAccount,
    /// `Pod` (v1), namespaced: implies a workload endpoint.
    Pod,
    /// `Service` (v1), namespaced.
    Service,
    /// `EndpointSlice` (discovery.k8s.io/v1), namespaced: what `services` in rules look up.
    EndpointSlice,
}

/// What identifies a resource: kind, namespace (exactly for namespaced kinds) and name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace; `None` for kinds without.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
}

/// Labels of an endpoint, network set or profile.
pub type LabelMap = BTreeMap<String, String>;

/// One accepted document.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// `WorkloadEndpoint` and `Pod`.
    WorkloadEndpoint(Arc<WorkloadEndpoint>),
    /// `HostEndpoint`.
    HostEndpoint(Arc<HostEndpoint>),
    /// `Profile`, and the profiles that `Namespace` and `ServiceAccount` imply.
    Profile(Arc<Profile>),
    /// Policies of Calico and of Kubernetes, staged ones too.
    Policy(Arc<Policy>),
    /// `Tier`.
    Tier(Arc<Tier>),
    /// `NetworkSet` and `GlobalNetworkSet`.
    NetworkSet(Arc<NetworkSet>),
    /// `FelixConfiguration`.
    FelixConfiguration(Arc<FelixConfiguration>),
    /// `IPPool`.
    IpPool(Arc<IpPool>),
    /// `EndpointSlice`.
    EndpointSlice(Arc<EndpointSlice>),
    /// A valid record that has no effect of its own: a `Service`, a pod on the host's network, a policy for host endpoints alone.
    Inert(ResourceKey),
    /// A policy document that was bad from the start: every endpoint that it may select is closed.
    BadPolicy(Arc<BadPolicy>),
}

impl Resource {
    /// The resource's identity.
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

/// `WorkloadEndpoint`: the interface of a container or VM to its host.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEndpoint {
    /// Identity; the namespace is always present.
    pub key: ResourceKey,
    /// metadata.labels, with `projectcalico.org/namespace` and `/orchestrator` overwritten, and `pcns.*`/`pcsa.*` removed.
    pub labels: LabelMap,
    /// The name of the workload to which this endpoint belongs.
    pub workload: Option<String>,
    /// The orchestrator that created this endpoint.
    pub orchestrator: String,
    /// The node where this endpoint resides.
    pub node: String,
    /// CNI_CONTAINERID.
    pub container_id: Option<String>,
    /// Kubernetes pod name.
    pub pod: Option<String>,
    /// Container network interface name.
    pub endpoint: String,
    /// Service account.
    pub service_account: Option<String>,
    /// Addresses of the interface: /32 and /128 only.
    pub ip_networks: Vec<IpNet>,
    /// 1:1 translations.
    pub ip_nats: Vec<IpNat>,
    /// Elastic IPs, which the cloud translates: only shown.
    pub aws_elastic_ips: Vec<IpAddr>,
    /// Source addresses beside its own that the workload may send from; packets are judged as coming from them.
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// The record names `qosControls`, which felid does not enforce.
    pub qos_controls: bool,
    /// Gateway for IPv4.
    pub ipv4_gateway: Option<std::net::Ipv4Addr>,
    /// Gateway for IPv6.
    pub ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// Names of profiles, in order.
    pub profiles: Vec<String>,
    /// Host-side interface.
    pub interface_name: String,
    /// MAC address of the workload.
    pub mac: Option<[u8; 6]>,
    /// Named ports.
    pub ports: Vec<EndpointPort>,
}

/// A 1:1 translation of an endpoint's address; both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpNat {
    /// The endpoint's own address.
    pub internal: IpAddr,
    /// The address by which others know it.
    pub external: IpAddr,
}

/// `HostEndpoint`, as far as it matters to workloads: its addresses can be selected.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEndpoint {
    /// Identity.
    pub key: ResourceKey,
    /// metadata.labels.
    pub labels: LabelMap,
    /// `expectedIPs`.
    pub expected_ips: Vec<IpAddr>,
    /// Names of profiles, in order.
    pub profiles: Vec<String>,
    /// Named ports.
    pub ports: Vec<EndpointPort>,
}

/// `IPPool`.
#[derive(Clone, Debug, PartialEq)]
pub struct IpPool {
    /// Identity.
    pub key: ResourceKey,
    /// Its prefix.
    pub cidr: IpNet,
}

/// `EndpointSlice`: addresses and ports behind a service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Identity.
    pub key: ResourceKey,
    /// The service, by label `kubernetes.io/service-name`; `None` = no service's.
    pub service: Option<String>,
    /// Addresses of all its endpoints.
    pub addresses: Vec<IpAddr>,
    /// Ports: protocol, and number (`None` = every port).
    pub ports: Vec<(Protocol, Option<u16>)>,
}

/// A named port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Name; empty when only a host port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Port of the host that is forwarded to it by others; only shown.
    pub host_port: Option<u16>,
    /// Address of the host for `host_port`; `None` = any.
    pub host_ip: Option<IpAddr>,
}

/// `Profile`, or what a `Namespace` or `ServiceAccount` implies ([`Profile::implied`]). A `Profile` record of a name
/// ([`ResourceKey::profile_name`]) is in force before an implied one.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Identity of the record: `Profile/NAME`, `Namespace/NAME`, `ServiceAccount/NAMESPACE/NAME`.
    pub key: ResourceKey,
    /// Labels that endpoints with this profile inherit.
    pub labels_to_apply: LabelMap,
    /// Rules towards the workload.
    pub ingress: Vec<Rule>,
    /// Rules from the workload.
    pub egress: Vec<Rule>,
}

/// A policy of any kind; confined to a namespace if its key has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Identity.
    pub key: ResourceKey,
    /// Name of its tier.
    pub tier: String,
    /// Order; `None` = last.
    pub order: Option<f64>,
    /// Endpoints it holds for, not yet confined to the namespace; absent = all().
    pub selector: Selector,
    /// GlobalNetworkPolicy: endpoints' namespaces, as written.
    pub namespace_selector: Option<Selector>,
    /// Endpoints' service accounts, as written (without the prefix `pcsa.`).
    pub service_account_selector: Option<Selector>,
    /// Judged and counted, never enforced.
    pub staged: bool,
    /// Applies to ingress (after inference of absent types).
    pub applies_ingress: bool,
    /// Applies to egress.
    pub applies_egress: bool,
    /// Rules towards the workload.
    pub ingress: Vec<Rule>,
    /// Rules from the workload.
    pub egress: Vec<Rule>,
}

/// A policy that cannot be enforced; see [`Resource::BadPolicy`].
#[derive(Clone, Debug, PartialEq)]
pub struct BadPolicy {
    /// Identity.
    pub key: ResourceKey,
    /// What it selects, as far as that could be read; `None` = anything (in its namespace).
    pub selector: Option<Selector>,
    /// Its namespaceSelector; `None` = none or unreadable.
    pub namespace_selector: Option<Selector>,
    /// Why, for people.
    pub reason: String,
}

/// `Tier`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Identity.
    pub key: ResourceKey,
    /// Order; `None` = last.
    pub order: Option<f64>,
    /// What happens at the end of the tier: Deny (false) or Pass (true).
    pub default_pass: bool,
}

/// `NetworkSet` (with a namespace) or `GlobalNetworkSet`.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSet {
    /// Identity.
    pub key: ResourceKey,
    /// metadata.labels; a NetworkSet's `projectcalico.org/namespace` is its namespace.
    pub labels: LabelMap,
    /// Members, masked.
    pub nets: Vec<IpNet>,
}

/// The fields of `FelixConfiguration` that felid follows; `None` = not said.
#[derive(Clone, Debug, PartialEq)]
pub struct FelixConfiguration {
    /// Identity: `default` or `node.NAME`.
    pub key: ResourceKey,
    /// `logSeverityScreen`.
    pub log_severity_screen: Option<LogSeverity>,
    /// `interfacePrefix`, split at commas.
    pub interface_prefix: Option<Vec<String>>,
    /// `defaultEndpointToHostAction`.
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,
    /// `floatingIPs`: whether `ipNATs` are translated.
    pub floating_ips: Option<bool>,
}

/// Calico's log levels.
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

/// What happens to packets from a workload to its host that the egress policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointToHostAction {
    /// Dropped.
    Drop,
    /// Go on into the host's own rules.
    Return,
    /// Accepted.
    Accept,
}

/// IP protocol number with Calico's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Protocol(pub u8);

/// Rule action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Accept the packet.
    Allow,
    /// Drop the packet.
    Deny,
    /// Go on with the next tier, or the profiles.
    Pass,
    /// Tell of the packet, and go on with the next rule.
    Log,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Action.
    pub action: Action,
    /// The rule holds fields that felid does not know or cannot enforce (`http`): an Allow or Log never matches, a Deny matches
    /// without them, a Pass is a Deny. Dotted paths from the rule.
    pub unknown_fields: Vec<String>,
    /// 4 or 6.
    pub ip_version: Option<u8>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// Not this protocol.
    pub not_protocol: Option<Protocol>,
    /// ICMP messages.
    pub icmp: Option<IcmpMatch>,
    /// Not these ICMP messages.
    pub not_icmp: Option<IcmpMatch>,
    /// Where packets come from.
    pub source: EntityRule,
    /// Where packets go.
    pub destination: EntityRule,
}

/// ICMP or ICMPv6 messages, by what is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IcmpMatch {
    /// Type; `None` = any.
    pub icmp_type: Option<u8>,
    /// Code; only with a type.
    pub code: Option<u8>,
}

/// `services` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceMatch {
    /// Name of the service.
    pub name: String,
    /// Its namespace; `None` = the policy's.
    pub namespace: Option<String>,
}

/// `serviceAccounts` of a rule. What is said must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceAccountMatch {
    /// One of these names, if not empty.
    pub names: Vec<String>,
    /// Labels of the service account.
    pub selector: Option<Selector>,
}

impl Rule {
    /// A rule without conditions.
    pub fn new(action: Action) -> Rule {
        Rule {
            action,
            unknown_fields: Vec::new(),
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: EntityRule::default(),
            destination: EntityRule::default(),
        }
    }
}

/// One side of a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityRule {
    /// Address in one of these, if not empty.
    pub nets: Vec<IpNet>,
    /// Address in none of these.
    pub not_nets: Vec<IpNet>,
    /// Address of an endpoint or network set that this selects.
    pub selector: Option<Selector>,
    /// ... does not select.
    pub not_selector: Option<Selector>,
    /// Namespaces that the selectors look in.
    pub namespace_selector: Option<Selector>,
    /// Ports, OR-ed.
    pub ports: Vec<Port>,
    /// Not these ports.
    pub not_ports: Vec<Port>,
    /// Endpoints that run as these service accounts.
    pub service_accounts: Option<ServiceAccountMatch>,
    /// What stands behind a service.
    pub services: Option<ServiceMatch>,
}

/// A port of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// Inclusive range; first <= last.
    Range(u16, u16),
    /// Named port.
    Named(String),
}

/// Makes an [`IpNet`] of a single address.
pub fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
