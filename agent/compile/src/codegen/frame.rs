//! How generated programs use registers, the stack and the scratch.
//!
//! In: blocks under construction. Out: the names of registers and stack slots, and the instructions
//! for map lookups and class rows. Never: what is tested.
//!
//! | register | holds |
//! |---|---|
//! | r6 | the packet's context |
//! | r7 | the scratch |
//! | r8 | the class row of the peer's address |
//! | r9 | the class row of the peer's named port, or 0 until it has been looked up |
//! | r0-r5 | nothing across tests |
//!
//! Values are loaded afresh for each test: they are in the first-level cache, and the verifier then
//! has nothing to remember about them where paths join.

use std::mem::size_of;

use felid_common::NamedPortKey;

use crate::codegen::block::{Block, Target};
use crate::codegen::isa::{self, Cond, R0, R1, R2, R6, R7, R8, R9, R10, Reg, Size};
use crate::program::MapRef;

/// The packet's context.
pub(crate) const CTX: Reg = R6;
/// [`felid_common::Scratch`].
pub(crate) const SCRATCH: Reg = R7;
/// The class row of the peer's address.
pub(crate) const PEER_ROW: Reg = R8;
/// The class row of the peer's named port, or 0.
pub(crate) const NAMED_PORT_ROW: Reg = R9;
/// The value under test.
pub(crate) const VALUE: Reg = R1;
/// What the value is compared with, where that does not fit into an instruction.
pub(crate) const CONSTANT: Reg = R2;
/// The frame pointer.
pub(crate) const FRAME: Reg = R10;
/// Where array indices are on the stack.
pub(crate) const KEY_SLOT: i16 = -4;
/// Where the named-port key begins on the stack.
pub(crate) const NAMED_KEY: i16 = -8 - size_of::<NamedPortKey>().next_multiple_of(8) as i16;
/// Where the class row of the endpoint's own address is on the stack, where that address is not
/// known beforehand.
pub(crate) const LOCAL_ROW_SLOT: i16 = NAMED_KEY - 8;

/// The offset of a field of [`felid_common::Scratch`].
macro_rules! scratch {
    ($field:ident) => {
        ::std::mem::offset_of!(::felid_common::Scratch, $field) as i16
    };
}
pub(crate) use scratch;

/// Where a chunk finds at which of its blocks it is entered: the half of the verdict's word that no
/// verdict needs. The byte before it is [`CANDIDATE`].
pub(crate) const ENTRY: i16 = scratch!(verdict) + 2;
/// What the rule that was found so far does, while others are still looked for that may stand
/// before it: [`felid_common::VERDICT_ALLOW`], [`felid_common::VERDICT_DENY`], [`CANDIDATE_PASS`],
/// or [`CANDIDATE_SIDE_EFFECTS`] and the number of a side effect; 0 if none was found. Its index
/// and counter are where those of the verdict will be.
pub(crate) const CANDIDATE: i16 = scratch!(verdict);
/// A value of [`CANDIDATE`]: the rule passes to the next tier.
pub(crate) const CANDIDATE_PASS: u32 = 3;
/// A value of [`CANDIDATE`]: the rule has the first of the section's side effects; further ones
/// follow.
pub(crate) const CANDIDATE_SIDE_EFFECTS: u32 = 4;

/// A class row that a test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Of the peer's address.
    Peer,
    /// Of the peer's named port.
    NamedPort,
    /// Of the endpoint's own address, where that is not known beforehand.
    Local,
}

impl Row {
    /// Returns a register that holds the row. The row of the local side is loaded from the stack
    /// for that.
    pub(crate) fn register(self, block: &mut Block) -> Reg {
        match self {
            Row::Peer => {
                block.uses_peer_row = true;
                PEER_ROW
            }
            Row::NamedPort => NAMED_PORT_ROW,
            Row::Local => {
                block.uses_local_row = true;
                block.op(isa::load(Size::DW, R2, FRAME, LOCAL_ROW_SLOT));
                R2
            }
        }
    }
}

/// Returns where the bit of a slot is: the byte offset of a 32-bit word in rows of `u64` in host
/// byte order, and the bit in it.
pub(crate) fn class_bit(slot: u32) -> (i16, u32) {
    let half = slot / 32;
    let half = if cfg!(target_endian = "big") { half ^ 1 } else { half };
    ((half * 4) as i16, slot % 32)
}

/// Looks up the element of a map whose key is at this offset of the stack: r0 points at it. Jumps
/// if it is not there. r1-r5 are lost.
pub(crate) fn map_lookup(block: &mut Block, map: MapRef, key: i16, missing: Target) {
    block.op(isa::mov(R2, FRAME));
    block.op(isa::add_imm(R2, i32::from(key)));
    block.load_map(R1, map);
    block.op(isa::call(isa::MAP_LOOKUP_ELEM));
    block.branch(isa::jump_imm(Cond::Eq, R0, 0), missing);
}

/// Looks up the class row whose id is in the first register, and puts it into the second.
pub(crate) fn look_up_row(block: &mut Block, class: Reg, row: Reg) {
    block.op(isa::store(Size::W, FRAME, KEY_SLOT, class));
    map_lookup(block, MapRef::Classes, KEY_SLOT, Target::Drop);
    block.op(isa::mov(row, R0));
}
