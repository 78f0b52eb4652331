//! Instructions for segments: dispatch trees, and the rules of each leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

use felid_common::{CHECK_MULTIPLIER, NamedPort, NamedPortKey, VERDICT_ALLOW, VERDICT_DENY};
use felid_model::resolved::ResolvedAction;

use crate::block::{Block, Candidate, Label, Patch, Purpose, Target};
use crate::compile::{CompileError, Direction};
use crate::conditions::bit;
use crate::frame::{
    ASIDES, CANDIDATE, CONSTANT, FRAME, NAMED_KEY, NAMED_ROW, PASS, ROW, SCRATCH, VALUE, look_up_row, scratch,
};
use crate::isa::{self, Cond, Size};
use crate::layout::{MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS};
use crate::matching::{Test, emit_test, tree};
use crate::ports::{PortMap, merge_neighbours};
use crate::program::MapRef;
use crate::rule::{Outcome, PORT_PROTOCOLS, Rule, Site};
use crate::segment::{Item, LeafId, Segment, dispatch};

/// Rules that are skipped together.
const GROUP: usize = 32;
/// Each test of a word, made to skip rules, must stand for so many of them.
const RULES_PER_WORD: usize = 4;

/// What all segments of a program share.
pub(crate) struct Emitter<'a> {
    /// Slots of sets.
    pub(crate) bits: &'a [u32],
    pub(crate) direction: Direction,
    pub(crate) sites: &'a [Site<'a>],
    /// A rule that matches is noted, since one that is looked for later may stand before it.
    pub(crate) candidate: bool,
}

impl Emitter<'_> {
    /// Emits a segment as one block, or as several where it turns out too large.
    pub(crate) fn segment(&self, segment: Segment<'_>, out: &mut Vec<Block>) -> Result<(), CompileError> {
        let (block, rules, whole): (_, _, fn(_) -> _) = match segment {
            Segment::Run(rules) => (self.run(&rules), rules, Segment::Run),
            Segment::Dispatch(rules) => (self.dispatch(&rules), rules, Segment::Dispatch),
        };
        if !block.is_too_large() {
            out.push(block);
            return Ok(());
        }
        match rules.as_slice() {
            [] => Ok(()),
            [rule] => Err(self.too_large(rule, &block)),
            rules => {
                let (first, second) = rules.split_at(rules.len() / 2);
                self.segment(whole(first.to_vec()), out)?;
                self.segment(whole(second.to_vec()), out)
            }
        }
    }

    /// The error for a rule whose block alone is too large.
    pub(crate) fn too_large(&self, rule: &Rule, block: &Block) -> CompileError {
        CompileError::RuleTooLarge {
            rule: self.sites.get(rule.site).map(Site::text).unwrap_or_default(),
            insns: block.ops.len(),
            branches: block.branches(),
            limit: MAX_CHUNK_INSNS,
            branch_limit: MAX_CHUNK_BRANCHES,
        }
    }

    /// Where a rule that matched leads.
    pub(crate) fn success(&self, block: &mut Block, rule: &Rule) -> Target {
        match rule.outcome {
            _ if self.candidate => block.candidate(rule.site, rule.outcome, Target::Next),
            Outcome::Verdict => Target::Verdict(rule.site),
            Outcome::Pass => Target::Pass,
            Outcome::Aside(number) => Target::Aside(number),
        }
    }

    /// Writes the notes of a block's candidates: the first of all rules that match stays.
    pub(crate) fn candidates(&self, block: &mut Block) {
        // What is counted and said is the same for many rules.
        let mut ends: Vec<(&Site<'_>, Candidate, Label)> = Vec::new();
        for candidate in std::mem::take(&mut block.candidates) {
            let Some(site) = self.sites.get(candidate.site) else {
                continue;
            };
            let same = |(other, end, _): &&(&Site<'_>, Candidate, Label)| {
                (candidate.outcome, candidate.then) == (end.outcome, end.then)
                    && (candidate.outcome != Outcome::Verdict || site.counts_like(other))
            };
            let end = match ends.iter().find(same) {
                Some((.., end)) => *end,
                None => {
                    let end = block.label();
                    ends.push((site, candidate.clone(), end));
                    end
                }
            };
            block.bind(candidate.label);
            block.set_purpose(Purpose::Site(candidate.site));
            block.patched(isa::mov_imm(CONSTANT, 0), Patch::Rule(candidate.site));
            block.jump(Target::Label(end));
        }
        for (site, candidate, end) in ends {
            let note = block.label();
            block.bind(end);
            block.set_purpose(Purpose::Frame("note the first rule found so far"));
            block.op(isa::load(Size::B, VALUE, SCRATCH, CANDIDATE));
            block.branch(isa::jump_imm(Cond::Eq, VALUE, 0), Target::Label(note));
            block.op(isa::load(Size::W, VALUE, SCRATCH, scratch!(rule)));
            block.branch(isa::jump_reg(Cond::Ge, CONSTANT, VALUE), candidate.then);
            block.bind(note);
            let what = match candidate.outcome {
                Outcome::Pass => PASS,
                Outcome::Aside(number) => ASIDES + number as u32,
                Outcome::Verdict if site.action == ResolvedAction::Allow => VERDICT_ALLOW,
                Outcome::Verdict => VERDICT_DENY,
            };
            block.op(isa::store_imm(Size::B, SCRATCH, CANDIDATE, what as i32));
            block.op(isa::store(Size::W, SCRATCH, scratch!(rule), CONSTANT));
            if candidate.outcome == Outcome::Verdict {
                let counter = isa::store_imm(Size::W, SCRATCH, scratch!(counter), 0);
                block.patched(counter, Patch::Counter(candidate.site));
            }
            block.jump(candidate.then);
        }
    }

    /// What follows once every rule has been looked for: the first that was found decides.
    pub(crate) fn decide(&self, rules: &[&Rule]) -> Block {
        let mut block = Block::new(Purpose::Frame("the first rule found"));
        let others: BTreeSet<(u32, Target)> = rules
            .iter()
            .filter_map(|rule| match rule.outcome {
                Outcome::Verdict => None,
                Outcome::Pass => Some((PASS, Target::Pass)),
                Outcome::Aside(number) => Some((ASIDES + number as u32, Target::Aside(number))),
            })
            .collect();
        let others: Vec<_> = others
            .into_iter()
            .map(|(what, way)| (what, way, block.label()))
            .collect();
        block.op(isa::load(Size::B, VALUE, SCRATCH, CANDIDATE));
        block.branch(isa::jump_imm(Cond::Eq, VALUE, 0), Target::Next);
        for (what, _, label) in &others {
            block.branch(isa::jump_imm(Cond::Eq, VALUE, *what as i32), Target::Label(*label));
        }
        block.op(isa::store(Size::W, SCRATCH, scratch!(verdict), VALUE));
        block.jump(Target::Judge);
        for (_, way, label) in others {
            block.bind(label);
            block.op(isa::store_imm(Size::W, SCRATCH, scratch!(verdict), 0));
            block.jump(way);
        }
        block
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
        self.candidates(&mut block);
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
                Some((item, rule)) if item.is_certain(rule) => self.success(block, rule),
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
            merge_neighbours(&mut targets);
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
        self.candidates(&mut block);
        block
    }

    /// Looks the named port's row up, if that has not been done and the rules need it.
    fn prepare_named(&self, block: &mut Block, rules: &[&Rule]) {
        if rules
            .iter()
            .all(|rule| rule.named.is_empty() && rule.not_named.is_empty() && rule.services.is_empty())
        {
            return;
        }
        block.uses_named = true;
        block.set_purpose(Purpose::Frame("named port of the peer"));
        let (address, port) = match self.direction {
            Direction::Ingress => (scratch!(src), scratch!(src_port)),
            Direction::Egress => (scratch!(dst), scratch!(dst_port)),
        };
        let (done, look_up, found, class_zero, class_known) = (
            block.label(),
            block.label(),
            block.label(),
            block.label(),
            block.label(),
        );
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
        // The element may become another port's while it is read, see `NamedPort::check_for`: then a second look finds what holds now.
        self.look_up_named(block, class_zero);
        block.branch(isa::jump_imm(Cond::Eq, 2, 0), Target::Label(found));
        self.look_up_named(block, class_zero);
        block.branch(isa::jump_imm(Cond::Ne, 2, 0), Target::Drop);
        block.bind(found);
        // Both classes are in VALUE as they lie in memory.
        let upper = block.label();
        block.op(isa::load(Size::W, 2, SCRATCH, scratch!(bank)));
        let in_upper_half = if cfg!(target_endian = "little") {
            Cond::Ne
        } else {
            Cond::Eq
        };
        block.branch(isa::jump_imm(in_upper_half, 2, 0), Target::Label(upper));
        block.op(isa::and32_imm(VALUE, -1));
        block.jump(Target::Label(class_known));
        block.bind(upper);
        block.op(isa::shift_right_imm(VALUE, 32));
        block.jump(Target::Label(class_known));
        block.bind(class_zero);
        block.op(isa::mov_imm(VALUE, 0));
        block.bind(class_known);
        look_up_row(block, VALUE, NAMED_ROW);
        block.bind(done);
    }

    /// Looks the key in the frame up: `VALUE` is both classes, register 2 zero if the element is that key's.
    fn look_up_named(&self, block: &mut Block, class_zero: Label) {
        block.op(isa::mov(2, FRAME));
        block.op(isa::add_imm(2, i32::from(NAMED_KEY)));
        block.load_map(1, MapRef::NamedPorts);
        block.op(isa::call(isa::MAP_LOOKUP_ELEM));
        block.branch(isa::jump_imm(Cond::Eq, 0, 0), Target::Label(class_zero));
        block.op(isa::load(Size::DW, VALUE, 0, offset_of!(NamedPort, class) as i16));
        block.op(isa::load(Size::DW, 2, FRAME, NAMED_KEY));
        for (size, offset) in [(Size::DW, 8), (Size::W, 16)] {
            block.op(isa::mul_imm(2, CHECK_MULTIPLIER));
            block.op(isa::load(size, 3, FRAME, NAMED_KEY + offset));
            block.op(isa::add(2, 3));
        }
        block.op(isa::mul_imm(2, CHECK_MULTIPLIER));
        block.op(isa::add(2, VALUE));
        block.op(isa::mul_imm(2, CHECK_MULTIPLIER));
        block.op(isa::shift_right_imm(2, 32));
        block.op(isa::load(Size::W, 3, 0, offset_of!(NamedPort, check) as i16));
        block.op(isa::sub(2, 3));
    }

    /// The rules of a leaf, and what follows the block where none matches.
    pub(crate) fn leaf(&self, block: &mut Block, rules: &[&Rule], items: &[Item]) {
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
            let places = || rule.sets.iter().filter_map(|set| self.slot(*set)).map(bit);
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
        let tests = self.tests(rule, item, None);
        let success = self.success(block, rule);
        Self::conditions(block, &tests, fail, success);
    }
}
