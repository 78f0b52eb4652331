//! A rule in words, for listings and explanations.

use std::fmt::Write as _;

use felid_common::protocol;
use felid_model::Protocol;
use felid_model::resolved::{ResolvedAction, ResolvedRule, ResolvedSide, SetId};
use ipnet::IpNet;

/// How many nets, sets or ports of one list are named before "and n more".
const SHOWN: usize = 4;

/// `Allow IPv4 TCP from s:abc to 10.0.0.0/8 ports 80, 8080-8090`.
pub(crate) fn describe(rule: &ResolvedRule) -> String {
    // Long lists have many rules, and most are about so long.
    let mut text = String::with_capacity(64);
    text.push_str(match rule.action {
        ResolvedAction::Allow => "Allow",
        ResolvedAction::Deny => "Deny",
        ResolvedAction::Pass => "Pass",
        ResolvedAction::Log => "Log",
    });
    if let Some(version) = rule.ip_version {
        let _ = write!(text, " IPv{version}");
    }
    if let Some(protocol) = rule.protocol {
        let _ = write!(text, " {}", protocol_name(protocol));
    }
    if let Some(protocol) = rule.not_protocol {
        let _ = write!(text, " not {}", protocol_name(protocol));
    }
    let _ = write!(text, "{}", rule.fields);
    for (word, side) in [(" from", &rule.source), (" to", &rule.destination)] {
        side_terms(&mut text, word, side);
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

/// Adds what is said of a side, behind the word.
fn side_terms(text: &mut String, word: &str, side: &ResolvedSide) {
    let before = text.len();
    text.push_str(word);
    let start = text.len();
    term(text, "", " and ", side.sets.iter().map(name));
    term(text, "not ", " or ", side.not_sets.iter().map(name));
    term(text, "", ", ", side.nets.iter().map(Part::Net));
    term(text, "not ", ", ", side.not_nets.iter().map(Part::Net));
    let named = side.named_ports.iter().map(name);
    term(text, "ports ", ", ", side.ports.iter().map(ports).chain(named));
    let named = side.not_named_ports.iter().map(name);
    term(text, "not ports ", ", ", side.not_ports.iter().map(ports).chain(named));
    term(text, "services ", " and ", side.service_ports.iter().map(name));
    if text.len() == start {
        text.truncate(before);
    }
}

/// One of a list.
enum Part<'a> {
    Name(&'a str),
    Net(&'a IpNet),
    Ports(u16, u16),
}

fn name(set: &SetId) -> Part<'_> {
    Part::Name(&set.0)
}

fn ports((first, last): &(u16, u16)) -> Part<'_> {
    Part::Ports(*first, *last)
}

fn term<'a>(text: &mut String, word: &str, joint: &str, mut parts: impl Iterator<Item = Part<'a>>) {
    for (index, part) in parts.by_ref().take(SHOWN).enumerate() {
        if index == 0 {
            text.push(' ');
            text.push_str(word);
        } else {
            text.push_str(joint);
        }
        // Writing to a string cannot fail.
        let _ = match part {
            Part::Name(name) => text.write_str(name),
            Part::Net(net) => write!(text, "{net}"),
            Part::Ports(first, last) if first == last => write!(text, "{first}"),
            Part::Ports(first, last) => write!(text, "{first}-{last}"),
        };
    }
    let more = parts.count();
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
}
