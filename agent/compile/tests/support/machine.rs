//! A model of the kernel's machine, as far as generated programs use it: registers, stack, the maps
//! of the contract, tail calls.
//!
//! It is strict: reading what was not written, leaving a region, mixing pointers and numbers,
//! jumping backwards or running long is a panic, since each of them would be a refusal by the
//! verifier.

use std::collections::BTreeMap;

use felid_common::{NamedPort, NamedPortKey, static_programs};
use felid_compile::program::{Insn, MapRef, Program};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a tail call to the program that reads the verdict.
    Judged,
    /// With this return value.
    Returned(u64),
}

/// What happened in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) end: End,
    pub(crate) tail_calls: usize,
    pub(crate) steps: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Region {
    Context,
    Stack,
    Scratch,
    Row(u32),
    Named(Vec<u8>, bool),
    Counter(u32),
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Unknown,
    Number(u64),
    Pointer(Region, i64),
    Map(MapRef),
}

/// The state around a program.
pub(crate) struct Machine<'a> {
    program: &'a Program,
    pub(crate) scratch: Vec<u8>,
    pub(crate) rows: BTreeMap<u32, Vec<u8>>,
    pub(crate) named: BTreeMap<Vec<u8>, [u32; 2]>,
    /// How many looks at a named port find an element that has become another's.
    pub(crate) torn: usize,
    /// What was counted, by index.
    pub(crate) counted: BTreeMap<u32, u64>,
    registers: Vec<Value>,
    stack: Vec<Option<u8>>,
    /// Pointers on the stack, by place.
    spilled: BTreeMap<usize, Value>,
}

const STACK: usize = 512;

impl<'a> Machine<'a> {
    pub(crate) fn new(program: &'a Program) -> Self {
        let (scratch, rows, named, counted) = Default::default();
        Self {
            program,
            scratch,
            rows,
            named,
            torn: 0,
            counted,
            registers: Vec::new(),
            stack: Vec::new(),
            spilled: BTreeMap::new(),
        }
    }

    /// Runs from chunk 0.
    pub(crate) fn run(&mut self) -> Run {
        let (mut chunk, mut at) = (0, 0);
        let mut run = Run {
            end: End::Returned(0),
            tail_calls: 0,
            steps: 0,
        };
        self.enter();
        loop {
            run.steps += 1;
            assert!(run.steps < 1_000_000, "runs away");
            let insn = self.program.chunks[chunk].insns[at];
            at += 1;
            match insn.code {
                0x18 => {
                    let maps = &self.program.chunks[chunk].maps;
                    let wide = self.program.chunks[chunk].insns[at].imm as u32;
                    let number = u64::from(wide) << 32 | u64::from(insn.imm as u32);
                    let map = maps.iter().find(|(index, _)| *index == at - 1);
                    self.registers[insn.dst as usize] = map.map_or(Value::Number(number), |map| Value::Map(map.1));
                    at += 1;
                }
                0x85 if insn.imm == 12 => {
                    run.tail_calls += 1;
                    let map = self.registers[2].clone();
                    let index = self.number(3);
                    assert_eq!(self.registers[1], Value::Pointer(Region::Context, 0));
                    match map {
                        Value::Map(MapRef::StaticPrograms) if index == u64::from(static_programs::POLICY_RETURN) => {
                            run.end = End::Judged;
                            return run;
                        }
                        Value::Map(MapRef::Chain) => {
                            assert!(index > chunk as u64, "a chain that goes back");
                            (chunk, at) = (index as usize, 0);
                            self.enter();
                        }
                        other => panic!("tail call through {other:?} to {index}"),
                    }
                }
                0x85 => self.lookup(insn.imm),
                0x95 => {
                    run.end = End::Returned(self.number(0));
                    return run;
                }
                code if matches!(code & 7, 5 | 6) => {
                    if self.jumps(insn) {
                        assert!(insn.off >= 0, "jump backwards");
                        at += insn.off as usize;
                    }
                }
                _ => self.step(insn),
            }
        }
    }

    /// A program begins: only the context and the frame pointer are known.
    fn enter(&mut self) {
        self.registers = vec![Value::Unknown; 11];
        self.registers[1] = Value::Pointer(Region::Context, 0);
        self.registers[10] = Value::Pointer(Region::Stack, STACK as i64);
        self.stack = vec![None; STACK];
        self.spilled.clear();
    }

    fn number(&self, register: u8) -> u64 {
        match &self.registers[register as usize] {
            Value::Number(number) => *number,
            other => panic!("r{register} is {other:?}, not a number"),
        }
    }

    fn step(&mut self, insn: Insn) {
        let (dst, size) = (insn.dst as usize, size(insn.code));
        match insn.code {
            0x79 if self
                .spill_at(insn.src, insn.off)
                .is_some_and(|at| self.spilled.contains_key(&at)) =>
            {
                let at = self.spill_at(insn.src, insn.off).expect("a place on the stack");
                self.registers[dst] = self.spilled[&at].clone();
            }
            0x7b if matches!(self.registers[insn.src as usize], Value::Pointer(..)) => {
                let at = self
                    .spill_at(insn.dst, insn.off)
                    .expect("pointers are kept on the stack only");
                assert_eq!(at % 8, 0, "unaligned");
                self.spilled.insert(at, self.registers[insn.src as usize].clone());
            }
            0x61 | 0x69 | 0x71 | 0x79 => {
                let bytes = self.read(insn.src, insn.off, size);
                let mut wide = [0; 8];
                wide[..size].copy_from_slice(&bytes);
                self.registers[dst] = Value::Number(u64::from_le_bytes(wide));
            }
            0x62 | 0x6a | 0x72 => self.write(insn.dst, insn.off, &insn.imm.to_le_bytes()[..size]),
            0x63 | 0x6b | 0x73 | 0x7b => {
                let bytes = self.number(insn.src).to_le_bytes();
                self.write(insn.dst, insn.off, &bytes[..size]);
            }
            0xbf => {
                assert_ne!(
                    self.registers[insn.src as usize],
                    Value::Unknown,
                    "r{} was never written",
                    insn.src
                );
                self.registers[dst] = self.registers[insn.src as usize].clone();
            }
            0xb7 => self.registers[dst] = Value::Number(insn.imm as i64 as u64),
            0xdc if insn.imm == 32 => {
                self.registers[dst] = Value::Number(u64::from((self.number(insn.dst) as u32).swap_bytes()));
            }
            0xdc if insn.imm == 64 => self.registers[dst] = Value::Number(self.number(insn.dst).swap_bytes()),
            0x54 => self.registers[dst] = Value::Number(u64::from(self.number(insn.dst) as u32 & insn.imm as u32)),
            0x1f => self.registers[dst] = Value::Number(self.number(insn.dst).wrapping_sub(self.number(insn.src))),
            0x27 => self.registers[dst] = Value::Number(self.number(insn.dst).wrapping_mul(insn.imm as i64 as u64)),
            0x77 => self.registers[dst] = Value::Number(self.number(insn.dst) >> insn.imm),
            0x67 => self.registers[dst] = Value::Number(self.number(insn.dst) << insn.imm),
            0x0f => {
                let by = self.number(insn.dst);
                self.registers[dst] = match self.registers[insn.src as usize].clone() {
                    Value::Pointer(region, offset) => {
                        // The verifier knows the range of such an offset only because it was
                        // compared.
                        assert!(by < 64, "an offset without bounds");
                        Value::Pointer(region, offset + by as i64)
                    }
                    _ => Value::Number(by.wrapping_add(self.number(insn.src))),
                };
            }
            0x07 => match &mut self.registers[dst] {
                Value::Pointer(_, offset) => *offset += i64::from(insn.imm),
                Value::Number(number) => *number = number.wrapping_add(insn.imm as i64 as u64),
                other => panic!("arithmetic on {other:?}"),
            },
            other => panic!("instruction {other:#x}"),
        }
    }

    /// Where on the stack an access goes, if it does.
    fn spill_at(&self, register: u8, offset: i16) -> Option<usize> {
        match &self.registers[register as usize] {
            Value::Pointer(Region::Stack, base) => usize::try_from(base + i64::from(offset)).ok(),
            _ => None,
        }
    }

    fn jumps(&self, insn: Insn) -> bool {
        if insn.code == 0x05 {
            return true;
        }
        if let Value::Pointer(..) = self.registers[insn.dst as usize] {
            assert_eq!(insn.imm, 0, "a pointer compared with a number");
            return match insn.code {
                0x15 => false,
                0x55 => true,
                other => panic!("jump {other:#x} on a pointer"),
            };
        }
        let (mut left, mut right) = (self.number(insn.dst), insn.imm as i64 as u64);
        if insn.code & 8 != 0 {
            right = self.number(insn.src);
        }
        if insn.code & 7 == 6 {
            (left, right) = (u64::from(left as u32), u64::from(right as u32));
        }
        match insn.code & 0xf0 {
            0x10 => left == right,
            0x30 => left >= right,
            0x40 => left & right != 0,
            0x50 => left != right,
            other => panic!("condition {other:#x}"),
        }
    }

    fn lookup(&mut self, helper: i32) {
        assert_eq!(helper, 1, "helper");
        let Value::Map(map) = self.registers[1] else {
            panic!("not a map")
        };
        let key_size = if map == MapRef::NamedPorts { 20 } else { 4 };
        let key = self.read(2, 0, key_size);
        let index = || u32::from_le_bytes(key[..4].try_into().unwrap());
        let found = match map {
            MapRef::Scratch => (index() == 0).then_some(Region::Scratch),
            MapRef::Classes => self.rows.contains_key(&index()).then(|| Region::Row(index())),
            MapRef::Counters => Some(Region::Counter(index())),
            MapRef::NamedPorts => self.named.contains_key(&key).then(|| {
                let torn = self.torn > 0;
                self.torn -= usize::from(torn);
                Region::Named(key, torn)
            }),
            other => panic!("lookup in {other:?}"),
        };
        self.registers[1..=5].fill(Value::Unknown);
        self.registers[0] = found.map_or(Value::Number(0), |region| Value::Pointer(region, 0));
    }

    fn read(&self, register: u8, offset: i16, size: usize) -> Vec<u8> {
        let Value::Pointer(region, base) = &self.registers[register as usize] else {
            panic!("r{register} is no pointer: {:?}", self.registers[register as usize])
        };
        let at = usize::try_from(base + i64::from(offset)).expect("below the region");
        assert!(at % size == 0 || !size.is_power_of_two(), "unaligned");
        match region {
            Region::Stack => self.stack[at..at + size]
                .iter()
                .map(|byte| byte.expect("never written"))
                .collect(),
            Region::Scratch => self.scratch[at..at + size].to_vec(),
            Region::Row(class) => self.rows[class][at..at + size].to_vec(),
            Region::Named(key, torn) => {
                let mut value = NamedPort::new(self.named[key], &NamedPortKey::read_from_bytes(key).expect("a key"));
                value.check ^= u32::from(*torn);
                value.as_bytes()[at..at + size].to_vec()
            }
            Region::Counter(index) => {
                let count = self.counted.get(index).copied().unwrap_or_default();
                count.to_le_bytes()[at..at + size].to_vec()
            }
            Region::Context => panic!("reads the packet"),
        }
    }

    fn write(&mut self, register: u8, offset: i16, bytes: &[u8]) {
        let Value::Pointer(region, base) = &self.registers[register as usize] else {
            panic!("r{register} is no pointer")
        };
        let at = usize::try_from(base + i64::from(offset)).expect("below the region");
        assert_eq!(at % bytes.len(), 0, "unaligned");
        match region {
            Region::Stack => self.stack[at..at + bytes.len()]
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = Some(*from)),
            Region::Scratch => self.scratch[at..at + bytes.len()].copy_from_slice(bytes),
            Region::Counter(index) => {
                let count = u64::from_le_bytes(bytes.try_into().expect("the whole counter"));
                self.counted.insert(*index, count);
            }
            other => panic!("writes to {other:?}"),
        }
    }
}

fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}
