//! Short programs written down instruction by instruction.

use super::isa;
use crate::program::Insn;

/// Instructions so far.
#[derive(Default)]
pub(crate) struct Code {
    pub(crate) insns: Vec<Insn>,
}

/// A jump whose target is still to come: index of its instruction.
pub(crate) struct Jump(usize);

impl Code {
    pub(crate) fn op(&mut self, insn: Insn) {
        self.insns.push(insn);
    }

    pub(crate) fn jump(&mut self, insn: Insn) -> Jump {
        self.op(insn);
        Jump(self.insns.len() - 1)
    }

    /// The jump leads to the instruction that comes next.
    pub(crate) fn land(&mut self, jump: &Jump) {
        let distance = self.insns.len() - jump.0 - 1;
        if let Some(insn) = self.insns.get_mut(jump.0) {
            insn.off = distance as i16;
        }
    }

    /// A jump to an instruction that is there already.
    pub(crate) fn jump_back(&mut self, target: usize) {
        let distance = self.insns.len() + 1 - target;
        let mut jump = isa::jump();
        jump.off = -(distance as i16);
        self.op(jump);
    }
}
