//! Instructions for segments: dispatch trees, and the tests of each rule.
//!
//! Registers: r6 the packet's context, r7 the scratch, r8 the class row of the peer's address, r9 the class row of the peer's named port
//! (0 until it was looked up); r0-r5 hold nothing across tests. Values are loaded afresh for each test: they are in the first-level
//! cache, and the verifier then has nothing to remember about them where ways join.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::net::IpAddr;

use felid_common::{ClassPair, NamedPortKey};
use felid_model::resolved::SetId;
use ipnet::IpNet;

use crate::block::{Block, Label, Purpose, Target};
use crate::compile::{CompileError, Direction};
use crate::isa::{self, Cond, Size};
use crate::layout::{MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS};
use crate::lower::{Outcome, PORT_PROTOCOLS, ProtocolTest, Rule, Site};
use crate::ports::PortMap;
use crate::program::MapRef;
use crate::segment::{Item, LeafId, Segment, dispatch};

/// The packet's context.
pub(crate) const CTX: u8 = 6;
/// [`Scratch`].
pub(crate) const SCRATCH: u8 = 7;
/// Class row of the peer's address.
pub(crate) const ROW: u8 = 8;
/// Class row of the peer's named port, or 0.
pub(crate) const NAMED_ROW: u8 = 9;
/// The value under test.
const VALUE: u8 = 1;
/// Frame pointer.
pub(crate) const FRAME: u8 = 10;
/// Where on the stack array indices are.
pub(crate) const KEY_SLOT: i16 = -4;
/// Where on the stack the named-port key begins.
const NAMED_KEY: i16 = -8 - size_of::<NamedPortKey>().next_multiple_of(8) as i16;

/// Intervals that are compared one by one at the bottom of a tree.
const LINEAR: usize = 4;

/// Rules that are skipped together.
const GROUP: usize = 32;
/// Each test of a word, made to skip rules, must stand for so many of them.
const RULES_PER_WORD: usize = 4;

/// Offset of a field of [`Scratch`].
macro_rules! scratch {
    ($field:ident) => {
        ::std::mem::offset_of!(::felid_common::Scratch, $field) as i16
    };
}
pub(crate) use scratch;

/// What all segments of a program share.
pub(crate) struct Emitter<'a> {
    /// Slots of sets.
    pub(crate) bits: &'a BTreeMap<SetId, u32>,
    pub(crate) direction: Direction,
    pub(crate) sites: &'a [Site<'a>],
}

/// One test of a rule.
enum Test<'a> {
    Protocol(ProtocolTest),
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
    Source(&'a crate::lower::PortTerm),
    /// In these words of the row, one of these bits is set.
    AnyBit(u8, Vec<(i16, u32)>),
}

impl Emitter<'_> {
    /// Emits a segment as one block, or as several where it turns out too large.
    pub(crate) fn segment(&self, segment: Segment<'_>, out: &mut Vec<Block>) -> Result<(), CompileError> {
        let (block, rules, whole): (_, _, fn(_) -> _) = match segment {
            Segment::Run(rules) => (self.run(&rules), rules, Segment::Run),
            Segment::Dispatch(rules) => (self.dispatch(&rules), rules, Segment::Dispatch),
        };
        let (insns, branches) = (block.ops.len(), block.branches());
        if insns <= MAX_CHUNK_INSNS && branches <= MAX_CHUNK_BRANCHES {
            out.push(block);
            return Ok(());
        }
        match rules.as_slice() {
            [] => Ok(()),
            [rule] => Err(CompileError::RuleTooLarge {
                rule: self.sites.get(rule.site).map(Site::text).unwrap_or_default(),
                insns,
                branches,
                limit: MAX_CHUNK_INSNS,
                branch_limit: MAX_CHUNK_BRANCHES,
            }),
            rules => {
                let (first, second) = rules.split_at(rules.len() / 2);
                self.segment(whole(first.to_vec()), out)?;
                self.segment(whole(second.to_vec()), out)
            }
        }
    }

    /// Rules one after the other.
    fn run(&self, rules: &[&Rule]) -> Block {
        let mut block = Block::new(Purpose::Frame("rules in order"));
        self.prepare_named(&mut block, rules);
        let items: Vec<Item> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| Item::whole(index, rule))
            .collect();
        self.leaf(&mut block, rules, &items);
        block
    }

    fn dispatch(&self, rules: &[&Rule]) -> Block {
        let plan = dispatch(rules);
        let mut block = Block::new(Purpose::Frame("dispatch"));
        self.prepare_named(&mut block, rules);
        block.set_purpose(Purpose::Frame("dispatch"));
        let mut labels: BTreeMap<LeafId, Label> = BTreeMap::new();
        let mut leaf_target = |block: &mut Block, id: LeafId| {
            let leaf = plan.leaves.get(id).map(Vec::as_slice).unwrap_or_default();
            match leaf.first().and_then(|item| Some((item, rules.get(item.rule)?))) {
                None => Target::Next,
                Some((item, rule)) if item.is_certain(rule) => success(rule),
                Some(_) => Target::Label(*labels.entry(id).or_insert_with(|| block.label())),
            }
        };
        let other = leaf_target(&mut block, plan.portless);
        // Protocols with the same map share a tree.
        let mut trees: Vec<(&PortMap<LeafId>, Label, PortMap<Target>)> = Vec::new();
        let mut ways = Vec::new();
        for (protocol, map) in PORT_PROTOCOLS.iter().zip(&plan.ports) {
            let mut targets: PortMap<Target> = map
                .iter()
                .map(|(port, id)| (*port, leaf_target(&mut block, *id)))
                .collect();
            crate::ports::merge_neighbours(&mut targets);
            let way = match (targets.as_slice(), trees.iter().find(|(other, ..)| *other == map)) {
                ([(_, only)], _) => *only,
                (_, Some((_, label, _))) => Target::Label(*label),
                _ => {
                    let label = block.label();
                    trees.push((map, label, targets));
                    Target::Label(label)
                }
            };
            ways.push((i32::from(*protocol), way));
        }
        ways.retain(|(_, way)| *way != other);
        if !ways.is_empty() {
            block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
        }
        for (protocol, way) in ways {
            block.branch(isa::jump_imm(Cond::Eq, VALUE, protocol), way);
        }
        block.jump(other);
        for (_, label, targets) in &trees {
            block.bind(*label);
            block.op(isa::load(Size::H, VALUE, SCRATCH, scratch!(dst_port)));
            tree(&mut block, targets);
        }
        for (id, label) in labels {
            block.bind(label);
            self.leaf(
                &mut block,
                rules,
                plan.leaves.get(id).map(Vec::as_slice).unwrap_or_default(),
            );
        }
        block
    }

    /// Looks the named port's row up, if that has not been done and the rules need it.
    fn prepare_named(&self, block: &mut Block, rules: &[&Rule]) {
        if rules
            .iter()
            .all(|rule| rule.named.is_empty() && rule.not_named.is_empty())
        {
            return;
        }
        block.uses_named = true;
        block.set_purpose(Purpose::Frame("named port of the peer"));
        let (address, port) = match self.direction {
            Direction::Ingress => (scratch!(src), scratch!(src_port)),
            Direction::Egress => (scratch!(dst), scratch!(dst_port)),
        };
        let (done, look_up, class_zero, class_known) = (block.label(), block.label(), block.label(), block.label());
        block.branch(isa::jump_imm(Cond::Ne, NAMED_ROW, 0), Target::Label(done));
        // Class 0 is a member of nothing: that is what packets without ports, and unknown ports, are.
        block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
        for protocol in PORT_PROTOCOLS {
            block.branch(
                isa::jump_imm(Cond::Eq, VALUE, i32::from(protocol)),
                Target::Label(look_up),
            );
        }
        block.jump(Target::Label(class_zero));
        block.bind(look_up);
        let mut field = |size: Size, from: i16, to: usize| {
            block.op(isa::load(size, VALUE, SCRATCH, from));
            block.op(isa::store(size, FRAME, NAMED_KEY + to as i16, VALUE));
        };
        field(Size::DW, address, offset_of!(NamedPortKey, address));
        field(Size::DW, address + 8, offset_of!(NamedPortKey, address) + 8);
        field(Size::H, port, offset_of!(NamedPortKey, port));
        field(Size::B, scratch!(protocol), offset_of!(NamedPortKey, protocol));
        field(Size::B, scratch!(ip_version), offset_of!(NamedPortKey, ip_version));
        block.op(isa::mov(2, FRAME));
        block.op(isa::add_imm(2, i32::from(NAMED_KEY)));
        block.load_map(1, MapRef::NamedPorts);
        block.op(isa::call(isa::MAP_LOOKUP_ELEM));
        block.branch(isa::jump_imm(Cond::Eq, 0, 0), Target::Label(class_zero));
        let second_bank = block.label();
        let class = offset_of!(ClassPair, class) as i16;
        block.op(isa::load(Size::W, 2, SCRATCH, scratch!(bank)));
        block.branch(isa::jump_imm(Cond::Ne, 2, 0), Target::Label(second_bank));
        block.op(isa::load(Size::W, VALUE, 0, class));
        block.jump(Target::Label(class_known));
        block.bind(second_bank);
        block.op(isa::load(Size::W, VALUE, 0, class + 4));
        block.jump(Target::Label(class_known));
        block.bind(class_zero);
        block.op(isa::mov_imm(VALUE, 0));
        block.bind(class_known);
        look_up_row(block, VALUE, NAMED_ROW);
        block.bind(done);
    }

    /// The rules of a leaf, and what follows the block where none matches.
    fn leaf(&self, block: &mut Block, rules: &[&Rule], items: &[Item]) {
        let mut rest = items;
        while !rest.is_empty() {
            let (group, words) = self.group(rules, rest);
            let skip = block.label();
            if !words.is_empty() {
                block.set_purpose(Purpose::Frame("skip rules whose sets the peer is not in"));
                let enter = block.label();
                emit_test(
                    block,
                    &Test::AnyBit(ROW, words),
                    Target::Label(enter),
                    Target::Label(skip),
                    Target::Drop,
                    true,
                );
                block.bind(enter);
            }
            for item in rest.iter().take(group) {
                let Some(rule) = rules.get(item.rule) else { continue };
                block.set_purpose(Purpose::Site(rule.site));
                let fail = block.label();
                self.item(block, rule, item, fail);
                if item.is_certain(rule) {
                    return;
                }
                block.bind(fail);
            }
            block.bind(skip);
            rest = rest.get(group..).unwrap_or_default();
        }
        block.jump(Target::Next);
    }

    /// How many of the items belong together, and words of bits of which one must be set for any of them to match. A peer is in few
    /// sets, so most of a long list is skipped; no words: not worth it.
    fn group(&self, rules: &[&Rule], items: &[Item]) -> (usize, Vec<(i16, u32)>) {
        let mut words: BTreeMap<i16, u32> = BTreeMap::new();
        let mut length = 0;
        for rule in items.iter().take(GROUP).map_while(|item| rules.get(item.rule)) {
            let places = || {
                rule.sets
                    .iter()
                    .filter_map(|set| self.bits.get(set))
                    .map(|slot| bit(*slot))
            };
            let Some((offset, bit)) = places()
                .find(|(offset, _)| words.contains_key(offset))
                .or_else(|| places().next())
            else {
                break;
            };
            *words.entry(offset).or_default() |= 1 << bit;
            length += 1;
        }
        let worth_it = words.len() * RULES_PER_WORD <= length;
        if worth_it && length > 0 {
            (length, words.into_iter().collect())
        } else {
            (length.max(1), Vec::new())
        }
    }

    fn item(&self, block: &mut Block, rule: &Rule, item: &Item, fail: Label) {
        let tests = self.tests(rule, item);
        let (fail, success) = (Target::Label(fail), success(rule));
        let Some(last) = tests.len().checked_sub(1) else {
            block.jump(success);
            return;
        };
        for (index, test) in tests.iter().enumerate() {
            if index == last {
                emit_test(block, test, success, fail, success, true);
            } else {
                let next = block.label();
                emit_test(block, test, Target::Label(next), fail, success, false);
                block.bind(next);
            }
        }
    }

    /// What is left to test, cheap and telling tests first.
    fn tests<'r>(&self, rule: &'r Rule, item: &Item) -> Vec<Test<'r>> {
        let (own, peer) = match self.direction {
            Direction::Ingress => (scratch!(dst), scratch!(src)),
            Direction::Egress => (scratch!(src), scratch!(dst)),
        };
        let mut tests = Vec::new();
        if item.protocol != ProtocolTest::Any {
            tests.push(Test::Protocol(item.protocol));
        }
        for (row, wanted, unwanted) in [
            (ROW, rule.sets.as_slice(), rule.not_sets.as_slice()),
            (NAMED_ROW, &[], rule.not_named.as_slice()),
        ] {
            let wanted = self.words(wanted);
            let mut masks = wanted.clone();
            for (offset, mask) in self.words(unwanted) {
                *masks.entry(offset).or_default() |= mask;
            }
            for (offset, mask) in masks {
                let wanted = wanted.get(&offset).copied().unwrap_or_default();
                tests.push(Test::Bits {
                    row,
                    offset,
                    mask,
                    wanted,
                });
            }
        }
        if let Some(addresses) = &rule.own {
            tests.push(Test::Nets(addresses, own));
        }
        if !rule.not_nets.is_empty() {
            tests.push(Test::NotNets(&rule.not_nets, peer));
        }
        if !rule.nets.is_empty() {
            tests.push(Test::Nets(&rule.nets, peer));
        }
        let source = item
            .source
            .and_then(|index| rule.ports.get(index)?.as_ref())
            .map(|ports| &ports.src);
        if let Some(source) = source {
            tests.push(Test::Source(source));
        }
        if item.named || source.is_some_and(|source| !source.named.is_empty()) {
            tests.push(Test::AnyBit(NAMED_ROW, self.words(&rule.named).into_iter().collect()));
        }
        tests
    }

    /// Offsets of 32-bit words in a class row, and bits in them.
    fn words(&self, sets: &[SetId]) -> BTreeMap<i16, u32> {
        let mut words = BTreeMap::new();
        for slot in sets.iter().filter_map(|set| self.bits.get(set)) {
            let (offset, bit) = bit(*slot);
            *words.entry(offset).or_default() |= 1 << bit;
        }
        words
    }
}

/// Where the bit of a slot is: byte offset of a 32-bit word in rows of `u64` in host byte order, and the bit in it.
fn bit(slot: u32) -> (i16, u32) {
    let half = slot / 32;
    let half = if cfg!(target_endian = "big") { half ^ 1 } else { half };
    ((half * 4) as i16, slot % 32)
}

/// Where a rule that matched leads.
fn success(rule: &Rule) -> Target {
    match rule.outcome {
        Outcome::Verdict => Target::Verdict(rule.site),
        Outcome::Pass => Target::Pass,
    }
}

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

/// One test. `success` is where the whole rule leads: only the source port may skip the test after it.
fn emit_test(block: &mut Block, test: &Test<'_>, yes: Target, no: Target, success: Target, last: bool) {
    match test {
        Test::Protocol(protocol) => {
            block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
            match *protocol {
                ProtocolTest::Any => block.jump(yes),
                ProtocolTest::Is(is) => either(block, Cond::Eq, i32::from(is), yes, no, last),
                ProtocolTest::Not(not) => either(block, Cond::Ne, i32::from(not), yes, no, last),
            }
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
            crate::ports::merge_neighbours(&mut map);
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
fn tree(block: &mut Block, map: &[(u16, Target)]) {
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
