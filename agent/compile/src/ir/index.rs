//! What long lists of rules can be found by: destination port, the peer's networks, the peer's
//! sets.
//!
//! In: the rules of a section. Out: a partition of them ([`Partition`]), in which every rule stands
//! in the part where fewest others have to be tested with it, and the [`Keyed`] intervals of ports
//! or addresses, each with the rules that matter there, in order. Never: instructions.
//!
//! A rule is in the index of ports, or of addresses, only if it covers few intervals there: the
//! intervals' lists together are at most a few times as long as the rules, whatever these are. A
//! rule that needs nothing else to match may cover any number: it ends the lists.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ir::axis::{Axis, Range};
use crate::ir::item::RuleItem;
use crate::ir::rule::{PORT_PROTOCOLS, Rule};
use crate::ir::segment::LeafId;

/// The axes that a list can still be taken apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axes {
    pub(crate) ports: bool,
    pub(crate) nets: bool,
}

/// A partition of rules; each part is in order.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// Rules that the destination port finds, for each of [`PORT_PROTOCOLS`].
    pub(crate) ports: [Vec<RuleItem>; 3],
    /// Rules that the peer's address finds.
    pub(crate) nets: Vec<RuleItem>,
    /// Rules that a set of the peer finds.
    pub(crate) sets: Vec<RuleItem>,
    /// Rules that nothing finds.
    pub(crate) rest: Vec<RuleItem>,
}

impl Partition {
    /// Returns whether the part of ports is empty.
    pub(crate) fn no_ports(&self) -> bool {
        self.ports.iter().all(Vec::is_empty)
    }

    /// Returns how many parts are not empty.
    pub(crate) fn count(&self) -> usize {
        let others = [&self.nets, &self.sets, &self.rest];
        usize::from(!self.no_ports()) + others.iter().filter(|items| !items.is_empty()).count()
    }
}

/// Takes a list apart. `expansion`: how many times longer the lists of an index may be than its
/// rules.
pub(crate) fn partition(rules: &[&Rule], items: Vec<RuleItem>, axes: Axes, expansion: usize) -> Partition {
    let mut by_port: Vec<Option<usize>> = vec![None; items.len()];
    let mut by_net = by_port.clone();
    if axes.ports {
        for place in 0..PORT_PROTOCOLS.len() {
            let mut axis = Axis::default();
            for (index, item) in items
                .iter()
                .enumerate()
                .filter(|(_, item)| item.destination == Some(place))
            {
                let rule = rules.get(item.rule).copied();
                let certain = rule.is_some_and(|rule| item.port_found().is_certain(rule));
                axis.add(index, port_ranges(rule, item), certain);
            }
            axis.measure(expansion, &mut by_port);
        }
    }
    if axes.nets {
        let mut axis = Axis::default();
        for (index, item) in items.iter().enumerate().filter(|(_, item)| has_nets(rules, item)) {
            let rule = rules.get(item.rule).copied();
            let certain = rule.is_some_and(|rule| item.net_found().is_certain(rule));
            axis.add(index, net_ranges(rule), certain);
        }
        axis.measure(expansion, &mut by_net);
    }
    let mut parts = Partition::default();
    for ((item, by_port), by_net) in items.into_iter().zip(by_port).zip(by_net) {
        let part = match (by_port, by_net) {
            (Some(port), net) if net.is_none_or(|net| port <= net) => {
                item.destination.and_then(|place| parts.ports.get_mut(place))
            }
            (_, Some(_)) => Some(&mut parts.nets),
            _ if rules.get(item.rule).is_some_and(|rule| !rule.sets.is_empty()) => Some(&mut parts.sets),
            _ => None,
        };
        part.unwrap_or(&mut parts.rest).push(item);
    }
    parts
}

fn has_nets(rules: &[&Rule], item: &RuleItem) -> bool {
    item.nets && rules.get(item.rule).is_some_and(|rule| !rule.nets.is_empty())
}

/// Returns the destination ports of an item.
pub(crate) fn port_ranges<'r>(rule: Option<&'r Rule>, item: &RuleItem) -> impl Iterator<Item = Range> + use<'r> {
    let ports = item.destination.and_then(|place| rule?.ports.get(place)?.as_ref());
    let ranges = ports.into_iter().flat_map(|ports| ports.dst.yes.ranges());
    ranges.map(|(first, last)| (u128::from(*first), u128::from(*last)))
}

/// Returns the networks of a rule.
pub(crate) fn net_ranges<'r>(rule: Option<&'r Rule>) -> impl Iterator<Item = Range> + use<'r> {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let range = move |net: &IpNet| (number(net.network()), number(net.broadcast()));
    rule.into_iter().flat_map(|rule| &rule.nets).map(range)
}

/// A function of ports or addresses to lists of rules.
#[derive(Debug, Default)]
pub(crate) struct Keyed {
    /// The first value of each interval and the list there: sorted, the first at zero, neighbours
    /// different.
    pub(crate) intervals: Vec<(u128, LeafId)>,
    /// Lists of rules in order; equal ones are shared. The first is empty.
    pub(crate) leaves: Vec<Vec<RuleItem>>,
}

/// Where a range begins or ends: the place, whether it begins there, and the index of its item.
/// Ends sort before beginnings.
type Event = (u128, bool, usize);

fn events<R: Iterator<Item = Range>>(items: &[RuleItem], ranges: impl Fn(&RuleItem) -> R) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::with_capacity(2 * items.len());
    for (index, item) in items.iter().enumerate() {
        for (first, last) in ranges(item) {
            events.push((first, true, index));
            events.extend(last.checked_add(1).map(|after| (after, false, index)));
        }
    }
    events.sort_unstable();
    events
}

/// Sweeps along the axis of these ranges. `found` gives the item once it has been found there.
pub(crate) fn sweep<R: Iterator<Item = Range>>(
    rules: &[&Rule],
    items: &[RuleItem],
    ranges: impl Fn(&RuleItem) -> R,
    found: fn(&RuleItem) -> RuleItem,
) -> Keyed {
    let events = events(items, ranges);
    let found: Vec<RuleItem> = items.iter().map(found).collect();
    let certain = |index: usize| {
        let item = found.get(index)?;
        Some(item.is_certain(rules.get(item.rule)?))
    };
    let mut leaves: HashMap<Vec<usize>, LeafId> = HashMap::from([(Vec::new(), 0)]);
    let mut keyed = Keyed {
        intervals: Vec::with_capacity(events.len() + 1),
        leaves: vec![Vec::new()],
    };
    let mut active = BTreeSet::new();
    if events.first().is_none_or(|(at, ..)| *at != 0) {
        keyed.intervals.push((0, 0));
    }
    for events in events.chunk_by(|one, other| one.0 == other.0) {
        let at = events.first().map_or(0, |(at, ..)| *at);
        for (_, begins, index) in events {
            if *begins {
                active.insert(*index);
            } else {
                active.remove(index);
            }
        }
        let mut leaf = Vec::new();
        for &index in &active {
            leaf.push(index);
            if certain(index) == Some(true) {
                break;
            }
        }
        let id = match leaves.get(&leaf) {
            Some(id) => *id,
            None => {
                let id = keyed.leaves.len();
                keyed
                    .leaves
                    .push(leaf.iter().filter_map(|index| found.get(*index)).cloned().collect());
                leaves.insert(leaf, id);
                id
            }
        };
        if keyed.intervals.last().is_none_or(|(_, last)| *last != id) {
            keyed.intervals.push((at, id));
        }
    }
    keyed
}
