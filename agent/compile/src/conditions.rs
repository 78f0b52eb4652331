//! The conditions of one rule: what is left to test of it, and the tests in a row.

use std::collections::BTreeMap;

use crate::block::{Block, Label, Target};
use crate::compile::Direction;
use crate::emit::Emitter;
use crate::frame::{NAMED_ROW, OWN_ROW, ROW, scratch};
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
        bit_last(&mut tests);
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

/// Whether the test is one comparison, and goes on with the next test by falling through.
fn is_comparison(test: &Test<'_>) -> bool {
    match test {
        Test::Protocol(_) | Test::Bits { .. } => true,
        Test::Nets([net], offset) => net_words(net, *offset).len() == 1,
        _ => false,
    }
}

/// The test of one bit needs a jump more where another test follows it: among comparisons, which cost the same, it is the last.
fn bit_last(tests: &mut [Test<'_>]) {
    let one_bit =
        |test: &Test<'_>| matches!(test, Test::Bits { mask, wanted, .. } if mask == wanted && mask.is_power_of_two());
    if tests.iter().all(is_comparison)
        && let Some(bit) = tests.iter().position(one_bit)
        && let Some(end) = tests.get_mut(bit..)
    {
        end.rotate_left(1);
    }
}

/// Where the bit of a slot is: byte offset of a 32-bit word in rows of `u64` in host byte order, and the bit in it.
pub(crate) fn bit(slot: u32) -> (i16, u32) {
    let half = slot / 32;
    let half = if cfg!(target_endian = "big") { half ^ 1 } else { half };
    ((half * 4) as i16, slot % 32)
}
