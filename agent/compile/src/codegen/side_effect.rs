//! Instructions for what is done beside judging: Log rules, and what staged policies would have
//! done.
//!
//! In: a side effect. Out: a block that goes on with the next section. Never: which rule has it.

use felid_common::LOG_RULES;

use crate::codegen::block::{Block, Patch, Purpose, Target};
use crate::codegen::frame::{FRAME, KEY_SLOT, SCRATCH, VALUE, map_lookup, scratch};
use crate::codegen::isa::{self, Cond, R0, R2, Size};
use crate::ir::decision::PointId;
use crate::ir::rule::SideEffect;
use crate::program::MapRef;

/// Returns one side effect as a block that goes on with the next section.
pub(crate) fn emit_side_effect(side_effect: SideEffect) -> Block {
    match side_effect {
        SideEffect::Log(point) => log(point),
        SideEffect::Count(point) => count(point),
        SideEffect::AcceptSource => accept_source(),
    }
}

/// Notes the rule in the scratch, if there is room; counts it in any case.
fn log(point: PointId) -> Block {
    let mut block = Block::new(Purpose::Point(point));
    let full = block.label();
    let place = R2;
    block.op(isa::load(Size::W, VALUE, SCRATCH, scratch!(log_count)));
    block.branch(isa::jump_imm(Cond::Ge, VALUE, LOG_RULES as i32), Target::Label(full));
    block.op(isa::mov(place, VALUE));
    block.op(isa::shift_left_imm(place, 2));
    block.op(isa::add(place, SCRATCH));
    block.patched(
        isa::store_imm(Size::W, place, scratch!(log_rules), 0),
        Patch::Rule(point),
    );
    block.patched(isa::store_imm(Size::W, SCRATCH, scratch!(log_program), 0), Patch::Table);
    block.bind(full);
    block.op(isa::add_imm(VALUE, 1));
    block.op(isa::store(Size::W, SCRATCH, scratch!(log_count), VALUE));
    block.jump(Target::Next);
    block
}

/// Says that the source is one that the endpoint may send from.
fn accept_source() -> Block {
    let mut block = Block::new(Purpose::Frame("the source is in allowSpoofedSourcePrefixes"));
    block.op(isa::store_imm(Size::W, SCRATCH, scratch!(spoofed), 0));
    block.jump(Target::Next);
    block
}

/// Adds one to the counter of the decision point.
fn count(point: PointId) -> Block {
    let mut block = Block::new(Purpose::Frame("count what a staged policy would do"));
    let done = block.label();
    block.patched(isa::store_imm(Size::W, FRAME, KEY_SLOT, 0), Patch::Counter(point));
    map_lookup(&mut block, MapRef::Counters, KEY_SLOT, Target::Label(done));
    block.op(isa::load(Size::DW, VALUE, R0, 0));
    block.op(isa::add_imm(VALUE, 1));
    block.op(isa::store(Size::DW, R0, 0, VALUE));
    block.bind(done);
    block.jump(Target::Next);
    block
}
