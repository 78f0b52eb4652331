//! Annotated listings of programs, for `felid program`.
//!
//! In: a program. Out: its instructions as text, with what they are for. Never: what the kernel
//! made of it.

use crate::codegen::isa;
use crate::program::{Chunk, Insn, MapRef, Note, Program, RuleRef};

/// One instruction of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of the chunk.
    pub chunk: usize,
    /// Index of the instruction in its chunk.
    pub index: usize,
    /// The instruction as text, as `bpftool prog dump xlated` writes it, with names of maps.
    pub code: String,
    /// What it and the following instructions are for; only where that changes.
    pub note: Option<String>,
}

/// Returns the listing of the whole program, chunk after chunk. The second half of a 64-bit load
/// has no line of its own.
pub fn listing(program: &Program) -> Vec<Line> {
    program
        .chunks
        .iter()
        .enumerate()
        .flat_map(|(index, chunk)| chunk_listing(index, chunk, &program.rules))
        .collect()
}

fn chunk_listing(number: usize, chunk: &Chunk, rules: &[RuleRef]) -> Vec<Line> {
    let mut notes = chunk.notes.iter().peekable();
    let mut maps = chunk.maps.iter().peekable();
    let mut lines = Vec::with_capacity(chunk.insns.len());
    let mut second_half = false;
    for (index, insn) in chunk.insns.iter().enumerate() {
        let mut note = None;
        while let Some((_, what)) = notes.next_if(|(range, _)| range.start <= index) {
            note = Some(note_text(what, rules));
        }
        let map = maps.next_if(|(at, _)| *at == index).map(|(_, map)| *map);
        if std::mem::replace(&mut second_half, insn.code == isa::LD_IMM64) {
            continue;
        }
        lines.push(Line {
            chunk: number,
            index,
            code: code(index, insn, map),
            note,
        });
    }
    lines
}

fn note_text(note: &Note, rules: &[RuleRef]) -> String {
    match note {
        Note::Frame(words) => (*words).to_owned(),
        Note::Rule(index) => match rules.get(*index as usize) {
            None => format!("rule {index}"),
            Some(rule) => {
                let mut place = String::new();
                for part in [
                    rule.tier.as_ref().map(|tier| format!("tier {tier}")),
                    rule.key.as_ref().map(ToString::to_string),
                ]
                .into_iter()
                .flatten()
                {
                    place.push_str(&part);
                    place.push(' ');
                }
                if let Some(index) = rule.index {
                    place.push_str(&format!("rule {index} "));
                }
                if place.is_empty() {
                    rule.text.clone()
                } else {
                    format!("{}: {}", place.trim_end(), rule.text)
                }
            }
        },
    }
}

fn map_name(map: MapRef) -> &'static str {
    match map {
        MapRef::Scratch => "scratch",
        MapRef::Classes => "classes",
        MapRef::NamedPorts => "named_ports",
        MapRef::Counters => "counters",
        MapRef::StaticPrograms => "static_programs",
        MapRef::Settings => "settings",
        MapRef::Drops => "drops",
        MapRef::Guarded => "guarded",
        MapRef::Chain => "chain",
    }
}

/// One instruction in the notation of the kernel's disassembler.
fn code(index: usize, insn: &Insn, map: Option<MapRef>) -> String {
    let Insn {
        code,
        dst,
        src,
        off,
        imm,
    } = *insn;
    let size = match code & 0x18 {
        0x00 => "u32",
        0x08 => "u16",
        0x10 => "u8",
        _ => "u64",
    };
    match code & 0x07 {
        0x00 => match map {
            Some(map) => format!("r{dst} = map[{}]", map_name(map)),
            // The second half is not known here.
            None if code == isa::LD_IMM64 => format!("r{dst} = {imm:#x} ll"),
            None => format!("r{dst} |= {imm:#x} << 32"),
        },
        0x01 => format!("r{dst} = *({size} *)(r{src} {off:+})"),
        0x02 => format!("*({size} *)(r{dst} {off:+}) = {imm}"),
        0x03 => format!("*({size} *)(r{dst} {off:+}) = r{src}"),
        0x04 if code == isa::FROM_NETWORK => format!("r{dst} = be{imm} r{dst}"),
        class @ (0x04 | 0x07) => arithmetic(insn, class),
        class => jump(insn, class, index as i64 + 1 + i64::from(off)),
    }
}

/// An instruction that computes: `class` says with how many bits.
fn arithmetic(insn: &Insn, class: u8) -> String {
    let Insn {
        code, dst, src, imm, ..
    } = *insn;
    let operator = match code & 0xf0 {
        0x00 => "+=",
        0x50 => "&=",
        0x60 => "<<=",
        0xb0 => "=",
        _ => "?=",
    };
    let register = if class == 0x04 { 'w' } else { 'r' };
    match (code & 0x08 != 0, operator) {
        (true, _) => format!("{register}{dst} {operator} {register}{src}"),
        (false, "&=") => format!("{register}{dst} {operator} {imm:#x}"),
        (false, _) => format!("{register}{dst} {operator} {imm}"),
    }
}

/// A jump to the instruction with the number `target`, a call, or the end: `class` says how many
/// bits are compared.
fn jump(insn: &Insn, class: u8, target: i64) -> String {
    let Insn {
        code, dst, src, imm, ..
    } = *insn;
    match code {
        isa::JA => format!("goto {target}"),
        isa::EXIT => "exit".to_owned(),
        isa::CALL => match imm {
            isa::MAP_LOOKUP_ELEM => "call map_lookup_elem".to_owned(),
            isa::TAIL_CALL => "call tail_call".to_owned(),
            helper => format!("call helper#{helper}"),
        },
        _ => {
            let register = if class == 0x06 { 'w' } else { 'r' };
            let condition = match code & 0xf0 {
                0x10 => "==",
                0x30 => ">=",
                0x40 => "&",
                0x50 => "!=",
                _ => "?",
            };
            let operand = if code & 0x08 != 0 {
                format!("{register}{src}")
            } else {
                format!("{imm:#x}")
            };
            format!("if {register}{dst} {condition} {operand} goto {target}")
        }
    }
}
