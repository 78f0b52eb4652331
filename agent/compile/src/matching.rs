//! Instructions for single tests: protocol, addresses, bits of class rows, ports.

use std::net::IpAddr;

use felid_common::protocol::{ICMP, ICMPV6};
use felid_model::IcmpMatch;
use ipnet::IpNet;

use crate::block::{Block, Target};
use crate::frame::{ROW, SCRATCH, VALUE, scratch};
use crate::isa::{self, Cond, Size};
use crate::ports::{PortMap, merge_neighbours};
use crate::rule::{PortTerm, ProtocolTest};

/// Intervals that are compared one by one at the bottom of a tree.
const LINEAR: usize = 4;

/// One test of a rule.
pub(crate) enum Test<'a> {
    Protocol(ProtocolTest),
    /// It is an ICMP message of this kind, or (not `wanted`) it is not. `known`: it is one of ICMP or ICMPv6.
    Icmp {
        kind: IcmpMatch,
        wanted: bool,
        known: bool,
    },
    /// One of these networks has the address at this offset of the scratch.
    Nets(&'a [IpNet], i16),
    /// None has.
    NotNets(&'a [IpNet], i16),
    /// Of the word at this offset of the row, the bits of the mask are as wanted.
    Bits {
        row: u8,
        offset: i16,
        mask: u32,
        wanted: u32,
    },
    /// Source port; where the second map says so, the next test (the last) decides.
    Source(&'a PortTerm),
    /// In these words of the row, one of these bits is set.
    AnyBit(u8, Vec<(i16, u32)>),
}

/// One test. `success` is where the whole rule leads: only the source port may skip the test after it.
pub(crate) fn emit_test(block: &mut Block, test: &Test<'_>, yes: Target, no: Target, success: Target, last: bool) {
    match test {
        Test::Protocol(protocol) => {
            block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
            match *protocol {
                ProtocolTest::Any => block.jump(yes),
                ProtocolTest::Is(is) => either(block, Cond::Eq, i32::from(is), yes, no, last),
                ProtocolTest::Not(not) => either(block, Cond::Ne, i32::from(not), yes, no, last),
            }
        }
        Test::Icmp { kind, wanted, known } => {
            let (hit, miss) = if *wanted { (yes, no) } else { (no, yes) };
            if !known {
                let is_icmp = block.label();
                block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
                for protocol in [ICMP, ICMPV6] {
                    block.branch(
                        isa::jump_imm(Cond::Eq, VALUE, i32::from(protocol)),
                        Target::Label(is_icmp),
                    );
                }
                block.jump(miss);
                block.bind(is_icmp);
            }
            let Some(icmp_type) = kind.icmp_type else {
                block.jump(hit);
                return;
            };
            let (size, value) = match kind.code {
                Some(code) => (Size::H, u16::from_ne_bytes([icmp_type, code])),
                None => (Size::B, u16::from(icmp_type)),
            };
            block.op(isa::load(size, VALUE, SCRATCH, scratch!(icmp_type)));
            let cond = if *wanted { Cond::Eq } else { Cond::Ne };
            either(block, cond, i32::from(value), yes, no, last);
        }
        Test::Nets(nets, offset) => {
            for net in *nets {
                net_test(block, net, *offset, yes);
            }
            block.jump(no);
        }
        Test::NotNets(nets, offset) => {
            for net in *nets {
                net_test(block, net, *offset, no);
            }
            block.jump(yes);
        }
        Test::Bits {
            row,
            offset,
            mask,
            wanted,
        } => {
            block.uses_row |= *row == ROW;
            block.op(isa::load(Size::W, VALUE, *row, *offset));
            if *wanted == 0 {
                block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), no);
                block.jump(yes);
            } else if mask == wanted && mask.is_power_of_two() {
                block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), yes);
                block.jump(no);
            } else {
                block.op(isa::and32_imm(VALUE, *mask as i32));
                either(block, Cond::Eq, *wanted as i32, yes, no, last);
            }
        }
        Test::Source(term) => {
            // Where no port asks for its name, the source port is a test like any other.
            let found = if term.named.is_empty() { yes } else { success };
            let mut map = PortMap::new();
            let mut starts: Vec<u16> = term
                .yes
                .boundaries()
                .chain(term.named.boundaries())
                .filter_map(|b| u16::try_from(b).ok())
                .collect();
            starts.push(0);
            starts.sort_unstable();
            starts.dedup();
            for start in starts {
                let target = if term.yes.contains(start) {
                    found
                } else if term.named.contains(start) {
                    yes
                } else {
                    no
                };
                map.push((start, target));
            }
            merge_neighbours(&mut map);
            block.op(isa::load(Size::H, VALUE, SCRATCH, scratch!(src_port)));
            tree(block, &map);
        }
        Test::AnyBit(row, words) => {
            block.uses_row |= *row == ROW;
            for (offset, mask) in words {
                block.op(isa::load(Size::W, VALUE, *row, *offset));
                block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), yes);
            }
            block.jump(no);
        }
    }
}

/// Compares all 32 bits of the value and goes one of two ways, of which one follows: `no` after the last test, else `yes`.
fn either(block: &mut Block, cond: Cond, value: i32, yes: Target, no: Target, last: bool) {
    let opposite = if cond == Cond::Eq { Cond::Ne } else { Cond::Eq };
    if last {
        block.branch(isa::jump32_imm(cond, VALUE, value), yes);
        block.jump(no);
    } else {
        block.branch(isa::jump32_imm(opposite, VALUE, value), no);
        block.jump(yes);
    }
}

/// Jumps if the address at this offset of the scratch is in the network; else goes on.
fn net_test(block: &mut Block, net: &IpNet, offset: i16, hit: Target) {
    let (address, mask): (Vec<u8>, Vec<u8>) = match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        _ => return,
    };
    // Words as they lie in memory, which is as they lie in the packet.
    let word = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
    let words: Vec<(i16, i32, i32)> = address
        .chunks_exact(4)
        .zip(mask.chunks_exact(4))
        .enumerate()
        .map(|(index, (address, mask))| (offset + 4 * index as i16, word(address), word(mask)))
        .filter(|(_, _, mask)| *mask != 0)
        .collect();
    let Some((last, front)) = words.split_last() else {
        block.jump(hit);
        return;
    };
    let miss = block.label();
    for (offset, address, mask) in front {
        load_masked(block, *offset, *mask);
        block.branch(isa::jump32_imm(Cond::Ne, VALUE, *address), Target::Label(miss));
    }
    let (offset, address, mask) = last;
    load_masked(block, *offset, *mask);
    block.branch(isa::jump32_imm(Cond::Eq, VALUE, *address), hit);
    block.bind(miss);
}

fn load_masked(block: &mut Block, offset: i16, mask: i32) {
    block.op(isa::load(Size::W, VALUE, SCRATCH, offset));
    if mask != -1 {
        block.op(isa::and32_imm(VALUE, mask));
    }
}

/// A balanced tree over the port in the value register.
pub(crate) fn tree(block: &mut Block, map: &[(u16, Target)]) {
    tree_part(block, map, u16::MAX);
}

/// `end` is the last port of the last interval.
fn tree_part(block: &mut Block, map: &[(u16, Target)], end: u16) {
    let [_, .., _] = map else {
        if let [(_, only)] = map {
            block.jump(*only);
        }
        return;
    };
    if let Some((singles, rest)) = mostly_one(map, end) {
        for (port, target) in singles {
            block.branch(isa::jump_imm(Cond::Eq, VALUE, i32::from(port)), target);
        }
        block.jump(rest);
        return;
    }
    let (left, right) = map.split_at(map.len() / 2);
    let Some((start, _)) = right.first() else { return };
    let upper = block.label();
    block.branch(isa::jump_imm(Cond::Ge, VALUE, i32::from(*start)), Target::Label(upper));
    tree_part(block, left, start - 1);
    block.bind(upper);
    tree_part(block, right, end);
}

/// If all but a few single ports lead to one target: those ports, and that target.
fn mostly_one(map: &[(u16, Target)], end: u16) -> Option<(Vec<(u16, Target)>, Target)> {
    if map.len() > 2 * LINEAR + 1 {
        return None;
    }
    let lasts = map.iter().skip(1).map(|(start, _)| start - 1).chain([end]);
    let intervals: Vec<(u16, u16, Target)> = map
        .iter()
        .zip(lasts)
        .map(|((start, target), last)| (*start, last, *target))
        .collect();
    let rest = intervals
        .iter()
        .find(|(first, last, _)| first != last)
        .or(intervals.last())?
        .2;
    let others = || intervals.iter().filter(|(_, _, target)| *target != rest);
    if others().count() > LINEAR || others().any(|(first, last, _)| first != last) {
        return None;
    }
    Some((others().map(|(first, _, target)| (*first, *target)).collect(), rest))
}
