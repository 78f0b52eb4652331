//! Instructions for what is done beside judging: Log rules, and what staged policies would have done.

use felid_common::LOG_RULES;

use crate::block::{Block, Patch, Purpose, Target};
use crate::frame::{FRAME, KEY_SLOT, SCRATCH, VALUE, scratch};
use crate::isa::{self, Cond, Size};
use crate::program::MapRef;
use crate::rule::{Aside, SiteId};

/// One aside, as a block that goes on with the next section.
pub(crate) fn emit_aside(aside: Aside) -> Block {
    match aside {
        Aside::Log(site) => log(site),
        Aside::Count(site) => count(site),
        Aside::Own => own(),
    }
}

/// Notes the rule in the scratch, if there is room; counts it in any case.
fn log(site: SiteId) -> Block {
    let mut block = Block::new(Purpose::Site(site));
    let full = block.label();
    let place = 2;
    block.op(isa::load(Size::W, VALUE, SCRATCH, scratch!(log_count)));
    block.branch(isa::jump_imm(Cond::Ge, VALUE, LOG_RULES as i32), Target::Label(full));
    block.op(isa::mov(place, VALUE));
    block.op(isa::shift_left_imm(place, 2));
    block.op(isa::add(place, SCRATCH));
    block.patched(
        isa::store_imm(Size::W, place, scratch!(log_rules), 0),
        Patch::Rule(site),
    );
    block.patched(isa::store_imm(Size::W, SCRATCH, scratch!(log_program), 0), Patch::Table);
    block.bind(full);
    block.op(isa::add_imm(VALUE, 1));
    block.op(isa::store(Size::W, SCRATCH, scratch!(log_count), VALUE));
    block.jump(Target::Next);
    block
}

/// Says that the source is one that the endpoint may send from.
fn own() -> Block {
    let mut block = Block::new(Purpose::Frame("the source is in allowSpoofedSourcePrefixes"));
    block.op(isa::store_imm(Size::W, SCRATCH, scratch!(spoofed), 0));
    block.jump(Target::Next);
    block
}

/// Adds one to the counter of the site.
fn count(site: SiteId) -> Block {
    let mut block = Block::new(Purpose::Frame("count what a staged policy would do"));
    let done = block.label();
    block.patched(isa::store_imm(Size::W, FRAME, KEY_SLOT, 0), Patch::Counter(site));
    block.op(isa::mov(2, FRAME));
    block.op(isa::add_imm(2, i32::from(KEY_SLOT)));
    block.load_map(1, MapRef::Counters);
    block.op(isa::call(isa::MAP_LOOKUP_ELEM));
    block.branch(isa::jump_imm(Cond::Eq, 0, 0), Target::Label(done));
    block.op(isa::load(Size::DW, VALUE, 0, 0));
    block.op(isa::add_imm(VALUE, 1));
    block.op(isa::store(Size::DW, 0, 0, VALUE));
    block.bind(done);
    block.jump(Target::Next);
    block
}
