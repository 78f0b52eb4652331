//! Instructions for segments: dispatch trees, and the rules of each leaf.
//!
//! In: segments of rules. Out: a block for each, or several where it turns out too large for a
//! chunk. Never: where blocks will be.

use std::collections::BTreeMap;

use crate::codegen::block::{Block, Label, Purpose, Target};
use crate::codegen::candidates::write_candidates;
use crate::codegen::conditions::{emit_conditions, tests_of};
use crate::codegen::emitter::Emitter;
use crate::codegen::frame::{Row, SCRATCH, VALUE, class_bit, scratch};
use crate::codegen::isa::{self, Cond, Size};
use crate::codegen::matching::{Exits, Test};
use crate::codegen::named_ports::prepare_named_port;
use crate::codegen::tree::port_tree;
use crate::ir::item::RuleItem;
use crate::ir::ports::{PortMap, merge_neighbours};
use crate::ir::rule::{PORT_PROTOCOLS, Rule};
use crate::ir::segment::{Dispatch, LeafId, Segment, dispatch};
use crate::types::CompileError;

/// Rules that are skipped together.
const GROUP: usize = 32;
/// Each test of a word, made to skip rules, must stand for so many of them.
const RULES_PER_WORD: usize = 4;

/// Adds a segment as one block, or as several where it turns out too large.
pub(crate) fn emit_segment(
    emitter: &Emitter<'_>,
    segment: Segment<'_>,
    out: &mut Vec<Block>,
) -> Result<(), CompileError> {
    let (block, rules, whole): (_, _, fn(_) -> _) = match segment {
        Segment::Run(rules) => (emit_run(emitter, &rules), rules, Segment::Run),
        Segment::Dispatch(rules) => (emit_dispatch(emitter, &rules), rules, Segment::Dispatch),
    };
    if !block.is_too_large() {
        out.push(block);
        return Ok(());
    }
    match rules.as_slice() {
        [] => Ok(()),
        [rule] => Err(emitter.too_large(rule, &block)),
        rules => {
            let (first, second) = rules.split_at(rules.len() / 2);
            emit_segment(emitter, whole(first.to_vec()), out)?;
            emit_segment(emitter, whole(second.to_vec()), out)
        }
    }
}

/// Returns the block of rules that are tested one after the other.
fn emit_run(emitter: &Emitter<'_>, rules: &[&Rule]) -> Block {
    let mut block = Block::new(Purpose::Frame("rules in order"));
    prepare_named_port(&mut block, emitter.direction, rules);
    let items: Vec<RuleItem> = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| RuleItem::whole(index, rule))
        .collect();
    emit_leaf(emitter, &mut block, rules, &items);
    write_candidates(&mut block, emitter.points);
    block
}

/// A dispatch whose leaves get their labels.
struct Leaves<'a> {
    emitter: &'a Emitter<'a>,
    rules: &'a [&'a Rule],
    dispatch: &'a Dispatch,
    labels: BTreeMap<LeafId, Label>,
}

impl Leaves<'_> {
    /// Returns the rules of a leaf.
    fn items(&self, id: LeafId) -> &[RuleItem] {
        self.dispatch.leaves.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns where a leaf is, or where it would lead if it would lead there at once.
    fn target(&mut self, block: &mut Block, id: LeafId) -> Target {
        let first = self.items(id).first();
        match first.and_then(|item| Some((item, self.rules.get(item.rule)?))) {
            None => Target::Next,
            Some((item, rule)) if item.is_certain(rule) => self.emitter.matched(block, rule),
            Some(_) => Target::Label(*self.labels.entry(id).or_insert_with(|| block.label())),
        }
    }
}

/// Returns the block of rules that are dispatched by protocol and destination port.
fn emit_dispatch(emitter: &Emitter<'_>, rules: &[&Rule]) -> Block {
    let dispatch = dispatch(rules);
    let mut block = Block::new(Purpose::Frame("dispatch"));
    prepare_named_port(&mut block, emitter.direction, rules);
    block.set_purpose(Purpose::Frame("dispatch"));
    let mut leaves = Leaves {
        emitter,
        rules,
        dispatch: &dispatch,
        labels: BTreeMap::new(),
    };
    let other = leaves.target(&mut block, dispatch.without_ports);
    // Protocols with the same map share a tree.
    let mut trees: Vec<(&PortMap<LeafId>, Label, PortMap<Target>)> = Vec::new();
    let mut protocols = Vec::new();
    for (protocol, map) in PORT_PROTOCOLS.iter().zip(&dispatch.ports) {
        let mut targets: PortMap<Target> = map
            .iter()
            .map(|(port, id)| (*port, leaves.target(&mut block, *id)))
            .collect();
        merge_neighbours(&mut targets);
        let target = match (targets.as_slice(), trees.iter().find(|(other, ..)| *other == map)) {
            ([(_, only)], _) => *only,
            (_, Some((_, label, _))) => Target::Label(*label),
            _ => {
                let label = block.label();
                trees.push((map, label, targets));
                Target::Label(label)
            }
        };
        protocols.push((i32::from(*protocol), target));
    }
    protocols.retain(|(_, target)| *target != other);
    if !protocols.is_empty() {
        block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
    }
    for (protocol, target) in protocols {
        block.branch(isa::jump_imm(Cond::Eq, VALUE, protocol), target);
    }
    block.jump(other);
    for (_, label, targets) in &trees {
        block.bind(*label);
        block.op(isa::load(Size::H, VALUE, SCRATCH, scratch!(dst_port)));
        port_tree(&mut block, targets);
    }
    for (id, label) in &leaves.labels {
        block.bind(*label);
        emit_leaf(emitter, &mut block, rules, leaves.items(*id));
    }
    write_candidates(&mut block, emitter.points);
    block
}

/// Writes the rules of a leaf, and the way to what follows the block where none matches.
pub(crate) fn emit_leaf(emitter: &Emitter<'_>, block: &mut Block, rules: &[&Rule], items: &[RuleItem]) {
    let mut rest = items;
    while !rest.is_empty() {
        let (group, words) = skippable(emitter, rules, rest);
        let skip = block.label();
        if !words.is_empty() {
            block.set_purpose(Purpose::Frame("skip rules whose sets the peer is not in"));
            let enter = block.label();
            let exits = Exits::of_last(Target::Label(enter), Target::Label(skip));
            Test::AnyBit(Row::Peer, words).emit(block, exits);
            block.bind(enter);
        }
        for item in rest.iter().take(group) {
            let Some(rule) = rules.get(item.rule) else { continue };
            block.set_purpose(Purpose::Point(rule.point));
            let fail = block.label();
            let tests = tests_of(emitter, rule, item, None);
            let matched = emitter.matched(block, rule);
            emit_conditions(block, &tests, fail, matched);
            if item.is_certain(rule) {
                return;
            }
            block.bind(fail);
        }
        block.bind(skip);
        rest = rest.get(group..).unwrap_or_default();
    }
    block.jump(Target::Next);
}

/// Returns how many of the items belong together, and words of bits of which one must be set for
/// any of them to match. A peer is in few sets, so most of a long list is skipped. There are no
/// words if that is not worth it.
fn skippable(emitter: &Emitter<'_>, rules: &[&Rule], items: &[RuleItem]) -> (usize, Vec<(i16, u32)>) {
    let mut words: BTreeMap<i16, u32> = BTreeMap::new();
    let mut length = 0;
    for rule in items.iter().take(GROUP).map_while(|item| rules.get(item.rule)) {
        let places = || rule.sets.iter().filter_map(|set| emitter.slot(*set)).map(class_bit);
        let Some((offset, bit)) = places()
            .find(|(offset, _)| words.contains_key(offset))
            .or_else(|| places().next())
        else {
            break;
        };
        *words.entry(offset).or_default() |= 1 << bit;
        length += 1;
    }
    let worth_it = words.len() * RULES_PER_WORD <= length;
    if worth_it && length > 0 {
        (length, words.into_iter().collect())
    } else {
        (length.max(1), Vec::new())
    }
}
