//! Groups of rules that share one dispatch by protocol and destination port.
//!
//! In: the rules of a section, in order. Out: [`Segment`]s, one after the other, that together hold
//! all of them in order, and the [`Dispatch`] of each. Never: instructions.
//!
//! In a dispatch segment every distinct interval of ports gets a copy of the rules that matter
//! there, so a rule that names no port is in every copy: a segment ends before its copies cost more
//! than a given multiple of its rules. So the size of a program is linear in its input whatever the
//! rules are, and rules with a port each cost a logarithm.
//!
//! Long lists are first taken apart by what their rules can be found by ([`crate::ir::index`]);
//! what is left of them comes here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ir::item::RuleItem;
use crate::ir::ports::{PortMap, merge_neighbours};
use crate::ir::rule::{PORT_PROTOCOLS, Ports, ProtocolTest, Rule};

/// Estimated instructions of a segment that expands little: about a chunk, since each further
/// segment costs a packet another walk down a tree.
const LEAN_SEGMENT: usize = 34_000;
/// Estimated instructions of a segment that expands much: well below a chunk, so that chunks fill
/// well.
const WIDE_SEGMENT: usize = 4_000;
/// Estimated instructions of a run of rules without dispatch.
const RUN_INSNS: usize = 1_000;

/// Consecutive rules.
#[derive(Debug)]
pub(crate) enum Segment<'a> {
    /// One after the other; none needs a dispatch.
    Run(Vec<&'a Rule>),
    /// Dispatched by protocol and destination port.
    Dispatch(Vec<&'a Rule>),
}

/// Cuts rules into segments. `expansion`: how many times larger than its rules a dispatch may
/// become.
pub(crate) fn segments(rules: &[Rule], expansion: usize) -> Vec<Segment<'_>> {
    let mut out = Vec::new();
    let mut open = Open {
        expansion,
        ..Open::default()
    };
    for rule in rules {
        if open.rules.is_empty() && rule.is_port_independent() {
            push_run(&mut out, rule);
        } else if !open.accept(rule) {
            open.close(&mut out);
            if rule.is_port_independent() {
                push_run(&mut out, rule);
            } else {
                open.accept(rule);
            }
        }
    }
    open.close(&mut out);
    out
}

fn push_run<'a>(out: &mut Vec<Segment<'a>>, rule: &'a Rule) {
    match out.last_mut() {
        Some(Segment::Run(run)) if run.iter().map(|rule| cost(rule)).sum::<usize>() < RUN_INSNS => run.push(rule),
        _ => out.push(Segment::Run(vec![rule])),
    }
}

/// Returns the estimated instructions of a rule's tests, without those that the dispatch answers.
pub(crate) fn cost(rule: &Rule) -> usize {
    let source_ranges: usize = rule
        .ports
        .iter()
        .flatten()
        .map(|ports| ports.src.yes.len() + ports.src.named.len())
        .max()
        .unwrap_or(0);
    let local = &rule.local;
    let local_nets = local.nets.as_ref().map_or(0, Vec::len) + local.not_nets.len();
    let nets = rule.nets.len() + rule.not_nets.len() + local_nets + local.sets.len() + local.not_sets.len();
    let sets = rule.sets.len() + rule.not_sets.len() + rule.named.len() + rule.not_named.len() + rule.services.len();
    2 + 2 * sets + 5 * nets + 2 * source_ranges
}

/// A dispatch segment that still takes rules.
#[derive(Default)]
struct Open<'a> {
    /// How many times larger than its rules it may become.
    expansion: usize,
    rules: Vec<&'a Rule>,
    /// Per protocol with ports: first port of an interval -> cost of the rules that matter there.
    intervals: [BTreeMap<u32, usize>; 3],
    /// Sum over all intervals.
    expanded: usize,
    /// What the rules themselves amount to.
    input: usize,
}

impl<'a> Open<'a> {
    /// Takes the rule, unless the segment would become too large. After a refusal only
    /// [`Open::close`] makes sense.
    fn accept(&mut self, rule: &'a Rule) -> bool {
        let cost = cost(rule);
        let mut ranges = 0;
        for ((intervals, ports), protocol) in self.intervals.iter_mut().zip(&rule.ports).zip(PORT_PROTOCOLS) {
            if intervals.is_empty() {
                intervals.insert(0, 0);
            }
            let Some(ports) = ports.as_ref().filter(|_| rule.protocol.matches(protocol)) else {
                continue;
            };
            for set in [&ports.dst.yes, &ports.dst.named] {
                for boundary in set.boundaries() {
                    let before = intervals.range(..=boundary).next_back().map(|(at, cost)| (*at, *cost));
                    if let Some((at, cost)) = before
                        && at != boundary
                    {
                        intervals.insert(boundary, cost);
                        self.expanded += cost + 1;
                    }
                }
                for &(first, last) in set.ranges() {
                    for total in intervals
                        .range_mut(u32::from(first)..=u32::from(last))
                        .map(|(_, total)| total)
                    {
                        *total += cost;
                        self.expanded += cost;
                    }
                }
            }
            ranges = ranges.max(ports.dst.yes.len() + ports.dst.named.len());
        }
        if rule.matches_without_ports {
            self.expanded += cost;
        }
        self.input += cost + 2 * ranges;
        let limit = if self.expanded <= 2 * self.input {
            LEAN_SEGMENT
        } else {
            WIDE_SEGMENT
        };
        let fits = self.expanded <= self.expansion * self.input && self.expanded + self.input <= limit;
        if !fits && !self.rules.is_empty() {
            return false;
        }
        self.rules.push(rule);
        true
    }

    /// Ends the segment. Rules at its end that need no dispatch leave it: they would only be
    /// copied.
    fn close(&mut self, out: &mut Vec<Segment<'a>>) {
        let fresh = Open {
            expansion: self.expansion,
            ..Open::default()
        };
        let mut open = std::mem::replace(self, fresh);
        let end = open
            .rules
            .iter()
            .rposition(|rule| !rule.is_port_independent())
            .map_or(0, |last| last + 1);
        let rest = open.rules.split_off(end);
        if !open.rules.is_empty() {
            out.push(Segment::Dispatch(open.rules));
        }
        for rule in rest {
            push_run(out, rule);
        }
    }
}

/// Index into [`Dispatch::leaves`].
pub(crate) type LeafId = usize;

/// A decision tree's content: protocol, then destination port, then the rules that are left.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    /// The leaf of each destination port, for each of [`PORT_PROTOCOLS`].
    pub(crate) ports: [PortMap<LeafId>; 3],
    /// The leaf of packets of all other protocols.
    pub(crate) without_ports: LeafId,
    /// Lists of rules in order; equal ones are shared.
    pub(crate) leaves: Vec<Vec<RuleItem>>,
}

/// Works out the dispatch of a segment.
pub(crate) fn dispatch(rules: &[&Rule]) -> Dispatch {
    let mut leaves = Leaves::default();
    let mut out = Dispatch::default();
    for (index, map) in out.ports.iter_mut().enumerate() {
        *map = port_map(rules, index, &mut leaves);
    }
    let without_ports = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.matches_without_ports)
        .map(|(index, rule)| {
            let protocol = match rule.protocol {
                ProtocolTest::Not(protocol) if PORT_PROTOCOLS.contains(&protocol) => ProtocolTest::Any,
                other => other,
            };
            RuleItem {
                rule: index,
                protocol,
                source: None,
                destination: None,
                named: false,
                fields: !rule.fields.is_empty(),
                nets: true,
            }
        });
    out.without_ports = leaves.intern(without_ports, rules);
    out.leaves = leaves.list;
    out
}

#[derive(Default)]
struct Leaves {
    list: Vec<Vec<RuleItem>>,
    ids: HashMap<Vec<RuleItem>, LeafId>,
}

impl Leaves {
    /// The leaf of these items, cut after the first that always matches.
    fn intern(&mut self, items: impl Iterator<Item = RuleItem>, rules: &[&Rule]) -> LeafId {
        let mut leaf = Vec::new();
        for item in items {
            let certain = rules.get(item.rule).is_some_and(|rule| item.is_certain(rule));
            leaf.push(item);
            if certain {
                break;
            }
        }
        let next = self.list.len();
        let id = *self.ids.entry(leaf.clone()).or_insert(next);
        if id == next {
            self.list.push(leaf);
        }
        id
    }
}

/// Sweeps over the destination ports of one protocol.
fn port_map(rules: &[&Rule], index: usize, leaves: &mut Leaves) -> PortMap<LeafId> {
    // Port -> what begins (with the item) or ends (without) there.
    let mut events: BTreeMap<u32, Vec<(usize, Option<RuleItem>)>> = BTreeMap::from([(0, Vec::new())]);
    for (position, rule) in rules.iter().enumerate() {
        let Some(ports) = rule.ports.get(index).and_then(Option::as_deref) else {
            continue;
        };
        let same_source = |other: &Option<Arc<Ports>>| other.as_ref().is_some_and(|other| other.src == ports.src);
        let source = if ports.src.is_vacuous() {
            None
        } else {
            rule.ports.iter().position(same_source)
        };
        for (set, named) in [(&ports.dst.yes, false), (&ports.dst.named, true)] {
            for &(first, last) in set.ranges() {
                let item = RuleItem {
                    rule: position,
                    protocol: ProtocolTest::Any,
                    source,
                    destination: None,
                    named,
                    fields: rule.fields.concern_ports(),
                    nets: true,
                };
                events.entry(u32::from(first)).or_default().push((position, Some(item)));
                if last < u16::MAX {
                    // An end must not undo a beginning at the same port: it goes in front.
                    events
                        .entry(u32::from(last) + 1)
                        .or_default()
                        .insert(0, (position, None));
                }
            }
        }
    }
    let mut active: BTreeMap<usize, RuleItem> = BTreeMap::new();
    let mut map = PortMap::new();
    for (port, changes) in events {
        let Ok(port) = u16::try_from(port) else { break };
        for (position, change) in changes {
            match change {
                Some(item) => active.insert(position, item),
                None => active.remove(&position),
            };
        }
        map.push((port, leaves.intern(active.values().cloned(), rules)));
    }
    merge_neighbours(&mut map);
    map
}
