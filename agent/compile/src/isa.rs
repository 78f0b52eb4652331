//! The eBPF instruction set as far as the compiler uses it. Numbers from the kernel's `linux/bpf.h`; all of it exists since 5.1.

use crate::program::Insn;

/// Size of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    W = 0x00,
    H = 0x08,
    B = 0x10,
    DW = 0x18,
}

/// Condition of a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cond {
    Eq = 0x10,
    Ge = 0x30,
    Set = 0x40,
    Ne = 0x50,
}

/// Helper functions.
pub(crate) const MAP_LOOKUP_ELEM: i32 = 1;
pub(crate) const TAIL_CALL: i32 = 12;

/// First half of a 64-bit immediate load.
pub(crate) const LD_IMM64: u8 = 0x18;
/// Unconditional jump.
pub(crate) const JA: u8 = 0x05;
/// Return from the program.
pub(crate) const EXIT: u8 = 0x95;
/// From network byte order.
pub(crate) const FROM_NETWORK: u8 = 0xdc;
/// Helper call.
pub(crate) const CALL: u8 = 0x85;

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// `dst = *(size *)(src + off)`
pub(crate) const fn load(size: Size, dst: u8, src: u8, off: i16) -> Insn {
    insn(0x61 | size as u8, dst, src, off, 0)
}

/// `*(size *)(dst + off) = imm`
pub(crate) const fn store_imm(size: Size, dst: u8, off: i16, imm: i32) -> Insn {
    insn(0x62 | size as u8, dst, 0, off, imm)
}

/// `*(size *)(dst + off) = src`
pub(crate) const fn store(size: Size, dst: u8, off: i16, src: u8) -> Insn {
    insn(0x63 | size as u8, dst, src, off, 0)
}

/// `dst = src`, 64 bits.
pub(crate) const fn mov(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}

/// `dst = imm`, 64 bits, sign-extended.
pub(crate) const fn mov_imm(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}

/// `dst = imm`, 64 bits: the first half of the instruction, with the lower 32 bits.
pub(crate) const fn load_wide(dst: u8, low: i32) -> Insn {
    insn(LD_IMM64, dst, 0, 0, low)
}

/// Its second half, with the upper 32 bits.
pub(crate) const fn load_wide_rest(high: i32) -> Insn {
    insn(0, 0, 0, 0, high)
}

/// Turns the lower `bits` (32 or 64) from network byte order into that of the host; the rest becomes zero.
pub(crate) const fn from_network(dst: u8, bits: i32) -> Insn {
    insn(FROM_NETWORK, dst, 0, 0, bits)
}

/// `dst += imm`, 64 bits.
pub(crate) const fn add_imm(dst: u8, imm: i32) -> Insn {
    insn(0x07, dst, 0, 0, imm)
}

/// `dst += src`, 64 bits.
pub(crate) const fn add(dst: u8, src: u8) -> Insn {
    insn(0x0f, dst, src, 0, 0)
}

/// `dst -= src`, 64 bits.
pub(crate) const fn sub(dst: u8, src: u8) -> Insn {
    insn(0x1f, dst, src, 0, 0)
}

/// `dst *= imm`, 64 bits, sign-extended.
pub(crate) const fn mul_imm(dst: u8, imm: i32) -> Insn {
    insn(0x27, dst, 0, 0, imm)
}

/// `dst >>= imm`, 64 bits, zeros from the left.
pub(crate) const fn shift_right_imm(dst: u8, imm: i32) -> Insn {
    insn(0x77, dst, 0, 0, imm)
}

/// `dst <<= imm`, 64 bits.
pub(crate) const fn shift_left_imm(dst: u8, imm: i32) -> Insn {
    insn(0x67, dst, 0, 0, imm)
}

/// `dst &= imm`, 32 bits: the upper half becomes zero.
pub(crate) const fn and32_imm(dst: u8, imm: i32) -> Insn {
    insn(0x54, dst, 0, 0, imm)
}

/// `if dst <cond> imm goto`, 64 bits, immediate sign-extended. The target comes later.
pub(crate) const fn jump_imm(cond: Cond, dst: u8, imm: i32) -> Insn {
    insn(0x05 | cond as u8, dst, 0, 0, imm)
}

/// `if dst <cond> src goto`, 64 bits. The target comes later.
pub(crate) const fn jump_reg(cond: Cond, dst: u8, src: u8) -> Insn {
    insn(0x0d | cond as u8, dst, src, 0, 0)
}

/// `if (u32) dst <cond> imm goto`.
pub(crate) const fn jump32_imm(cond: Cond, dst: u8, imm: i32) -> Insn {
    insn(0x06 | cond as u8, dst, 0, 0, imm)
}

/// `goto`
pub(crate) const fn jump() -> Insn {
    insn(JA, 0, 0, 0, 0)
}

/// `call helper`
pub(crate) const fn call(helper: i32) -> Insn {
    insn(CALL, 0, 0, 0, helper)
}

/// `exit`
pub(crate) const fn exit() -> Insn {
    insn(EXIT, 0, 0, 0, 0)
}

/// Whether the instruction is a conditional jump.
pub(crate) const fn is_branch(code: u8) -> bool {
    matches!(code & 0x07, 0x05 | 0x06) && !matches!(code, JA | CALL | EXIT)
}
