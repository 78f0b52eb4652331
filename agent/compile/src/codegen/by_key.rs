//! Rules found by the destination port or by the peer's address.
//!
//! In: intervals and the rules that matter in each. Out: a tree whose leaves are those rules, as
//! one block or as several with a root; and the lists that are too long for a leaf, for the caller
//! to write. Never: other ways to find rules.

use std::collections::{BTreeMap, HashMap};

use crate::codegen::block::{Block, Purpose, Ref, Target};
use crate::codegen::candidates::write_candidates;
use crate::codegen::emit::emit_leaf;
use crate::codegen::frame::{SCRATCH, VALUE, scratch};
use crate::codegen::isa::{self, Size};
use crate::codegen::section::{Place, SectionBuilder};
use crate::codegen::tree::{port_tree, v4_tree, v6_tree};
use crate::ir::index::Keyed;
use crate::ir::item::RuleItem;
use crate::ir::segment::{LeafId, cost};
use crate::limits::{BLOCK_INSNS, LONG_LIST};
use crate::types::{CompileError, Direction};

/// What a tree is over.
#[derive(Clone, Copy)]
pub(crate) enum SearchKey {
    DestinationPort,
    PeerAddress { v4: bool },
}

/// A tree in the making.
struct KeyTree<'k> {
    keyed: &'k Keyed,
    key: SearchKey,
    /// Lists that are too long for a leaf, and the names of the blocks that will be theirs.
    long: HashMap<LeafId, Ref>,
    /// The tree's blocks, each with its first value.
    blocks: Vec<(u128, Block)>,
}

/// Adds a tree over ports or addresses. Returns the lists that it leads to and that are still to be
/// written, each with its place.
pub(crate) fn by_key(
    section: &mut SectionBuilder<'_>,
    keyed: &Keyed,
    key: SearchKey,
    place: Place,
) -> Result<Vec<(Vec<RuleItem>, Place)>, CompileError> {
    let mut tree = KeyTree {
        keyed,
        key,
        long: HashMap::new(),
        blocks: Vec::new(),
    };
    for intervals in tree.groups(section) {
        tree.emit(section, intervals)?;
    }
    let blocks = std::mem::take(&mut tree.blocks);
    if let [_] = blocks.as_slice() {
        for (_, block) in blocks {
            section.push(block, place);
        }
    } else {
        let named: Vec<(u128, Ref, Block)> = blocks
            .into_iter()
            .map(|(start, block)| (start, section.name(), block))
            .collect();
        let mut root = Block::new(Purpose::Frame("by port or address"));
        let starts = named.iter().enumerate();
        let targets: Vec<(u128, Target)> = starts
            .map(|(index, (start, name, _))| (if index == 0 { 0 } else { *start }, Target::Ref(*name)))
            .collect();
        key.branch(&mut root, section.emitter.direction, &targets);
        section.push(root, place);
        for (_, name, block) in named {
            section.push(block, Place { name, ..place });
        }
    }
    let mut long: Vec<(LeafId, Ref)> = tree.long.into_iter().collect();
    long.sort_unstable();
    let list = |(leaf, name)| {
        (
            keyed.leaves.get(leaf).cloned().unwrap_or_default(),
            Place { name, ..place },
        )
    };
    Ok(long.into_iter().map(list).collect())
}

impl<'k> KeyTree<'k> {
    fn leaf(&self, id: LeafId) -> &'k [RuleItem] {
        self.keyed.leaves.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the estimated instructions of a leaf.
    fn leaf_cost(&self, section: &SectionBuilder<'_>, id: LeafId) -> usize {
        let leaf = self.leaf(id);
        let tests = leaf
            .iter()
            .filter_map(|item| section.rules.get(item.rule))
            .map(|rule| cost(rule) + 3);
        3 + if leaf.len() < LONG_LIST {
            tests.sum::<usize>()
        } else {
            0
        }
    }

    /// Cuts the intervals into groups of which each should fit into a block.
    fn groups(&self, section: &SectionBuilder<'_>) -> Vec<&'k [(u128, LeafId)]> {
        let mut groups = Vec::new();
        let (mut rest, mut insns) = (self.keyed.intervals.as_slice(), 0);
        let mut length = 0;
        while let Some((_, leaf)) = rest.get(length) {
            insns += self.leaf_cost(section, *leaf);
            if insns > BLOCK_INSNS && length > 0 {
                let (group, others) = rest.split_at(length);
                groups.push(group);
                (rest, insns, length) = (others, 0, 0);
            } else {
                length += 1;
            }
        }
        groups.push(rest);
        groups
    }

    /// Adds some intervals as one block, or as several where it turns out too large.
    fn emit(&mut self, section: &mut SectionBuilder<'_>, intervals: &[(u128, LeafId)]) -> Result<(), CompileError> {
        let block = self.block(section, intervals);
        match (block.is_too_large(), intervals) {
            (true, [(_, id)]) if !self.long.contains_key(id) => {
                self.long.insert(*id, section.name());
                self.emit(section, intervals)
            }
            (true, [_, _, ..]) => {
                let (first, second) = intervals.split_at(intervals.len() / 2);
                self.emit(section, first)?;
                self.emit(section, second)
            }
            _ => {
                self.blocks.extend(intervals.first().map(|(start, _)| (*start, block)));
                Ok(())
            }
        }
    }

    /// Returns the block of some intervals.
    fn block(&mut self, section: &mut SectionBuilder<'_>, intervals: &[(u128, LeafId)]) -> Block {
        let mut block = Block::new(Purpose::Frame("by port or address"));
        let mut labels = BTreeMap::new();
        let mut targets = Vec::with_capacity(intervals.len());
        for (index, (start, id)) in intervals.iter().enumerate() {
            let leaf = self.leaf(*id);
            let target = match leaf
                .first()
                .and_then(|item| Some((item, section.rules.get(item.rule)?)))
            {
                None => Target::Next,
                Some((item, rule)) if item.is_certain(rule) => section.emitter.matched(&mut block, rule),
                // A list that is too large for a block is so even if it is short.
                Some(_) if leaf.len() >= LONG_LIST || self.long.contains_key(id) => {
                    Target::Ref(*self.long.entry(*id).or_insert_with(|| section.name()))
                }
                Some(_) => Target::Label(*labels.entry(*id).or_insert_with(|| block.label())),
            };
            targets.push((if index == 0 { 0 } else { *start }, target));
        }
        targets.dedup_by(|later, earlier| later.1 == earlier.1);
        self.key.branch(&mut block, section.emitter.direction, &targets);
        for (id, label) in &labels {
            block.bind(*label);
            emit_leaf(&section.emitter, &mut block, section.rules, self.leaf(*id));
        }
        write_candidates(&mut block, section.emitter.points);
        block
    }
}

impl SearchKey {
    /// Writes a balanced tree that leads to the targets.
    fn branch(self, block: &mut Block, direction: Direction, targets: &[(u128, Target)]) {
        let peer = match direction {
            Direction::Ingress => scratch!(src),
            Direction::Egress => scratch!(dst),
        };
        match self {
            SearchKey::DestinationPort => {
                let ports = targets
                    .iter()
                    .filter_map(|(start, target)| Some((u16::try_from(*start).ok()?, *target)));
                let ports: Vec<(u16, Target)> = ports.collect();
                if ports.len() > 1 {
                    block.op(isa::load(Size::H, VALUE, SCRATCH, scratch!(dst_port)));
                }
                port_tree(block, &ports);
            }
            SearchKey::PeerAddress { v4: true } => v4_tree(block, peer, targets),
            SearchKey::PeerAddress { v4: false } => v6_tree(block, peer, targets),
        }
    }
}
