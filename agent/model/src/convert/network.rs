//! `NetworkPolicy` of Kubernetes. All its rules allow, so one that cannot be converted is dropped.

use serde_json::{Map, Value, json};

use crate::{Direction, Kind};

use super::address::network;
use super::labels::{Of, selector};
use super::ports::{Groups, Port, named};
use super::read::{At, Faults, Metadata, Reader};
use super::rules::{PeerSide, RuleList, RuleSource, peers_field, policy};
use super::{Conversion, Converted};

/// The place of all of these policies in their tier.
const ORDER: u32 = 1000;

/// What became of a bad rule.
const DROPPED: &str = "the rule is left out";

/// Converts a policy; of a staged one, which is a resource of Calico itself, the policy that it
/// proposes.
pub(super) fn convert(kind: Kind, root: &Map<String, Value>) -> Conversion {
    let faults = Faults::default();
    let mut root = known_root(root, &faults);
    let metadata = Metadata::read(&mut root);
    let spec = root.object("spec");
    let nothing = Map::new();
    let mut spec = spec.unwrap_or_else(|| Reader::new(&nothing, "spec".to_owned(), &faults));
    if kind.is_staged() && staged_action(&mut spec) && faults.is_empty() {
        return Conversion::Nothing("it proposes to delete a policy");
    }
    let selected = selector(Of::Pods, spec.value("podSelector"), &faults);
    let has_egress_rules = !spec.list("egress").is_empty();
    let types = types(&mut spec, has_egress_rules);
    // Whatever is wrong so far makes the policy another one than was meant.
    if !faults.is_empty() {
        return Conversion::Failed(faults.take());
    }
    let Some(metadata) = metadata else {
        return Conversion::Failed(faults.take());
    };
    let lists = Direction::BOTH.map(|direction| (direction, list(&mut spec, direction)));
    spec.finish();
    root.finish();
    let mut converted = Map::new();
    converted.insert("tier".to_owned(), json!("default"));
    converted.insert("order".to_owned(), json!(ORDER));
    converted.insert("selector".to_owned(), json!(selected));
    converted.insert("types".to_owned(), json!(types));
    let named = json!({"name": metadata.name, "namespace": metadata.namespace_or_default()});
    let (resource, mut origins) = policy(Kind::NetworkPolicy, named, converted, lists);
    origins.push(("spec.selector".to_owned(), "spec.podSelector".to_owned()));
    origins.push(("spec.types".to_owned(), "spec.policyTypes".to_owned()));
    Conversion::Resource(Box::new(Converted {
        resource,
        faults: faults.take(),
        origins,
    }))
}

/// `stagedAction`: whether it is Delete; nothing may stand beside that.
fn staged_action(spec: &mut Reader<'_>) -> bool {
    match spec.text("stagedAction") {
        None | Some("Set" | "Learn" | "Ignore") => return false,
        Some("Delete") => {}
        Some(_) => {
            spec.fault("stagedAction", "expected Set, Delete, Learn or Ignore");
            return false;
        }
    }
    for key in ["podSelector", "ingress", "egress", "policyTypes"] {
        let is_empty = spec.value(key).is_none_or(|at| match at.value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        });
        if !is_empty {
            spec.fault(key, "may not stand beside stagedAction Delete");
        }
    }
    true
}

/// A record's fields, with those known that every record has.
pub(super) fn known_root<'a>(root: &'a Map<String, Value>, faults: &'a Faults) -> Reader<'a> {
    let mut root = Reader::new(root, String::new(), faults);
    for key in ["apiVersion", "kind", "status"] {
        root.value(key);
    }
    root
}

/// `policyTypes`. Absent: what the API server fills in.
fn types(spec: &mut Reader<'_>, has_egress_rules: bool) -> Vec<&'static str> {
    let faults = spec.faults();
    let (mut ingress, mut egress) = (false, false);
    let items = spec.list("policyTypes");
    for item in &items {
        match item.value.as_str() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            _ => faults.push(item.path.clone(), Some(item.value), "expected Ingress or Egress"),
        }
    }
    if items.is_empty() {
        (ingress, egress) = (true, has_egress_rules);
    }
    [(ingress, Direction::Ingress), (egress, Direction::Egress)]
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, direction)| direction.policy_type())
        .collect()
}

fn list(spec: &mut Reader<'_>, direction: Direction) -> RuleList {
    let mut list = RuleList::default();
    for item in spec.list(direction.name()) {
        let faults = Faults::default();
        rule(&item, direction, &faults, &mut list);
        spec.faults().absorb_rule(&faults, DROPPED);
    }
    list
}

/// One rule; it adds nothing to the list if anything about it is bad.
fn rule(item: &At<'_>, direction: Direction, faults: &Faults, list: &mut RuleList) {
    let Some(mut rule) = item.reader(faults) else { return };
    let mut groups = Groups::default();
    let ports = rule.list("ports");
    for at in &ports {
        if let Some(fields) = at.reader(faults)
            && let Some((protocol, port)) = port(fields)
        {
            groups.add(protocol, port);
        }
    }
    if ports.is_empty() {
        groups = Groups::everything();
    }
    let mut peers: Vec<Option<PeerSide>> = rule
        .list(peers_field(direction))
        .iter()
        .filter_map(|at| at.reader(faults))
        .map(|fields| Some(peer(fields)))
        .collect();
    if peers.is_empty() {
        peers.push(None);
    }
    rule.finish();
    if faults.is_empty() {
        let common = RuleSource {
            direction,
            action: "Allow",
            name: "",
            path: &item.path,
            ports: "ports",
        };
        list.add(&common, &groups, &peers);
    }
}

/// Protocol and port of an entry of `ports`.
fn port(mut fields: Reader<'_>) -> Option<(&'static str, Option<Port>)> {
    let faults = fields.faults();
    let protocol = protocol(&mut fields)?;
    let port = fields.value("port");
    let end = fields.integer("endPort", 0..=65535);
    let has_end = fields.value("endPort").is_some();
    let port = match port {
        Some(at) => {
            let Some(port) = number_or_name(at.value) else {
                faults.push(at.path, Some(at.value), "expected the number or the name of a port");
                return None;
            };
            Some(port)
        }
        None => None,
    };
    let port = match (port, end.and_then(|end| u16::try_from(end).ok())) {
        (Some(Port::Numbers(first, _)), Some(last)) if first <= last => Some(Port::Numbers(first, last)),
        (Some(Port::Numbers(..)), Some(_)) => {
            fields.fault("endPort", "is below port");
            return None;
        }
        // Without a port, `endPort` says nothing: all ports.
        (Some(Port::Named(_)), _) if has_end => {
            fields.fault("endPort", "needs a port with a number beside it");
            return None;
        }
        (port, _) => port,
    };
    fields.finish();
    Some((protocol, port))
}

/// `protocol` of a port; TCP if absent.
pub(super) fn protocol(fields: &mut Reader<'_>) -> Option<&'static str> {
    let protocol = fields.text("protocol").unwrap_or("TCP");
    let known = ["TCP", "UDP", "SCTP"]
        .into_iter()
        .find(|known| protocol.eq_ignore_ascii_case(known));
    if known.is_none() {
        fields.fault("protocol", "expected TCP, UDP or SCTP");
    }
    known
}

/// A port by number or name; a name of digits is a number.
fn number_or_name(value: &Value) -> Option<Port> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Value::String(text) => return named(text),
        _ => None,
    };
    let number = number.and_then(|number| u16::try_from(number).ok())?;
    Some(Port::Numbers(number, number))
}

/// An entry of `from` or `to`.
fn peer(mut fields: Reader<'_>) -> PeerSide {
    let faults = fields.faults();
    let mut side = Map::new();
    if let Some(mut block) = fields.object("ipBlock") {
        let mut nets = Vec::new();
        if let Some(text) = block.required_text("cidr") {
            match network(text) {
                Some(net) => nets.push(json!(net.to_string())),
                None => block.fault("cidr", "expected a network with its mask"),
            }
        }
        side.insert("nets".to_owned(), Value::Array(nets));
        let mut except = Vec::new();
        for at in block.list("except") {
            match at.value.as_str().and_then(network) {
                Some(net) => except.push(json!(net.to_string())),
                None => faults.push(at.path, Some(at.value), "expected a network with its mask"),
            }
        }
        if !except.is_empty() {
            side.insert("notNets".to_owned(), Value::Array(except));
        }
        block.finish();
        for key in ["podSelector", "namespaceSelector"] {
            if fields.value(key).is_some() {
                fields.fault(key, "may not stand beside ipBlock");
            }
        }
    } else {
        let pods = selector(Of::Pods, fields.value("podSelector"), faults);
        side.insert("selector".to_owned(), json!(pods));
        if let Some(at) = fields.value("namespaceSelector") {
            let namespaces = selector(Of::Namespaces, Some(at), faults);
            side.insert("namespaceSelector".to_owned(), json!(namespaces));
        }
    }
    let path = fields.path().to_owned();
    fields.finish();
    PeerSide { path, side }
}
