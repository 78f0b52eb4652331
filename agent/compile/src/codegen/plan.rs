//! How the rules of a section are to be looked for.
//!
//! In: the rules of a section. Out: whether it is taken apart, and into what; the order in which
//! its sets are best laid out in class rows, which the planner asks for before there are slots.
//! Never: instructions.

use std::collections::HashMap;

use crate::ir::index::{Axes, Partition, partition, port_ranges};
use crate::ir::item::RuleItem;
use crate::ir::rule::{Rule, SetIndex};
use crate::limits::{LONG_LIST, LONG_MIXED_LIST};

/// A list can be taken apart by everything.
pub(crate) const ALL_AXES: Axes = Axes {
    ports: true,
    nets: true,
};

/// How the rules of a section are to be looked for.
pub(crate) struct Plan {
    /// What the section is taken apart into, and the indices of rules that no part takes; `None` if
    /// it is not to be taken apart.
    pub(crate) parts: Option<(Partition, Vec<usize>)>,
}

impl Plan {
    /// Plans a section. `expansion`: how many times longer than its rules an index may become.
    pub(crate) fn new(rules: &[Rule], expansion: usize) -> Self {
        Self {
            parts: take_apart(rules, expansion),
        }
    }

    /// Returns the section's sets in the order in which they are best laid out in class rows, some
    /// more than once.
    pub(crate) fn order<'r>(&self, rules: &'r [Rule]) -> impl Iterator<Item = SetIndex> + 'r {
        let listed = self.parts.as_ref().map(|(parts, _)| rule_order(parts, rules));
        let listed = listed.unwrap_or_default();
        let listed = listed.into_iter().filter_map(|index| rules.get(index));
        // Sets by which rules are found come first, all others after them.
        let wanted = listed.flat_map(|rule| &rule.sets);
        let all = rules.iter().flat_map(|rule| rule.sets.iter().chain(&rule.not_sets));
        wanted.chain(all).copied()
    }
}

fn take_apart(rules: &[Rule], expansion: usize) -> Option<(Partition, Vec<usize>)> {
    if rules.len() < LONG_LIST {
        return None;
    }
    let mut left = vec![false; rules.len()];
    let mut items = Vec::with_capacity(rules.len());
    for ((index, rule), left) in rules.iter().enumerate().zip(&mut left) {
        match RuleItem::plain(index, rule) {
            Some(item) => items.push(item),
            None => *left = true,
        }
    }
    let all: Vec<&Rule> = rules.iter().collect();
    let mut parts = partition(&all, items, ALL_AXES, expansion);
    for item in std::mem::take(&mut parts.rest) {
        if let Some(left) = left.get_mut(item.rule) {
            *left = true;
        }
    }
    let others: Vec<usize> = (0..)
        .zip(left)
        .filter(|(_, left)| *left)
        .map(|(index, _)| index)
        .collect();
    let count = parts.count() + usize::from(!others.is_empty());
    (others.len() < rules.len() && (count == 1 || rules.len() >= LONG_MIXED_LIST)).then_some((parts, others))
}

/// Returns the rules that parts have, in the order in which their sets should be.
fn rule_order(parts: &Partition, rules: &[Rule]) -> Vec<usize> {
    let first_port = |item: &RuleItem| {
        port_ranges(rules.get(item.rule), item)
            .next()
            .map_or(0, |range| range.0)
    };
    let mut rules_per_port: HashMap<u128, usize> = HashMap::new();
    for item in parts.ports.iter().flatten() {
        *rules_per_port.entry(first_port(item)).or_default() += 1;
    }
    // Where many rules share a port, their sets find them, so those go together; everything else
    // stays in the order of the rules, which is good for other lists and other versions of this
    // one, too.
    let is_popular = |port: &u128| rules_per_port.get(port).is_some_and(|count| *count >= LONG_LIST);
    let popular_port = |item: &RuleItem| Some(first_port(item)).filter(is_popular);
    let mut items: Vec<(Option<u128>, usize)> = Vec::new();
    for item in parts.ports.iter().flatten() {
        items.push((popular_port(item), item.rule));
    }
    items.extend(parts.nets.iter().chain(&parts.sets).map(|item| (None, item.rule)));
    items.sort_unstable();
    items.into_iter().map(|(_, rule)| rule).collect()
}
