//! Policies, profiles, tiers and network sets, and the rules in them.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LabelMap, ResourceKey};
use crate::{FieldMatch, Selector};

/// Labels and rules that endpoints inherit: from a `Profile`, or what a `Namespace` or
/// `ServiceAccount` implies ([`Profile::implied`]). Where both give one name
/// ([`ResourceKey::profile_name`]), the `Profile` is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The identity of the resource that gives the profile: `Profile/NAME`, `Namespace/NAME` or
    /// `ServiceAccount/NAMESPACE/NAME`.
    pub key: ResourceKey,
    /// Labels that endpoints with this profile inherit unless they have a label of the same key.
    pub labels_to_apply: LabelMap,
    /// The rules for traffic towards the workload, in order.
    pub ingress: Vec<Rule>,
    /// The rules for traffic from the workload, in order.
    pub egress: Vec<Rule>,
}

/// A policy of any kind. It holds in one namespace if its key has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// The name of the tier that the policy stands in.
    pub tier: String,
    /// The policy's place in its tier, lower first; `None` comes last.
    pub order: Option<f64>,
    /// The endpoints that the policy holds for. It is not yet confined to the policy's namespace;
    /// an absent selector is `all()`.
    pub selector: Selector,
    /// The namespaces of those endpoints, as a GlobalNetworkPolicy writes it.
    pub namespace_selector: Option<Selector>,
    /// The service accounts of those endpoints, as the policy writes it, without the prefix
    /// `pcsa.`.
    pub service_account_selector: Option<Selector>,
    /// Whether the policy is only judged and counted, never enforced.
    pub staged: bool,
    /// Whether the policy judges traffic towards the workload. Absent `types` have been inferred
    /// from the rules.
    pub applies_ingress: bool,
    /// Whether the policy judges traffic from the workload.
    pub applies_egress: bool,
    /// The rules for traffic towards the workload, in order.
    pub ingress: Vec<Rule>,
    /// The rules for traffic from the workload, in order.
    pub egress: Vec<Rule>,
}

/// A policy that cannot be enforced; see [`Resource::BadPolicy`](crate::Resource::BadPolicy).
#[derive(Clone, Debug, PartialEq)]
pub struct BadPolicy {
    /// The identity of the resource, made up where the document does not tell it.
    pub key: ResourceKey,
    /// The endpoints that it selects, as far as that could be read; `None` means all of its
    /// namespace, or all of the node if it has none.
    pub selector: Option<Selector>,
    /// The namespaces of those endpoints; `None` if it names none or the text could not be read.
    pub namespace_selector: Option<Selector>,
    /// Why it cannot be enforced, for people.
    pub reason: String,
}

/// An ordered group of policies, which is asked before the tiers of a higher order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// The tier's place, lower first; `None` comes last.
    pub order: Option<f64>,
    /// What happens to traffic that a policy of the tier selects and no rule decides: it goes on to
    /// the next tier (true), or it is denied (false).
    pub default_pass: bool,
}

/// Networks that selectors can select by labels: a `NetworkSet` if its key has a namespace, else a
/// `GlobalNetworkSet`.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSet {
    /// The identity of the resource.
    pub key: ResourceKey,
    /// `metadata.labels`; in a namespaced set `projectcalico.org/namespace` is always its
    /// namespace.
    pub labels: LabelMap,
    /// The members, without bits beyond their masks.
    pub nets: Vec<IpNet>,
}

/// A number of an IP protocol, which prints as Calico's name for it if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Protocol(pub u8);

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The packet is allowed, and nothing further is asked.
    Allow,
    /// The packet is dropped, and nothing further is asked.
    Deny,
    /// The rest of the tier is skipped: the next tier is asked, or the profiles after the last one.
    Pass,
    /// The packet is reported in the log, and the next rule is asked.
    Log,
}

/// A rule of a policy or profile. It matches a packet for which every condition holds; an absent
/// condition always holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What the rule does.
    pub action: Action,
    /// Dotted paths, from the rule, of fields that felid does not know or cannot enforce, such as
    /// `http`. If there are any, an Allow or Log never matches, a Deny matches as if they were not
    /// there, and a Pass denies.
    pub unknown_fields: Vec<String>,
    /// The IP version, 4 or 6.
    pub ip_version: Option<u8>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// A protocol that the packet must not have.
    pub not_protocol: Option<Protocol>,
    /// Fields of the packet beside its addresses, protocol and ports.
    pub fields: FieldMatch,
    /// Where the packet must come from.
    pub source: EntityRule,
    /// Where the packet must go.
    pub destination: EntityRule,
}

/// The field `services` of a rule: what stands behind a service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceMatch {
    /// The name of the service.
    pub name: String,
    /// The namespace of the service; `None` means the policy's own.
    pub namespace: Option<String>,
}

/// The field `serviceAccounts` of a rule. If both conditions are there, both must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceAccountMatch {
    /// The service account has one of these names; an empty list says nothing.
    pub names: Vec<String>,
    /// The labels of the service account match.
    pub selector: Option<Selector>,
}

impl Rule {
    /// Returns a rule without conditions, which matches every packet.
    pub fn new(action: Action) -> Rule {
        Rule {
            action,
            unknown_fields: Vec::new(),
            ip_version: None,
            protocol: None,
            not_protocol: None,
            fields: FieldMatch::default(),
            source: EntityRule::default(),
            destination: EntityRule::default(),
        }
    }
}

/// Conditions for one side of a packet, its source or its destination. All of them must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityRule {
    /// The address is in one of these networks; an empty list says nothing.
    pub nets: Vec<IpNet>,
    /// The address is in none of these networks.
    pub not_nets: Vec<IpNet>,
    /// The address belongs to an endpoint or network set that this selects.
    pub selector: Option<Selector>,
    /// The address belongs to no endpoint or network set that this selects.
    pub not_selector: Option<Selector>,
    /// The namespaces in which the selectors look; `None` means the policy's own.
    pub namespace_selector: Option<Selector>,
    /// The port is one of these; an empty list says nothing.
    pub ports: Vec<Port>,
    /// The port is none of these.
    pub not_ports: Vec<Port>,
    /// The address belongs to an endpoint that runs as one of these service accounts.
    pub service_accounts: Option<ServiceAccountMatch>,
    /// The address, and at the destination the port too, stands behind this service.
    pub services: Option<ServiceMatch>,
}

/// A port as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// All ports from the first to the last number, both included; the first is not above the last.
    Range(u16, u16),
    /// The ports of this name on the endpoints that the rule selects.
    Named(String),
}
