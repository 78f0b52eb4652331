//! The conditions of one rule: what is left to test of it, and the tests in a row.

use std::collections::BTreeMap;

use crate::block::{Block, Label, Target};
use crate::compile::Direction;
use crate::emit::Emitter;
use crate::frame::{CONSTANT, NAMED_ROW, OWN_ROW, ROW, SCRATCH, VALUE, scratch};
use crate::isa::{self, Cond, Size};
use crate::matching::{Test, emit_test, net_words};
use crate::rule::{ProtocolTest, Rule, SetIndex};
use crate::segment::Item;

impl Emitter<'_> {
    /// Tests of one rule, one after the other.
    pub(crate) fn conditions(block: &mut Block, tests: &[Test<'_>], fail: Label, success: Target) {
        let fail = Target::Label(fail);
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

    /// The same for a rule by itself, as good as certain to match where it is found: what is compared with one value each is
    /// compared with one jump for all of it. The verifier follows every jump both ways, so jumps are what loading costs.
    pub(crate) fn together(block: &mut Block, tests: &[Test<'_>], fail: Label, success: Target) {
        let mut values = Vec::new();
        let mut count = 0;
        for equal in tests.iter().map_while(equal) {
            values.extend(equal);
            count += 1;
        }
        let [first, others @ ..] = values.as_slice() else {
            return Self::conditions(block, tests, fail, success);
        };
        let rest = tests.get(count..).unwrap_or_default();
        if others.is_empty() {
            return Self::conditions(block, tests, fail, success);
        }
        first.difference(block, VALUE);
        for other in others {
            other.difference(block, CONSTANT);
            block.op(isa::or32(VALUE, CONSTANT));
        }
        if rest.is_empty() {
            block.branch(isa::jump32_imm(Cond::Eq, VALUE, 0), success);
            block.jump(Target::Label(fail));
            return;
        }
        block.branch(isa::jump32_imm(Cond::Ne, VALUE, 0), Target::Label(fail));
        Self::conditions(block, rest, fail, success);
    }

    /// What is left to test, cheap and telling tests first. The peer is known to be in a set.
    pub(crate) fn tests<'r>(&self, rule: &'r Rule, item: &Item, known: Option<SetIndex>) -> Vec<Test<'r>> {
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
            (NAMED_ROW, rule.services.as_slice(), rule.not_named.as_slice()),
            (OWN_ROW, rule.own_sets.as_slice(), rule.own_not_sets.as_slice()),
        ] {
            let is_known = |set: &SetIndex| row == ROW && Some(*set) == known;
            if unwanted.is_empty() && wanted.iter().all(is_known) {
                continue;
            }
            let wanted = self.words(wanted.iter().filter(|set| !is_known(set)));
            let mut masks = wanted.clone();
            for (offset, mask) in self.words(unwanted.iter()) {
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
        if item.icmp {
            let known = matches!(item.protocol, ProtocolTest::Is(_));
            let terms = [(rule.icmp, true), (rule.not_icmp, false)];
            tests.extend(terms.into_iter().filter_map(|(term, wanted)| {
                Some(Test::Icmp {
                    kind: term?,
                    wanted,
                    known,
                })
            }));
        }
        if let Some(addresses) = &rule.own {
            tests.push(Test::Nets(addresses, own));
        }
        if !rule.own_not_nets.is_empty() {
            tests.push(Test::NotNets(&rule.own_not_nets, own));
        }
        if !rule.not_nets.is_empty() {
            tests.push(Test::NotNets(&rule.not_nets, peer));
        }
        if item.nets && !rule.nets.is_empty() {
            tests.push(Test::Nets(&rule.nets, peer));
        }
        let source = item
            .source
            .and_then(|index| rule.ports.get(index)?.as_ref())
            .map(|ports| &ports.src);
        let destination = item.destination.and_then(|index| rule.ports.get(index)?.as_ref());
        if let Some(ports) = destination {
            tests.push(Test::Port(&ports.dst, scratch!(dst_port)));
        }
        if let Some(source) = source {
            tests.push(Test::Port(source, scratch!(src_port)));
        }
        if item.named || source.is_some_and(|source| !source.named.is_empty()) {
            tests.push(Test::AnyBit(
                NAMED_ROW,
                self.words(rule.named.iter()).into_iter().collect(),
            ));
        }
        tests
    }

    /// The slot of a set.
    pub(crate) fn slot(&self, set: SetIndex) -> Option<u32> {
        self.bits.get(set as usize).copied()
    }

    /// Offsets of 32-bit words in a class row, and bits in them.
    fn words<'s>(&self, sets: impl Iterator<Item = &'s SetIndex>) -> BTreeMap<i16, u32> {
        let mut words = BTreeMap::new();
        for slot in sets.filter_map(|set| self.slot(*set)) {
            let (offset, bit) = bit(slot);
            *words.entry(offset).or_default() |= 1 << bit;
        }
        words
    }
}

/// A value that must be equal to another, but for bits that are not looked at.
struct Equal {
    size: Size,
    register: u8,
    offset: i16,
    mask: i32,
    value: i32,
}

impl Equal {
    /// Loads what differs: zero if nothing does.
    fn difference(&self, block: &mut Block, to: u8) {
        block.uses_row |= self.register == ROW;
        block.op(isa::load(self.size, to, self.register, self.offset));
        if self.mask != -1 {
            block.op(isa::and32_imm(to, self.mask));
        }
        if self.value != 0 {
            block.op(isa::xor32_imm(to, self.value));
        }
    }
}

/// The test as comparisons of which all must hold, if it is that.
fn equal(test: &Test<'_>) -> Option<Vec<Equal>> {
    match test {
        Test::Protocol(ProtocolTest::Is(protocol)) => Some(vec![Equal {
            size: Size::B,
            register: SCRATCH,
            offset: scratch!(protocol),
            mask: -1,
            value: i32::from(*protocol),
        }]),
        Test::Bits {
            row,
            offset,
            mask,
            wanted,
        } if *row != OWN_ROW => Some(vec![Equal {
            size: Size::W,
            register: *row,
            offset: *offset,
            mask: *mask as i32,
            value: *wanted as i32,
        }]),
        Test::Nets([net], offset) => {
            let words = net_words(net, *offset).into_iter();
            let equal = words.map(|(offset, value, mask)| Equal {
                size: Size::W,
                register: SCRATCH,
                offset,
                mask,
                value,
            });
            Some(equal.collect())
        }
        _ => None,
    }
}

/// Where the bit of a slot is: byte offset of a 32-bit word in rows of `u64` in host byte order, and the bit in it.
pub(crate) fn bit(slot: u32) -> (i16, u32) {
    let half = slot / 32;
    let half = if cfg!(target_endian = "big") { half ^ 1 } else { half };
    ((half * 4) as i16, slot % 32)
}
