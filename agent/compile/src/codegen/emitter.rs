//! What all blocks of a program share.
//!
//! In: the slots of sets and the decision points. Out: [`Emitter`], by which a set finds its bit
//! and a rule that matched finds where to go. Never: instructions.

use std::collections::BTreeMap;

use crate::codegen::block::{Block, Target};
use crate::codegen::frame::class_bit;
use crate::ir::decision::DecisionPoint;
use crate::ir::rule::{Rule, RuleEffect, SetIndex};
use crate::limits::{MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS};
use crate::types::{CompileError, Direction};

/// What all blocks of a program share.
#[derive(Clone, Copy)]
pub(crate) struct Emitter<'a> {
    /// Slots of sets, by their indices.
    pub(crate) bits: &'a [u32],
    pub(crate) direction: Direction,
    pub(crate) points: &'a [DecisionPoint<'a>],
    /// Whether a rule that matches is only noted, since one that is looked for later may stand
    /// before it.
    pub(crate) candidate: bool,
}

impl Emitter<'_> {
    /// Returns the slot of a set.
    pub(crate) fn slot(&self, set: SetIndex) -> Option<u32> {
        self.bits.get(set as usize).copied()
    }

    /// Returns offsets of 32-bit words in a class row, and the bits of these sets in them.
    pub(crate) fn words<'s>(&self, sets: impl Iterator<Item = &'s SetIndex>) -> BTreeMap<i16, u32> {
        let mut words = BTreeMap::new();
        for slot in sets.filter_map(|set| self.slot(*set)) {
            let (offset, bit) = class_bit(slot);
            *words.entry(offset).or_default() |= 1 << bit;
        }
        words
    }

    /// Returns where a rule that matched leads.
    pub(crate) fn matched(&self, block: &mut Block, rule: &Rule) -> Target {
        match rule.outcome {
            _ if self.candidate => block.candidate(rule.point, rule.outcome, Target::Next),
            RuleEffect::Verdict => Target::Verdict(rule.point),
            RuleEffect::Pass => Target::Pass,
            RuleEffect::SideEffect(number) => Target::SideEffect(number),
        }
    }

    /// Returns the error for a rule whose block alone is too large.
    pub(crate) fn too_large(&self, rule: &Rule, block: &Block) -> CompileError {
        CompileError::RuleTooLarge {
            rule: self.points.get(rule.point).map(DecisionPoint::text).unwrap_or_default(),
            insns: block.ops.len(),
            branches: block.branches(),
            limit: MAX_CHUNK_INSNS,
            branch_limit: MAX_CHUNK_BRANCHES,
        }
    }
}
