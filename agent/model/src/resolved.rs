//! Policy after selectors were resolved to sets: what the calculation hands to the compiler and to
//! the reference evaluator.
//!
//! A *set* is a set of addresses (the members of a selector, or a long list of networks) or a set
//! of (address, protocol, port) (a named port). Sets are known by [`SetId`] here; which bit of a
//! class row a set has is the compiler's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{FieldMatch, IpNat, Protocol, ResourceKey};

/// The identity of a set, from which its members follow. It begins with `s:` (the members of a
/// selector, by the selector's uid), `n:` (a named port: selector, protocol and name), `c:` (a list
/// of networks), `v:` (the addresses behind a service) or `p:` (the addresses, protocols and ports
/// behind a service).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetId(pub Arc<str>);

/// A set of sets: what an address, or a named port, is a member of.
pub type SetIds = BTreeSet<SetId>;

/// The whole policy of one endpoint in one direction. The first rule that matches decides, in the
/// order of the tiers; then the profiles decide; what is left is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedPolicy {
    /// The tiers, in order, that have a policy for this direction on this endpoint.
    pub tiers: Vec<ResolvedTier>,
    /// The rules of the endpoint's profiles, in the endpoint's order. It ends before the first
    /// profile that does not exist. A Pass in a profile is a Deny.
    pub profiles: Vec<ResolvedRules>,
    /// If present, everything is denied, whatever the rest says, because a policy that may hold for
    /// this endpoint cannot be enforced; this is the reason.
    pub closed: Option<Arc<str>>,
}

/// A tier with those of its policies that hold for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedTier {
    /// The name of the tier.
    pub name: Arc<str>,
    /// What happens to traffic that no rule of the tier decided: it goes on to the next tier
    /// (true), or it is denied (false).
    pub end_pass: bool,
    /// The policies of the tier, in the order in which they are asked.
    pub policies: Vec<ResolvedRules>,
}

/// The rules of one policy or profile for one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedRules {
    /// The identity of the resource that the rules come from.
    pub key: ResourceKey,
    /// Whether this is a staged policy. What it would decide is counted, and the next policy is
    /// asked.
    pub staged: bool,
    /// The rules, in order; the field `index` of each names its place in the resource's list.
    pub rules: Arc<Vec<ResolvedRule>>,
}

/// What a resolved rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResolvedAction {
    /// The packet is allowed, and nothing further is asked.
    Allow,
    /// The packet is dropped, and nothing further is asked.
    Deny,
    /// The rest of the tier is skipped: the next tier is asked, or the profiles after the last one.
    Pass,
    /// The packet is reported in the log, and the next rule is asked.
    Log,
}

/// A rule whose selectors have been resolved to sets. It matches a packet for which every condition
/// holds; an absent condition always holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedRule {
    /// The position of the rule in the resource's list, from 0.
    pub index: u32,
    /// What the rule does.
    pub action: ResolvedAction,
    /// The IP version, 4 or 6.
    pub ip_version: Option<u8>,
    /// The protocol of the packet.
    pub protocol: Option<Protocol>,
    /// A protocol that the packet must not have.
    pub not_protocol: Option<Protocol>,
    /// Conditions on fields of the packet beside its addresses, protocol and ports.
    pub fields: FieldMatch,
    /// Conditions on the source of the packet.
    pub source: ResolvedSide,
    /// Conditions on the destination of the packet.
    pub destination: ResolvedSide,
}

impl ResolvedRule {
    /// A rule without conditions, which matches every packet. `index` is its place in the record's
    /// list, from 0. Conditions are added by struct update syntax or by setting fields, so that a
    /// new condition has to be named only where it is used.
    pub fn new(index: u32, action: ResolvedAction) -> ResolvedRule {
        ResolvedRule {
            index,
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            fields: FieldMatch::default(),
            source: ResolvedSide::default(),
            destination: ResolvedSide::default(),
        }
    }
}

/// Conditions on one side of a packet. If `nets` or `not_nets` is not empty but has no network of
/// the packet's IP version, the rule does not match at all; networks of the other version are
/// otherwise ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedSide {
    /// The address is in one of these networks; an empty list says nothing.
    pub nets: Vec<IpNet>,
    /// The address is in none of these networks.
    pub not_nets: Vec<IpNet>,
    /// The address is a member of all of these sets.
    pub sets: Vec<SetId>,
    /// The address is a member of none of these sets.
    pub not_sets: Vec<SetId>,
    /// Ranges of ports, both ends included. If `ports` or `named_ports` is not empty, the port is
    /// in one of these ranges, or the packet is a member of one of the sets in `named_ports`.
    pub ports: Vec<(u16, u16)>,
    /// Sets of (address, protocol, port); see `ports`.
    pub named_ports: Vec<SetId>,
    /// The port is in none of these ranges, both ends included.
    pub not_ports: Vec<(u16, u16)>,
    /// The packet's (address, protocol, port) is a member of none of these sets.
    pub not_named_ports: Vec<SetId>,
    /// The packet's (address, protocol, port) is a member of all of these sets, each of which is
    /// what stands behind one service.
    pub service_ports: Vec<SetId>,
}

/// A member of a set of named ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPortMember {
    /// The address of the endpoint that has the port.
    pub address: IpAddr,
    /// The protocol of the port.
    pub protocol: Protocol,
    /// The number of the port.
    pub port: u16,
}

/// An endpoint of this node with its policy: what the calculation hands on for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// The identity of the resource that it comes from.
    pub key: ResourceKey,
    /// The name of its host-side interface.
    pub interface_name: Arc<str>,
    /// Its own addresses, without those that belong to another endpoint of this node.
    pub addresses: Vec<IpAddr>,
    /// Prefixes beside its own addresses that it may send from.
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// The external addresses that lead to it, one to one.
    pub ip_nats: Vec<IpNat>,
    /// Elastic IPs that AWS translates to the endpoint (for listings; felid does nothing with
    /// them).
    #[serde(default)]
    pub aws_elastic_ips: Vec<IpAddr>,
    /// The workload's MAC address, if the record names it.
    pub mac: Option<[u8; 6]>,
    /// The gateway that the workload uses for IPv4; `None` means 169.254.1.1.
    pub ipv4_gateway: Option<std::net::Ipv4Addr>,
    /// The gateway that the workload uses for IPv6; `None` means the link-local address of the
    /// host-side interface.
    pub ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// Its ports, for listings alone: rules hold sets instead of names.
    pub ports: Vec<crate::EndpointPort>,
    /// The names of its profiles, as the resource lists them.
    pub profiles: Vec<String>,
    /// The policy for traffic towards the workload.
    pub ingress: Arc<ResolvedPolicy>,
    /// The policy for traffic from the workload.
    pub egress: Arc<ResolvedPolicy>,
}

/// What an update of the calculation changed, as whole new values; `None` means that something is
/// gone. The state is the sum of all deltas in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The endpoints of this node whose value changed.
    pub endpoints: BTreeMap<ResourceKey, Option<Arc<LocalEndpoint>>>,
    /// For each prefix that changed (a single address is a /32 or a /128), the active sets that it
    /// is a member of *itself*, whatever endpoint or network set it comes from. Sets of prefixes
    /// that cover it are not included: whoever looks an address up joins the sets of all that cover
    /// it.
    pub members: BTreeMap<IpNet, Option<Arc<SetIds>>>,
    /// For each (address, protocol, port) that changed, the sets of named ports that it is a member
    /// of.
    pub named_ports: BTreeMap<NamedPortMember, Option<Arc<SetIds>>>,
}
