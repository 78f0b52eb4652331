//! Blocks of instructions with symbolic jump targets.
//!
//! In: single instructions and where their jumps lead. Out: [`Block`]s, in which labels are bound
//! and everything else is still open. Never: where a block will be.

use crate::codegen::isa::{self, Reg};
use crate::ir::decision::PointId;
use crate::ir::rule::RuleEffect;
use crate::limits::{MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS};
use crate::program::{Insn, MapRef};

/// A position within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label(usize);

/// Name of a block within its section, given out before the block is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ref(pub(crate) usize);

/// Where [`Target::Next`] of a block leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// To the block that follows in the section, or to the section's end.
    Following,
    /// To a named block, which must come later.
    Ref(Ref),
    /// To the section's end.
    End,
}

/// Index of a block in the whole program.
pub(crate) type BlockId = usize;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    /// Within this block.
    Label(Label),
    /// What follows this block in its section.
    Next,
    /// Where a Pass leads.
    Pass,
    /// The side effect of this number in the section.
    SideEffect(usize),
    /// A named block of the same section.
    Ref(Ref),
    /// A block, perhaps in another chunk.
    Block(BlockId),
    /// Write this point's verdict and end.
    Verdict(PointId),
    /// End, since the verdict has been written.
    VerdictWritten,
    /// Drop the packet: something is not as it must be.
    Drop,
}

/// What instructions are for, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Frame(&'static str),
    Point(PointId),
}

/// An instruction with what is still open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) insn: Insn,
    pub(crate) target: Option<Target>,
    pub(crate) map: Option<MapRef>,
    pub(crate) purpose: Purpose,
    /// What the immediate will be.
    pub(crate) patch: Option<Patch>,
}

/// An immediate that is known only once the program is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// Index of the point in the rule table.
    Rule(PointId),
    /// The point's counter.
    Counter(PointId),
    /// Which rule table it is.
    Table,
}

/// Instructions that stay together in one chunk, entered at the first.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) ops: Vec<Op>,
    labels: Vec<usize>,
    /// Labels in the order in which they were bound.
    bound: Vec<Label>,
    purpose: Purpose,
    /// It tests the class row of the peer's address.
    pub(crate) uses_peer_row: bool,
    /// It tests the class row of the endpoint's own address.
    pub(crate) uses_local_row: bool,
    /// It tests the class row of the peer's named port.
    pub(crate) uses_named_port: bool,
    pub(crate) name: Option<Ref>,
    pub(crate) after: After,
    /// Rules that may turn out to be the first to match, whose notes are still to be written.
    pub(crate) candidates: Vec<Candidate>,
}

/// A rule that matches, though one before it may match as well.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) point: PointId,
    pub(crate) outcome: RuleEffect,
    /// Where to go on.
    pub(crate) then: Target,
    /// Where to go when the rule matches.
    pub(crate) label: Label,
}

/// A label that was never bound.
const UNBOUND: usize = usize::MAX;

impl Block {
    pub(crate) fn new(purpose: Purpose) -> Self {
        Self {
            ops: Vec::new(),
            labels: Vec::new(),
            bound: Vec::new(),
            purpose,
            uses_peer_row: false,
            uses_local_row: false,
            uses_named_port: false,
            name: None,
            after: After::Following,
            candidates: Vec::new(),
        }
    }

    /// Returns where to go when this rule matches and others may stand before it.
    pub(crate) fn candidate(&mut self, point: PointId, outcome: RuleEffect, then: Target) -> Target {
        let same = |known: &&Candidate| (known.point, known.outcome, known.then) == (point, outcome, then);
        if let Some(known) = self.candidates.iter().rev().take(8).find(same) {
            return Target::Label(known.label);
        }
        let label = self.label();
        let candidate = Candidate {
            point,
            outcome,
            then,
            label,
        };
        self.candidates.push(candidate);
        Target::Label(label)
    }

    /// Returns whether it is more than a chunk takes.
    pub(crate) fn is_too_large(&self) -> bool {
        self.ops.len() > MAX_CHUNK_INSNS || self.branches() > MAX_CHUNK_BRANCHES
    }

    /// Says what the instructions that follow are for.
    pub(crate) fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = purpose;
    }

    /// Adds an instruction that does not jump.
    pub(crate) fn op(&mut self, insn: Insn) {
        self.push(insn, None, None);
    }

    /// Adds an instruction whose immediate is not known yet.
    pub(crate) fn patched(&mut self, insn: Insn, patch: Patch) {
        self.push(insn, None, None);
        if let Some(op) = self.ops.last_mut() {
            op.patch = Some(patch);
        }
    }

    /// Adds a conditional jump.
    pub(crate) fn branch(&mut self, insn: Insn, target: Target) {
        self.push(insn, Some(target), None);
    }

    /// Adds an unconditional jump.
    pub(crate) fn jump(&mut self, target: Target) {
        self.push(isa::jump(), Some(target), None);
    }

    /// Adds `dst = map`.
    pub(crate) fn load_map(&mut self, dst: Reg, map: MapRef) {
        self.push(isa::load_wide(dst, 0), None, Some(map));
        self.op(isa::load_wide_rest(0));
    }

    /// Adds `dst = value`, 64 bits.
    pub(crate) fn load_wide(&mut self, dst: Reg, value: u64) {
        self.op(isa::load_wide(dst, value as i32));
        self.op(isa::load_wide_rest((value >> 32) as i32));
    }

    fn push(&mut self, insn: Insn, target: Option<Target>, map: Option<MapRef>) {
        self.ops.push(Op {
            insn,
            target,
            map,
            purpose: self.purpose,
            patch: None,
        });
    }

    /// Makes a label, which is to be bound by [`Self::bind`].
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() - 1)
    }

    /// Binds the label here. A jump to it right before it is taken away.
    pub(crate) fn bind(&mut self, label: Label) {
        if self
            .ops
            .last()
            .is_some_and(|op| op.insn.code == isa::JA && op.target == Some(Target::Label(label)))
        {
            self.ops.pop();
            let end = self.ops.len();
            // Labels that were bound behind that jump are here, too.
            for bound in self.bound.iter().rev() {
                match self.labels.get_mut(bound.0) {
                    Some(position) if *position == end + 1 => *position = end,
                    _ => break,
                }
            }
        }
        if let Some(position) = self.labels.get_mut(label.0) {
            *position = self.ops.len();
            self.bound.push(label);
        }
    }

    /// Returns where a label is bound.
    pub(crate) fn position(&self, label: Label) -> Option<usize> {
        self.labels
            .get(label.0)
            .copied()
            .filter(|position| *position != UNBOUND)
    }

    /// Returns the number of conditional jumps.
    pub(crate) fn branches(&self) -> usize {
        self.ops.iter().filter(|op| isa::is_branch(op.insn.code)).count()
    }
}
