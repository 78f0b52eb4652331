//! The eBPF instruction set as far as the compiler uses it.
//!
//! In: registers and numbers. Out: single instructions, as the kernel's `linux/bpf.h` encodes them.
//! All of them exist since Linux 5.1. Never: what registers are used for, which `frame` says.

use crate::program::Insn;

/// A register of the eBPF machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(u8);

/// Return value of helpers and programs.
pub(crate) const R0: Reg = Reg(0);
/// First argument of helpers, and of the program itself. Helpers overwrite it.
pub(crate) const R1: Reg = Reg(1);
/// Second argument of helpers, which overwrite it.
pub(crate) const R2: Reg = Reg(2);
/// Third argument of helpers, which overwrite it.
pub(crate) const R3: Reg = Reg(3);
/// Overwritten by helpers, like the next one.
pub(crate) const R4: Reg = Reg(4);
pub(crate) const R5: Reg = Reg(5);
/// Kept by helpers, like the three that follow.
pub(crate) const R6: Reg = Reg(6);
pub(crate) const R7: Reg = Reg(7);
pub(crate) const R8: Reg = Reg(8);
pub(crate) const R9: Reg = Reg(9);
/// Frame pointer: the end of the stack. It cannot be written.
pub(crate) const R10: Reg = Reg(10);

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

const fn insn(code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst: dst.0,
        src: src.0,
        off,
        imm,
    }
}

/// `dst = *(size *)(src + off)`
pub(crate) const fn load(size: Size, dst: Reg, src: Reg, off: i16) -> Insn {
    insn(0x61 | size as u8, dst, src, off, 0)
}

/// `*(size *)(dst + off) = imm`
pub(crate) const fn store_imm(size: Size, dst: Reg, off: i16, imm: i32) -> Insn {
    insn(0x62 | size as u8, dst, R0, off, imm)
}

/// `*(size *)(dst + off) = src`
pub(crate) const fn store(size: Size, dst: Reg, off: i16, src: Reg) -> Insn {
    insn(0x63 | size as u8, dst, src, off, 0)
}

/// `dst = src`, 64 bits.
pub(crate) const fn mov(dst: Reg, src: Reg) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}

/// `dst = imm`, 64 bits, sign-extended.
pub(crate) const fn mov_imm(dst: Reg, imm: i32) -> Insn {
    insn(0xb7, dst, R0, 0, imm)
}

/// `dst = imm`, 64 bits: the first half of the instruction, with the lower 32 bits.
pub(crate) const fn load_wide(dst: Reg, low: i32) -> Insn {
    insn(LD_IMM64, dst, R0, 0, low)
}

/// The second half of [`load_wide`], with the upper 32 bits.
pub(crate) const fn load_wide_rest(high: i32) -> Insn {
    insn(0, R0, R0, 0, high)
}

/// Turns the lower `bits` (32 or 64) from network byte order into that of the host; the rest
/// becomes zero.
pub(crate) const fn from_network(dst: Reg, bits: i32) -> Insn {
    insn(FROM_NETWORK, dst, R0, 0, bits)
}

/// `dst += imm`, 64 bits.
pub(crate) const fn add_imm(dst: Reg, imm: i32) -> Insn {
    insn(0x07, dst, R0, 0, imm)
}

/// `dst += src`, 64 bits.
pub(crate) const fn add(dst: Reg, src: Reg) -> Insn {
    insn(0x0f, dst, src, 0, 0)
}

/// `dst -= src`, 64 bits.
pub(crate) const fn sub(dst: Reg, src: Reg) -> Insn {
    insn(0x1f, dst, src, 0, 0)
}

/// `dst *= imm`, 64 bits, sign-extended.
pub(crate) const fn mul_imm(dst: Reg, imm: i32) -> Insn {
    insn(0x27, dst, R0, 0, imm)
}

/// `dst >>= imm`, 64 bits, zeros from the left.
pub(crate) const fn shift_right_imm(dst: Reg, imm: i32) -> Insn {
    insn(0x77, dst, R0, 0, imm)
}

/// `dst <<= imm`, 64 bits.
pub(crate) const fn shift_left_imm(dst: Reg, imm: i32) -> Insn {
    insn(0x67, dst, R0, 0, imm)
}

/// `dst &= imm`, 32 bits: the upper half becomes zero.
pub(crate) const fn and32_imm(dst: Reg, imm: i32) -> Insn {
    insn(0x54, dst, R0, 0, imm)
}

/// `if dst <cond> imm goto`, 64 bits, immediate sign-extended. The target comes later.
pub(crate) const fn jump_imm(cond: Cond, dst: Reg, imm: i32) -> Insn {
    insn(0x05 | cond as u8, dst, R0, 0, imm)
}

/// `if dst <cond> src goto`, 64 bits. The target comes later.
pub(crate) const fn jump_reg(cond: Cond, dst: Reg, src: Reg) -> Insn {
    insn(0x0d | cond as u8, dst, src, 0, 0)
}

/// `if (u32) dst <cond> imm goto`.
pub(crate) const fn jump32_imm(cond: Cond, dst: Reg, imm: i32) -> Insn {
    insn(0x06 | cond as u8, dst, R0, 0, imm)
}

/// `goto`
pub(crate) const fn jump() -> Insn {
    insn(JA, R0, R0, 0, 0)
}

/// `call helper`
pub(crate) const fn call(helper: i32) -> Insn {
    insn(CALL, R0, R0, 0, helper)
}

/// Calls a function of the kernel (kfunc) by its id in the kernel's BTF.
pub(crate) const fn call_kernel(function: u32) -> Insn {
    const PSEUDO_KFUNC_CALL: Reg = Reg(2);
    insn(CALL, R0, PSEUDO_KFUNC_CALL, 0, function as i32)
}

/// `exit`
pub(crate) const fn exit() -> Insn {
    insn(EXIT, R0, R0, 0, 0)
}

/// Returns whether the instruction is a conditional jump.
pub(crate) const fn is_branch(code: u8) -> bool {
    matches!(code & 0x07, 0x05 | 0x06) && !matches!(code, JA | CALL | EXIT)
}
