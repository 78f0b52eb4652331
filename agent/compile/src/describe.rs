//! A rule in words, for listings and explanations.

use std::fmt::Write as _;

use felid_common::protocol;
use felid_model::Protocol;
use felid_model::resolved::{ResolvedAction, ResolvedRule, ResolvedSide, SetId};

/// How many nets, sets or ports of one list are named before "and n more".
const SHOWN: usize = 4;

/// `Allow IPv4 TCP from s:abc to 10.0.0.0/8 ports 80, 8080-8090`.
pub(crate) fn describe(rule: &ResolvedRule) -> String {
    let mut text = match rule.action {
        ResolvedAction::Allow => "Allow",
        ResolvedAction::Deny => "Deny",
        ResolvedAction::Pass => "Pass",
        ResolvedAction::Log => "Log",
    }
    .to_owned();
    if let Some(version) = rule.ip_version {
        let _ = write!(text, " IPv{version}");
    }
    if let Some(protocol) = rule.protocol {
        let _ = write!(text, " {}", protocol_name(protocol));
    }
    if let Some(protocol) = rule.not_protocol {
        let _ = write!(text, " not {}", protocol_name(protocol));
    }
    if let Some(icmp) = rule.icmp {
        let _ = write!(text, " ICMP {icmp}");
    }
    if let Some(icmp) = rule.not_icmp {
        let _ = write!(text, " not ICMP {icmp}");
    }
    for (word, side) in [("from", &rule.source), ("to", &rule.destination)] {
        let terms = side_terms(side);
        if !terms.is_empty() {
            let _ = write!(text, " {word} {terms}");
        }
    }
    text
}

/// Calico's name of a protocol, else its number.
pub fn protocol_name(protocol: Protocol) -> String {
    match protocol.0 {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        protocol::UDPLITE => "UDPLite".to_owned(),
        number => format!("protocol {number}"),
    }
}

fn side_terms(side: &ResolvedSide) -> String {
    let names = |sets: &[SetId]| sets.iter().map(|set| set.0.to_string()).collect::<Vec<_>>();
    let ports = |ranges: &[(u16, u16)], named: &[SetId]| {
        let numbers = ranges
            .iter()
            .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
        numbers.chain(names(named)).collect::<Vec<_>>()
    };
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut terms = Vec::new();
    let mut term = |word: &str, items: Vec<String>, joint: &str| {
        if items.is_empty() {
            return;
        }
        let more = items.len().saturating_sub(SHOWN);
        let mut text = items
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(joint);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        terms.push(format!("{word}{text}"));
    };
    term("", names(&side.sets), " and ");
    term("not ", names(&side.not_sets), " or ");
    term("", nets(&side.nets), ", ");
    term("not ", nets(&side.not_nets), ", ");
    term("ports ", ports(&side.ports, &side.named_ports), ", ");
    term("not ports ", ports(&side.not_ports, &side.not_named_ports), ", ");
    term("services ", names(&side.service_ports), " and ");
    terms.join(" ")
}
