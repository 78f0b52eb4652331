//! Ways to find the first of many rules that matches.
//!
//! In: the rules of a section, in order. Out: blocks. Short lists are tested one by one, or in segments. Long lists are taken apart by
//! what rules can be found by ([`crate::index`]):
//!
//! - *ports*, *networks*: a balanced tree over the intervals leads to the rules that matter there; where those are many, they are taken
//!   apart again by what is left. A tree that is too large for one block has a root that leads to others, which may be in other chunks:
//!   a packet goes through one of them;
//! - *sets* ([`crate::member`]): the class row has the sets of a list side by side in the order of the rules ([`Plan::order`] asks the planner for that), so a word
//!   of it answers 64 rules at once. Only where the peer is a member, rules are tested. If the bits are in another order, the words are
//!   gone through all the same, and the first rule found is noted;
//! - the *rest* is cut into segments.
//!
//! Where a list has several parts, each finds its first rule, and the first of those decides: they are noted in the scratch
//! ([`crate::frame::CANDIDATE`]).

use std::collections::{BTreeMap, HashMap};

use crate::block::{After, Block, Purpose, Ref, Target};
use crate::compile::{CompileError, Direction};
use crate::emit::Emitter;
use crate::frame::{SCRATCH, VALUE, scratch};
use crate::index::{Axes, Keyed, Parts, net_ranges, netted, partition, port_ranges, ported, sweep};
use crate::isa::{self, Cond, Size};
use crate::matching::{address_tree, tree};
use crate::member::items;
use crate::rule::{PORT_PROTOCOLS, Rule, SetIndex};
use crate::segment::{Item, LeafId, cost, segments};

/// Rules from which on a list is taken apart.
const LONG: usize = 32;
/// ... a section where that takes several parts, which cost a packet something each.
const LONG_MIXED: usize = 160;
/// Estimated instructions of a block of a tree, and of tests of sets.
pub(crate) const BLOCK_INSNS: usize = 2_500;

/// How the rules of a section are looked for.
pub(crate) struct Plan {
    /// What the section is taken apart into, and the rules that no part takes; `None` = it is not to be taken apart.
    parts: Option<(Parts, Vec<usize>)>,
}

impl Plan {
    pub(crate) fn new(rules: &[Rule], expansion: usize) -> Self {
        Self {
            parts: take_apart(rules, expansion),
        }
    }

    /// The order in which the section's sets are best laid out in class rows; some more than once.
    pub(crate) fn order<'r>(&self, rules: &'r [Rule]) -> impl Iterator<Item = SetIndex> + 'r {
        let listed = self
            .parts
            .as_ref()
            .map(|(parts, _)| parts.listed(rules))
            .unwrap_or_default();
        let listed = listed.into_iter().filter_map(|index| rules.get(index));
        // Sets by which rules are found first, all others after them.
        let wanted = listed.flat_map(|rule| &rule.sets);
        let all = rules.iter().flat_map(|rule| rule.sets.iter().chain(&rule.not_sets));
        wanted.chain(all).copied()
    }
}

/// The blocks of a section.
pub(crate) fn search(
    emitter: &Emitter<'_>,
    rules: &[Rule],
    expansion: usize,
    plan: Plan,
) -> Result<Vec<Block>, CompileError> {
    let mut out = Vec::new();
    if let Some((parts, others)) = plan.parts {
        let all: Vec<&Rule> = rules.iter().collect();
        let mut search = Search {
            emitter: Emitter { ..*emitter },
            rules: &all,
            expansion,
            blocks: Vec::new(),
            names: 0,
        };
        let name = search.name();
        let others = others.into_iter().filter_map(|index| rules.get(index)).collect();
        search.parts(parts, others, ALL, name, None)?;
        out = search.blocks;
    } else {
        for segment in segments(rules, expansion) {
            emitter.segment(segment, &mut out)?;
        }
    }
    Ok(out)
}

const ALL: Axes = Axes {
    ports: true,
    nets: true,
};

fn take_apart(rules: &[Rule], expansion: usize) -> Option<(Parts, Vec<usize>)> {
    if rules.len() < LONG {
        return None;
    }
    let mut left = vec![false; rules.len()];
    let mut items = Vec::with_capacity(rules.len());
    for ((index, rule), left) in rules.iter().enumerate().zip(&mut left) {
        match Item::plain(index, rule) {
            Some(item) => items.push(item),
            None => *left = true,
        }
    }
    let all: Vec<&Rule> = rules.iter().collect();
    let mut parts = partition(&all, items, ALL, expansion);
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
    (others.len() < rules.len() && (count == 1 || rules.len() >= LONG_MIXED)).then_some((parts, others))
}

impl Parts {
    fn count(&self) -> usize {
        let ports = self.ports.iter().any(|items| !items.is_empty());
        let others = [&self.nets, &self.sets, &self.rest];
        usize::from(ports) + others.iter().filter(|items| !items.is_empty()).count()
    }

    /// The rules that parts have, in the order in which their sets should be.
    fn listed(&self, rules: &[Rule]) -> Vec<usize> {
        let first_port = |item: &Item| {
            port_ranges(rules.get(item.rule), item)
                .next()
                .map_or(0, |range| range.0)
        };
        let mut company: HashMap<u128, usize> = HashMap::new();
        for item in self.ports.iter().flatten() {
            *company.entry(first_port(item)).or_default() += 1;
        }
        // Where many rules share a port, their sets find them, so those go together; everything else stays in the order of the rules,
        // which is good for other lists and other versions of this one, too.
        let crowded = |item: &Item| Some(first_port(item)).filter(|port| company.get(port).is_some_and(|n| *n >= LONG));
        let mut items: Vec<(Option<u128>, usize)> = Vec::new();
        for item in self.ports.iter().flatten() {
            items.push((crowded(item), item.rule));
        }
        items.extend(self.nets.iter().chain(&self.sets).map(|item| (None, item.rule)));
        items.sort_unstable();
        items.into_iter().map(|(_, rule)| rule).collect()
    }
}

/// A section in the making.
pub(crate) struct Search<'a> {
    pub(crate) emitter: Emitter<'a>,
    pub(crate) rules: &'a [&'a Rule],
    expansion: usize,
    blocks: Vec<Block>,
    names: usize,
}

impl Search<'_> {
    pub(crate) fn name(&mut self) -> Ref {
        self.names += 1;
        Ref(self.names)
    }

    pub(crate) fn push(&mut self, mut block: Block, name: Ref, after: Option<Ref>) {
        block.name = Some(name);
        block.after = after.map_or(After::End, After::Ref);
        self.blocks.push(block);
    }

    /// A list, of any length.
    fn list(&mut self, items: Vec<Item>, axes: Axes, name: Ref, after: Option<Ref>) -> Result<(), CompileError> {
        if items.len() >= LONG {
            let parts = partition(self.rules, items.clone(), axes, self.expansion);
            if parts.rest.len() < items.len() {
                return self.parts(parts, Vec::new(), axes, name, after);
            }
        }
        self.tests(&items, name, after)
    }

    /// One part after the other.
    fn parts(
        &mut self,
        mut parts: Parts,
        others: Vec<&Rule>,
        axes: Axes,
        name: Ref,
        after: Option<Ref>,
    ) -> Result<(), CompileError> {
        let mut sets = self.words(&parts.sets);
        let several = parts.count() + usize::from(!others.is_empty()) > 1;
        let noted = !self.emitter.candidate && (several || sets.iter().any(|word| !word.in_order));
        let end = if noted { Some(self.name()) } else { after };
        self.emitter.candidate |= noted;
        let mut entry = name;
        let mut left = parts.count() + usize::from(!others.is_empty());
        // The way from one part to the next.
        let mut next = |search: &mut Self| {
            let this = entry;
            left -= 1;
            let after = if left == 0 { end } else { Some(search.name()) };
            entry = after.unwrap_or(this);
            (this, after)
        };
        if parts.ports.iter().any(|items| !items.is_empty()) {
            let (this, after) = next(self);
            self.by_port(&parts.ports, Axes { ports: false, ..axes }, this, after)?;
        }
        if !parts.nets.is_empty() {
            let (this, after) = next(self);
            let rules = self.rules;
            let ranges = |item: &Item| net_ranges(rules.get(item.rule).copied());
            let this = self.protocol(parts.nets.iter_mut(), this, after);
            let keyed = sweep(rules, &parts.nets, ranges, netted);
            self.keyed(&keyed, Key::Address, Axes { nets: false, ..axes }, this, after)?;
        }
        if !sets.is_empty() {
            let (this, after) = next(self);
            let this = self.protocol(items(&mut sets), this, after);
            self.by_set(&sets, this, after)?;
        }
        if !parts.rest.is_empty() {
            let (this, after) = next(self);
            self.tests(&parts.rest, this, after)?;
        }
        if !others.is_empty() {
            let (this, after) = next(self);
            self.others(&others, this, after)?;
        }
        if noted {
            self.emitter.candidate = false;
            let block = self.emitter.decide(self.rules);
            self.push(block, end.unwrap_or(name), after);
        }
        Ok(())
    }

    /// What cannot be found by anything.
    fn others(&mut self, rules: &[&Rule], name: Ref, after: Option<Ref>) -> Result<(), CompileError> {
        let rules: Vec<Rule> = rules.iter().map(|rule| (*rule).clone()).collect();
        let mut blocks = Vec::new();
        for segment in segments(&rules, self.expansion) {
            self.emitter.segment(segment, &mut blocks)?;
        }
        let count = blocks.len();
        let mut this = name;
        for (index, block) in blocks.into_iter().enumerate() {
            let next = if index + 1 == count { after } else { Some(self.name()) };
            self.push(block, this, next);
            this = next.unwrap_or(this);
        }
        Ok(())
    }

    /// Tests one after the other.
    fn tests(&mut self, items: &[Item], name: Ref, after: Option<Ref>) -> Result<(), CompileError> {
        let mut this = name;
        let mut rest = items;
        loop {
            let mut insns = 0;
            let fits = |item: &&Item| {
                insns += self.rules.get(item.rule).map_or(0, |rule| cost(rule)) + 3;
                insns <= BLOCK_INSNS
            };
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (items, others) = rest.split_at(count);
            let next = if others.is_empty() { after } else { Some(self.name()) };
            self.tests_in_block(items, this, next)?;
            let (Some(name), false) = (next, others.is_empty()) else {
                return Ok(());
            };
            (this, rest) = (name, others);
        }
    }

    fn tests_in_block(&mut self, items: &[Item], name: Ref, after: Option<Ref>) -> Result<(), CompileError> {
        let mut block = Block::new(Purpose::Frame("rules in order"));
        self.emitter.leaf(&mut block, self.rules, items);
        self.emitter.candidates(&mut block);
        if !block.is_too_large() {
            self.push(block, name, after);
            return Ok(());
        }
        let (first, second) = items.split_at(items.len() / 2);
        match (first, second.first().and_then(|item| self.rules.get(item.rule))) {
            ([], Some(rule)) => Err(self.emitter.too_large(rule, &block)),
            _ => {
                let middle = self.name();
                self.tests_in_block(first, name, Some(middle))?;
                self.tests_in_block(second, middle, after)
            }
        }
    }

    fn by_port(
        &mut self,
        parts: &[Vec<Item>; 3],
        axes: Axes,
        name: Ref,
        after: Option<Ref>,
    ) -> Result<(), CompileError> {
        let mut block = Block::new(Purpose::Frame("by protocol"));
        block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
        let mut ways = Vec::new();
        for (protocol, items) in PORT_PROTOCOLS.iter().zip(parts).filter(|(_, items)| !items.is_empty()) {
            let way = self.name();
            block.branch(isa::jump_imm(Cond::Eq, VALUE, i32::from(*protocol)), Target::Ref(way));
            ways.push((way, items));
        }
        block.jump(Target::Next);
        self.push(block, name, after);
        for (way, items) in ways {
            let rules = self.rules;
            let ranges = |item: &Item| port_ranges(rules.get(item.rule).copied(), item);
            let keyed = sweep(rules, items, ranges, ported);
            self.keyed(&keyed, Key::Port, axes, way, after)?;
        }
        Ok(())
    }

    /// A tree over ports or addresses, and the lists that it leads to.
    fn keyed(
        &mut self,
        keyed: &Keyed,
        key: Key,
        axes: Axes,
        name: Ref,
        after: Option<Ref>,
    ) -> Result<(), CompileError> {
        let key = match key {
            Key::Port => Load::Port,
            Key::Address => {
                let net = self.rules.iter().flat_map(|rule| &rule.nets).next();
                Load::Address(net.is_some_and(|net| net.addr().is_ipv4()))
            }
        };
        let leaf_cost = |id: LeafId| {
            let leaf = keyed.leaves.get(id).map(Vec::as_slice).unwrap_or_default();
            let tests = leaf
                .iter()
                .filter_map(|item| self.rules.get(item.rule))
                .map(|rule| cost(rule) + 3);
            3 + if leaf.len() < LONG { tests.sum::<usize>() } else { 0 }
        };
        let mut groups: Vec<&[(u128, LeafId)]> = Vec::new();
        let (mut rest, mut insns) = (keyed.intervals.as_slice(), 0);
        let mut length = 0;
        while let Some((_, leaf)) = rest.get(length) {
            insns += leaf_cost(*leaf);
            if insns > BLOCK_INSNS && length > 0 {
                let (group, others) = rest.split_at(length);
                groups.push(group);
                (rest, insns, length) = (others, 0, 0);
            } else {
                length += 1;
            }
        }
        groups.push(rest);
        let mut large = HashMap::new();
        let mut blocks = Vec::new();
        for group in groups {
            self.group(keyed, key, group, &mut large, &mut blocks)?;
        }
        if let [_] = blocks.as_slice() {
            for (_, block) in blocks {
                self.push(block, name, after);
            }
        } else {
            let named: Vec<(u128, Ref, Block)> = blocks
                .into_iter()
                .map(|(start, block)| (start, self.name(), block))
                .collect();
            let mut root = Block::new(Purpose::Frame("by port or address"));
            let starts = named.iter().enumerate();
            let targets: Vec<(u128, Target)> = starts
                .map(|(index, (start, way, _))| (if index == 0 { 0 } else { *start }, Target::Ref(*way)))
                .collect();
            self.tree(&mut root, key, &targets);
            self.push(root, name, after);
            for (_, way, block) in named {
                self.push(block, way, after);
            }
        }
        let mut large: Vec<(LeafId, Ref)> = large.into_iter().collect();
        large.sort_unstable();
        for (leaf, way) in large {
            let items = keyed.leaves.get(leaf).cloned().unwrap_or_default();
            self.list(items, axes, way, after)?;
        }
        Ok(())
    }

    /// Some intervals of a tree as one block, or as several where it turns out too large.
    fn group(
        &mut self,
        keyed: &Keyed,
        key: Load,
        intervals: &[(u128, LeafId)],
        large: &mut HashMap<LeafId, Ref>,
        out: &mut Vec<(u128, Block)>,
    ) -> Result<(), CompileError> {
        let mut block = Block::new(Purpose::Frame("by port or address"));
        let mut labels = BTreeMap::new();
        let mut targets = Vec::with_capacity(intervals.len());
        for (index, (start, id)) in intervals.iter().enumerate() {
            let leaf = keyed.leaves.get(*id).map(Vec::as_slice).unwrap_or_default();
            let target = match leaf.first().and_then(|item| Some((item, self.rules.get(item.rule)?))) {
                None => Target::Next,
                Some((item, rule)) if item.is_certain(rule) => self.emitter.success(&mut block, rule),
                // A list that is too large for a block is so even if it is short.
                Some(_) if leaf.len() >= LONG || large.contains_key(id) => {
                    Target::Ref(*large.entry(*id).or_insert_with(|| self.name()))
                }
                Some(_) => Target::Label(*labels.entry(*id).or_insert_with(|| block.label())),
            };
            targets.push((if index == 0 { 0 } else { *start }, target));
        }
        targets.dedup_by(|later, earlier| later.1 == earlier.1);
        self.tree(&mut block, key, &targets);
        for (id, label) in &labels {
            block.bind(*label);
            let leaf = keyed.leaves.get(*id).map(Vec::as_slice).unwrap_or_default();
            self.emitter.leaf(&mut block, self.rules, leaf);
        }
        self.emitter.candidates(&mut block);
        match (block.is_too_large(), intervals) {
            (true, [(_, id)]) if !large.contains_key(id) => {
                let way = self.name();
                large.insert(*id, way);
                self.group(keyed, key, intervals, large, out)
            }
            (true, [_, _, ..]) => {
                let (first, second) = intervals.split_at(intervals.len() / 2);
                self.group(keyed, key, first, large, out)?;
                self.group(keyed, key, second, large, out)
            }
            _ => {
                out.extend(intervals.first().map(|(start, _)| (*start, block)));
                Ok(())
            }
        }
    }

    fn tree(&self, block: &mut Block, key: Load, targets: &[(u128, Target)]) {
        match key {
            Load::Port => {
                let ports = targets
                    .iter()
                    .filter_map(|(start, target)| Some((u16::try_from(*start).ok()?, *target)));
                let ports: Vec<(u16, Target)> = ports.collect();
                if ports.len() > 1 {
                    block.op(isa::load(Size::H, VALUE, SCRATCH, scratch!(dst_port)));
                }
                tree(block, &ports);
            }
            Load::Address(v4) => {
                let offset = match self.emitter.direction {
                    Direction::Ingress => scratch!(src),
                    Direction::Egress => scratch!(dst),
                };
                address_tree(block, v4, offset, targets);
            }
        }
    }
}

/// What a tree is over.
#[derive(Clone, Copy)]
enum Key {
    Port,
    Address,
}

/// ... and of which IP version.
#[derive(Clone, Copy)]
enum Load {
    Port,
    Address(bool),
}
