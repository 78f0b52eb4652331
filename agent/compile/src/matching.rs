//! Instructions for single tests: protocol, addresses, bits of class rows, ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felid_common::protocol::{ICMP, ICMPV6};
use felid_model::IcmpMatch;
use ipnet::IpNet;

use crate::block::{Block, Label, Target};
use crate::frame::{CONSTANT, FRAME, OWN_ROW, OWN_ROW_SLOT, ROW, SCRATCH, VALUE, scratch};
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
    /// The port at this offset of the scratch; where the second map says so, the next test (the last) decides.
    Port(&'a PortTerm, i16),
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
        Test::Nets([net], offset) if !last => {
            for (offset, address, mask) in net_words(net, *offset) {
                load_masked(block, offset, mask);
                block.branch(isa::jump32_imm(Cond::Ne, VALUE, address), no);
            }
            block.jump(yes);
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
            let mut row = *row;
            if row == OWN_ROW {
                block.uses_own_row = true;
                row = 2;
                block.op(isa::load(Size::DW, row, FRAME, OWN_ROW_SLOT));
            }
            block.op(isa::load(Size::W, VALUE, row, *offset));
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
        Test::Port(term, offset) => {
            // Where no port asks for its name, the port is a test like any other.
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
            block.op(isa::load(Size::H, VALUE, SCRATCH, *offset));
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

/// The words of an address at this offset of the scratch that a network says something of: offset, value, and mask of what is compared.
pub(crate) fn net_words(net: &IpNet, offset: i16) -> Vec<(i16, i32, i32)> {
    let (address, mask): (Vec<u8>, Vec<u8>) = match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        _ => return Vec::new(),
    };
    // Words as they lie in memory, which is as they lie in the packet.
    let word = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
    address
        .chunks_exact(4)
        .zip(mask.chunks_exact(4))
        .enumerate()
        .map(|(index, (address, mask))| (offset + 4 * index as i16, word(address), word(mask)))
        .filter(|(_, _, mask)| *mask != 0)
        .collect()
}

/// Jumps if the address at this offset of the scratch is in the network; else goes on.
fn net_test(block: &mut Block, net: &IpNet, offset: i16, hit: Target) {
    let words = net_words(net, offset);
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
    let map: Vec<(u64, Target)> = map.iter().map(|(port, target)| (u64::from(*port), *target)).collect();
    tree_part(block, Width::Port, &map, u64::from(u16::MAX));
}

/// What is in the value register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Port,
    Word,
    Double,
}

impl Width {
    /// Compares the value register. Wide constants need a register.
    fn branch(self, block: &mut Block, cond: Cond, value: u64, target: Target) {
        match self {
            Width::Port => block.branch(isa::jump_imm(cond, VALUE, value as i32), target),
            Width::Word => block.branch(isa::jump32_imm(cond, VALUE, value as u32 as i32), target),
            Width::Double if value <= i32::MAX as u64 => block.branch(isa::jump_imm(cond, VALUE, value as i32), target),
            Width::Double => {
                block.load_wide(CONSTANT, value);
                block.branch(isa::jump_reg(cond, VALUE, CONSTANT), target);
            }
        }
    }
}

/// A balanced tree over the address at this offset of the scratch: (first address of the interval, target), the first at zero.
pub(crate) fn address_tree(block: &mut Block, v4: bool, offset: i16, map: &[(u128, Target)]) {
    if v4 {
        // What begins after the last address is nothing.
        let within = map.iter().filter(|(start, _)| *start <= u128::from(u32::MAX));
        let map: Vec<(u64, Target)> = within.map(|(start, target)| (*start as u64, *target)).collect();
        if map.len() > 1 {
            block.op(isa::load(Size::W, VALUE, SCRATCH, offset));
            block.op(isa::from_network(VALUE, 32));
        }
        tree_part(block, Width::Word, &map, u64::from(u32::MAX));
        return;
    }
    // First by the upper half; where intervals begin within one value of it, by the lower half.
    let mut halves: BTreeMap<u64, Vec<(u64, Target)>> = BTreeMap::new();
    for (start, target) in map {
        let (high, low) = ((*start >> 64) as u64, *start as u64);
        halves.entry(high).or_default().push((low, *target));
    }
    let mut upper: Vec<(u64, Target)> = Vec::new();
    let mut lower: Vec<(Label, Vec<(u64, Target)>)> = Vec::new();
    let mut before = Target::Next;
    for (&high, parts) in &halves {
        let last = parts.last().map_or(before, |(_, target)| *target);
        if let [(0, only)] = parts.as_slice() {
            upper.push((high, *only));
        } else {
            let mut parts = parts.clone();
            if parts.first().is_some_and(|(low, _)| *low != 0) {
                parts.insert(0, (0, before));
            }
            let label = block.label();
            upper.push((high, Target::Label(label)));
            lower.push((label, parts));
            let following = high.checked_add(1).filter(|next| !halves.contains_key(next));
            upper.extend(following.map(|next| (next, last)));
        }
        before = last;
    }
    upper.dedup_by(|later, earlier| later.1 == earlier.1);
    if upper.len() > 1 {
        block.op(isa::load(Size::DW, VALUE, SCRATCH, offset));
        block.op(isa::from_network(VALUE, 64));
    }
    tree_part(block, Width::Double, &upper, u64::MAX);
    for (label, mut parts) in lower {
        block.bind(label);
        parts.dedup_by(|later, earlier| later.1 == earlier.1);
        if parts.len() > 1 {
            block.op(isa::load(Size::DW, VALUE, SCRATCH, offset + 8));
            block.op(isa::from_network(VALUE, 64));
        }
        tree_part(block, Width::Double, &parts, u64::MAX);
    }
}

/// `end` is the last value of the last interval.
fn tree_part(block: &mut Block, width: Width, map: &[(u64, Target)], end: u64) {
    let [_, .., _] = map else {
        if let [(_, only)] = map {
            block.jump(*only);
        }
        return;
    };
    if let Some((singles, rest)) = mostly_one(map, end) {
        for (value, target) in singles {
            width.branch(block, Cond::Eq, value, target);
        }
        block.jump(rest);
        return;
    }
    let (left, right) = map.split_at(map.len() / 2);
    let Some((start, _)) = right.first() else { return };
    let upper = block.label();
    width.branch(block, Cond::Ge, *start, Target::Label(upper));
    tree_part(block, width, left, start - 1);
    block.bind(upper);
    tree_part(block, width, right, end);
}

/// Single values that lead to targets of their own, and the target of all others.
type Singles = (Vec<(u64, Target)>, Target);

/// If all but a few single values lead to one target: those values, and that target.
fn mostly_one(map: &[(u64, Target)], end: u64) -> Option<Singles> {
    if map.len() > 2 * LINEAR + 1 {
        return None;
    }
    let lasts = map.iter().skip(1).map(|(start, _)| start - 1).chain([end]);
    let intervals: Vec<(u64, u64, Target)> = map
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
