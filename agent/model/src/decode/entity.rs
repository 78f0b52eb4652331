//! One side of a rule: `source` and `destination`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::{Direction, EntityRule, Port, Selector, ServiceAccountMatch, ServiceMatch};

use super::check;
use super::fields::{At, Fields};
use super::rule_context::{RuleContext, RuleOwner, RuleSide, UnknownFields};

/// Reads one side of a rule; what it does not know goes to `unknown`.
pub(super) fn decode(
    mut fields: Fields<'_>,
    side: RuleSide,
    rule: RuleContext,
    unknown: &mut UnknownFields,
) -> EntityRule {
    let entity = EntityRule {
        nets: nets(&mut fields, "nets"),
        not_nets: nets(&mut fields, "notNets"),
        selector: selector(&mut fields, "selector"),
        not_selector: selector(&mut fields, "notSelector"),
        namespace_selector: namespace_selector(&mut fields),
        ports: ports(&mut fields, "ports", rule),
        not_ports: ports(&mut fields, "notPorts", rule),
        service_accounts: service_accounts(&mut fields, unknown),
        services: services(&mut fields, side, rule, unknown),
    };
    unknown.collect(&fields);
    entity
}

/// How `global()` begins. The reference looks for it in the text, even in quotes.
const GLOBAL: &str = "global(";

/// A selector without `global()`.
pub(super) fn selector(fields: &mut Fields<'_>, key: &'static str) -> Option<Selector> {
    let selector = fields.selector(key)?;
    if fields.text(key).is_some_and(|text| text.contains(GLOBAL)) {
        fields.forbid(key, "global() may only stand in a rule's namespaceSelector");
    }
    Some(selector)
}

fn namespace_selector(fields: &mut Fields<'_>) -> Option<Selector> {
    let key = "namespaceSelector";
    let selector = fields.selector(key)?;
    let text = fields.text(key).unwrap_or_default();
    let alone = selector.is_global() && text.trim_start_matches([' ', '\t']).starts_with(GLOBAL);
    if text.contains(GLOBAL) && !alone {
        fields.forbid(key, "global() must stand alone");
    }
    Some(selector)
}

/// Networks of a rule: with mask, without host bits.
fn nets(fields: &mut Fields<'_>, key: &'static str) -> Vec<IpNet> {
    let issues = fields.issues();
    let mut nets = Vec::new();
    for (at, text) in fields.strings(key) {
        let net = match check::network_or_address(text) {
            Ok(net) => net,
            Err(reason) => {
                issues.error(at.path, Some(at.value), &reason);
                continue;
            }
        };
        if let Err(reason) = check::network(text) {
            issues.forbidden(at.path, Some(at.value), &reason);
        } else if net != net.trunc() {
            let reason = format!("has bits set beyond its mask: write {}", net.trunc());
            issues.forbidden(at.path, Some(at.value), &reason);
        } else if key == "notNets" && net.prefix_len() == 0 {
            let reason = "excludes every address: the rule could never match";
            issues.forbidden(at.path, Some(at.value), reason);
        }
        nets.push(net.trunc());
    }
    nets
}

fn ports(fields: &mut Fields<'_>, key: &'static str, rule: RuleContext) -> Vec<Port> {
    let issues = fields.issues();
    let items = fields.list(key);
    if !items.is_empty() && rule.protocol.is_some_and(|protocol| !protocol.has_ports()) {
        fields.forbid(key, "only TCP, UDP and SCTP have ports");
    }
    let mut ports = Vec::new();
    for at in items {
        match parse_port(&at) {
            Ok(port) => {
                if matches!(port, Port::Range(..)) && !rule.protocol_given {
                    let reason = "a port number needs protocol TCP, UDP or SCTP";
                    issues.forbidden(at.path, Some(at.value), reason);
                } else if let Port::Named(name) = &port
                    && let Err(reason) = check::service_name(name)
                {
                    issues.forbidden(at.path, Some(at.value), &reason);
                }
                ports.push(port);
            }
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    ports
}

/// A port: a number, a range, or a name of any sensible form.
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
        None => check::port_name(text).map(|()| Port::Named(text.clone())),
    }
}

fn service_accounts(fields: &mut Fields<'_>, unknown: &mut UnknownFields) -> Option<ServiceAccountMatch> {
    let mut accounts = fields.object("serviceAccounts")?;
    let names = accounts.strings("names").into_iter().map(|(_, name)| name.to_owned());
    let found = ServiceAccountMatch {
        names: names.collect(),
        selector: selector(&mut accounts, "selector"),
    };
    unknown.collect(&accounts);
    Some(found)
}

/// `services`: what stands behind a service, on the peer's side of a rule.
fn services(
    fields: &mut Fields<'_>,
    side: RuleSide,
    rule: RuleContext,
    unknown: &mut UnknownFields,
) -> Option<ServiceMatch> {
    let mut services = fields.object("services")?;
    let name = services.checked("name", check::subdomain).map(str::to_owned);
    if services.text("name").is_none() {
        services.issue("name", "is required");
    }
    let namespace = services.checked("namespace", check::subdomain).map(str::to_owned);
    if rule.owner == RuleOwner::GlobalNetworkPolicy && services.text("namespace").is_none() {
        services.forbid("namespace", "is required in a GlobalNetworkPolicy");
    }
    unknown.collect(&services);
    let placed = matches!(
        (side, rule.direction),
        (RuleSide::Source, Direction::Ingress) | (RuleSide::Destination, Direction::Egress)
    );
    if !placed {
        let reason = "may only be the source of ingress rules or the destination of egress rules";
        fields.forbid("services", reason);
    }
    let mut others = vec!["selector", "notSelector", "namespaceSelector", "nets", "notNets"];
    if side == RuleSide::Destination {
        others.extend(["ports", "notPorts"]);
    }
    for key in others {
        let said = match fields.get(key) {
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            _ => false,
        };
        if said {
            fields.forbid(key, "may not stand beside services");
        }
    }
    if fields.get("serviceAccounts").is_some() {
        fields.forbid("serviceAccounts", "may not stand beside services");
    }
    name.map(|name| ServiceMatch { name, namespace })
}

/// Addresses that must be bare.
pub(super) fn addresses(fields: &mut Fields<'_>, key: &'static str) -> Vec<IpAddr> {
    let issues = fields.issues();
    let mut addresses = Vec::new();
    for (at, text) in fields.strings(key) {
        match check::address(text) {
            Ok(address) => addresses.push(address),
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    addresses
}
