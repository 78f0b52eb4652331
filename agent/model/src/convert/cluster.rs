//! `ClusterNetworkPolicy` (v1alpha2), `AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`
//! (v1alpha1). A rule that cannot be converted is dropped if it would let packets in, and denies
//! everything if not.

use serde_json::{Map, Value, json};

use crate::{Direction, Kind};

use super::address::network;
use super::labels::{Of, everything};
use super::network::{known_root, protocol};
use super::ports::{Groups, Port, named};
use super::read::{At, Faults, Metadata, Reader};
use super::rules::{PeerSide, RuleList, RuleSource, namespaces, peers_field, pods, policy};
use super::{Conversion, Converted};

/// Order of the only policy of its kind; what else stands in its tier has at most this.
const BASELINE_ORDER: i64 = 1000;

/// Converts a policy.
pub(super) fn convert(kind: Kind, root: &Map<String, Value>) -> Conversion {
    let faults = Faults::default();
    let mut root = known_root(root, &faults);
    let metadata = Metadata::read(&mut root);
    let nothing = Map::new();
    let mut spec = root
        .object("spec")
        .unwrap_or_else(|| Reader::new(&nothing, "spec".to_owned(), &faults));
    let tier = tier(kind, &mut spec);
    let priority = match kind {
        Kind::BaselineAdminNetworkPolicy => BASELINE_ORDER,
        _ => spec
            .integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))
            .unwrap_or(0),
    };
    let subject = subject(&mut spec);
    // Whatever is wrong so far makes the policy another one than was meant.
    let (Some(metadata), Some(tier), Some(subject), true) = (metadata, tier, subject, faults.is_empty()) else {
        return Conversion::Failed(faults.take());
    };
    let lists = Direction::BOTH.map(|direction| (direction, list(kind, &mut spec, direction)));
    spec.finish();
    root.finish();
    let types: Vec<&str> = lists
        .iter()
        .filter(|(_, list)| !list.rules.is_empty())
        .map(|(direction, _)| direction.policy_type())
        .collect();
    let mut converted = Map::new();
    converted.insert("tier".to_owned(), json!(tier));
    converted.insert("order".to_owned(), json!(priority));
    converted.extend(subject);
    if !types.is_empty() {
        converted.insert("types".to_owned(), json!(types));
    }
    let (resource, mut origins) = policy(
        Kind::GlobalNetworkPolicy,
        json!({"name": metadata.name}),
        converted,
        lists,
    );
    for (to, from) in [
        ("spec.selector", "spec.subject"),
        ("spec.namespaceSelector", "spec.subject"),
        ("spec.order", "spec.priority"),
    ] {
        origins.push((to.to_owned(), from.to_owned()));
    }
    Conversion::Resource(Box::new(Converted {
        resource,
        faults: faults.take(),
        origins,
    }))
}

fn tier(kind: Kind, spec: &mut Reader<'_>) -> Option<&'static str> {
    match kind {
        Kind::AdminNetworkPolicy => Some("kube-admin"),
        Kind::BaselineAdminNetworkPolicy => Some("kube-baseline"),
        _ => match spec.required_text("tier")? {
            "Admin" => Some("kube-admin"),
            "Baseline" => Some("kube-baseline"),
            _ => {
                spec.fault("tier", "expected Admin or Baseline");
                None
            }
        },
    }
}

/// What the policy holds for.
fn subject(spec: &mut Reader<'_>) -> Option<Map<String, Value>> {
    let faults = spec.faults();
    let mut selected = Map::new();
    let subject = spec.object("subject");
    if let Some(mut subject) = subject {
        let by_namespaces = subject.value("namespaces");
        let by_pods = subject.object("pods");
        if by_namespaces.is_some() && by_pods.is_some() {
            subject.fault("pods", "may not stand beside namespaces");
        }
        if let Some(at) = by_namespaces {
            selected.insert("selector".to_owned(), json!(everything(Of::Pods)));
            let mut side = Map::new();
            namespaces(at, &mut side, faults);
            selected.extend(side);
        } else if let Some(by_pods) = by_pods {
            pods(by_pods, &mut selected);
        }
        subject.finish();
    }
    if selected.is_empty() {
        if faults.is_empty() {
            spec.fault("subject", "needs namespaces or pods");
        }
        return None;
    }
    Some(selected)
}

fn list(kind: Kind, spec: &mut Reader<'_>, direction: Direction) -> RuleList {
    let mut list = RuleList::default();
    for item in spec.list(direction.name()) {
        let faults = Faults::default();
        rule(kind, &item, direction, &faults, &mut list);
        if faults.is_empty() {
            continue;
        }
        // What may not have been meant to let packets in must not let them in, nor past this
        // policy.
        let closes = matches!(item.value.get("action").and_then(Value::as_str), Some("Deny" | "Pass"));
        if closes {
            list.add_closed(direction, &item.path);
            spec.faults().absorb_rule(&faults, "the rule denies everything");
        } else {
            spec.faults().absorb_rule(&faults, "the rule is left out");
        }
    }
    list
}

/// One rule; it adds nothing to the list if anything about it is bad.
fn rule(kind: Kind, item: &At<'_>, direction: Direction, faults: &Faults, list: &mut RuleList) {
    let Some(mut rule) = item.reader(faults) else { return };
    let is_cluster = kind == Kind::ClusterNetworkPolicy;
    let name = rule.text("name").unwrap_or_default();
    let action = match (rule.required_text("action"), is_cluster) {
        (Some("Accept"), true) | (Some("Allow"), false) => Some("Allow"),
        (Some("Deny"), _) => Some("Deny"),
        (Some("Pass"), _) => Some("Pass"),
        (Some(_), _) => {
            let allow = if is_cluster { "Accept" } else { "Allow" };
            rule.fault("action", format!("expected {allow}, Deny or Pass"));
            None
        }
        (None, _) => None,
    };
    let ports_key = if is_cluster { "protocols" } else { "ports" };
    let ports = rule.list(ports_key);
    let mut groups = Groups::default();
    let mut says_nothing = false;
    for at in &ports {
        let Some(fields) = at.reader(faults) else { continue };
        let port = if is_cluster {
            cluster_port(fields)
        } else {
            admin_port(fields)
        };
        match port {
            Some(("", None)) => says_nothing = true,
            Some((protocol, port)) => groups.add(protocol, port),
            None => {}
        }
    }
    // An entry that says nothing is every packet, whatever the others say.
    if ports.is_empty() || says_nothing {
        groups = Groups::everything();
    }
    let peers: Vec<Option<PeerSide>> = rule
        .list(peers_field(direction))
        .iter()
        .filter_map(|at| at.reader(faults))
        .map(|fields| Some(peer(fields, direction)))
        .collect();
    if peers.is_empty() && faults.is_empty() {
        rule.fault(peers_field(direction), "needs at least one peer");
    }
    rule.finish();
    if let (Some(action), true) = (action, faults.is_empty()) {
        let common = RuleSource {
            direction,
            action,
            name,
            path: &item.path,
            ports: ports_key,
        };
        list.add(&common, &groups, &peers);
    }
}

/// An entry of `from` or `to`.
fn peer(mut fields: Reader<'_>, direction: Direction) -> PeerSide {
    let faults = fields.faults();
    let mut side = Map::new();
    if let Some(at) = fields.value("namespaces") {
        namespaces(at, &mut side, faults);
    }
    if let Some(by_pods) = fields.object("pods") {
        pods(by_pods, &mut side);
    }
    if direction == Direction::Egress {
        let mut nets = Vec::new();
        for at in fields.list("networks") {
            match at.value.as_str().and_then(network) {
                Some(net) => nets.push(json!(net.to_string())),
                None => faults.push(at.path, Some(at.value), "expected a network with its mask"),
            }
        }
        if !nets.is_empty() {
            side.insert("nets".to_owned(), Value::Array(nets));
        }
    }
    let path = fields.path().to_owned();
    fields.finish();
    if side.is_empty() && faults.is_empty() {
        faults.push(path.clone(), None, "names no peer that felid knows");
    }
    PeerSide { path, side }
}

type Entry<'a> = Option<(&'a str, Option<Port>)>;

/// An entry of `protocols`.
fn cluster_port<'a>(mut fields: Reader<'a>) -> Entry<'a> {
    let mut found = None;
    for (key, protocol) in [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")] {
        let Some(mut inner) = fields.object(key) else { continue };
        let port = match inner.object("destinationPort") {
            Some(port) => destination_port(port)?,
            None => None,
        };
        inner.finish();
        if found.is_none() {
            found = Some((protocol, port));
        } else {
            fields.fault(key, "may not stand beside another protocol");
        }
    }
    if let Some(port) = named_port(&mut fields, "destinationNamedPort")? {
        if found.is_none() {
            found = Some(("", Some(port)));
        } else {
            fields.fault("destinationNamedPort", "may not stand beside a protocol");
        }
    }
    fields.finish();
    Some(found.unwrap_or(("", None)))
}

/// `destinationPort`: the outer `None` if it is bad, the inner if it says nothing.
fn destination_port(mut port: Reader<'_>) -> Option<Option<Port>> {
    let has_number = port.value("number").is_some();
    let number = number(&mut port, "number");
    let range = port.object("range");
    let has_range = range.is_some();
    let range = range.and_then(|mut range| {
        let found = ends(&mut range);
        range.finish();
        found
    });
    if has_number && has_range {
        port.fault("range", "may not stand beside number");
    }
    port.finish();
    match (has_number, has_range) {
        (true, _) => number.map(|number| Some(Port::Numbers(number, number))),
        (false, true) => range.map(Some),
        (false, false) => Some(None),
    }
}

/// An entry of `ports`.
fn admin_port<'a>(mut fields: Reader<'a>) -> Entry<'a> {
    let mut found = None;
    let mut count = 0;
    if let Some(mut inner) = fields.object("portNumber") {
        count += 1;
        let protocol = protocol(&mut inner);
        if inner.value("port").is_none() {
            inner.fault("port", "is required");
        }
        let number = number(&mut inner, "port");
        inner.finish();
        found = protocol.zip(number.map(|number| Some(Port::Numbers(number, number))));
    }
    if let Some(mut inner) = fields.object("portRange") {
        count += 1;
        let protocol = protocol(&mut inner);
        let range = ends(&mut inner);
        inner.finish();
        found = protocol.zip(range.map(Some));
    }
    if let Some(port) = named_port(&mut fields, "namedPort")? {
        count += 1;
        found = Some(("", Some(port)));
    }
    if count > 1 {
        let faults = fields.faults();
        faults.push(
            fields.path().to_owned(),
            None,
            "names more than one of its kinds of port",
        );
    }
    fields.finish();
    if count == 0 {
        return Some(("", None));
    }
    found
}

/// A name of a port: the outer `None` if it is bad, the inner if there is none.
fn named_port(fields: &mut Reader<'_>, key: &'static str) -> Option<Option<Port>> {
    let Some(name) = fields.text(key) else {
        return Some(None);
    };
    let port = named(name);
    if port.is_none() {
        fields.fault(key, "is no name of a port");
    }
    port.map(Some)
}

fn number(fields: &mut Reader<'_>, key: &'static str) -> Option<u16> {
    let number = fields.integer(key, 1..=65535)?;
    u16::try_from(number).ok()
}

/// `start` and `end`.
fn ends(range: &mut Reader<'_>) -> Option<Port> {
    for key in ["start", "end"] {
        if range.value(key).is_none() {
            range.fault(key, "is required");
        }
    }
    let first = range
        .integer("start", 0..=65535)
        .and_then(|first| u16::try_from(first).ok());
    let last = range
        .integer("end", 0..=65535)
        .and_then(|last| u16::try_from(last).ok());
    let (first, last) = first.zip(last)?;
    if first > last {
        range.fault("end", "is below start");
        return None;
    }
    Some(Port::Numbers(first, last))
}
