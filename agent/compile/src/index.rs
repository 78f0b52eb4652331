//! What long lists of rules can be found by: destination port, the peer's networks, the peer's sets.
//!
//! In: the rules of a section. Out: a partition of them ([`Parts`]), in which every rule stands in the part where fewest others have to be
//! tested with it, and the [`Keyed`] intervals of ports or addresses, each with the rules that matter there, in order. Nothing here knows
//! instructions.
//!
//! A rule is in the index of ports, or of addresses, only if it covers few intervals there: the intervals' lists together are at most a
//! few times as long as the rules, whatever these are. A rule that needs nothing else to match may cover any number: it ends the lists.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::rule::{PORT_PROTOCOLS, ProtocolTest, Rule};
use crate::segment::{Item, LeafId};

/// Intervals that a rule may cover; the first for which all together stay within the bounds.
const COVERS: [usize; 5] = [64, 16, 4, 2, 1];

/// What lists can still be taken apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axes {
    pub(crate) ports: bool,
    pub(crate) nets: bool,
}

/// A partition of rules; each part is in order.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// For each of [`PORT_PROTOCOLS`].
    pub(crate) ports: [Vec<Item>; 3],
    /// Found by the peer's address.
    pub(crate) nets: Vec<Item>,
    /// Found by a set of the peer.
    pub(crate) sets: Vec<Item>,
    /// Found by nothing.
    pub(crate) rest: Vec<Item>,
}

/// Takes a list apart. `expansion`: how many times longer the lists of an index may be than its rules.
pub(crate) fn partition(rules: &[&Rule], items: Vec<Item>, axes: Axes, expansion: usize) -> Parts {
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
                let certain = rule.is_some_and(|rule| ported(item).is_certain(rule));
                axis.add(index, port_ranges(rule, item), certain);
            }
            axis.measure(expansion, &mut by_port);
        }
    }
    if axes.nets {
        let mut axis = Axis::default();
        for (index, item) in items.iter().enumerate().filter(|(_, item)| has_nets(rules, item)) {
            let rule = rules.get(item.rule).copied();
            let certain = rule.is_some_and(|rule| netted(item).is_certain(rule));
            axis.add(index, net_ranges(rule), certain);
        }
        axis.measure(expansion, &mut by_net);
    }
    let mut parts = Parts::default();
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

/// The item once its destination port was found.
pub(crate) fn ported(item: &Item) -> Item {
    Item {
        protocol: ProtocolTest::Any,
        destination: None,
        ..*item
    }
}

/// The item once the peer's address was found.
pub(crate) fn netted(item: &Item) -> Item {
    Item { nets: false, ..*item }
}

fn has_nets(rules: &[&Rule], item: &Item) -> bool {
    item.nets && rules.get(item.rule).is_some_and(|rule| !rule.nets.is_empty())
}

/// First and last of an interval.
pub(crate) type Range = (u128, u128);

/// The destination ports of an item.
pub(crate) fn port_ranges<'r>(rule: Option<&'r Rule>, item: &Item) -> impl Iterator<Item = Range> + use<'r> {
    let ports = item.destination.and_then(|place| rule?.ports.get(place)?.as_ref());
    let ranges = ports.into_iter().flat_map(|ports| ports.dst.yes.ranges());
    ranges.map(|(first, last)| (u128::from(*first), u128::from(*last)))
}

/// The networks of an item.
pub(crate) fn net_ranges<'r>(rule: Option<&'r Rule>) -> impl Iterator<Item = Range> + use<'r> {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let range = move |net: &IpNet| (number(net.network()), number(net.broadcast()));
    rule.into_iter().flat_map(|rule| &rule.nets).map(range)
}

/// Rules along one axis.
#[derive(Default)]
struct Axis {
    members: Vec<Member>,
    /// Those of all members, one after the other.
    ranges: Vec<Range>,
}

struct Member {
    index: usize,
    /// Number of ranges.
    ranges: usize,
    /// It always matches where it is found.
    certain: bool,
}

impl Axis {
    fn add(&mut self, index: usize, ranges: impl Iterator<Item = Range>, certain: bool) {
        let before = self.ranges.len();
        self.ranges.extend(ranges);
        let ranges = self.ranges.len() - before;
        self.members.push(Member { index, ranges, certain });
    }

    /// For each member that this axis is good for: how many rules it is tested with at most.
    fn measure(&self, expansion: usize, out: &mut [Option<usize>]) {
        let ends = |(first, last): &Range| [Some(*first), last.checked_add(1)];
        let mut bounds: Vec<u128> = self.ranges.iter().flat_map(ends).flatten().collect();
        bounds.sort_unstable();
        bounds.dedup();
        // Most lists are in order: then the next bound is the one to be found.
        let mut next = 0;
        let mut place = |bound: u128| {
            if bounds.get(next) != Some(&bound) {
                next = bounds.partition_point(|known| *known < bound);
            }
            next += 1;
            next - 1
        };
        let mut all_places: Vec<(usize, usize)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in &self.ranges {
            let first = place(*first);
            let end = last.checked_add(1).map_or(bounds.len(), &mut place);
            all_places.push((first, end));
        }
        let mut rest = all_places.as_slice();
        let mut places: Vec<&[(usize, usize)]> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let (own, others) = rest.split_at_checked(member.ranges).unwrap_or_default();
            places.push(own);
            rest = others;
        }
        let covers: Vec<usize> = places
            .iter()
            .map(|places| places.iter().map(|(first, end)| end - first).sum())
            .collect();
        let uncertain = |most: usize| {
            let all = self.members.iter().zip(&covers);
            all.filter(move |(member, covers)| !member.certain && **covers <= most)
        };
        let fits = |most: &&usize| {
            let lists: usize = uncertain(**most).map(|(_, covers)| covers).sum();
            lists <= expansion * uncertain(**most).count()
        };
        let most = COVERS.iter().find(fits).copied().unwrap_or(1);
        // How many rules are in each interval.
        let mut change = vec![0_isize; bounds.len() + 1];
        for ((member, covers), places) in self.members.iter().zip(&covers).zip(&places) {
            if member.certain || *covers > most {
                continue;
            }
            for (first, end) in *places {
                for (at, by) in [(first, 1), (end, -1)] {
                    if let Some(change) = change.get_mut(*at) {
                        *change += by;
                    }
                }
            }
        }
        let mut active = 0;
        let active: Vec<usize> = change
            .iter()
            .map(|change| {
                active += change;
                active.max(0) as usize
            })
            .collect();
        for ((member, covers), places) in self.members.iter().zip(&covers).zip(&places) {
            let company = if *covers <= most {
                let among = |(first, end): &(usize, usize)| active.get(*first..*end)?.iter().max().copied();
                places.iter().filter_map(among).max().unwrap_or(0)
            } else if member.certain {
                1
            } else {
                continue;
            };
            if let Some(out) = out.get_mut(member.index) {
                *out = Some(company);
            }
        }
    }
}

/// A function of ports or addresses.
#[derive(Debug, Default)]
pub(crate) struct Keyed {
    /// First of an interval and the list there, sorted, the first at zero, neighbours different.
    pub(crate) intervals: Vec<(u128, LeafId)>,
    /// Rules in order; equal ones are shared. The first is empty.
    pub(crate) leaves: Vec<Vec<Item>>,
}

/// Sweeps along the axis of these ranges. `found`: the item once it was found there.
pub(crate) fn sweep<R: Iterator<Item = Range>>(
    rules: &[&Rule],
    items: &[Item],
    ranges: impl Fn(&Item) -> R,
    found: fn(&Item) -> Item,
) -> Keyed {
    // Where something ends (first) or begins.
    let mut events: Vec<(u128, bool, usize)> = Vec::with_capacity(2 * items.len());
    for (index, item) in items.iter().enumerate() {
        for (first, last) in ranges(item) {
            events.push((first, true, index));
            events.extend(last.checked_add(1).map(|after| (after, false, index)));
        }
    }
    events.sort_unstable();
    let found: Vec<Item> = items.iter().map(found).collect();
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
