//! The reference evaluator: what a resolved policy *means*, packet by packet.
//!
//! In: a [`ResolvedPolicy`], a packet and a way to ask for set membership. Out: the verdict and what decided it. It is a plain walk of
//! tiers, policies and rules, and it shares nothing with the compiler: it is the specification that compiled code is tested against.
//!
//! What the types leave open is decided here as Felix decides it:
//! - TCP, UDP and SCTP have ports, no other protocol has. A packet without ports is in no port range and in no named-port set: it
//!   fails `ports` and passes `notPorts`.
//! - A tier without policies has no effect.

use std::net::IpAddr;
use std::sync::Arc;

use felid_common::protocol;
use felid_model::resolved::{ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, SetId};
use felid_model::{Protocol, ResourceKey};

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

/// The verdict on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet may pass.
    pub allowed: bool,
    /// What decided.
    pub by: Decided,
    /// What handed the packet on before that, in order: Pass rules, and ends of tiers whose default is Pass.
    pub passed: Vec<Decided>,
}

/// Judges a packet. The same policy means the same in both directions: `source` and `destination` are the packet's.
pub fn evaluate(policy: &ResolvedPolicy, packet: &Packet, members: &impl Membership) -> Decision {
    let mut passed = Vec::new();
    if let Some(reason) = &policy.closed {
        return Decision {
            allowed: false,
            by: Decided::Closed(reason.clone()),
            passed,
        };
    }
    for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
        match first_match(&tier.policies, packet, members) {
            Some((key, rule)) => {
                let by = Decided::Rule {
                    key: key.clone(),
                    tier: Some(tier.name.clone()),
                    index: rule.index,
                };
                match rule.action {
                    ResolvedAction::Allow => {
                        return Decision {
                            allowed: true,
                            by,
                            passed,
                        };
                    }
                    ResolvedAction::Deny => {
                        return Decision {
                            allowed: false,
                            by,
                            passed,
                        };
                    }
                    ResolvedAction::Pass => passed.push(by),
                    ResolvedAction::Log => {}
                }
            }
            None if tier.end_pass => passed.push(Decided::EndOfTier(tier.name.clone())),
            None => {
                return Decision {
                    allowed: false,
                    by: Decided::EndOfTier(tier.name.clone()),
                    passed,
                };
            }
        }
    }
    match first_match(&policy.profiles, packet, members) {
        Some((key, rule)) => {
            let by = Decided::Rule {
                key: key.clone(),
                tier: None,
                index: rule.index,
            };
            Decision {
                allowed: rule.action == ResolvedAction::Allow,
                by,
                passed,
            }
        }
        None => Decision {
            allowed: false,
            by: Decided::NoProfile,
            passed,
        },
    }
}

fn first_match<'a>(
    lists: &'a [ResolvedRules],
    packet: &Packet,
    members: &impl Membership,
) -> Option<(&'a ResourceKey, &'a ResolvedRule)> {
    lists
        .iter()
        .flat_map(|list| list.rules.iter().map(move |rule| (&list.key, rule)))
        .filter(|(_, rule)| rule.action != ResolvedAction::Log)
        .find(|(_, rule)| matches(rule, packet, members))
}

fn matches(rule: &ResolvedRule, packet: &Packet, members: &impl Membership) -> bool {
    if rule.ip_version.is_some_and(|version| version != packet.ip_version()) {
        return false;
    }
    if rule.protocol.is_some_and(|protocol| protocol != packet.protocol) {
        return false;
    }
    if rule.not_protocol.is_some_and(|protocol| protocol == packet.protocol) {
        return false;
    }
    side_matches(&rule.source, packet.src, packet.src_port, packet, members)
        && side_matches(&rule.destination, packet.dst, packet.dst_port, packet, members)
}

fn side_matches(side: &ResolvedSide, address: IpAddr, port: u16, packet: &Packet, members: &impl Membership) -> bool {
    for nets in [&side.nets, &side.not_nets] {
        if !nets.is_empty() && !nets.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
            return false;
        }
    }
    if !side.nets.is_empty() && !side.nets.iter().any(|net| net.contains(&address)) {
        return false;
    }
    if side.not_nets.iter().any(|net| net.contains(&address)) {
        return false;
    }
    if !side.sets.iter().all(|set| members.contains(set, address)) {
        return false;
    }
    if side.not_sets.iter().any(|set| members.contains(set, address)) {
        return false;
    }
    let has_port = |ranges: &[(u16, u16)], named: &[SetId]| {
        packet.has_ports()
            && (ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
                || named
                    .iter()
                    .any(|set| members.contains_port(set, address, packet.protocol, port)))
    };
    let wants_port = !side.ports.is_empty() || !side.named_ports.is_empty();
    if wants_port && !has_port(&side.ports, &side.named_ports) {
        return false;
    }
    !has_port(&side.not_ports, &side.not_named_ports)
}
