//! Rules found by the peer's sets: the words of the class row in which their sets' bits are.
//!
//! In: a list of rules with a set each. Out: blocks that go through the words in the order of the
//! rules; where a bit is set, its rules are tested. Where the words take several blocks, a block in
//! front looks at 64 bits at once and leads to the first of them that matters. Never: other ways to
//! find rules.

use std::collections::BTreeMap;

use crate::codegen::block::{Block, Purpose, Ref, Target};
use crate::codegen::candidates::write_candidates;
use crate::codegen::conditions::{emit_conditions, tests_of};
use crate::codegen::frame::{CONSTANT, PEER_ROW, VALUE, class_bit};
use crate::codegen::isa::{self, Cond, Size};
use crate::codegen::section::{Place, SectionBuilder};
use crate::ir::item::RuleItem;
use crate::ir::rule::SetIndex;
use crate::ir::segment::cost;
use crate::limits::BLOCK_INSNS;
use crate::types::CompileError;

/// Rules that are tested together: those of a word where each has a set of its own, and more where
/// they share sets.
const MOST_RULES: usize = 128;

/// Words that are not looked at two at a time first.
const FEW_WORDS: usize = 4;

/// Returns the words of the class row that find these rules, in the order of their first rules.
pub(crate) fn words(section: &SectionBuilder<'_>, items: &[RuleItem]) -> Vec<Word> {
    let mut users = vec![0_usize; section.emitter.bits.len()];
    for set in items
        .iter()
        .filter_map(|item| section.rules.get(item.rule))
        .flat_map(|rule| &rule.sets)
    {
        if let Some(users) = users.get_mut(*set as usize) {
            *users += 1;
        }
    }
    let mut words: BTreeMap<u32, Word> = BTreeMap::new();
    for (position, item) in items.iter().enumerate() {
        let sets = section.rules.get(item.rule).into_iter().flat_map(|rule| &rule.sets);
        // The rarest set tells most.
        let set = sets.min_by_key(|set| users.get(**set as usize).copied().unwrap_or_default());
        let Some((set, slot)) = set.and_then(|set| Some((*set, section.emitter.slot(*set)?))) else {
            continue;
        };
        let (offset, bit) = class_bit(slot);
        let word = words.entry(slot / 32).or_insert_with(|| Word {
            half: slot / 32,
            offset,
            mask: 0,
            rules: Vec::new(),
            in_order: true,
        });
        word.mask |= 1 << bit;
        word.rules.push((position, item.clone(), set, 1 << bit));
    }
    let mut words: Vec<Word> = words.into_values().flat_map(Word::split).collect();
    let ends = |word: &Word| {
        let first = word.rules.first().map_or(0, |rule| rule.0);
        (first, word.rules.last().map_or(0, |rule| rule.0))
    };
    words.sort_by_key(|word| ends(word).0);
    let mut following = usize::MAX;
    for word in words.iter_mut().rev() {
        word.in_order = ends(word).1 < following;
        following = following.min(ends(word).0);
    }
    words
}

/// Adds the rules of these words.
pub(crate) fn by_set(section: &mut SectionBuilder<'_>, words: &[Word], place: Place) -> Result<(), CompileError> {
    let mut blocks: Vec<(Block, &[Word])> = Vec::new();
    set_blocks(section, words, &mut blocks)?;
    let several = blocks.len() > 1;
    let names: Vec<Ref> = (0..blocks.len())
        .map(|index| {
            if index == 0 && !several {
                place.name
            } else {
                section.name()
            }
        })
        .collect();
    if several {
        let mut head = Block::new(Purpose::Frame("sets of the peer, 64 at once"));
        for ((_, words), name) in blocks.iter().zip(&names) {
            words_test(&mut head, words, Target::Ref(*name));
        }
        head.jump(Target::Next);
        section.push(head, place);
    }
    for (index, (block, _)) in blocks.into_iter().enumerate() {
        let name = names.get(index).copied().unwrap_or(place.name);
        let after = names.get(index + 1).copied().or(place.after);
        section.push(block, Place { name, after });
    }
    Ok(())
}

/// Adds words as blocks of bounded size.
fn set_blocks<'w>(
    section: &SectionBuilder<'_>,
    words: &'w [Word],
    out: &mut Vec<(Block, &'w [Word])>,
) -> Result<(), CompileError> {
    let mut rest = words;
    while !rest.is_empty() {
        let mut insns = 0;
        let fits = |word: &&Word| {
            let rules = word
                .rules
                .iter()
                .filter_map(|(_, item, ..)| section.rules.get(item.rule));
            insns += 3 + rules.map(|rule| cost(rule) + 2).sum::<usize>();
            insns <= BLOCK_INSNS
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, others) = rest.split_at(count);
        set_block(section, group, out)?;
        rest = others;
    }
    Ok(())
}

/// Adds words as one block, or as several where it turns out too large.
fn set_block<'w>(
    section: &SectionBuilder<'_>,
    words: &'w [Word],
    out: &mut Vec<(Block, &'w [Word])>,
) -> Result<(), CompileError> {
    let mut block = Block::new(Purpose::Frame("sets of the peer"));
    block.uses_peer_row = true;
    if words.len() > FEW_WORDS {
        // It is also entered where a rule of an earlier block matched, and slots are in another
        // order than the rules.
        let enter = block.label();
        words_test(&mut block, words, Target::Label(enter));
        block.jump(Target::Next);
        block.bind(enter);
    }
    for word in words {
        emit_word(section, &mut block, word);
    }
    block.jump(Target::Next);
    write_candidates(&mut block, section.emitter.points);
    if !block.is_too_large() {
        out.push((block, words));
        return Ok(());
    }
    match words.split_at(words.len() / 2) {
        ([], _) => {
            let rule = words.iter().flat_map(|word| &word.rules).next();
            let rule = rule.and_then(|(_, item, ..)| section.rules.get(item.rule));
            match rule {
                Some(rule) => Err(section.emitter.too_large(rule, &block)),
                None => Ok(()),
            }
        }
        (first, second) => {
            set_block(section, first, out)?;
            set_block(section, second, out)
        }
    }
}

/// Writes the rules that 32 bits of the row find, in order.
fn emit_word(section: &SectionBuilder<'_>, block: &mut Block, word: &Word) {
    let end = block.label();
    let then = if word.in_order {
        Target::Next
    } else {
        Target::Label(end)
    };
    let earlier = std::mem::take(&mut block.candidates);
    block.set_purpose(Purpose::Frame("sets of the peer"));
    block.op(isa::load(Size::W, VALUE, PEER_ROW, word.offset));
    if word.rules.len() > 2 {
        let enter = block.label();
        block.branch(
            isa::jump32_imm(Cond::Set, VALUE, word.mask as i32),
            Target::Label(enter),
        );
        block.jump(Target::Label(end));
        block.bind(enter);
    }
    let mut loaded = true;
    for (_, item, set, mask) in &word.rules {
        let Some(rule) = section.rules.get(item.rule) else {
            continue;
        };
        block.set_purpose(Purpose::Point(rule.point));
        if !loaded {
            block.op(isa::load(Size::W, VALUE, PEER_ROW, word.offset));
            loaded = true;
        }
        let matched = if section.emitter.candidate {
            block.candidate(rule.point, rule.outcome, then)
        } else {
            section.emitter.matched(block, rule)
        };
        let tests = tests_of(&section.emitter, rule, item, Some(*set));
        if tests.is_empty() {
            block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), matched);
            continue;
        }
        let (enter, fail) = (block.label(), block.label());
        block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), Target::Label(enter));
        block.jump(Target::Label(fail));
        block.bind(enter);
        emit_conditions(block, &tests, fail, matched);
        block.bind(fail);
        loaded = false;
    }
    if !word.in_order {
        block.jump(Target::Label(end));
        write_candidates(block, section.emitter.points);
    }
    block.bind(end);
    let mut candidates = earlier;
    candidates.append(&mut block.candidates);
    block.candidates = candidates;
}

/// Returns all items of these words.
pub(crate) fn items(words: &mut [Word]) -> impl Iterator<Item = &mut RuleItem> {
    words
        .iter_mut()
        .flat_map(|word| &mut word.rules)
        .map(|(_, item, ..)| item)
}

/// 32 bits of the class row, and the rules that they find.
pub(crate) struct Word {
    /// Which 32 bits of the row, counted from slot 0.
    half: u32,
    /// Where they are in the row.
    offset: i16,
    mask: u32,
    /// Positions in the list, the rules, their sets and bits.
    rules: Vec<(usize, RuleItem, SetIndex, u32)>,
    /// No rule of a later word stands before one of this word.
    pub(crate) in_order: bool,
}

impl Word {
    /// Cuts it into words that find a bounded number of rules each.
    fn split(self) -> Vec<Self> {
        let chunks = self.rules.chunks(MOST_RULES).map(|rules| Self {
            mask: rules.iter().fold(0, |mask, rule| mask | rule.3),
            rules: rules.to_vec(),
            ..self
        });
        chunks.collect()
    }
}

/// Jumps if any of these words' bits is set, 64 bits at a time.
fn words_test(block: &mut Block, words: &[Word], hit: Target) {
    block.uses_peer_row = true;
    let mut wide: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for word in words {
        let masks = wide.entry(word.half / 2).or_default();
        *if word.half % 2 == 0 { &mut masks.0 } else { &mut masks.1 } |= word.mask;
    }
    for (index, (low, high)) in wide {
        match (low, high) {
            (u32::MAX, u32::MAX) => {
                block.op(isa::load(Size::DW, VALUE, PEER_ROW, index as i16 * 8));
                block.branch(isa::jump_imm(Cond::Ne, VALUE, 0), hit);
            }
            (0, mask) | (mask, 0) => {
                let (offset, _) = class_bit(index * 64 + if low == 0 { 32 } else { 0 });
                block.op(isa::load(Size::W, VALUE, PEER_ROW, offset));
                block.branch(isa::jump32_imm(Cond::Set, VALUE, mask as i32), hit);
            }
            (low, high) => {
                block.op(isa::load(Size::DW, VALUE, PEER_ROW, index as i16 * 8));
                block.load_wide(CONSTANT, u64::from(high) << 32 | u64::from(low));
                block.branch(isa::jump_reg(Cond::Set, VALUE, CONSTANT), hit);
            }
        }
    }
}
