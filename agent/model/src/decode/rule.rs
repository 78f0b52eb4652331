//! Rules of policies and profiles.
//!
//! An unknown field anywhere in a rule, or one that felid cannot enforce (`http`), closes that rule
//! and leaves the document in force; a bad value makes the document bad.

use ipnet::IpNet;
use serde_json::Value;

use crate::{Action, Direction, EntityRule, FieldMatch, IcmpMatch, Protocol, Rule};

use super::entity;
use super::fields::{Fields, object, string};
use super::metadata;
use super::rule_context::{RuleContext, RuleOwner, RuleSide, UnknownFields};

/// A list of rules.
pub(super) fn list(spec: &mut Fields<'_>, key: &'static str, direction: Direction, owner: RuleOwner) -> Vec<Rule> {
    let issues = spec.issues();
    let items = spec.list(key);
    items
        .iter()
        .filter_map(|at| Some(rule(object(at, issues)?, direction, owner)))
        .collect()
}

fn rule(mut fields: Fields<'_>, direction: Direction, owner: RuleOwner) -> Rule {
    let issues = fields.issues();
    let mut unknown = UnknownFields::new(&fields);
    let action = action(&mut fields);
    let ip_version = ip_version(&mut fields);
    let protocol = protocol(&mut fields, "protocol", ip_version);
    let not_protocol = self::protocol(&mut fields, "notProtocol", ip_version);
    let field_match = FieldMatch {
        icmp: icmp(&mut fields, "icmp", protocol, &mut unknown),
        not_icmp: icmp(&mut fields, "notICMP", protocol, &mut unknown),
    };
    if let Some(mut metadata) = fields.object("metadata") {
        metadata::annotations(&mut metadata);
        unknown.collect(&metadata);
    }
    let context = RuleContext {
        direction,
        owner,
        protocol,
        protocol_given: fields.get("protocol").is_some(),
    };
    let mut side = |key, side| match fields.object(key) {
        Some(side_fields) => entity::decode(side_fields, side, context, &mut unknown),
        None => EntityRule::default(),
    };
    let source = side("source", RuleSide::Source);
    let destination = side("destination", RuleSide::Destination);
    families(&fields, ip_version, &source, &destination);
    unknown.collect(&fields);
    for field in &unknown.fields {
        let consequence = match action {
            Some(Action::Allow | Action::Log) => "this rule never matches",
            Some(Action::Deny) => "this rule matches as if it were not there",
            Some(Action::Pass) => "this rule denies",
            None => "this rule is closed",
        };
        let what = match field.rsplit('.').next() {
            Some("http") => "felid does not look into HTTP",
            Some("domains" | "notDomains") => "felid does not look names up",
            _ => "unknown field",
        };
        issues.error_in_force(fields.at(field), None, &format!("{what}: {consequence}"));
    }
    Rule {
        action: action.unwrap_or(Action::Deny),
        unknown_fields: unknown.fields,
        ip_version,
        protocol,
        not_protocol,
        fields: field_match,
        source,
        destination,
    }
}

fn ip_version(fields: &mut Fields<'_>) -> Option<u8> {
    match fields.get("ipVersion").map(Value::as_u64) {
        None => None,
        Some(Some(4)) => Some(4),
        Some(Some(6)) => Some(6),
        Some(_) => {
            fields.issue("ipVersion", "expected 4 or 6");
            None
        }
    }
}

fn action(fields: &mut Fields<'_>) -> Option<Action> {
    match fields.text("action") {
        Some("Allow") => return Some(Action::Allow),
        Some("Deny") => return Some(Action::Deny),
        Some("Pass") => return Some(Action::Pass),
        Some("Log") => return Some(Action::Log),
        Some(_) => fields.issue("action", "expected Allow, Deny, Log or Pass"),
        None => fields.issue("action", "is required"),
    }
    None
}

fn protocol(fields: &mut Fields<'_>, key: &'static str, ip_version: Option<u8>) -> Option<Protocol> {
    let at = fields.value(key)?;
    let protocol = match parse_protocol(at.value) {
        Ok(protocol) => protocol,
        Err(reason) => {
            fields.issue(key, &reason);
            return None;
        }
    };
    match (protocol, ip_version) {
        (Protocol::ICMP, Some(6)) => fields.forbid(key, "ICMP does not go with ipVersion 6"),
        (Protocol::ICMPV6, Some(4)) => fields.forbid(key, "ICMPv6 does not go with ipVersion 4"),
        _ => {}
    }
    Some(protocol)
}

/// A protocol by name or number.
pub(super) fn parse_protocol(value: &Value) -> Result<Protocol, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "?".to_owned(),
    };
    text.parse::<Protocol>().map_err(|error| error.to_string())
}

/// `icmp` and `notICMP`. Empty ones say nothing.
fn icmp(
    fields: &mut Fields<'_>,
    key: &'static str,
    protocol: Option<Protocol>,
    unknown: &mut UnknownFields,
) -> Option<IcmpMatch> {
    let mut icmp = fields.object(key)?;
    let mut number = |key, most| icmp.integer(key, 0..=most).and_then(|number| u8::try_from(number).ok());
    let found = IcmpMatch {
        icmp_type: number("type", 254),
        code: number("code", 255),
    };
    if icmp.peek("code").is_some() && icmp.peek("type").is_none() {
        icmp.issue("code", "needs a type beside it");
    }
    if key == "icmp" && !matches!(protocol, Some(Protocol::ICMP | Protocol::ICMPV6)) {
        fields.forbid(key, "needs protocol ICMP or ICMPv6");
    }
    unknown.collect(&icmp);
    (found != IcmpMatch::default()).then_some(found)
}

/// One family in all lists of a rule, and the one of its ipVersion.
fn families(fields: &Fields<'_>, ip_version: Option<u8>, source: &EntityRule, destination: &EntityRule) {
    let issues = fields.issues();
    let lists: [(&str, &[IpNet]); 4] = [
        ("source.nets", &source.nets),
        ("source.notNets", &source.not_nets),
        ("destination.nets", &destination.nets),
        ("destination.notNets", &destination.not_nets),
    ];
    let mut seen = None;
    for (key, nets) in lists {
        for net in nets {
            let version = if net.addr().is_ipv4() { 4 } else { 6 };
            let reason = match ip_version {
                Some(wanted) if wanted != version => format!("does not go with ipVersion {wanted}"),
                _ if *seen.get_or_insert(version) != version => "a rule may not mix IPv4 and IPv6 networks".to_owned(),
                _ => continue,
            };
            issues.forbidden(fields.at(key), Some(&Value::String(net.to_string())), &reason);
            break;
        }
    }
}

/// A port's protocol: one that has ports.
pub(super) fn endpoint_protocol(fields: &mut Fields<'_>) -> Option<Protocol> {
    let Some(at) = fields.value("protocol") else {
        fields.issue("protocol", "is required");
        return None;
    };
    match parse_protocol(at.value) {
        Ok(protocol) if protocol.has_ports() => Some(protocol),
        _ => {
            fields.issue("protocol", "expected TCP, UDP or SCTP");
            None
        }
    }
}

/// Texts of a list, each with a check of its form; see [`Fields::checked`].
pub(super) fn checked_strings(
    fields: &mut Fields<'_>,
    key: &'static str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Vec<String> {
    let issues = fields.issues();
    let items = fields.list(key);
    let mut good = Vec::new();
    for at in &items {
        let Some(text) = string(at, issues) else { continue };
        if let Err(reason) = check(text) {
            issues.forbidden(at.path.clone(), Some(at.value), &reason);
            if !issues.is_literal() {
                continue;
            }
        }
        good.push(text.to_owned());
    }
    good
}
