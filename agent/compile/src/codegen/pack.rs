//! Which blocks go into which chunk.
//!
//! In: the blocks that can be reached. Out: chunks that fit the kernel's limits, and the blocks at
//! which each is entered; or the reason why the program is too large. Never: instructions, beyond
//! their number.

use std::collections::{BTreeMap, BTreeSet};

use crate::codegen::block::{BlockId, Target};
use crate::codegen::placed::{Blocks, Placed};
use crate::codegen::rule_table::RuleTable;
use crate::limits::{FRAME_INSNS, MAX_CHUNK_BRANCHES, MAX_CHUNK_INSNS, MAX_CHUNKS, MAX_CONTINUATIONS};
use crate::types::CompileError;

/// The blocks of all chunks.
pub(crate) struct Packed {
    /// The blocks of each chunk, in order.
    pub(crate) chunks: Vec<Vec<BlockId>>,
    /// The chunk of each block.
    pub(crate) chunk_of: BTreeMap<BlockId, usize>,
    /// For each chunk the blocks at which other chunks enter it.
    pub(crate) entries: Vec<Vec<BlockId>>,
}

/// Fills chunks with blocks, in order.
pub(crate) fn pack(blocks: &Blocks, live: &[BlockId], table: &RuleTable) -> Result<Packed, CompileError> {
    let mut chunks: Vec<Vec<BlockId>> = Vec::new();
    let mut open: Vec<BlockId> = Vec::new();
    let mut budget = Budget {
        points: vec![0; table.points()],
        targets: vec![0; blocks.placed.len()],
        verdicts: vec![0; table.verdicts.len()],
        chunk: 1,
        ..Budget::default()
    };
    for &id in live {
        let Some(placed) = blocks.placed.get(id) else { continue };
        budget.add(placed, table);
        let full = budget.insns() > MAX_CHUNK_INSNS + FRAME_INSNS || budget.branches > MAX_CHUNK_BRANCHES;
        if full && !open.is_empty() {
            chunks.push(std::mem::take(&mut open));
            budget.restart();
            budget.add(placed, table);
        }
        open.push(id);
    }
    chunks.push(open);
    let numbered = chunks.iter().enumerate();
    let chunk_of = numbered.flat_map(|(chunk, ids)| ids.iter().map(move |id| (*id, chunk)));
    let chunk_of: BTreeMap<BlockId, usize> = chunk_of.collect();
    check_size(blocks, &chunks, &chunk_of, table)?;
    let entries = entries(blocks, &chunks, &chunk_of);
    Ok(Packed {
        chunks,
        chunk_of,
        entries,
    })
}

/// What a chunk will amount to.
#[derive(Default)]
struct Budget {
    /// Number of the chunk, from 1.
    chunk: usize,
    insns: usize,
    branches: usize,
    /// For each decision point the last chunk that has a stub for it.
    points: Vec<usize>,
    /// For each block the last chunk that jumps to it.
    targets: Vec<usize>,
    /// For each verdict the last chunk that has it.
    verdicts: Vec<usize>,
}

impl Budget {
    fn add(&mut self, placed: &Placed, table: &RuleTable) {
        // One more for the choice of the block at which the chunk is entered.
        self.insns += placed.block.ops.len() + 1;
        self.branches += placed.branches;
        let chunk = self.chunk;
        let mut first = |list: &mut Vec<usize>, index: usize, insns: usize| {
            if let Some(last) = list.get_mut(index)
                && *last != chunk
            {
                *last = chunk;
                self.insns += insns;
            }
        };
        for target in &placed.successors {
            match target {
                // Stubs of two and three instructions, exits of three.
                Target::Verdict(point) => {
                    first(&mut self.points, *point, 2);
                    if let Ok((_, verdict)) = table.get(*point) {
                        first(&mut self.verdicts, verdict, 3);
                    }
                }
                Target::Block(id) => first(&mut self.targets, *id, 3),
                _ => {}
            }
        }
    }

    fn insns(&self) -> usize {
        self.insns + FRAME_INSNS
    }

    fn restart(&mut self) {
        self.chunk += 1;
        (self.insns, self.branches) = (0, 0);
    }
}

/// Refuses programs in which a path needs more tail calls than the kernel has for it, and programs
/// that are unreasonably large.
fn check_size(
    blocks: &Blocks,
    chunks: &[Vec<BlockId>],
    chunk_of: &BTreeMap<BlockId, usize>,
    table: &RuleTable,
) -> Result<(), CompileError> {
    let insns = || blocks.placed.iter().map(|placed| placed.block.ops.len()).sum::<usize>();
    if chunks.len() > MAX_CHUNKS {
        return Err(CompileError::TooLarge {
            rules: table.rules.len(),
            insns: insns(),
            chunks: chunks.len(),
            limit: MAX_CHUNKS,
        });
    }
    // Blocks lead to later blocks only: one pass finds the longest path.
    let mut calls: BTreeMap<BlockId, usize> = BTreeMap::new();
    let reach = |calls: &mut BTreeMap<BlockId, usize>, from: usize, so_far: usize, target: Target| {
        if let Target::Block(id) = target
            && let Some(chunk) = chunk_of.get(&id)
        {
            let needed = so_far + usize::from(*chunk != from);
            let known = calls.entry(id).or_default();
            *known = needed.max(*known);
        }
    };
    blocks.starts.iter().for_each(|start| reach(&mut calls, 0, 0, *start));
    for (chunk, ids) in chunks.iter().enumerate() {
        for (id, placed) in ids.iter().filter_map(|id| Some((id, blocks.placed.get(*id)?))) {
            let so_far = calls.get(id).copied().unwrap_or_default();
            let successors = placed.successors.iter();
            successors.for_each(|target| reach(&mut calls, chunk, so_far, *target));
        }
    }
    let continuations = calls.values().max().copied().unwrap_or_default();
    if continuations > MAX_CONTINUATIONS {
        return Err(CompileError::TooManyChunks {
            rules: table.rules.len(),
            insns: insns(),
            chunks: continuations + 1,
            limit: MAX_CONTINUATIONS + 1,
        });
    }
    Ok(())
}

/// Returns for each chunk the blocks at which other chunks enter it.
fn entries(blocks: &Blocks, chunks: &[Vec<BlockId>], chunk_of: &BTreeMap<BlockId, usize>) -> Vec<Vec<BlockId>> {
    let mut entries: Vec<BTreeSet<BlockId>> = vec![BTreeSet::new(); chunks.len()];
    let mut enter = |from: usize, target: Target| {
        if let Target::Block(id) = target
            && let Some(chunk) = chunk_of.get(&id)
            && *chunk != from
            && let Some(set) = entries.get_mut(*chunk)
        {
            set.insert(id);
        }
    };
    blocks.starts.iter().for_each(|start| enter(0, *start));
    for (chunk, ids) in chunks.iter().enumerate() {
        for placed in ids.iter().filter_map(|id| blocks.placed.get(*id)) {
            placed.successors.iter().for_each(|target| enter(chunk, *target));
        }
    }
    entries.into_iter().map(|set| set.into_iter().collect()).collect()
}
