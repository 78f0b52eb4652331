//! Hand-written programs of the fixture: stubs and policies.

use std::mem::offset_of;
use std::os::fd::RawFd;

use felid_common::{CB_ID, CB_INDEX, Scratch, VERDICT_ALLOW, VERDICT_DENY, static_programs};
use felid_compile::program::Insn;

use super::{DROP, Policy};

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

fn map(dst: u8, fd: RawFd) -> [Insn; 2] {
    [insn(0x18, dst, 1, 0, fd), insn(0, 0, 0, 0, 0)]
}

const fn mov(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}

const fn set(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}

const fn store(dst: u8, off: usize, imm: u32) -> Insn {
    insn(0x62, dst, 0, off as i16, imm as i32)
}

const fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, 0, helper)
}

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

/// Goes on with an element of a program array; drops if that fails. The context is in r6.
fn go_on(array: RawFd, index: u32) -> Vec<Insn> {
    let mut code = vec![mov(1, 6)];
    code.extend(map(2, array));
    code.extend([set(3, index as i32), call(12), set(0, DROP), EXIT]);
    code
}

pub(super) fn stub(index: u32, id: u32, program: u32, static_programs: RawFd) -> Vec<Insn> {
    let mut code = vec![
        mov(6, 1),
        store(6, 48 + 4 * CB_INDEX, index),
        store(6, 48 + 4 * CB_ID, id),
    ];
    code.extend(go_on(static_programs, program));
    code
}

pub(super) fn policy(policy: Policy, counter: u32, scratch: RawFd, static_programs_fd: RawFd) -> Vec<Insn> {
    let mut code = vec![mov(6, 1), insn(0x62, 10, 0, -4, 0), mov(2, 10), insn(0x07, 2, 0, 0, -4)];
    code.extend(map(1, scratch));
    code.extend([call(1), insn(0x55, 0, 0, 2, 0), set(0, DROP), EXIT]);
    code.push(store(0, offset_of!(Scratch, counter), counter));
    // r1 = field; where it is not what is wanted, deny.
    let test = |size: u8, offset: usize, wanted: i32| {
        vec![
            insn(size, 1, 0, offset as i16, 0),
            insn(0x15, 1, 0, 2, wanted),
            store(0, offset_of!(Scratch, verdict), VERDICT_DENY),
            insn(0x05, 0, 0, 1, 0),
            store(0, offset_of!(Scratch, verdict), VERDICT_ALLOW),
        ]
    };
    code.extend(match policy {
        Policy::Allow => vec![store(0, offset_of!(Scratch, verdict), VERDICT_ALLOW)],
        Policy::Deny => vec![store(0, offset_of!(Scratch, verdict), VERDICT_DENY)],
        Policy::Port(port) => test(0x69, offset_of!(Scratch, dst_port), i32::from(port)),
        Policy::SourceClass(class) => test(0x61, offset_of!(Scratch, src_class), class as i32),
        Policy::DestinationClass(class) => test(0x61, offset_of!(Scratch, dst_class), class as i32),
        Policy::IcmpType(kind) => test(0x71, offset_of!(Scratch, icmp_type), i32::from(kind)),
    });
    code.extend(go_on(static_programs_fd, static_programs::POLICY_RETURN));
    code
}
