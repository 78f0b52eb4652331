//! The first of several rules that were found by different ways.
//!
//! In: the candidates that a block has collected. Out: instructions that keep the first rule in the
//! scratch ([`CANDIDATE`]), and a block that carries out what that rule says. Never: how rules are
//! found.

use std::collections::BTreeSet;

use felid_common::{VERDICT_ALLOW, VERDICT_DENY};
use felid_model::resolved::ResolvedAction;

use crate::codegen::block::{Block, Candidate, Label, Patch, Purpose, Target};
use crate::codegen::frame::{CANDIDATE, CANDIDATE_PASS, CANDIDATE_SIDE_EFFECTS, CONSTANT, SCRATCH, VALUE, scratch};
use crate::codegen::isa::{self, Cond, Size};
use crate::ir::decision::DecisionPoint;
use crate::ir::rule::{Rule, RuleEffect};

/// A candidate whose note serves all candidates that are counted alike, and where that note is.
struct Note<'a> {
    point: &'a DecisionPoint<'a>,
    candidate: Candidate,
    label: Label,
}

impl Note<'_> {
    fn serves(&self, candidate: &Candidate, point: &DecisionPoint<'_>) -> bool {
        (candidate.outcome, candidate.then) == (self.candidate.outcome, self.candidate.then)
            && (candidate.outcome != RuleEffect::Verdict || point.counts_like(self.point))
    }
}

/// Writes the notes of a block's candidates: the first of all rules that match stays.
pub(crate) fn write_candidates(block: &mut Block, points: &[DecisionPoint<'_>]) {
    let mut notes: Vec<Note<'_>> = Vec::new();
    for candidate in std::mem::take(&mut block.candidates) {
        let Some(point) = points.get(candidate.point) else {
            continue;
        };
        let note = match notes.iter().find(|note| note.serves(&candidate, point)) {
            Some(note) => note.label,
            None => {
                let label = block.label();
                notes.push(Note {
                    point,
                    candidate: candidate.clone(),
                    label,
                });
                label
            }
        };
        block.bind(candidate.label);
        block.set_purpose(Purpose::Point(candidate.point));
        block.patched(isa::mov_imm(CONSTANT, 0), Patch::Rule(candidate.point));
        block.jump(Target::Label(note));
    }
    for note in notes {
        write_note(block, &note);
    }
}

/// Writes the candidate whose index is in the constant's register to the scratch, unless an earlier
/// rule stands there.
fn write_note(block: &mut Block, note: &Note<'_>) {
    let Note {
        point,
        candidate,
        label,
    } = note;
    let first = block.label();
    block.bind(*label);
    block.set_purpose(Purpose::Frame("note the first rule found so far"));
    block.op(isa::load(Size::B, VALUE, SCRATCH, CANDIDATE));
    block.branch(isa::jump_imm(Cond::Eq, VALUE, 0), Target::Label(first));
    block.op(isa::load(Size::W, VALUE, SCRATCH, scratch!(rule)));
    block.branch(isa::jump_reg(Cond::Ge, CONSTANT, VALUE), candidate.then);
    block.bind(first);
    let does = match candidate.outcome {
        RuleEffect::Pass => CANDIDATE_PASS,
        RuleEffect::SideEffect(number) => CANDIDATE_SIDE_EFFECTS + number as u32,
        RuleEffect::Verdict if point.action == ResolvedAction::Allow => VERDICT_ALLOW,
        RuleEffect::Verdict => VERDICT_DENY,
    };
    block.op(isa::store_imm(Size::B, SCRATCH, CANDIDATE, does as i32));
    block.op(isa::store(Size::W, SCRATCH, scratch!(rule), CONSTANT));
    if candidate.outcome == RuleEffect::Verdict {
        let counter = isa::store_imm(Size::W, SCRATCH, scratch!(counter), 0);
        block.patched(counter, Patch::Counter(candidate.point));
    }
    block.jump(candidate.then);
}

/// Returns the block that follows once every rule has been looked for: the first that was found
/// decides.
pub(crate) fn decide(rules: &[&Rule]) -> Block {
    let mut block = Block::new(Purpose::Frame("the first rule found"));
    let others: BTreeSet<(u32, Target)> = rules
        .iter()
        .filter_map(|rule| match rule.outcome {
            RuleEffect::Verdict => None,
            RuleEffect::Pass => Some((CANDIDATE_PASS, Target::Pass)),
            RuleEffect::SideEffect(number) => {
                Some((CANDIDATE_SIDE_EFFECTS + number as u32, Target::SideEffect(number)))
            }
        })
        .collect();
    let others: Vec<_> = others
        .into_iter()
        .map(|(does, target)| (does, target, block.label()))
        .collect();
    block.op(isa::load(Size::B, VALUE, SCRATCH, CANDIDATE));
    block.branch(isa::jump_imm(Cond::Eq, VALUE, 0), Target::Next);
    for (does, _, label) in &others {
        block.branch(isa::jump_imm(Cond::Eq, VALUE, *does as i32), Target::Label(*label));
    }
    block.op(isa::store(Size::W, SCRATCH, scratch!(verdict), VALUE));
    block.jump(Target::VerdictWritten);
    for (_, target, label) in others {
        block.bind(label);
        block.op(isa::store_imm(Size::W, SCRATCH, scratch!(verdict), 0));
        block.jump(target);
    }
    block
}
