//! How generated programs use registers and stack.
//!
//! Registers: r6 the packet's context, r7 the scratch, r8 the class row of the peer's address, r9 the class row of the peer's named port
//! (0 until it was looked up); r0-r5 hold nothing across tests. Values are loaded afresh for each test: they are in the first-level
//! cache, and the verifier then has nothing to remember about them where ways join.

use std::mem::size_of;

use felid_common::NamedPortKey;

use crate::block::{Block, Target};
use crate::isa::{self, Cond, Size};
use crate::program::MapRef;

/// The packet's context.
pub(crate) const CTX: u8 = 6;
/// [`felid_common::Scratch`].
pub(crate) const SCRATCH: u8 = 7;
/// Class row of the peer's address.
pub(crate) const ROW: u8 = 8;
/// Class row of the peer's named port, or 0.
pub(crate) const NAMED_ROW: u8 = 9;
/// The value under test.
pub(crate) const VALUE: u8 = 1;
/// What it is compared with, where that does not fit into an instruction.
pub(crate) const CONSTANT: u8 = 2;
/// Frame pointer.
pub(crate) const FRAME: u8 = 10;
/// Where on the stack array indices are.
pub(crate) const KEY_SLOT: i16 = -4;
/// Where on the stack the named-port key begins.
pub(crate) const NAMED_KEY: i16 = -8 - size_of::<NamedPortKey>().next_multiple_of(8) as i16;

/// Where on the stack the class row of the own address is, where that is not known beforehand.
pub(crate) const OWN_ROW_SLOT: i16 = NAMED_KEY - 8;
/// Stands for that row where a register is named.
pub(crate) const OWN_ROW: u8 = 11;

/// Offset of a field of [`felid_common::Scratch`].
macro_rules! scratch {
    ($field:ident) => {
        ::std::mem::offset_of!(::felid_common::Scratch, $field) as i16
    };
}
pub(crate) use scratch;

/// Where a chunk finds at which of its blocks it is entered: the half of the verdict's word that no verdict needs. The byte before is
/// [`CANDIDATE`].
pub(crate) const ENTRY: i16 = scratch!(verdict) + 2;
/// What the rule found so far does ([`felid_common::VERDICT_ALLOW`], [`felid_common::VERDICT_DENY`], [`PASS`], or the number of an aside
/// from [`ASIDES`] on), while others are still
/// looked for that may stand before it; 0 = none was found. Its index and counter are where those of the verdict will be.
pub(crate) const CANDIDATE: i16 = scratch!(verdict);
/// See [`CANDIDATE`].
pub(crate) const PASS: u32 = 3;
/// See [`CANDIDATE`].
pub(crate) const ASIDES: u32 = 4;

/// Looks up the class row whose id is in a register.
pub(crate) fn look_up_row(block: &mut Block, class: u8, row: u8) {
    block.op(isa::store(Size::W, FRAME, KEY_SLOT, class));
    block.op(isa::mov(2, FRAME));
    block.op(isa::add_imm(2, i32::from(KEY_SLOT)));
    block.load_map(1, MapRef::Classes);
    block.op(isa::call(isa::MAP_LOOKUP_ELEM));
    block.branch(isa::jump_imm(Cond::Eq, 0, 0), Target::Drop);
    block.op(isa::mov(row, 0));
}
