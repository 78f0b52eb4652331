//! From blocks to chunks: what fits together, how chunks are entered and left, how jumps are resolved.
//!
//! In: the blocks of each section, with symbolic targets. Out: chunks of plain instructions, and the rule table. A chunk is
//!
//! ```text
//! entry      scratch and class row are looked up; then by IP version (chunk 0) or by what the chunk before left in the upper half of Scratch::verdict
//! blocks     of one or more sections
//! verdicts   one stub for each rule that decides here: Scratch::{rule, verdict, counter}, then tail call fixed[JUDGED]
//! exits      to blocks in other chunks: upper half of Scratch::verdict = which entry, then tail call chain[chunk]
//! drop       return 2
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::aside::emit_aside;
use crate::assemble::Assembler;
use felid_model::resolved::ResolvedAction;

use crate::block::{After, Block, BlockId, Patch, Purpose, Ref, Target};
use crate::compile::{CompileError, Counters, Direction};
use crate::program::{Chunk, RuleRef, table_id};
use crate::rule::{End, Section, Site, SiteId};
use crate::transaction::CounterName;

/// Instructions of a chunk: jumps reach 32,767 instructions, and the verifier's work stays far below its limit.
pub(crate) const MAX_CHUNK_INSNS: usize = 16_000;
/// Conditional jumps of a chunk: the verifier keeps at most 8,192 open branches.
pub(crate) const MAX_CHUNK_BRANCHES: usize = 7_500;
/// Tail calls that a packet may need within one policy program.
pub(crate) const MAX_CONTINUATIONS: usize = felid_common::MAX_CONTINUATIONS as usize;
/// Chunks of a program: about a million instructions, and half a second to load them.
pub(crate) const MAX_CHUNKS: usize = 64;
/// Entry, ends and drop of a chunk, at most.
const FRAME_INSNS: usize = 80;

/// The blocks of one IP version (or of both, where they are the same): of each section, and what is at its end.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) sections: Vec<Emitted>,
}

impl Emitted {
    /// The section, given the blocks of its rules.
    pub(crate) fn new(blocks: Vec<Block>, section: &Section) -> Self {
        Self {
            blocks,
            asides: section.asides.iter().map(|aside| emit_aside(*aside)).collect(),
            end: section.end,
            pass: section.pass,
        }
    }
}

/// A section as instructions.
#[derive(Debug)]
pub(crate) struct Emitted {
    pub(crate) blocks: Vec<Block>,
    /// Reached by [`Target::Aside`] only; each goes on with the next section.
    pub(crate) asides: Vec<Block>,
    pub(crate) end: End,
    /// Number of the section to which a Pass leads.
    pub(crate) pass: usize,
}

/// A block in the program.
pub(crate) struct Placed {
    pub(crate) block: Block,
    next: Target,
    pass: Target,
    /// The section's first aside.
    asides: BlockId,
    /// Where its jumps lead outside of it, each once.
    pub(crate) ways: Vec<Target>,
    branches: usize,
}

impl Placed {
    fn new(block: Block, next: Target, pass: Target, asides: BlockId) -> Self {
        let mut placed = Self {
            branches: block.branches(),
            block,
            next,
            pass,
            asides,
            ways: Vec::new(),
        };
        let targets = placed.block.ops.iter().filter_map(|op| op.target);
        let outside = targets.filter(|target| !matches!(target, Target::Label(_)));
        let mut ways: Vec<Target> = outside.map(|target| placed.resolve(target)).collect();
        ways.sort_unstable();
        ways.dedup();
        placed.ways = ways;
        placed
    }

    pub(crate) fn resolve(&self, target: Target) -> Target {
        match target {
            Target::Next => self.next,
            Target::Pass => self.pass,
            Target::Aside(number) => Target::Block(self.asides + number),
            other => other,
        }
    }
}

/// All blocks, and where IPv4 and IPv6 begin.
pub(crate) struct Blocks {
    pub(crate) placed: Vec<Placed>,
    pub(crate) starts: Vec<Target>,
}

/// Lays a program out: one family = the same for both IP versions, else IPv4 and IPv6, and perhaps
/// both again for sources that are not the endpoint's own.
pub(crate) fn layout(
    sites: &[Site<'_>],
    families: Vec<Family>,
    direction: Direction,
    counters: &mut impl Counters,
) -> Result<(Vec<Chunk>, Vec<RuleRef>), CompileError> {
    let blocks = place(families);
    let live = live(&blocks);
    let mut table = Table::new(sites, &blocks, &live);
    let chunks = pack(&blocks, &live, &table);
    let home: BTreeMap<BlockId, usize> = chunks
        .iter()
        .enumerate()
        .flat_map(|(chunk, ids)| ids.iter().map(move |id| (*id, chunk)))
        .collect();
    check_size(&blocks, &chunks, &home, &table)?;
    table.counters = table.ends.iter().map(|name| counters.counter(name)).collect();
    let entries = entries(&blocks, &chunks, &home);
    let assembled = (0..chunks.len())
        .map(|index| Assembler::new(&blocks, &table, &home, &entries, direction, index).assemble(&chunks))
        .collect::<Result<_, _>>()?;
    Ok((assembled, table.rules))
}

/// Numbers the blocks and says what follows each.
fn place(families: Vec<Family>) -> Blocks {
    let mut placed = Vec::new();
    let mut starts = Vec::new();
    for family in families {
        // From the back, since a section without blocks begins where its end leads to.
        let size = |section: &Emitted| section.blocks.len() + section.asides.len();
        let mut first = placed.len() + family.sections.iter().map(size).sum::<usize>();
        let mut begins = vec![Target::Drop; family.sections.len() + 1];
        let mut ways = Vec::new();
        for (index, section) in family.sections.iter().enumerate().rev() {
            first -= size(section);
            let begin = |index: usize| begins.get(index).copied().unwrap_or(Target::Drop);
            let (following, pass) = (begin(index + 1), begin(section.pass));
            let after = match section.end {
                End::Verdict(site) => Target::Verdict(site),
                End::Next => following,
                End::Pass => pass,
            };
            if let Some(begin) = begins.get_mut(index) {
                *begin = if section.blocks.is_empty() {
                    after
                } else {
                    Target::Block(first)
                };
            }
            ways.push((following, pass, after));
        }
        starts.extend(begins.first().copied());
        for (section, (following, pass, after)) in family.sections.into_iter().zip(ways.into_iter().rev()) {
            let (from, count) = (placed.len(), section.blocks.len());
            let asides = from + count;
            let named: BTreeMap<Ref, BlockId> = section
                .blocks
                .iter()
                .enumerate()
                .filter_map(|(n, block)| Some((block.name?, from + n)))
                .collect();
            let find = |name: Ref| named.get(&name).map_or(Target::Drop, |id| Target::Block(*id));
            for (index, mut block) in section.blocks.into_iter().chain(section.asides).enumerate() {
                let next = match (block.after, index + 1) {
                    (_, n) if n > count => following,
                    (After::Ref(name), _) => find(name),
                    (After::Following, n) if n < count => Target::Block(from + n),
                    (After::Following | After::End, _) => after,
                };
                for target in block.ops.iter_mut().filter_map(|op| op.target.as_mut()) {
                    if let Target::Ref(name) = *target {
                        *target = find(name);
                    }
                }
                placed.push(Placed::new(block, next, pass, asides));
            }
        }
    }
    Blocks { placed, starts }
}

/// Blocks that can be reached, in order.
fn live(blocks: &Blocks) -> Vec<BlockId> {
    let mut seen = BTreeSet::new();
    let mut open = blocks.starts.clone();
    while let Some(target) = open.pop() {
        if let Target::Block(id) = target
            && seen.insert(id)
        {
            open.extend(
                blocks
                    .placed
                    .get(id)
                    .into_iter()
                    .flat_map(|placed| placed.ways.iter().copied()),
            );
        }
    }
    seen.into_iter().collect()
}

/// The rule table, and what each deciding site writes.
pub(crate) struct Table {
    rules: Vec<RuleRef>,
    /// Of each site: index of the rule, and of what it ends in.
    sites: Vec<Option<(u32, usize)>>,
    /// The different ends: what is counted and said.
    pub(crate) ends: Vec<CounterName>,
    /// What tells it apart from others.
    pub(crate) id: u32,
    /// Their counters, once it is certain that there will be a program.
    pub(crate) counters: Vec<u32>,
}

impl Table {
    fn new(sites: &[Site<'_>], blocks: &Blocks, live: &[BlockId]) -> Self {
        // Rules that only hand on have a line, too.
        let mut lines: Vec<Line> = vec![Line::None; sites.len()];
        let mut mark = |site: SiteId, line: Line| {
            if let Some(known) = lines.get_mut(site) {
                *known = line.max(*known);
            }
        };
        let mut verdict = |target: &Target| {
            if let Target::Verdict(site) = target {
                mark(*site, Line::Decides);
            }
        };
        blocks.starts.iter().for_each(&mut verdict);
        for placed in live.iter().filter_map(|id| blocks.placed.get(*id)) {
            placed.ways.iter().for_each(&mut verdict);
        }
        for op in live
            .iter()
            .filter_map(|id| blocks.placed.get(*id))
            .flat_map(|placed| &placed.block.ops)
        {
            if let Purpose::Site(site) = op.purpose {
                mark(site, Line::Listed);
            }
            if let Some(Patch::Counter(site)) = op.patch {
                mark(site, Line::Decides);
            }
        }
        let mut table = Table {
            rules: Vec::with_capacity(lines.iter().filter(|line| **line != Line::None).count()),
            sites: vec![None; sites.len()],
            ends: Vec::new(),
            id: 0,
            counters: Vec::new(),
        };
        let mut ends: BTreeMap<CounterName, usize> = BTreeMap::new();
        let mut last: Option<(&Site<'_>, usize)> = None;
        for ((site, line), place) in sites.iter().zip(&lines).zip(&mut table.sites) {
            if *line == Line::None {
                continue;
            }
            let mut end = 0;
            if *line == Line::Decides {
                // Neighbours mostly end in the same.
                end = match last.filter(|(other, _)| other.counts_like(site)) {
                    Some((_, end)) => end,
                    None => {
                        let name = site.counter();
                        *ends.entry(name.clone()).or_insert_with(|| {
                            table.ends.push(name);
                            table.ends.len() - 1
                        })
                    }
                };
                last = Some((site, end));
            }
            *place = Some((table.rules.len() as u32, end));
            table.rules.push(RuleRef {
                key: site.key.cloned(),
                tier: site.tier.cloned(),
                index: site.index(),
                logs: site.action == ResolvedAction::Log,
                text: site.text(),
            });
        }
        table.id = table_id(&table.rules);
        table
    }

    /// Number of all sites.
    pub(crate) fn sites(&self) -> usize {
        self.sites.len()
    }

    pub(crate) fn get(&self, site: SiteId) -> Result<(u32, usize), CompileError> {
        self.sites
            .get(site)
            .copied()
            .flatten()
            .ok_or(CompileError::Internal("a verdict without a rule"))
    }
}

/// What a site has in the rule table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    None,
    /// A line.
    Listed,
    /// ... and a counter.
    Decides,
}

/// Fills chunks, in order.
fn pack(blocks: &Blocks, live: &[BlockId], table: &Table) -> Vec<Vec<BlockId>> {
    let mut chunks: Vec<Vec<BlockId>> = Vec::new();
    let mut open: Vec<BlockId> = Vec::new();
    let mut budget = Budget {
        sites: vec![0; table.sites.len()],
        targets: vec![0; blocks.placed.len()],
        ends: vec![0; table.ends.len()],
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
    chunks
}

/// What a chunk will amount to.
#[derive(Default)]
struct Budget {
    /// Number of the chunk, from 1.
    chunk: usize,
    insns: usize,
    branches: usize,
    /// The last chunk that has a stub for a site, jumps to a block, or ends in something.
    sites: Vec<usize>,
    targets: Vec<usize>,
    ends: Vec<usize>,
}

impl Budget {
    fn add(&mut self, placed: &Placed, table: &Table) {
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
        for target in &placed.ways {
            match target {
                // Stubs of two and three instructions, exits of three.
                Target::Verdict(site) => {
                    first(&mut self.sites, *site, 2);
                    if let Ok((_, end)) = table.get(*site) {
                        first(&mut self.ends, end, 3);
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

/// No way through the program may need more tail calls than the kernel has for it, and no program may be larger than sense.
fn check_size(
    blocks: &Blocks,
    chunks: &[Vec<BlockId>],
    home: &BTreeMap<BlockId, usize>,
    table: &Table,
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
    // Blocks lead to later blocks only: one pass finds the longest way.
    let mut calls: BTreeMap<BlockId, usize> = BTreeMap::new();
    let reach = |calls: &mut BTreeMap<BlockId, usize>, from: usize, so_far: usize, target: Target| {
        if let Target::Block(id) = target
            && let Some(chunk) = home.get(&id)
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
            let ways = placed.ways.iter();
            ways.for_each(|target| reach(&mut calls, chunk, so_far, *target));
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

/// For each chunk: the blocks at which other chunks enter it.
fn entries(blocks: &Blocks, chunks: &[Vec<BlockId>], home: &BTreeMap<BlockId, usize>) -> Vec<Vec<BlockId>> {
    let mut entries: Vec<BTreeSet<BlockId>> = vec![BTreeSet::new(); chunks.len()];
    let mut enter = |from: usize, target: Target| {
        if let Target::Block(id) = target
            && let Some(chunk) = home.get(&id)
            && *chunk != from
            && let Some(set) = entries.get_mut(*chunk)
        {
            set.insert(id);
        }
    };
    blocks.starts.iter().for_each(|start| enter(0, *start));
    for (chunk, ids) in chunks.iter().enumerate() {
        for placed in ids.iter().filter_map(|id| blocks.placed.get(*id)) {
            placed.ways.iter().for_each(|target| enter(chunk, *target));
        }
    }
    entries.into_iter().map(|set| set.into_iter().collect()).collect()
}
