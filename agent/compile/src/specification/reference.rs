//! The reference evaluator: what a resolved policy *means*, packet by packet.
//!
//! In: a [`ResolvedPolicy`], a packet and a way to ask for set membership. Out: the verdict, what
//! decided it, what was logged, and what staged policies would have done. It is a plain walk of
//! tiers, policies and rules, and it shares nothing with the compiler: it is the specification that
//! compiled code is tested against. [`crate::specification::explain`] tells the same walk at
//! length.
//!
//! What the types leave open is decided here as Felix decides it:
//! - TCP, UDP and SCTP have ports, no other protocol has. A packet without ports is in no port
//!   range and in no named-port set: it fails `ports` and passes `notPorts`.
//! - `icmp` and `notICMP` speak of protocols 1 and 58 whatever the IP version, since rules and
//!   packets are taken literally.
//! - A tier without policies has no effect. A tier whose policies are all staged ends as if its
//!   default were Pass.
//! - Staged policies are judged where they stand, as far as the walk comes: what the first rule
//!   says that matches is noted, and the walk goes on behind the policy. Their Log rules tell
//!   nothing: a staged policy has no effect but its counters.

use std::net::IpAddr;
use std::sync::Arc;

use felid_common::protocol;
use felid_model::resolved::{
    ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
};
use felid_model::{FieldMatch, IcmpMatch, Protocol, ResourceKey};

/// The first packet of a flow, in the flow's original direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same IP version.
    pub dst: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Source port, host byte order; only TCP, UDP and SCTP have one.
    pub src_port: u16,
    /// Destination port, likewise.
    pub dst_port: u16,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
}

impl Packet {
    /// 4 or 6.
    pub fn ip_version(&self) -> u8 {
        if self.src.is_ipv4() { 4 } else { 6 }
    }

    /// Returns whether an address belongs on no link (RFC 1122, 3.2.1.3; RFC 4291, 2.5): loopback,
    /// "this network" or IPv4 mapped into IPv6 at either end, no IPv6 address at the destination; a
    /// reserved, multicast or no address as the source. Such a packet of a workload is dropped
    /// before policy is asked, as `martian`.
    pub fn is_martian(&self) -> bool {
        let never = |address: IpAddr| match address {
            IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.to_ipv4_mapped().is_some(),
        };
        let reserved = matches!(self.src, IpAddr::V4(v4) if v4.octets()[0] >= 224);
        never(self.src) || never(self.dst) || reserved || self.src.is_multicast()
    }

    /// Returns whether the destination is a link-local IPv6 address. On its link a workload reaches
    /// the host alone; towards anybody else the packet is dropped before policy is asked, as
    /// `endpoint_to_host`.
    pub fn is_to_link(&self) -> bool {
        matches!(self.dst, IpAddr::V6(v6) if v6.is_unicast_link_local())
    }

    /// Returns whether the packet is an ICMP error of its own IP version. Such a packet passes only
    /// if it quotes a packet of a flow that was allowed: policy is never asked about it, and it
    /// begins no flow.
    pub fn is_icmp_error(&self) -> bool {
        let icmp = if self.src.is_ipv4() {
            protocol::ICMP
        } else {
            protocol::ICMPV6
        };
        self.protocol.0 == icmp && protocol::icmp_is_error(self.ip_version(), self.icmp_type)
    }

    /// Whether the packet has ports that rules can match.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol.0, protocol::TCP | protocol::UDP | protocol::SCTP)
    }
}

/// Who is a member of what.
pub trait Membership {
    /// Whether the address is in the set (through any covering prefix).
    fn contains(&self, set: &SetId, address: IpAddr) -> bool;
    /// Whether the named-port set has this port of this address.
    fn contains_port(&self, set: &SetId, address: IpAddr, protocol: Protocol, port: u16) -> bool;
}

/// What a rule, or the end of something, did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    /// A rule matched.
    Rule {
        /// The policy or profile it stands in.
        key: ResourceKey,
        /// The tier; `None` in profiles.
        tier: Option<Arc<str>>,
        /// Its index in the record.
        index: u32,
    },
    /// No rule of the tier matched.
    EndOfTier(Arc<str>),
    /// Neither a tier nor a profile decided: deny.
    NoProfile,
    /// The endpoint is closed, for this reason.
    Closed(Arc<str>),
}

/// What a staged policy would have done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Staged {
    /// The rule that would have decided.
    pub by: Decided,
    /// What it says.
    pub action: ResolvedAction,
}

/// The verdict on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet may pass.
    pub allowed: bool,
    /// What decided.
    pub by: Decided,
    /// What handed the packet on before that, in order: Pass rules, and ends of tiers whose default
    /// is Pass.
    pub passed: Vec<Decided>,
    /// Log rules that matched on the way, in order.
    pub logged: Vec<Decided>,
    /// Staged policies on the way that had a rule for the packet, in order.
    pub staged: Vec<Staged>,
}

/// Judges a packet. The same policy means the same in both directions: `source` and `destination`
/// are the packet's.
pub fn evaluate(policy: &ResolvedPolicy, packet: &Packet, members: &impl Membership) -> Decision {
    let mut walk = Walk {
        packet,
        members,
        passed: Vec::new(),
        logged: Vec::new(),
        staged: Vec::new(),
    };
    let (allowed, by) = walk.judge(policy);
    Decision {
        allowed,
        by,
        passed: walk.passed,
        logged: walk.logged,
        staged: walk.staged,
    }
}

/// On the way through a policy.
struct Walk<'a, M> {
    packet: &'a Packet,
    members: &'a M,
    passed: Vec<Decided>,
    logged: Vec<Decided>,
    staged: Vec<Staged>,
}

impl<M: Membership> Walk<'_, M> {
    fn judge(&mut self, policy: &ResolvedPolicy) -> (bool, Decided) {
        if let Some(reason) = &policy.closed {
            return (false, Decided::Closed(reason.clone()));
        }
        for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
            match self.first_match(&tier.policies, Some(&tier.name)) {
                Some((ResolvedAction::Allow, by)) => return (true, by),
                Some((ResolvedAction::Deny, by)) => return (false, by),
                Some((_, by)) => self.passed.push(by),
                None if ends_as_pass(tier) => self.passed.push(Decided::EndOfTier(tier.name.clone())),
                None => return (false, Decided::EndOfTier(tier.name.clone())),
            }
        }
        match self.first_match(&policy.profiles, None) {
            Some((action, by)) => (action == ResolvedAction::Allow, by),
            None => (false, Decided::NoProfile),
        }
    }

    /// The first rule that does more than to log, of policies that are in force.
    fn first_match(&mut self, lists: &[ResolvedRules], tier: Option<&Arc<str>>) -> Option<(ResolvedAction, Decided)> {
        for list in lists {
            for rule in list.rules.iter() {
                let skipped = list.staged && rule.action == ResolvedAction::Log;
                if skipped || mismatch(rule, self.packet, self.members).is_some() {
                    continue;
                }
                let by = Decided::Rule {
                    key: list.key.clone(),
                    tier: tier.cloned(),
                    index: rule.index,
                };
                let action = rule.action;
                if list.staged {
                    self.staged.push(Staged { by, action });
                    break;
                }
                if action != ResolvedAction::Log {
                    return Some((action, by));
                }
                self.logged.push(by);
            }
        }
        None
    }
}

/// Whether the walk goes on where no rule of the tier has matched.
pub(crate) fn ends_as_pass(tier: &ResolvedTier) -> bool {
    tier.end_pass || tier.policies.iter().all(|policy| policy.staged)
}

/// Why a rule does not match: the first of its terms that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// `ipVersion`.
    IpVersion,
    /// `protocol`.
    Protocol,
    /// `notProtocol`.
    NotProtocol,
    /// A field of the packet beside its addresses, protocol and ports.
    Field {
        /// The rule's condition, by its name in resources.
        name: &'static str,
        /// Why it does not hold, for people: a sentence about the rule.
        reason: &'static str,
    },
    /// Something that is said of the source.
    Source(Term),
    /// Something that is said of the destination.
    Destination(Term),
}

/// A term of one side of a rule. Sets are named by their index in the rule's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// There are networks, but none of the packet's IP version.
    OtherVersion,
    /// `nets`
    Nets,
    /// `not_nets`
    NotNets,
    /// `sets`
    Set(usize),
    /// `not_sets`
    NotSet(usize),
    /// `ports` and `named_ports`
    Ports,
    /// `not_ports` and `not_named_ports`
    NotPorts,
    /// `service_ports`
    Service(usize),
}

/// Why the rule does not match; `None` = it does.
pub(crate) fn mismatch(rule: &ResolvedRule, packet: &Packet, members: &impl Membership) -> Option<Mismatch> {
    if rule.ip_version.is_some_and(|version| version != packet.ip_version()) {
        return Some(Mismatch::IpVersion);
    }
    if rule.protocol.is_some_and(|protocol| protocol != packet.protocol) {
        return Some(Mismatch::Protocol);
    }
    if rule.not_protocol.is_some_and(|protocol| protocol == packet.protocol) {
        return Some(Mismatch::NotProtocol);
    }
    if let Some((name, reason)) = field_mismatch(&rule.fields, packet) {
        return Some(Mismatch::Field { name, reason });
    }
    let (source, destination) = (&rule.source, &rule.destination);
    if let Some(term) = side_mismatch(source, packet.src, packet.src_port, packet, members) {
        return Some(Mismatch::Source(term));
    }
    side_mismatch(destination, packet.dst, packet.dst_port, packet, members).map(Mismatch::Destination)
}

/// Why the conditions on fields do not hold: the name of the first that does not, and a sentence
/// for people; `None` if all of them hold.
fn field_mismatch(fields: &FieldMatch, packet: &Packet) -> Option<(&'static str, &'static str)> {
    if fields.icmp.is_some_and(|icmp| !icmp_matches(icmp, packet)) {
        return Some(("icmp", "it is for another ICMP type or code"));
    }
    if fields.not_icmp.is_some_and(|icmp| icmp_matches(icmp, packet)) {
        return Some(("notICMP", "it is not for this ICMP type and code"));
    }
    None
}

/// Whether it is an ICMP message of this kind. A code without a type says nothing.
fn icmp_matches(icmp: IcmpMatch, packet: &Packet) -> bool {
    let is_icmp = matches!(packet.protocol.0, protocol::ICMP | protocol::ICMPV6);
    is_icmp
        && icmp.icmp_type.is_none_or(|wanted| {
            wanted == packet.icmp_type && icmp.code.is_none_or(|wanted| wanted == packet.icmp_code)
        })
}

fn side_mismatch(
    side: &ResolvedSide,
    address: IpAddr,
    port: u16,
    packet: &Packet,
    members: &impl Membership,
) -> Option<Term> {
    for nets in [&side.nets, &side.not_nets] {
        if !nets.is_empty() && !nets.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
            return Some(Term::OtherVersion);
        }
    }
    if !side.nets.is_empty() && !side.nets.iter().any(|net| net.contains(&address)) {
        return Some(Term::Nets);
    }
    if side.not_nets.iter().any(|net| net.contains(&address)) {
        return Some(Term::NotNets);
    }
    if let Some(index) = side.sets.iter().position(|set| !members.contains(set, address)) {
        return Some(Term::Set(index));
    }
    if let Some(index) = side.not_sets.iter().position(|set| members.contains(set, address)) {
        return Some(Term::NotSet(index));
    }
    let is_member = |set: &SetId| packet.has_ports() && members.contains_port(set, address, packet.protocol, port);
    let has_port = |ranges: &[(u16, u16)], named: &[SetId]| {
        packet.has_ports()
            && (ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)) || named.iter().any(is_member))
    };
    let wants_port = !side.ports.is_empty() || !side.named_ports.is_empty();
    if wants_port && !has_port(&side.ports, &side.named_ports) {
        return Some(Term::Ports);
    }
    if has_port(&side.not_ports, &side.not_named_ports) {
        return Some(Term::NotPorts);
    }
    side.service_ports
        .iter()
        .position(|set| !is_member(set))
        .map(Term::Service)
}
