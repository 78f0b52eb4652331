//! Ways to find the first of many rules that matches.
//!
//! In: the rules of a section, in order. Out: blocks. Short lists are tested one by one, or in
//! segments. Long lists are taken apart by what rules can be found by ([`crate::ir::index`]):
//!
//! - *ports*, *networks* ([`crate::codegen::by_key`]): a balanced tree over the intervals leads to
//!   the rules that matter there; where those are many, they are taken apart again by what is left.
//!   A tree that is too large for one block has a root that leads to others, which may be in other
//!   chunks: a packet goes through one of them;
//! - *sets* ([`crate::codegen::by_set`]): the class row has the sets of a list side by side in the
//!   order of the rules ([`crate::codegen::plan::Plan::order`] asks the planner for that), so a
//!   word of it answers 64 rules at once. Only where the peer is a member, rules are tested. If the
//!   bits are in another order, the words are gone through all the same, and the first rule found
//!   is noted;
//! - the *rest* is cut into segments.
//!
//! Where a list has several parts, each finds its first rule, and the first of those decides: they
//! are noted in the scratch ([`crate::codegen::candidates`]). Never: where blocks will be.

use crate::codegen::block::{Block, Purpose, Target};
use crate::codegen::by_key::{SearchKey, by_key};
use crate::codegen::by_set::{by_set, items, words};
use crate::codegen::candidates::{decide, write_candidates};
use crate::codegen::emit::{emit_leaf, emit_segment};
use crate::codegen::emitter::Emitter;
use crate::codegen::frame::{SCRATCH, VALUE, scratch};
use crate::codegen::isa::{self, Cond, Size};
use crate::codegen::plan::{ALL_AXES, Plan};
use crate::codegen::section::{Place, PlaceChain, SectionBuilder};
use crate::ir::index::{Axes, Partition, net_ranges, partition, port_ranges, sweep};
use crate::ir::item::RuleItem;
use crate::ir::rule::{PORT_PROTOCOLS, ProtocolTest, Rule};
use crate::ir::segment::{cost, segments};
use crate::limits::{BLOCK_INSNS, LONG_LIST};
use crate::types::CompileError;

/// Returns the blocks of a section.
pub(crate) fn search(
    emitter: &Emitter<'_>,
    rules: &[Rule],
    expansion: usize,
    plan: Plan,
) -> Result<Vec<Block>, CompileError> {
    let Some((parts, others)) = plan.parts else {
        let mut out = Vec::new();
        for segment in segments(rules, expansion) {
            emit_segment(emitter, segment, &mut out)?;
        }
        return Ok(out);
    };
    let all: Vec<&Rule> = rules.iter().collect();
    let others: Vec<&Rule> = others.into_iter().filter_map(|index| rules.get(index)).collect();
    let mut section = SectionBuilder::new(*emitter, &all, expansion);
    let place = Place {
        name: section.name(),
        after: None,
    };
    emit_parts(&mut section, parts, &others, ALL_AXES, place)?;
    Ok(section.blocks)
}

/// Adds a list of any length.
fn emit_list(
    section: &mut SectionBuilder<'_>,
    items: Vec<RuleItem>,
    axes: Axes,
    place: Place,
) -> Result<(), CompileError> {
    if items.len() >= LONG_LIST {
        let parts = partition(section.rules, items.clone(), axes, section.expansion);
        if parts.rest.len() < items.len() {
            return emit_parts(section, parts, &[], axes, place);
        }
    }
    emit_items(section, &items, place)
}

/// Adds the parts of a list one after the other, and behind them other rules that nothing finds.
fn emit_parts(
    section: &mut SectionBuilder<'_>,
    mut parts: Partition,
    others: &[&Rule],
    axes: Axes,
    place: Place,
) -> Result<(), CompileError> {
    let mut sets = words(section, &parts.sets);
    let pieces = parts.count() + usize::from(!others.is_empty());
    let noted = !section.emitter.candidate && (pieces > 1 || sets.iter().any(|word| !word.in_order));
    let inner = Place {
        name: place.name,
        after: if noted { Some(section.name()) } else { place.after },
    };
    section.emitter.candidate |= noted;
    let mut chain = PlaceChain::new(inner, pieces);
    if !parts.no_ports() {
        let place = chain.next(section);
        by_port(section, &parts.ports, axes, place)?;
    }
    if !parts.nets.is_empty() {
        let place = chain.next(section);
        by_net(section, &mut parts.nets, axes, place)?;
    }
    if !sets.is_empty() {
        let place = chain.next(section);
        let place = common_protocol(section, items(&mut sets), place);
        by_set(section, &sets, place)?;
    }
    if !parts.rest.is_empty() {
        let place = chain.next(section);
        emit_items(section, &parts.rest, place)?;
    }
    if !others.is_empty() {
        let place = chain.next(section);
        emit_segments(section, others, place)?;
    }
    if noted {
        section.emitter.candidate = false;
        let block = decide(section.rules);
        let name = inner.after.unwrap_or(place.name);
        section.push(block, Place { name, ..place });
    }
    Ok(())
}

/// Adds rules that nothing finds, as segments.
fn emit_segments(section: &mut SectionBuilder<'_>, rules: &[&Rule], place: Place) -> Result<(), CompileError> {
    let rules: Vec<Rule> = rules.iter().map(|rule| (*rule).clone()).collect();
    let mut blocks = Vec::new();
    for segment in segments(&rules, section.expansion) {
        emit_segment(&section.emitter, segment, &mut blocks)?;
    }
    section.push_all(blocks, place);
    Ok(())
}

/// Adds items that are tested one after the other, as blocks of bounded size.
fn emit_items(section: &mut SectionBuilder<'_>, items: &[RuleItem], place: Place) -> Result<(), CompileError> {
    let mut this = place.name;
    let mut rest = items;
    loop {
        let mut insns = 0;
        let fits = |item: &&RuleItem| {
            insns += section.rules.get(item.rule).map_or(0, |rule| cost(rule)) + 3;
            insns <= BLOCK_INSNS
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (items, others) = rest.split_at(count);
        let after = if others.is_empty() {
            place.after
        } else {
            Some(section.name())
        };
        emit_items_in_block(section, items, Place { name: this, after })?;
        let (Some(next), false) = (after, others.is_empty()) else {
            return Ok(());
        };
        (this, rest) = (next, others);
    }
}

/// Adds items as one block, or as several where it turns out too large.
fn emit_items_in_block(section: &mut SectionBuilder<'_>, items: &[RuleItem], place: Place) -> Result<(), CompileError> {
    let mut block = Block::new(Purpose::Frame("rules in order"));
    emit_leaf(&section.emitter, &mut block, section.rules, items);
    write_candidates(&mut block, section.emitter.points);
    if !block.is_too_large() {
        section.push(block, place);
        return Ok(());
    }
    let (first, second) = items.split_at(items.len() / 2);
    match (first, second.first().and_then(|item| section.rules.get(item.rule))) {
        ([], Some(rule)) => Err(section.emitter.too_large(rule, &block)),
        _ => {
            let mut chain = PlaceChain::new(place, 2);
            for half in [first, second] {
                let place = chain.next(section);
                emit_items_in_block(section, half, place)?;
            }
            Ok(())
        }
    }
}

/// Adds rules that the destination port finds.
fn by_port(
    section: &mut SectionBuilder<'_>,
    parts: &[Vec<RuleItem>; 3],
    axes: Axes,
    place: Place,
) -> Result<(), CompileError> {
    let mut block = Block::new(Purpose::Frame("by protocol"));
    block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
    let mut protocols = Vec::new();
    for (protocol, items) in PORT_PROTOCOLS.iter().zip(parts).filter(|(_, items)| !items.is_empty()) {
        let name = section.name();
        let is_it = isa::jump_imm(Cond::Eq, VALUE, i32::from(*protocol));
        block.branch(is_it, Target::Ref(name));
        protocols.push((name, items));
    }
    block.jump(Target::Next);
    section.push(block, place);
    let rules = section.rules;
    for (name, items) in protocols {
        let ranges = |item: &RuleItem| port_ranges(rules.get(item.rule).copied(), item);
        let keyed = sweep(rules, items, ranges, RuleItem::port_found);
        for (items, place) in by_key(section, &keyed, SearchKey::DestinationPort, Place { name, ..place })? {
            emit_list(section, items, Axes { ports: false, ..axes }, place)?;
        }
    }
    Ok(())
}

/// Adds rules that the peer's address finds.
fn by_net(
    section: &mut SectionBuilder<'_>,
    items: &mut [RuleItem],
    axes: Axes,
    place: Place,
) -> Result<(), CompileError> {
    let rules = section.rules;
    let place = common_protocol(section, items.iter_mut(), place);
    let ranges = |item: &RuleItem| net_ranges(rules.get(item.rule).copied());
    let keyed = sweep(rules, items, ranges, RuleItem::net_found);
    let net = rules.iter().flat_map(|rule| &rule.nets).next();
    let key = SearchKey::PeerAddress {
        v4: net.is_some_and(|net| net.addr().is_ipv4()),
    };
    for (items, place) in by_key(section, &keyed, key, place)? {
        emit_list(section, items, Axes { nets: false, ..axes }, place)?;
    }
    Ok(())
}

/// Tests a protocol that all items name once, and returns the place of what is left to do.
fn common_protocol<'i>(
    section: &mut SectionBuilder<'_>,
    items: impl Iterator<Item = &'i mut RuleItem>,
    place: Place,
) -> Place {
    let mut items: Vec<&mut RuleItem> = items.collect();
    let Some(ProtocolTest::Is(protocol)) = items.first().map(|item| item.protocol) else {
        return place;
    };
    if items.iter().any(|item| item.protocol != ProtocolTest::Is(protocol)) {
        return place;
    }
    for item in &mut items {
        item.protocol = ProtocolTest::Any;
    }
    let name = section.name();
    let mut block = Block::new(Purpose::Frame("by protocol"));
    block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
    let is_it = isa::jump_imm(Cond::Eq, VALUE, i32::from(protocol));
    block.branch(is_it, Target::Ref(name));
    block.jump(Target::Next);
    section.push(block, place);
    Place { name, ..place }
}
