//! A section in the making: blocks with names, which lead to each other.
//!
//! In: blocks and their [`Place`]s. Out: the blocks in the order in which they were added, each
//! with its name and what follows it. Never: what the blocks test.

use crate::codegen::block::{After, Block, Ref};
use crate::codegen::emitter::Emitter;
use crate::ir::rule::Rule;

/// Where a piece of a section begins, and what follows where none of its rules decides.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The name of its first block.
    pub(crate) name: Ref,
    /// The block that follows; `None` is the section's end.
    pub(crate) after: Option<Ref>,
}

/// A section in the making.
pub(crate) struct SectionBuilder<'a> {
    pub(crate) emitter: Emitter<'a>,
    pub(crate) rules: &'a [&'a Rule],
    /// How many times longer than its rules an index or a dispatch may become.
    pub(crate) expansion: usize,
    pub(crate) blocks: Vec<Block>,
    names: usize,
}

impl<'a> SectionBuilder<'a> {
    pub(crate) fn new(emitter: Emitter<'a>, rules: &'a [&'a Rule], expansion: usize) -> Self {
        Self {
            emitter,
            rules,
            expansion,
            blocks: Vec::new(),
            names: 0,
        }
    }

    /// Hands out the name of a block that is to come.
    pub(crate) fn name(&mut self) -> Ref {
        self.names += 1;
        Ref(self.names)
    }

    /// Adds a block.
    pub(crate) fn push(&mut self, mut block: Block, place: Place) {
        block.name = Some(place.name);
        block.after = place.after.map_or(After::End, After::Ref);
        self.blocks.push(block);
    }

    /// Adds blocks that follow each other.
    pub(crate) fn push_all(&mut self, blocks: Vec<Block>, place: Place) {
        let mut chain = PlaceChain::new(place, blocks.len());
        for block in blocks {
            let place = chain.next(self);
            self.push(block, place);
        }
    }
}

/// Hands out the places of pieces that follow each other within a place.
pub(crate) struct PlaceChain {
    name: Ref,
    /// Pieces that are still to come.
    left: usize,
    end: Option<Ref>,
}

impl PlaceChain {
    /// Makes a chain of this number of pieces.
    pub(crate) fn new(place: Place, pieces: usize) -> Self {
        Self {
            name: place.name,
            left: pieces,
            end: place.after,
        }
    }

    /// Returns the place of the next piece.
    pub(crate) fn next(&mut self, section: &mut SectionBuilder<'_>) -> Place {
        self.left = self.left.saturating_sub(1);
        let after = if self.left == 0 { self.end } else { Some(section.name()) };
        let name = self.name;
        self.name = after.unwrap_or(name);
        Place { name, after }
    }
}
