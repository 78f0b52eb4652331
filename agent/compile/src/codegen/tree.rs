//! Balanced trees over ports and addresses.
//!
//! In: a function from values to targets, as sorted intervals. Out: comparisons that lead each
//! value to its target. Never: what is at the targets.

use std::collections::BTreeMap;

use crate::codegen::block::{Block, Label, Target};
use crate::codegen::frame::{CONSTANT, SCRATCH, VALUE};
use crate::codegen::isa::{self, Cond, Size};

/// Intervals that are compared one by one at the bottom of a tree.
const LINEAR: usize = 4;

/// A function from values to targets: (first value of an interval, target), sorted, the first at
/// zero.
type Map = Vec<(u64, Target)>;

/// Writes a tree over the port in the value register.
pub(crate) fn port_tree(block: &mut Block, map: &[(u16, Target)]) {
    let map: Map = map.iter().map(|(port, target)| (u64::from(*port), *target)).collect();
    subtree(block, Width::Port, &map, u64::from(u16::MAX));
}

/// Writes a tree over the IPv4 address at this offset of the scratch.
pub(crate) fn v4_tree(block: &mut Block, offset: i16, map: &[(u128, Target)]) {
    // What begins after the last address is nothing.
    let within = map.iter().filter(|(start, _)| *start <= u128::from(u32::MAX));
    let map: Map = within.map(|(start, target)| (*start as u64, *target)).collect();
    if map.len() > 1 {
        block.op(isa::load(Size::W, VALUE, SCRATCH, offset));
        block.op(isa::from_network(VALUE, 32));
    }
    subtree(block, Width::Word, &map, u64::from(u32::MAX));
}

/// Writes a tree over the IPv6 address at this offset of the scratch: first by its upper half;
/// where intervals begin within one value of that, by the lower half.
pub(crate) fn v6_tree(block: &mut Block, offset: i16, map: &[(u128, Target)]) {
    let (upper, lower) = halves(block, map);
    half_tree(block, offset, upper);
    for (label, parts) in lower {
        block.bind(label);
        half_tree(block, offset + 8, parts);
    }
}

/// Splits a function of addresses into one of their upper halves, and functions of lower halves
/// that this one leads to by labels.
fn halves(block: &mut Block, map: &[(u128, Target)]) -> (Map, Vec<(Label, Map)>) {
    let mut halves: BTreeMap<u64, Map> = BTreeMap::new();
    for (start, target) in map {
        let (high, low) = ((*start >> 64) as u64, *start as u64);
        halves.entry(high).or_default().push((low, *target));
    }
    let mut upper: Map = Vec::new();
    let mut lower: Vec<(Label, Map)> = Vec::new();
    let mut before = Target::Next;
    for (&high, parts) in &halves {
        let last = parts.last().map_or(before, |(_, target)| *target);
        if let [(0, only)] = parts.as_slice() {
            upper.push((high, *only));
        } else {
            let mut parts = parts.clone();
            if parts.first().is_some_and(|(low, _)| *low != 0) {
                parts.insert(0, (0, before));
            }
            let label = block.label();
            upper.push((high, Target::Label(label)));
            lower.push((label, parts));
            let following = high.checked_add(1).filter(|next| !halves.contains_key(next));
            upper.extend(following.map(|next| (next, last)));
        }
        before = last;
    }
    (upper, lower)
}

/// Writes a tree over half of an IPv6 address.
fn half_tree(block: &mut Block, offset: i16, mut map: Map) {
    map.dedup_by(|later, earlier| later.1 == earlier.1);
    if map.len() > 1 {
        block.op(isa::load(Size::DW, VALUE, SCRATCH, offset));
        block.op(isa::from_network(VALUE, 64));
    }
    subtree(block, Width::Double, &map, u64::MAX);
}

/// The size of what is in the value register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Port,
    Word,
    Double,
}

impl Width {
    /// Compares the value register. Wide constants need a register.
    fn branch(self, block: &mut Block, cond: Cond, value: u64, target: Target) {
        match self {
            Width::Port => block.branch(isa::jump_imm(cond, VALUE, value as i32), target),
            Width::Word => block.branch(isa::jump32_imm(cond, VALUE, value as u32 as i32), target),
            Width::Double if value <= i32::MAX as u64 => block.branch(isa::jump_imm(cond, VALUE, value as i32), target),
            Width::Double => {
                block.load_wide(CONSTANT, value);
                block.branch(isa::jump_reg(cond, VALUE, CONSTANT), target);
            }
        }
    }
}

/// Writes a part of a tree. `end` is the last value of the last interval.
fn subtree(block: &mut Block, width: Width, map: &[(u64, Target)], end: u64) {
    let [_, .., _] = map else {
        if let [(_, only)] = map {
            block.jump(*only);
        }
        return;
    };
    if let Some((singles, rest)) = mostly_one(map, end) {
        for (value, target) in singles {
            width.branch(block, Cond::Eq, value, target);
        }
        block.jump(rest);
        return;
    }
    let (left, right) = map.split_at(map.len() / 2);
    let Some((start, _)) = right.first() else { return };
    let upper = block.label();
    width.branch(block, Cond::Ge, *start, Target::Label(upper));
    subtree(block, width, left, start - 1);
    block.bind(upper);
    subtree(block, width, right, end);
}

/// Returns single values that lead to targets of their own, and the target of all others, if there
/// are but few such values.
fn mostly_one(map: &[(u64, Target)], end: u64) -> Option<(Map, Target)> {
    if map.len() > 2 * LINEAR + 1 {
        return None;
    }
    let lasts = map.iter().skip(1).map(|(start, _)| start - 1).chain([end]);
    let intervals: Vec<(u64, u64, Target)> = map
        .iter()
        .zip(lasts)
        .map(|((start, target), last)| (*start, last, *target))
        .collect();
    let rest = intervals
        .iter()
        .find(|(first, last, _)| first != last)
        .or(intervals.last())?
        .2;
    let others = || intervals.iter().filter(|(_, _, target)| *target != rest);
    if others().count() > LINEAR || others().any(|(first, last, _)| first != last) {
        return None;
    }
    Some((others().map(|(first, _, target)| (*first, *target)).collect(), rest))
}
