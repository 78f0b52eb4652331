//! Blocks of instructions with symbolic jump targets.

use crate::isa;
use crate::layout::{MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS};
use crate::program::{Insn, MapRef};
use crate::rule::{Outcome, SiteId};

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
    /// The aside of this number in the section.
    Aside(usize),
    /// A named block of the same section.
    Ref(Ref),
    /// A block, perhaps in another chunk.
    Block(BlockId),
    /// Write this site's verdict and end.
    Verdict(SiteId),
    /// The verdict is written: end.
    Judge,
    /// Drop the packet: something is not as it must be.
    Drop,
}

/// What instructions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Frame(&'static str),
    Site(SiteId),
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
    /// Index of the site in the rule table.
    Rule(SiteId),
    /// The site's counter.
    Counter(SiteId),
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
    /// It tests the peer's class row.
    pub(crate) uses_row: bool,
    /// It tests the class row of the own address.
    pub(crate) uses_own_row: bool,
    /// It tests the class row of the peer's named port.
    pub(crate) uses_named: bool,
    pub(crate) name: Option<Ref>,
    pub(crate) after: After,
    /// Rules that may turn out to be the first to match, whose notes are still to be written.
    pub(crate) candidates: Vec<Candidate>,
}

/// A rule that matches, though one before it may match as well.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) site: SiteId,
    pub(crate) outcome: Outcome,
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
            uses_row: false,
            uses_own_row: false,
            uses_named: false,
            name: None,
            after: After::Following,
            candidates: Vec::new(),
        }
    }

    /// Where to go when this rule matches and others may stand before it.
    pub(crate) fn candidate(&mut self, site: SiteId, outcome: Outcome, then: Target) -> Target {
        let same = |known: &&Candidate| (known.site, known.outcome, known.then) == (site, outcome, then);
        if let Some(known) = self.candidates.iter().rev().take(8).find(same) {
            return Target::Label(known.label);
        }
        let label = self.label();
        let candidate = Candidate {
            site,
            outcome,
            then,
            label,
        };
        self.candidates.push(candidate);
        Target::Label(label)
    }

    /// Whether it is more than a chunk takes.
    pub(crate) fn is_too_large(&self) -> bool {
        self.ops.len() > MAX_CHUNK_INSNS || self.branches() > MAX_CHUNK_BRANCHES
    }

    /// What the next instructions are for.
    pub(crate) fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = purpose;
    }

    pub(crate) fn op(&mut self, insn: Insn) {
        self.push(insn, None, None);
    }

    /// An instruction whose immediate is not known yet.
    pub(crate) fn patched(&mut self, insn: Insn, patch: Patch) {
        self.push(insn, None, None);
        if let Some(op) = self.ops.last_mut() {
            op.patch = Some(patch);
        }
    }

    /// A conditional jump.
    pub(crate) fn branch(&mut self, insn: Insn, target: Target) {
        self.push(insn, Some(target), None);
    }

    /// An unconditional jump.
    pub(crate) fn jump(&mut self, target: Target) {
        self.push(isa::jump(), Some(target), None);
    }

    /// `dst = map`
    pub(crate) fn load_map(&mut self, dst: u8, map: MapRef) {
        self.push(isa::load_wide(dst, 0), None, Some(map));
        self.op(isa::load_wide_rest(0));
    }

    /// `dst = value`, 64 bits.
    pub(crate) fn load_wide(&mut self, dst: u8, value: u64) {
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

    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() - 1)
    }

    /// The label is here. A jump to it right before it is taken away.
    pub(crate) fn bind(&mut self, label: Label) {
        if self
            .ops
            .last()
            .is_some_and(|op| op.insn.code == isa::JA && op.target == Some(Target::Label(label)))
        {
            self.ops.pop();
            let end = self.ops.len();
            // Those that are bound here already.
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

    /// Where a label is.
    pub(crate) fn position(&self, label: Label) -> Option<usize> {
        self.labels
            .get(label.0)
            .copied()
            .filter(|position| *position != UNBOUND)
    }

    /// Number of conditional jumps.
    pub(crate) fn branches(&self) -> usize {
        self.ops.iter().filter(|op| isa::is_branch(op.insn.code)).count()
    }
}
