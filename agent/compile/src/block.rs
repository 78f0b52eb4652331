//! Blocks of instructions with symbolic jump targets.

use crate::isa;
use crate::program::{Insn, MapRef};
use crate::rule::SiteId;

/// A position within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label(usize);

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
    /// A block, perhaps in another chunk.
    Block(BlockId),
    /// Write this site's verdict and end.
    Verdict(SiteId),
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
    purpose: Purpose,
    /// It tests the peer's class row.
    pub(crate) uses_row: bool,
    /// It tests the class row of the peer's named port.
    pub(crate) uses_named: bool,
}

/// A label that was never bound.
const UNBOUND: usize = usize::MAX;

impl Block {
    pub(crate) fn new(purpose: Purpose) -> Self {
        Self {
            ops: Vec::new(),
            labels: Vec::new(),
            purpose,
            uses_row: false,
            uses_named: false,
        }
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
        self.push(
            Insn {
                code: isa::LD_IMM64,
                dst,
                src: 0,
                off: 0,
                imm: 0,
            },
            None,
            Some(map),
        );
        self.op(Insn {
            code: 0,
            dst: 0,
            src: 0,
            off: 0,
            imm: 0,
        });
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
            for position in self.labels.iter_mut().filter(|position| **position == end + 1) {
                *position = end;
            }
        }
        if let Some(position) = self.labels.get_mut(label.0) {
            *position = self.ops.len();
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
