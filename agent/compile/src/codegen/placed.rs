//! All blocks of a program with their numbers, and what follows each.
//!
//! In: the blocks of each section of each family. Out: [`Blocks`], in which every jump out of a
//! block leads to a numbered block, a verdict, or the drop. Never: chunks.

use std::collections::{BTreeMap, BTreeSet};

use crate::codegen::block::{After, Block, BlockId, Ref, Target};
use crate::codegen::side_effect::emit_side_effect;
use crate::ir::rule::{Section, SectionEnd};

/// The sections of one IP version, or of both, where they are the same.
#[derive(Debug, Default)]
pub(crate) struct SectionFamily {
    pub(crate) sections: Vec<EmittedSection>,
}

/// A section as instructions.
#[derive(Debug)]
pub(crate) struct EmittedSection {
    blocks: Vec<Block>,
    /// Reached by [`Target::SideEffect`] only; each goes on with the next section.
    side_effects: Vec<Block>,
    end: SectionEnd,
    /// Number of the section to which a Pass leads.
    pass: usize,
}

impl EmittedSection {
    /// Makes the section, given the blocks of its rules.
    pub(crate) fn new(blocks: Vec<Block>, section: &Section) -> Self {
        let side_effects = section.side_effects.iter();
        Self {
            blocks,
            side_effects: side_effects.map(|side_effect| emit_side_effect(*side_effect)).collect(),
            end: section.end,
            pass: section.pass,
        }
    }

    /// Returns the number of its blocks.
    fn len(&self) -> usize {
        self.blocks.len() + self.side_effects.len()
    }
}

/// A block in the program.
pub(crate) struct Placed {
    pub(crate) block: Block,
    next: Target,
    pass: Target,
    /// The section's first side effect.
    side_effects: BlockId,
    /// Where its jumps lead outside of it, each once.
    pub(crate) successors: Vec<Target>,
    /// Number of its conditional jumps.
    pub(crate) branches: usize,
}

impl Placed {
    fn new(block: Block, next: Target, pass: Target, side_effects: BlockId) -> Self {
        let mut placed = Self {
            branches: block.branches(),
            block,
            next,
            pass,
            side_effects,
            successors: Vec::new(),
        };
        let targets = placed.block.ops.iter().filter_map(|op| op.target);
        let outside = targets.filter(|target| !matches!(target, Target::Label(_)));
        let mut successors: Vec<Target> = outside.map(|target| placed.resolve(target)).collect();
        successors.sort_unstable();
        successors.dedup();
        placed.successors = successors;
        placed
    }

    /// Returns where a target of this block leads.
    pub(crate) fn resolve(&self, target: Target) -> Target {
        match target {
            Target::Next => self.next,
            Target::Pass => self.pass,
            Target::SideEffect(number) => Target::Block(self.side_effects + number),
            other => other,
        }
    }
}

/// All blocks of a program.
pub(crate) struct Blocks {
    /// By their numbers.
    pub(crate) placed: Vec<Placed>,
    /// Where each family begins.
    pub(crate) starts: Vec<Target>,
}

impl Blocks {
    /// Numbers the blocks, and says what follows each.
    pub(crate) fn new(families: Vec<SectionFamily>) -> Self {
        let mut blocks = Self {
            placed: Vec::new(),
            starts: Vec::new(),
        };
        for family in families {
            let exits = exits(&family, blocks.placed.len());
            blocks.starts.push(exits.start);
            for (section, exits) in family.sections.into_iter().zip(exits.sections) {
                blocks.place(section, exits);
            }
        }
        blocks
    }

    /// Adds the blocks of a section.
    fn place(&mut self, section: EmittedSection, exits: SectionExits) {
        let (from, count) = (self.placed.len(), section.blocks.len());
        let named: BTreeMap<Ref, BlockId> = section
            .blocks
            .iter()
            .enumerate()
            .filter_map(|(n, block)| Some((block.name?, from + n)))
            .collect();
        let find = |name: Ref| named.get(&name).map_or(Target::Drop, |id| Target::Block(*id));
        for (index, mut block) in section.blocks.into_iter().chain(section.side_effects).enumerate() {
            let next = match (block.after, index + 1) {
                (_, n) if n > count => exits.following,
                (After::Ref(name), _) => find(name),
                (After::Following, n) if n < count => Target::Block(from + n),
                (After::Following | After::End, _) => exits.end,
            };
            for target in block.ops.iter_mut().filter_map(|op| op.target.as_mut()) {
                if let Target::Ref(name) = *target {
                    *target = find(name);
                }
            }
            self.placed.push(Placed::new(block, next, exits.pass, from + count));
        }
    }

    /// Returns the blocks that can be reached, in order.
    pub(crate) fn live(&self) -> Vec<BlockId> {
        let mut seen = BTreeSet::new();
        let mut open = self.starts.clone();
        while let Some(target) = open.pop() {
            if let Target::Block(id) = target
                && seen.insert(id)
            {
                let placed = self.placed.get(id).into_iter();
                open.extend(placed.flat_map(|placed| placed.successors.iter().copied()));
            }
        }
        seen.into_iter().collect()
    }
}

/// Where the ways out of a section lead.
struct SectionExits {
    /// Where the next section begins.
    following: Target,
    /// Where the next tier begins.
    pass: Target,
    /// Where a packet goes that no rule matches.
    end: Target,
}

/// Where a family begins, and where the ways out of its sections lead.
struct FamilyExits {
    start: Target,
    sections: Vec<SectionExits>,
}

/// Finds the exits of a family whose first block will have this number. It goes from the back,
/// since a section without blocks begins where its end leads to.
fn exits(family: &SectionFamily, first: BlockId) -> FamilyExits {
    let mut next_block = first + family.sections.iter().map(EmittedSection::len).sum::<usize>();
    let mut begins = vec![Target::Drop; family.sections.len() + 1];
    let mut sections = Vec::new();
    for (index, section) in family.sections.iter().enumerate().rev() {
        next_block -= section.len();
        let begin = |index: usize| begins.get(index).copied().unwrap_or(Target::Drop);
        let (following, pass) = (begin(index + 1), begin(section.pass));
        let end = match section.end {
            SectionEnd::Verdict(point) => Target::Verdict(point),
            SectionEnd::Next => following,
            SectionEnd::Pass => pass,
        };
        if let Some(begin) = begins.get_mut(index) {
            *begin = if section.blocks.is_empty() {
                end
            } else {
                Target::Block(next_block)
            };
        }
        sections.push(SectionExits { following, pass, end });
    }
    sections.reverse();
    FamilyExits {
        start: begins.first().copied().unwrap_or(Target::Drop),
        sections,
    }
}
