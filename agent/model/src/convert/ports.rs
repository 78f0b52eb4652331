//! Ports of a rule, grouped by protocol.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A port as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Inclusive; first <= last.
    Numbers(u16, u16),
    /// Name of a port of the workload.
    Named(String),
}

/// A named port, if rules can name it so.
pub(super) fn named(name: &str) -> Option<Port> {
    let good = (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    good.then(|| Port::Named(name.to_owned()))
}

/// Ports by protocol; the empty name = no protocol.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, Option<Vec<Port>>>);

impl Groups {
    /// What holds for every packet.
    pub(super) fn everything() -> Self {
        Groups([(String::new(), None)].into())
    }

    /// Adds a port; without one the group is all ports, whatever else is in it.
    pub(super) fn add(&mut self, protocol: &str, port: Option<Port>) {
        let group = self.0.entry(protocol.to_owned()).or_insert_with(|| Some(Vec::new()));
        match (group, port) {
            (Some(ports), Some(port)) => ports.push(port),
            (group, None) => *group = None,
            (None, Some(_)) => {}
        }
    }

    /// Protocol and ports of each group, sorted by protocol; ports as rules have them.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (&str, Option<Vec<Value>>)> {
        self.0
            .iter()
            .map(|(protocol, ports)| (protocol.as_str(), ports.as_ref().map(|ports| written(ports))))
    }
}

/// Ports as rules have them. Two numbers or more are sorted behind the names, and neighbours
/// joined.
fn written(ports: &[Port]) -> Vec<Value> {
    let mut names = Vec::new();
    let mut ranges = Vec::new();
    for port in ports {
        match port {
            Port::Numbers(first, last) => ranges.push((*first, *last)),
            Port::Named(name) => names.push(json!(name)),
        }
    }
    let numbers: usize = ranges
        .iter()
        .map(|(first, last)| usize::from(last.saturating_sub(*first)) + 1)
        .sum();
    if ports.len() < 2 || numbers < 2 {
        return ports
            .iter()
            .map(|port| match port {
                Port::Numbers(first, last) => range(*first, *last),
                Port::Named(name) => json!(name),
            })
            .collect();
    }
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    names.extend(joined.into_iter().map(|(first, last)| range(first, last)));
    names
}

fn range(first: u16, last: u16) -> Value {
    if first == last {
        json!(first)
    } else {
        json!(format!("{first}:{last}"))
    }
}
