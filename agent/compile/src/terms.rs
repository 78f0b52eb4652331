//! Terms of rules that do not depend on whose side is known.

use felid_common::protocol::{ICMP, ICMPV6};
use felid_model::IcmpMatch;
use felid_model::resolved::{ResolvedRule, ResolvedSide};

use crate::ports::PortSet;
use crate::rule::{PortTerm, ProtocolTest, SetIndex};

/// What is left to ask of ICMP type and code; `None` = the rule never matches.
pub(crate) fn icmp_terms(
    rule: &ResolvedRule,
    protocol: ProtocolTest,
    portless: bool,
) -> Option<(Option<IcmpMatch>, Option<IcmpMatch>)> {
    let known = match protocol {
        ProtocolTest::Is(protocol) => Some(matches!(protocol, ICMP | ICMPV6)),
        _ => None,
    };
    let icmp = match rule.icmp {
        Some(_) if !portless || known == Some(false) => return None,
        Some(icmp) if icmp.icmp_type.is_none() && known == Some(true) => None,
        icmp => icmp,
    };
    let not_icmp = match rule.not_icmp {
        Some(icmp) if icmp.icmp_type.is_none() && known == Some(true) => return None,
        _ if !portless || known == Some(false) => None,
        icmp => icmp,
    };
    Some((icmp, not_icmp))
}

/// What a rule says of the peer's port.
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

/// Whether nothing can be in all of these and in none of those, because a set is among both. Both are sorted.
pub(crate) fn contradict(wanted: &[SetIndex], unwanted: &[SetIndex]) -> bool {
    wanted.iter().any(|set| unwanted.binary_search(set).is_ok())
}
