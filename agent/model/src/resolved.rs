//! Policy after selectors were resolved to sets: what the calculation hands to the compiler and to the reference evaluator.
//!
//! A *set* is a set of addresses (the members of a selector, or a long list of networks) or a set of (address, protocol, port)
//! (a named port). Sets are known by [`SetId`] here; which bit of a class row a set has is the compiler's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{IcmpMatch, IpNat, Protocol, ResourceKey};

/// Identity of a set: `s:...` = a selector's uid; `n:...` = a named port (selector, protocol, name); `c:...` = a list of networks;
/// `v:...` = addresses behind a service; `p:...` = addresses, protocols and ports behind a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetId(pub Arc<str>);

/// A set of sets.
pub type SetIds = BTreeSet<SetId>;

/// The whole policy of one endpoint in one direction. Verdict: first match in tier order; then profiles; then deny.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedPolicy {
    /// Only tiers that have a policy for this direction on this endpoint, in order.
    pub tiers: Vec<ResolvedTier>,
    /// Profiles in the endpoint's order; missing ones are left out. A Pass in a profile is a Deny.
    pub profiles: Vec<ResolvedRules>,
    /// Deny everything, whatever the rest says: a policy that may hold for this endpoint cannot be enforced. The reason.
    pub closed: Option<Arc<str>>,
}

/// A tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedTier {
    /// Name.
    pub name: Arc<str>,
    /// At its end: go on with the next tier (true) or deny (false).
    pub end_pass: bool,
    /// Policies in order.
    pub policies: Vec<ResolvedRules>,
}

/// The rules of one policy or profile for one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedRules {
    /// Where they come from.
    pub key: ResourceKey,
    /// A staged policy: what it would decide is counted, and the walk goes on with the next policy.
    pub staged: bool,
    /// In order; `index` in each names its place in the record.
    pub rules: Arc<Vec<ResolvedRule>>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResolvedAction {
    /// Allow.
    Allow,
    /// Deny.
    Deny,
    /// Leave the tier.
    Pass,
    /// Tell of the packet, and go on with the next rule.
    Log,
}

/// A rule. Everything that is said must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedRule {
    /// Position in the record's list, from 0.
    pub index: u32,
    /// Action.
    pub action: ResolvedAction,
    /// 4 or 6.
    pub ip_version: Option<u8>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// Not this protocol.
    pub not_protocol: Option<Protocol>,
    /// ICMP type and code. A packet of another protocol than ICMP and ICMPv6 does not match.
    pub icmp: Option<IcmpMatch>,
    /// Not this ICMP type and code. A packet of another protocol passes.
    pub not_icmp: Option<IcmpMatch>,
    /// Source.
    pub source: ResolvedSide,
    /// Destination.
    pub destination: ResolvedSide,
}

/// One side of a rule. Rules of the other IP version, and rules where `nets` or `not_nets` is not empty but has no entry of the
/// packet's version, do not match at all; otherwise networks of the other version are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedSide {
    /// If not empty: the address is in one of these.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address is in all of these sets.
    pub sets: Vec<SetId>,
    /// The address is in none of these sets.
    pub not_sets: Vec<SetId>,
    /// If `ports` or `named_ports` is not empty: the port is in one of these ranges (inclusive) or ...
    pub ports: Vec<(u16, u16)>,
    /// ... (address, protocol, port) is in one of these sets.
    pub named_ports: Vec<SetId>,
    /// The port is in none of these ranges.
    pub not_ports: Vec<(u16, u16)>,
    /// (address, protocol, port) is in none of these sets.
    pub not_named_ports: Vec<SetId>,
    /// (address, protocol, port) is in all of these sets: what stands behind services.
    pub service_ports: Vec<SetId>,
}

/// Key of a member of a named-port set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPortMember {
    /// Address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// A local endpoint with its policy: what the calculation says of one endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// Identity of its `WorkloadEndpoint`.
    pub key: ResourceKey,
    /// Host-side interface.
    pub interface_name: Arc<str>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Source addresses beside its own that it may send from.
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// 1:1 translations.
    pub ip_nats: Vec<IpNat>,
    /// The workload's MAC address, if the record names it.
    pub mac: Option<[u8; 6]>,
    /// IPv4 gateway; `None` = 169.254.1.1.
    pub ipv4_gateway: Option<std::net::Ipv4Addr>,
    /// IPv6 gateway; `None` = the interface's link-local address.
    pub ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// Its ports, named or with a host port only (for listings; rules hold resolved sets).
    pub ports: Vec<crate::EndpointPort>,
    /// Profiles, as the record lists them.
    pub profiles: Vec<String>,
    /// Policy towards the workload.
    pub ingress: Arc<ResolvedPolicy>,
    /// Policy from the workload.
    pub egress: Arc<ResolvedPolicy>,
}

/// What an update of the calculation changed: whole new values, `None` = gone. The state is the sum of all deltas, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Endpoints of this node.
    pub endpoints: BTreeMap<ResourceKey, Option<Arc<LocalEndpoint>>>,
    /// For each prefix (single addresses are /32 and /128) that endpoints or network sets anywhere have: the active sets that it is a
    /// member of *itself*. Covering prefixes are not included: whoever looks an address up joins the sets of all that cover it.
    pub members: BTreeMap<IpNet, Option<Arc<SetIds>>>,
    /// For each (address, protocol, port): the named-port sets it is in.
    pub named_ports: BTreeMap<NamedPortMember, Option<Arc<SetIds>>>,
}
