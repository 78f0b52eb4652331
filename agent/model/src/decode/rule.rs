//! Rules of policies and profiles.
//!
//! An unknown field anywhere in a rule closes that rule and leaves the document in force; a bad value makes the document bad.

use ipnet::IpNet;
use serde_json::Value;

use crate::{Action, EntityRule, Port, Protocol, Rule, Selector};

use super::check;
use super::fields::{At, Fields, object, string};
use super::metadata;

/// Which of a policy's lists a rule stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// What a rule belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    NetworkPolicy,
    GlobalNetworkPolicy,
    Profile,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// A list of rules.
pub(super) fn list(spec: &mut Fields<'_>, key: &'static str, direction: Direction, owner: Owner) -> Vec<Rule> {
    let issues = spec.issues();
    let items = spec.list(key);
    items
        .iter()
        .filter_map(|at| Some(rule(object(at, issues)?, direction, owner)))
        .collect()
}

/// Fields of a rule that nobody knows, by their path from the rule.
struct Unknown {
    rule: String,
    fields: Vec<String>,
}

impl Unknown {
    fn collect(&mut self, fields: &Fields<'_>) {
        let parent = fields
            .path()
            .strip_prefix(self.rule.as_str())
            .unwrap_or_default()
            .trim_start_matches('.');
        let join = |key: &str| {
            if parent.is_empty() {
                key.to_owned()
            } else {
                format!("{parent}.{key}")
            }
        };
        self.fields.extend(fields.unknown().into_iter().map(join));
    }
}

fn rule(mut fields: Fields<'_>, direction: Direction, owner: Owner) -> Rule {
    let issues = fields.issues();
    let mut unknown = Unknown {
        rule: fields.path().to_owned(),
        fields: Vec::new(),
    };
    let action = action(&mut fields);
    let ip_version = match fields.get("ipVersion").map(Value::as_u64) {
        None => None,
        Some(Some(4)) => Some(4),
        Some(Some(6)) => Some(6),
        Some(_) => {
            fields.issue("ipVersion", "expected 4 or 6");
            None
        }
    };
    let protocol = protocol(&mut fields, "protocol", ip_version);
    let not_protocol = self::protocol(&mut fields, "notProtocol", ip_version);
    for key in ["icmp", "notICMP"] {
        icmp(&mut fields, key, protocol, &mut unknown);
    }
    if fields.get("http").is_some() {
        fields.issue("http", "not supported: felid does not look into HTTP");
    }
    if let Some(mut metadata) = fields.object("metadata") {
        metadata::annotations(&mut metadata);
        unknown.collect(&metadata);
    }
    let protocol_given = fields.get("protocol").is_some();
    let ports = Ports {
        protocol,
        given: protocol_given,
    };
    let mut side = |key, side| match fields.object(key) {
        Some(side_fields) => entity(side_fields, side, direction, owner, ports, &mut unknown),
        None => EntityRule::default(),
    };
    let source = side("source", Side::Source);
    let destination = side("destination", Side::Destination);
    families(&fields, ip_version, &source, &destination);
    unknown.collect(&fields);
    for field in &unknown.fields {
        let consequence = match action {
            Some(Action::Allow | Action::Log) => "this rule never matches",
            Some(Action::Deny) => "this rule matches as if it were not there",
            Some(Action::Pass) => "this rule denies",
            None => "this rule is closed",
        };
        let path = fields.at(field);
        issues.error_in_force(path, None, &format!("unknown field: {consequence}"));
    }
    Rule {
        action: action.unwrap_or(Action::Deny),
        unknown_fields: unknown.fields,
        ip_version,
        protocol,
        not_protocol,
        icmp: None,
        not_icmp: None,
        source,
        destination,
    }
}

fn action(fields: &mut Fields<'_>) -> Option<Action> {
    match fields.text("action") {
        Some("Allow") => return Some(Action::Allow),
        Some("Deny") => return Some(Action::Deny),
        Some("Pass") => return Some(Action::Pass),
        Some("Log") => fields.refuse("action", "rules that log"),
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
        (Protocol::ICMP, Some(6)) => fields.issue(key, "ICMP does not go with ipVersion 6"),
        (Protocol::ICMPV6, Some(4)) => fields.issue(key, "ICMPv6 does not go with ipVersion 4"),
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

/// `icmp` and `notICMP`: checked, but not enforced yet. Empty ones say nothing.
fn icmp(fields: &mut Fields<'_>, key: &'static str, protocol: Option<Protocol>, unknown: &mut Unknown) {
    let Some(mut icmp) = fields.object(key) else { return };
    let has_type = icmp.integer("type", 0..=254).is_some() || icmp.get("type").is_some();
    let has_code = icmp.integer("code", 0..=255).is_some() || icmp.get("code").is_some();
    if has_code && !has_type {
        icmp.issue("code", "needs a type beside it");
    }
    if key == "icmp" && !matches!(protocol, Some(Protocol::ICMP | Protocol::ICMPV6)) {
        fields.issue(key, "needs protocol ICMP or ICMPv6");
    }
    if has_type || has_code {
        fields.refuse(key, "ICMP types and codes");
    }
    unknown.collect(&icmp);
}

/// What ports may be matched.
#[derive(Clone, Copy)]
struct Ports {
    protocol: Option<Protocol>,
    /// A protocol is given, be it good or bad.
    given: bool,
}

fn entity(
    mut fields: Fields<'_>,
    side: Side,
    direction: Direction,
    owner: Owner,
    ports: Ports,
    unknown: &mut Unknown,
) -> EntityRule {
    let entity = EntityRule {
        nets: nets(&mut fields, "nets"),
        not_nets: nets(&mut fields, "notNets"),
        selector: selector(&mut fields, "selector"),
        not_selector: selector(&mut fields, "notSelector"),
        namespace_selector: namespace_selector(&mut fields),
        ports: self::ports(&mut fields, "ports", ports),
        not_ports: self::ports(&mut fields, "notPorts", ports),
        service_accounts: None,
        services: None,
    };
    services(&mut fields, side, direction, owner, unknown);
    if let Some(mut accounts) = fields.object("serviceAccounts") {
        accounts.strings("names");
        selector(&mut accounts, "selector");
        unknown.collect(&accounts);
        fields.refuse("serviceAccounts", "matches on service accounts");
    }
    unknown.collect(&fields);
    entity
}

/// A selector without `global()`.
pub(super) fn selector(fields: &mut Fields<'_>, key: &'static str) -> Option<Selector> {
    let selector = fields.selector(key)?;
    if selector.mentions_global() {
        fields.issue(key, "global() may only stand in a rule's namespaceSelector");
        return None;
    }
    Some(selector)
}

fn namespace_selector(fields: &mut Fields<'_>) -> Option<Selector> {
    let key = "namespaceSelector";
    let alone = fields
        .text(key)
        .is_some_and(|text| text.trim_start_matches([' ', '\t']).starts_with("global("));
    let selector = fields.selector(key)?;
    if selector.mentions_global() && !(alone && selector.is_global()) {
        fields.issue(key, "global() must stand alone");
        return None;
    }
    Some(selector)
}

/// Networks of a rule: with mask, without host bits.
fn nets(fields: &mut Fields<'_>, key: &'static str) -> Vec<IpNet> {
    let issues = fields.issues();
    let mut nets = Vec::new();
    for (at, text) in fields.strings(key) {
        let net = check::network(text).and_then(|net| {
            if net != net.trunc() {
                return Err(format!("has bits set beyond its mask: write {}", net.trunc()));
            }
            if key == "notNets" && net.prefix_len() == 0 {
                return Err("excludes every address: the rule could never match".to_owned());
            }
            Ok(net)
        });
        match net {
            Ok(net) => nets.push(net),
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    nets
}

/// One family in all lists of a rule, and the one of its ipVersion.
fn families(fields: &Fields<'_>, ip_version: Option<u8>, source: &EntityRule, destination: &EntityRule) {
    let issues = fields.issues();
    let mut seen = None;
    for (key, nets) in [
        ("source.nets", &source.nets),
        ("source.notNets", &source.not_nets),
        ("destination.nets", &destination.nets),
        ("destination.notNets", &destination.not_nets),
    ] {
        for net in nets {
            let version = if net.addr().is_ipv4() { 4 } else { 6 };
            let value = Value::String(net.to_string());
            if let Some(wanted) = ip_version.filter(|wanted| *wanted != version) {
                issues.error(
                    fields.at(key),
                    Some(&value),
                    &format!("does not go with ipVersion {wanted}"),
                );
                break;
            }
            if *seen.get_or_insert(version) != version {
                issues.error(
                    fields.at(key),
                    Some(&value),
                    "a rule may not mix IPv4 and IPv6 networks",
                );
                break;
            }
        }
    }
}

fn ports(fields: &mut Fields<'_>, key: &'static str, allowed: Ports) -> Vec<Port> {
    let issues = fields.issues();
    let items = fields.list(key);
    if !items.is_empty() && allowed.protocol.is_some_and(|protocol| !protocol.has_ports()) {
        fields.issue(key, "only TCP, UDP and SCTP have ports");
    }
    let mut ports = Vec::new();
    for at in items {
        match parse_port(&at) {
            Ok(Port::Range(..)) if !allowed.given => {
                issues.error(at.path, Some(at.value), "a port number needs protocol TCP, UDP or SCTP");
            }
            Ok(port) => ports.push(port),
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    ports
}

fn parse_port(at: &At<'_>) -> Result<Port, String> {
    let number = |value: Option<u64>| {
        let port = value
            .and_then(|value| u16::try_from(value).ok())
            .filter(|port| *port > 0);
        port.ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
    };
    let text = match at.value {
        Value::Number(value) => return number(value.as_u64()).map(|port| Port::Range(port, port)),
        Value::String(text) => text,
        _ => return Err("expected a port: a number, a range such as \"80:90\", or a name".to_owned()),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = |text: &str| number(text.parse().ok().filter(|_| is_digits(text)));
    if is_digits(text) {
        return digits(text).map(|port| Port::Range(port, port));
    }
    match text.split_once(':') {
        Some((first, last)) => {
            let (first, last) = (digits(first)?, digits(last)?);
            if first > last {
                return Err("the first port of a range must not be above the last".to_owned());
            }
            Ok(Port::Range(first, last))
        }
        None => check::service_name(text).map(|()| Port::Named(text.clone())),
    }
}

/// `services`: checked, but not enforced yet.
fn services(fields: &mut Fields<'_>, side: Side, direction: Direction, owner: Owner, unknown: &mut Unknown) {
    let Some(mut services) = fields.object("services") else {
        return;
    };
    let has_name = services.text("name").is_some();
    services.checked("name", check::subdomain);
    if !has_name {
        services.issue("name", "is required");
    }
    let has_namespace = services.text("namespace").is_some();
    services.checked("namespace", check::subdomain);
    if owner == Owner::GlobalNetworkPolicy && !has_namespace {
        services.issue("namespace", "is required in a GlobalNetworkPolicy");
    }
    let placed = matches!(
        (side, direction),
        (Side::Source, Direction::Ingress) | (Side::Destination, Direction::Egress)
    );
    if !placed {
        fields.issue(
            "services",
            "may only be the source of ingress rules or the destination of egress rules",
        );
    }
    for key in ["selector", "notSelector", "namespaceSelector"] {
        if fields.text(key).is_some() {
            fields.issue(key, "may not stand beside services");
        }
    }
    if fields.get("serviceAccounts").is_some() {
        fields.issue("serviceAccounts", "may not stand beside services");
    }
    let lists: &[&'static str] = if side == Side::Destination {
        &["nets", "notNets", "ports", "notPorts"]
    } else {
        &["nets", "notNets"]
    };
    for key in lists {
        if fields
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
        {
            fields.issue(key, "may not stand beside services");
        }
    }
    fields.refuse("services", "matches on services");
    unknown.collect(&services);
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

/// Texts of a list, each with a check.
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
        match check(text) {
            Ok(()) => good.push(text.to_owned()),
            Err(reason) => issues.error(at.path.clone(), Some(at.value), &reason),
        }
    }
    good
}
