//! The conditions of one rule: which tests are left, and the tests in a row.
//!
//! In: a rule, and what has been tested of it already. Out: [`Test`]s in the order in which they
//! are cheapest, and their instructions. Never: other rules.

use crate::codegen::block::{Block, Label, Target};
use crate::codegen::emitter::Emitter;
use crate::codegen::frame::{Row, scratch};
use crate::codegen::matching::{Exits, Test, field_tests};
use crate::ir::item::RuleItem;
use crate::ir::rule::{ProtocolTest, Rule, SetIndex};
use crate::types::Direction;

/// Writes the tests of one rule, one after the other.
pub(crate) fn emit_conditions(block: &mut Block, tests: &[Test<'_>], fail: Label, matched: Target) {
    let fail = Target::Label(fail);
    let Some((last, front)) = tests.split_last() else {
        block.jump(matched);
        return;
    };
    for test in front {
        let next = block.label();
        test.emit(block, Exits::before(Target::Label(next), matched, fail));
        block.bind(next);
    }
    last.emit(block, Exits::of_last(matched, fail));
}

/// Returns the tests that are left of a rule, cheap and telling ones first. `known` is a set that
/// the peer is known to be in.
pub(crate) fn tests_of<'r>(
    emitter: &Emitter<'_>,
    rule: &'r Rule,
    item: &RuleItem,
    known: Option<SetIndex>,
) -> Vec<Test<'r>> {
    let mut tests = Vec::new();
    if item.protocol != ProtocolTest::Any {
        tests.push(Test::Protocol(item.protocol));
    }
    row_tests(emitter, rule, known, &mut tests);
    if item.fields {
        tests.extend(field_tests(rule.fields, item.protocol));
    }
    address_tests(emitter.direction, rule, item, &mut tests);
    let term = |place: Option<usize>| place.and_then(|index| rule.ports.get(index)?.as_ref());
    if let Some(ports) = term(item.destination) {
        tests.push(Test::Port(&ports.dst, scratch!(dst_port)));
    }
    let source = term(item.source).map(|ports| &ports.src);
    if let Some(source) = source {
        tests.push(Test::Port(source, scratch!(src_port)));
    }
    if item.named || source.is_some_and(|source| !source.named.is_empty()) {
        let words = emitter.words(rule.named.iter());
        tests.push(Test::AnyBit(Row::NamedPort, words.into_iter().collect()));
    }
    one_bit_last(&mut tests);
    tests
}

/// Adds the tests of class rows.
fn row_tests(emitter: &Emitter<'_>, rule: &Rule, known: Option<SetIndex>, tests: &mut Vec<Test<'_>>) {
    for (row, wanted, unwanted) in [
        (Row::Peer, &rule.sets, &rule.not_sets),
        (Row::NamedPort, &rule.services, &rule.not_named),
        (Row::Local, &rule.local.sets, &rule.local.not_sets),
    ] {
        let is_known = |set: &SetIndex| row == Row::Peer && Some(*set) == known;
        if unwanted.is_empty() && wanted.iter().all(is_known) {
            continue;
        }
        let wanted = emitter.words(wanted.iter().filter(|set| !is_known(set)));
        let mut masks = wanted.clone();
        for (offset, mask) in emitter.words(unwanted.iter()) {
            *masks.entry(offset).or_default() |= mask;
        }
        tests.extend(masks.into_iter().map(|(offset, mask)| Test::Bits {
            row,
            offset,
            mask,
            wanted: wanted.get(&offset).copied().unwrap_or_default(),
        }));
    }
}

/// Adds the tests of addresses.
fn address_tests<'r>(direction: Direction, rule: &'r Rule, item: &RuleItem, tests: &mut Vec<Test<'r>>) {
    let (local, peer) = match direction {
        Direction::Ingress => (scratch!(dst), scratch!(src)),
        Direction::Egress => (scratch!(src), scratch!(dst)),
    };
    if let Some(addresses) = &rule.local.nets {
        tests.push(Test::Nets(addresses, local));
    }
    if !rule.local.not_nets.is_empty() {
        tests.push(Test::NotNets(&rule.local.not_nets, local));
    }
    if !rule.not_nets.is_empty() {
        tests.push(Test::NotNets(&rule.not_nets, peer));
    }
    if item.nets && !rule.nets.is_empty() {
        tests.push(Test::Nets(&rule.nets, peer));
    }
}

/// Moves a test of one bit to the end, if all tests are comparisons, which cost the same: it needs
/// a jump more where another test follows it.
fn one_bit_last(tests: &mut [Test<'_>]) {
    if tests.iter().all(Test::is_comparison)
        && let Some(bit) = tests.iter().position(Test::is_one_bit)
        && let Some(end) = tests.get_mut(bit..)
    {
        end.rotate_left(1);
    }
}
