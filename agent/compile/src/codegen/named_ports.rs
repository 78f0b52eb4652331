//! The lookup of the peer's named port.
//!
//! In: a block whose rules ask for named ports. Out: instructions in front of them, after which
//! [`NAMED_PORT_ROW`] holds the class row. Never: the rules.

use std::mem::offset_of;

use felid_common::{CHECK_MULTIPLIER, NamedPort, NamedPortKey};

use crate::codegen::block::{Block, Label, Purpose, Target};
use crate::codegen::frame::{FRAME, NAMED_KEY, NAMED_PORT_ROW, SCRATCH, VALUE, look_up_row, map_lookup, scratch};
use crate::codegen::isa::{self, Cond, R0, R2, R3, Size};
use crate::ir::rule::{PORT_PROTOCOLS, Rule};
use crate::program::MapRef;
use crate::types::Direction;

/// Looks the named port's row up, if that has not been done and any of the rules needs it.
pub(crate) fn prepare_named_port(block: &mut Block, direction: Direction, rules: &[&Rule]) {
    let needed = |rule: &&Rule| !(rule.named.is_empty() && rule.not_named.is_empty() && rule.services.is_empty());
    if !rules.iter().any(needed) {
        return;
    }
    block.uses_named_port = true;
    block.set_purpose(Purpose::Frame("named port of the peer"));
    let (done, class_zero, class_known) = (block.label(), block.label(), block.label());
    block.branch(isa::jump_imm(Cond::Ne, NAMED_PORT_ROW, 0), Target::Label(done));
    write_key(block, direction, class_zero);
    // The element may become another port's while it is read, see `NamedPort::check_for`: then a
    // second look finds what holds now.
    let found = block.label();
    look_up(block, class_zero);
    block.branch(isa::jump_imm(Cond::Eq, R2, 0), Target::Label(found));
    look_up(block, class_zero);
    block.branch(isa::jump_imm(Cond::Ne, R2, 0), Target::Drop);
    block.bind(found);
    choose_bank(block, class_known);
    block.bind(class_zero);
    block.op(isa::mov_imm(VALUE, 0));
    block.bind(class_known);
    look_up_row(block, VALUE, NAMED_PORT_ROW);
    block.bind(done);
}

/// Writes the key to the stack. Jumps to `class_zero` if the packet has no ports: class 0 is a
/// member of nothing, and that is what such packets, and unknown ports, are.
fn write_key(block: &mut Block, direction: Direction, class_zero: Label) {
    let (address, port) = match direction {
        Direction::Ingress => (scratch!(src), scratch!(src_port)),
        Direction::Egress => (scratch!(dst), scratch!(dst_port)),
    };
    let has_ports = block.label();
    block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
    for protocol in PORT_PROTOCOLS {
        let is_it = isa::jump_imm(Cond::Eq, VALUE, i32::from(protocol));
        block.branch(is_it, Target::Label(has_ports));
    }
    block.jump(Target::Label(class_zero));
    block.bind(has_ports);
    let mut copy = |size: Size, from: i16, to: usize| {
        block.op(isa::load(size, VALUE, SCRATCH, from));
        block.op(isa::store(size, FRAME, NAMED_KEY + to as i16, VALUE));
    };
    copy(Size::DW, address, offset_of!(NamedPortKey, address));
    copy(Size::DW, address + 8, offset_of!(NamedPortKey, address) + 8);
    copy(Size::H, port, offset_of!(NamedPortKey, port));
    copy(Size::B, scratch!(protocol), offset_of!(NamedPortKey, protocol));
    copy(Size::B, scratch!(ip_version), offset_of!(NamedPortKey, ip_version));
}

/// Looks the key up: [`VALUE`] is both classes afterwards, and r2 is zero if the element is that
/// key's.
fn look_up(block: &mut Block, class_zero: Label) {
    map_lookup(block, MapRef::NamedPorts, NAMED_KEY, Target::Label(class_zero));
    block.op(isa::load(Size::DW, VALUE, R0, offset_of!(NamedPort, class) as i16));
    block.op(isa::load(Size::DW, R2, FRAME, NAMED_KEY));
    for (size, offset) in [(Size::DW, 8), (Size::W, 16)] {
        block.op(isa::mul_imm(R2, CHECK_MULTIPLIER));
        block.op(isa::load(size, R3, FRAME, NAMED_KEY + offset));
        block.op(isa::add(R2, R3));
    }
    block.op(isa::mul_imm(R2, CHECK_MULTIPLIER));
    block.op(isa::add(R2, VALUE));
    block.op(isa::mul_imm(R2, CHECK_MULTIPLIER));
    block.op(isa::shift_right_imm(R2, 32));
    block.op(isa::load(Size::W, R3, R0, offset_of!(NamedPort, check) as i16));
    block.op(isa::sub(R2, R3));
}

/// Reduces the classes of both banks, which are in [`VALUE`] as they lie in memory, to that of the
/// packet's bank.
fn choose_bank(block: &mut Block, class_known: Label) {
    let upper = block.label();
    block.op(isa::load(Size::W, R2, SCRATCH, scratch!(bank)));
    let in_upper_half = if cfg!(target_endian = "little") {
        Cond::Ne
    } else {
        Cond::Eq
    };
    block.branch(isa::jump_imm(in_upper_half, R2, 0), Target::Label(upper));
    block.op(isa::and32_imm(VALUE, -1));
    block.jump(Target::Label(class_known));
    block.bind(upper);
    block.op(isa::shift_right_imm(VALUE, 32));
    block.jump(Target::Label(class_known));
}
