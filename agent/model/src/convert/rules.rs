//! Rules of Calico, built from the groups of ports and the peers of a rule.

use serde_json::{Map, Value, json};

use crate::{Direction, Kind};

use super::labels::{Of, selector};
use super::ports::Groups;
use super::read::{At, Faults, Reader};

/// The field of a Kubernetes rule that lists its peers.
pub(super) fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

/// The side of a Calico rule that describes the peer.
fn peer_side(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    }
}

/// What the rules of one rule have in common.
pub(super) struct RuleSource<'a> {
    pub(super) direction: Direction,
    pub(super) action: &'a str,
    /// Name, for the annotation; empty = none.
    pub(super) name: &'a str,
    /// Path of the source rule.
    pub(super) path: &'a str,
    /// Name of the source rule's field with ports.
    pub(super) ports: &'a str,
}

/// A peer as a side of a rule.
pub(super) struct PeerSide {
    pub(super) path: String,
    pub(super) side: Map<String, Value>,
}

/// Rules of one list, with where each comes from.
#[derive(Default)]
pub(super) struct RuleList {
    pub(super) rules: Vec<Value>,
    pub(super) origins: Vec<(String, String)>,
}

impl RuleList {
    /// Adds the rules of one source rule: for each group of ports one for each peer; `None` =
    /// anything.
    pub(super) fn add(&mut self, common: &RuleSource<'_>, groups: &Groups, peers: &[Option<PeerSide>]) {
        let side = peer_side(common.direction);
        for (protocol, ports) in groups.sorted() {
            for peer in peers {
                let mut rule = Map::new();
                rule.insert("action".to_owned(), json!(common.action));
                if !protocol.is_empty() {
                    rule.insert("protocol".to_owned(), json!(protocol));
                }
                let at = format!("spec.{}[{}]", common.direction.name(), self.rules.len());
                self.origins.push((at.clone(), common.path.to_owned()));
                let ports_at = format!("{}.{}", common.path, common.ports);
                self.origins.push((format!("{at}.protocol"), ports_at.clone()));
                let mut destination = Map::new();
                if let Some(peer) = peer {
                    self.origins.push((format!("{at}.{side}"), peer.path.clone()));
                    if side == "destination" {
                        destination.clone_from(&peer.side);
                    } else if !peer.side.is_empty() {
                        rule.insert(side.to_owned(), Value::Object(peer.side.clone()));
                    }
                }
                if let Some(ports) = &ports {
                    self.origins.push((format!("{at}.destination.ports"), ports_at));
                    destination.insert("ports".to_owned(), json!(ports));
                }
                if !destination.is_empty() {
                    rule.insert("destination".to_owned(), Value::Object(destination));
                }
                if !common.name.is_empty() {
                    let metadata = json!({"annotations": {"name": common.name}});
                    rule.insert("metadata".to_owned(), metadata);
                }
                self.rules.push(Value::Object(rule));
            }
        }
    }

    /// Adds a rule that denies everything, in place of one that could not be converted.
    pub(super) fn add_closed(&mut self, direction: Direction, path: &str) {
        let at = format!("spec.{}[{}]", direction.name(), self.rules.len());
        self.origins.push((at, path.to_owned()));
        self.rules.push(json!({"action": "Deny"}));
    }
}

/// `namespaces` of a peer.
pub(super) fn namespaces(at: At<'_>, side: &mut Map<String, Value>, faults: &Faults) {
    side.remove("selector");
    side.insert(
        "namespaceSelector".to_owned(),
        json!(selector(Of::Namespaces, Some(at), faults)),
    );
}

/// `pods` of a subject or a peer: selectors of pods and of their namespaces.
pub(super) fn pods(mut pods: Reader<'_>, side: &mut Map<String, Value>) {
    let faults = pods.faults();
    let selected = selector(Of::Pods, pods.value("podSelector"), faults);
    let namespaces = selector(Of::Namespaces, pods.value("namespaceSelector"), faults);
    side.insert("selector".to_owned(), json!(selected));
    side.insert("namespaceSelector".to_owned(), json!(namespaces));
    pods.finish();
}

/// A policy of Calico.
pub(super) fn policy(
    kind: Kind,
    metadata: Value,
    spec: Map<String, Value>,
    lists: [(Direction, RuleList); 2],
) -> (Value, Vec<(String, String)>) {
    let mut spec = spec;
    let mut origins = Vec::new();
    for (direction, list) in lists {
        if !list.rules.is_empty() {
            spec.insert(direction.name().to_owned(), Value::Array(list.rules));
        }
        origins.extend(list.origins);
    }
    (super::resource(kind, metadata, Value::Object(spec)), origins)
}
