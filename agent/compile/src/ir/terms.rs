//! Terms of rules that do not depend on what is known of the endpoint.
//!
//! In: a rule, or one side of it. Out: what is left of its networks, ports and ICMP types for one
//! IP version and protocol. Never: addresses of endpoints.

use felid_common::protocol::{ICMP, ICMPV6};
use felid_model::FieldMatch;
use felid_model::resolved::{ResolvedRule, ResolvedSide};
use ipnet::IpNet;

use crate::ir::ports::PortSet;
use crate::ir::rule::{PortTerm, ProtocolTest, SetIndex};
use crate::types::Direction;

/// Returns the endpoint's own side of a rule, and the peer's.
pub(crate) fn sides(direction: Direction, rule: &ResolvedRule) -> (&ResolvedSide, &ResolvedSide) {
    match direction {
        Direction::Ingress => (&rule.destination, &rule.source),
        Direction::Egress => (&rule.source, &rule.destination),
    }
}

/// Returns whether a side asks for ports, so that packets without ports do not match.
pub(crate) fn names_ports(side: &ResolvedSide) -> bool {
    !(side.ports.is_empty() && side.named_ports.is_empty() && side.service_ports.is_empty())
}

/// Returns the networks of this IP version, without those that others cover; `None` if there are
/// networks, but none of this version.
pub(crate) fn family_nets(nets: &[IpNet], v4: bool) -> Option<Vec<IpNet>> {
    if nets.is_empty() {
        return Some(Vec::new());
    }
    let mine = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
    let mine: Vec<IpNet> = mine.map(IpNet::trunc).collect();
    if mine.len() < 2 {
        return (!mine.is_empty()).then_some(mine);
    }
    let mut mine = IpNet::aggregate(&mine);
    mine.sort_unstable();
    Some(mine)
}

/// Returns what is left to ask of fields of the packet; `None` if the rule never matches.
pub(crate) fn field_terms(
    rule: &ResolvedRule,
    protocol: ProtocolTest,
    matches_without_ports: bool,
) -> Option<FieldMatch> {
    let known = match protocol {
        ProtocolTest::Is(protocol) => Some(matches!(protocol, ICMP | ICMPV6)),
        _ => None,
    };
    let mut fields = rule.fields;
    match fields.icmp {
        Some(_) if !matches_without_ports || known == Some(false) => return None,
        Some(icmp) if icmp.icmp_type.is_none() && known == Some(true) => fields.icmp = None,
        _ => {}
    }
    match fields.not_icmp {
        Some(icmp) if icmp.icmp_type.is_none() && known == Some(true) => return None,
        _ if !matches_without_ports || known == Some(false) => fields.not_icmp = None,
        _ => {}
    }
    Some(fields)
}

/// Returns what a rule says of the peer's port.
pub(crate) fn peer_port_term(side: &ResolvedSide) -> PortTerm {
    let allowed = if side.not_ports.is_empty() {
        PortSet::all()
    } else {
        PortSet::of(side.not_ports.iter().copied()).complement()
    };
    if side.ports.is_empty() && side.named_ports.is_empty() {
        return PortTerm {
            yes: allowed,
            named: PortSet::default(),
        };
    }
    let numbers = PortSet::of(side.ports.iter().copied());
    let yes = allowed.intersection(&numbers);
    let named = if side.named_ports.is_empty() {
        PortSet::default()
    } else {
        allowed.without(&numbers)
    };
    PortTerm { yes, named }
}

/// Returns whether nothing can be in all of these and in none of those, because a set is among
/// both. Both are sorted.
pub(crate) fn contradict(wanted: &[SetIndex], unwanted: &[SetIndex]) -> bool {
    wanted.iter().any(|set| unwanted.binary_search(set).is_ok())
}
