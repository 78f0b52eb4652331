//! From blocks to chunks: what fits together, how chunks are entered and left, how jumps are resolved.
//!
//! In: the blocks of each section, with symbolic targets. Out: chunks of plain instructions, and the rule table. A chunk is
//!
//! ```text
//! entry      scratch and class row are looked up; then by IP version (chunk 0) or by what the chunk before left in Scratch::rule
//! blocks     of one or more sections
//! verdicts   one stub for each rule that decides here: Scratch::{rule, verdict, counter}, then tail call fixed[JUDGED]
//! exits      to blocks in other chunks: Scratch::rule = which entry, then tail call chain[chunk]
//! drop       return 2
//! ```

use std::collections::{BTreeMap, BTreeSet};

use felid_common::{VERDICT_ALLOW, VERDICT_DENY, fixed};

use crate::block::{Block, BlockId, Label, Op, Purpose, Target};
use crate::compile::{CompileError, Counters, Direction};
use crate::emit::{CTX, FRAME, KEY_SLOT, NAMED_ROW, ROW, SCRATCH, look_up_row, scratch};
use crate::isa::{self, Cond, Size};
use crate::lower::{End, Site, SiteId};
use crate::program::{Chunk, Insn, MapRef, Note, RuleRef};
use crate::transaction::CounterName;

/// Instructions of a chunk: jumps reach 32,767 instructions, and the verifier's work stays far below its limit.
pub(crate) const MAX_CHUNK_INSNS: usize = 16_000;
/// Conditional jumps of a chunk: the verifier keeps at most 8,192 open branches.
pub(crate) const MAX_CHUNK_BRANCHES: usize = 6_000;
/// Tail calls that a packet may need within one policy program.
pub(crate) const MAX_CONTINUATIONS: usize = 14;
/// `TCX_DROP`.
const DROP: i32 = 2;
/// Entry, ends and drop of a chunk, at most.
const FRAME_INSNS: usize = 80;

/// The blocks of one IP version (or of both, where they are the same): of each section, and what is at its end.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) sections: Vec<(Vec<Block>, End)>,
}

/// A block in the program.
struct Placed {
    block: Block,
    next: Target,
    pass: Target,
}

impl Placed {
    fn resolve(&self, target: Target) -> Target {
        match target {
            Target::Next => self.next,
            Target::Pass => self.pass,
            other => other,
        }
    }

    fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.block
            .ops
            .iter()
            .filter_map(|op| op.target)
            .map(|target| self.resolve(target))
    }
}

/// All blocks, and where IPv4 and IPv6 begin.
struct Blocks {
    placed: Vec<Placed>,
    starts: Vec<Target>,
}

/// Lays a program out: one family = the same for both IP versions, else IPv4 and IPv6.
pub(crate) fn layout(
    sites: &[Site<'_>],
    families: Vec<Family>,
    direction: Direction,
    counters: &mut impl Counters,
) -> Result<(Vec<Chunk>, Vec<RuleRef>), CompileError> {
    let blocks = place(families);
    let live = live(&blocks);
    let table = Table::new(sites, &blocks, &live, counters);
    let chunks = pack(&blocks, &live, &table);
    check_chain(&blocks, &chunks, &table)?;
    let home: BTreeMap<BlockId, usize> = chunks
        .iter()
        .enumerate()
        .flat_map(|(chunk, ids)| ids.iter().map(move |id| (*id, chunk)))
        .collect();
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
        let mut first = placed.len() + family.sections.iter().map(|(blocks, _)| blocks.len()).sum::<usize>();
        let mut following = Target::Drop;
        let mut sections = Vec::new();
        for (blocks, end) in family.sections.into_iter().rev() {
            first -= blocks.len();
            let (pass, after) = match end {
                End::Verdict(site) => (following, Target::Verdict(site)),
                End::Next => (following, following),
            };
            following = if blocks.is_empty() { after } else { Target::Block(first) };
            sections.push((blocks, pass, after));
        }
        starts.push(following);
        for (blocks, pass, after) in sections.into_iter().rev() {
            let count = blocks.len();
            for (index, block) in blocks.into_iter().enumerate() {
                let next = if index + 1 == count {
                    after
                } else {
                    Target::Block(placed.len() + 1)
                };
                placed.push(Placed { block, next, pass });
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
            open.extend(blocks.placed.get(id).into_iter().flat_map(Placed::targets));
        }
    }
    seen.into_iter().collect()
}

/// The rule table, and what each deciding site writes.
struct Table {
    rules: Vec<RuleRef>,
    /// Site -> index of the rule, counter, verdict.
    sites: BTreeMap<SiteId, (u32, u32, u32)>,
}

impl Table {
    fn new(sites: &[Site<'_>], blocks: &Blocks, live: &[BlockId], counters: &mut impl Counters) -> Self {
        let mut decide: BTreeSet<SiteId> = BTreeSet::new();
        let mut named: BTreeSet<SiteId> = BTreeSet::new();
        let mut verdict = |target: Target| {
            if let Target::Verdict(site) = target {
                decide.insert(site);
            }
        };
        blocks.starts.iter().copied().for_each(&mut verdict);
        for placed in live.iter().filter_map(|id| blocks.placed.get(*id)) {
            placed.targets().for_each(&mut verdict);
            named.extend(placed.block.ops.iter().filter_map(|op| match op.purpose {
                Purpose::Site(site) => Some(site),
                Purpose::Frame(_) => None,
            }));
        }
        named.extend(&decide);
        let mut table = Table {
            rules: Vec::new(),
            sites: BTreeMap::new(),
        };
        for id in named {
            let Some(site) = sites.get(id) else { continue };
            let counter = if decide.contains(&id) {
                let (tier, policy) = (site.counter_tier.clone(), site.counter_policy.clone());
                counters.counter(&CounterName {
                    tier,
                    policy,
                    allowed: site.allowed,
                })
            } else {
                0
            };
            let verdict = if site.allowed { VERDICT_ALLOW } else { VERDICT_DENY };
            table.sites.insert(id, (table.rules.len() as u32, counter, verdict));
            table.rules.push(RuleRef {
                key: site.key.cloned(),
                tier: site.tier.cloned(),
                index: site.index(),
                text: site.text(),
            });
        }
        table
    }

    fn get(&self, site: SiteId) -> Result<(u32, u32, u32), CompileError> {
        self.sites
            .get(&site)
            .copied()
            .ok_or(CompileError::Internal("a verdict without a rule"))
    }
}

/// Fills chunks, in order.
fn pack(blocks: &Blocks, live: &[BlockId], table: &Table) -> Vec<Vec<BlockId>> {
    let mut chunks: Vec<Vec<BlockId>> = vec![Vec::new()];
    let mut used = Budget::default();
    for &id in live {
        let Some(placed) = blocks.placed.get(id) else { continue };
        let mut with = used.clone();
        with.add(placed, table);
        let full = with.insns() > MAX_CHUNK_INSNS + FRAME_INSNS || with.branches > MAX_CHUNK_BRANCHES;
        if full && chunks.last().is_some_and(|chunk| !chunk.is_empty()) {
            chunks.push(Vec::new());
            with = Budget::default();
            with.add(placed, table);
        }
        used = with;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(id);
        }
    }
    chunks
}

/// What a chunk will amount to.
#[derive(Clone, Default)]
struct Budget {
    code: usize,
    branches: usize,
    sites: BTreeSet<SiteId>,
    ends: BTreeSet<(u32, u32)>,
}

impl Budget {
    fn add(&mut self, placed: &Placed, table: &Table) {
        self.code += placed.block.ops.len();
        self.branches += placed.block.branches();
        for target in placed.targets() {
            if let Target::Verdict(site) = target
                && self.sites.insert(site)
            {
                self.ends
                    .extend(table.sites.get(&site).map(|(_, counter, verdict)| (*counter, *verdict)));
            }
        }
    }

    fn insns(&self) -> usize {
        // Stubs of two and three instructions; at most one exit of three for every section's start and the chunk's end.
        self.code + 2 * self.sites.len() + 3 * self.ends.len() + FRAME_INSNS
    }
}

/// No way through the program may need more tail calls than the kernel has for it.
fn check_chain(blocks: &Blocks, chunks: &[Vec<BlockId>], table: &Table) -> Result<(), CompileError> {
    // A family's blocks are neighbours: the way through all chunks from its first block's to its last block's is the longest.
    let chunk_of = |id: BlockId| chunks.iter().position(|chunk| chunk.contains(&id)).unwrap_or_default();
    let starts = blocks.starts.iter().map(|start| match start {
        Target::Block(id) => Some(*id),
        _ => None,
    });
    let starts: Vec<Option<BlockId>> = starts.collect();
    for (family, start) in starts.iter().enumerate() {
        let Some(start) = *start else { continue };
        let next_family = starts.get(family + 1..).unwrap_or_default().iter().flatten().next();
        let last = match next_family {
            Some(next) => chunks
                .iter()
                .flatten()
                .copied()
                .filter(|id| id < next)
                .max()
                .unwrap_or(start),
            None => chunks.iter().flatten().copied().max().unwrap_or(start),
        };
        let (from, to) = (chunk_of(start), chunk_of(last));
        let continuations = (to - from) + usize::from(from > 0);
        if continuations > MAX_CONTINUATIONS {
            return Err(CompileError::TooManyChunks {
                rules: table.rules.len(),
                insns: blocks.placed.iter().map(|placed| placed.block.ops.len()).sum(),
                chunks: continuations + 1,
                limit: MAX_CONTINUATIONS + 1,
            });
        }
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
            placed.targets().for_each(|target| enter(chunk, target));
        }
    }
    entries.into_iter().map(|set| set.into_iter().collect()).collect()
}

/// Builds one chunk.
struct Assembler<'a> {
    blocks: &'a Blocks,
    table: &'a Table,
    home: &'a BTreeMap<BlockId, usize>,
    entries: &'a [Vec<BlockId>],
    direction: Direction,
    chunk: usize,
    ops: Vec<Op>,
    /// Block (or `None` = entry and tail) of the instruction at each of `ops`, to resolve labels.
    owners: Vec<Option<BlockId>>,
    /// Where blocks begin.
    bases: BTreeMap<BlockId, usize>,
    /// Where other targets are.
    places: BTreeMap<Target, usize>,
    /// What follows the blocks, and where it begins.
    tail: Option<(usize, Block)>,
}

impl<'a> Assembler<'a> {
    fn new(
        blocks: &'a Blocks,
        table: &'a Table,
        home: &'a BTreeMap<BlockId, usize>,
        entries: &'a [Vec<BlockId>],
        direction: Direction,
        chunk: usize,
    ) -> Self {
        let (ops, owners, bases, places, tail) = Default::default();
        Self {
            blocks,
            table,
            home,
            entries,
            direction,
            chunk,
            ops,
            owners,
            bases,
            places,
            tail,
        }
    }

    fn assemble(mut self, chunks: &[Vec<BlockId>]) -> Result<Chunk, CompileError> {
        let ids = chunks.get(self.chunk).map(Vec::as_slice).unwrap_or_default();
        self.entry(ids);
        for (index, id) in ids.iter().enumerate() {
            self.block(*id, ids.get(index + 1).copied());
        }
        self.ends()?;
        self.finish()
    }

    /// Looks up what the blocks need, and goes to the first of them.
    fn entry(&mut self, ids: &[BlockId]) {
        let uses = |test: fn(&Block) -> bool| {
            ids.iter()
                .filter_map(|id| self.blocks.placed.get(*id))
                .any(|p| test(&p.block))
        };
        let (uses_row, uses_named) = (uses(|block| block.uses_row), uses(|block| block.uses_named));
        let mut block = Block::new(Purpose::Frame("entry"));
        block.op(isa::mov(CTX, 1));
        block.op(isa::store_imm(Size::W, FRAME, KEY_SLOT, 0));
        block.op(isa::mov(2, FRAME));
        block.op(isa::add_imm(2, i32::from(KEY_SLOT)));
        block.load_map(1, MapRef::Scratch);
        block.op(isa::call(isa::MAP_LOOKUP_ELEM));
        block.branch(isa::jump_imm(Cond::Eq, 0, 0), Target::Drop);
        block.op(isa::mov(SCRATCH, 0));
        if uses_row {
            let class = match self.direction {
                Direction::Ingress => scratch!(src_class),
                Direction::Egress => scratch!(dst_class),
            };
            block.op(isa::load(Size::W, 1, SCRATCH, class));
            look_up_row(&mut block, 1, ROW);
        }
        if uses_named {
            block.op(isa::mov_imm(NAMED_ROW, 0));
        }
        if self.chunk == 0 {
            block.op(isa::load(Size::B, 1, SCRATCH, scratch!(ip_version)));
            let (v4, v6) = (self.blocks.starts.first(), self.blocks.starts.last());
            block.branch(isa::jump_imm(Cond::Eq, 1, 4), *v4.unwrap_or(&Target::Drop));
            block.branch(isa::jump_imm(Cond::Eq, 1, 6), *v6.unwrap_or(&Target::Drop));
        } else {
            block.op(isa::load(Size::W, 1, SCRATCH, scratch!(rule)));
            for (number, id) in self.entries.get(self.chunk).into_iter().flatten().enumerate() {
                block.branch(isa::jump_imm(Cond::Eq, 1, number as i32), Target::Block(*id));
            }
        }
        block.jump(Target::Drop);
        self.append(block.ops.iter().copied(), None);
    }

    fn append(&mut self, ops: impl Iterator<Item = Op>, owner: Option<BlockId>) {
        let before = self.ops.len();
        self.ops.extend(ops);
        self.owners.extend((before..self.ops.len()).map(|_| owner));
    }

    /// A block, without its last jump where that leads to the following block.
    fn block(&mut self, id: BlockId, following: Option<BlockId>) {
        let Some(placed) = self.blocks.placed.get(id) else {
            return;
        };
        self.bases.insert(id, self.ops.len());
        let ops = placed.block.ops.iter().map(|op| Op {
            target: op.target.map(|t| placed.resolve(t)),
            ..*op
        });
        self.append(ops, Some(id));
        let falls = self.ops.last().is_some_and(|op| {
            op.insn.code == isa::JA && following.is_some() && op.target == following.map(Target::Block)
        });
        if falls {
            self.ops.pop();
            self.owners.pop();
        }
    }

    /// Verdicts, exits, and the ways out.
    fn ends(&mut self) -> Result<(), CompileError> {
        let wanted: BTreeSet<Target> = self.ops.iter().filter_map(|op| op.target).collect();
        let (mut judge, mut leave) = (Vec::new(), Vec::new());
        let mut ends: BTreeMap<(u32, u32), Label> = BTreeMap::new();
        // One block for all of it: labels need one owner.
        let mut out = Block::new(Purpose::Frame("verdict"));
        let mut places = Vec::new();
        for target in wanted {
            match target {
                Target::Verdict(site) => {
                    let (rule, counter, verdict) = self.table.get(site)?;
                    places.push((target, out.ops.len()));
                    out.set_purpose(Purpose::Site(site));
                    out.op(isa::store_imm(Size::W, SCRATCH, scratch!(rule), rule as i32));
                    let label = *ends.entry((counter, verdict)).or_insert_with(|| out.label());
                    out.jump(Target::Label(label));
                    judge.push(site);
                }
                Target::Block(id) if !self.bases.contains_key(&id) => leave.push(id),
                _ => {}
            }
        }
        out.set_purpose(Purpose::Frame("verdict"));
        let judged = out.label();
        for ((counter, verdict), label) in &ends {
            out.bind(*label);
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(verdict), *verdict as i32));
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(counter), *counter as i32));
            out.jump(Target::Label(judged));
        }
        if !judge.is_empty() {
            out.bind(judged);
            out.op(isa::mov_imm(3, fixed::JUDGED as i32));
            tail_call(&mut out, MapRef::Fixed);
            if !leave.is_empty() {
                out.jump(Target::Drop);
            }
        }
        out.set_purpose(Purpose::Frame("to the next chunk"));
        let continued = out.label();
        for id in &leave {
            let chunk = *self
                .home
                .get(id)
                .ok_or(CompileError::Internal("a jump to a block that is nowhere"))?;
            let entry = self
                .entries
                .get(chunk)
                .and_then(|ids| ids.iter().position(|entry| entry == id));
            let entry = entry.ok_or(CompileError::Internal("a jump into a chunk without an entry there"))?;
            places.push((Target::Block(*id), out.ops.len()));
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(rule), entry as i32));
            out.op(isa::mov_imm(3, chunk as i32));
            out.jump(Target::Label(continued));
        }
        if !leave.is_empty() {
            out.bind(continued);
            tail_call(&mut out, MapRef::Chain);
        }
        // A tail call that fails falls through to here.
        out.set_purpose(Purpose::Frame("drop"));
        places.push((Target::Drop, out.ops.len()));
        out.op(isa::mov_imm(0, DROP));
        out.op(isa::exit());
        let base = self.ops.len();
        self.places
            .extend(places.into_iter().map(|(target, place)| (target, base + place)));
        self.append(out.ops.iter().copied(), None);
        self.tail = Some((base, out));
        Ok(())
    }

    /// Resolves jumps, collects map references and notes.
    fn finish(self) -> Result<Chunk, CompileError> {
        let mut chunk = Chunk::default();
        for (index, (op, owner)) in self.ops.iter().zip(&self.owners).enumerate() {
            let mut insn: Insn = op.insn;
            if let Some(target) = op.target {
                let place = self
                    .resolve(target, *owner)
                    .ok_or(CompileError::Internal("a jump to nowhere"))?;
                let distance = place as i64 - (index as i64 + 1);
                insn.off = i16::try_from(distance).map_err(|_| CompileError::Internal("a jump too far"))?;
                if distance < 0 {
                    return Err(CompileError::Internal("a jump backwards"));
                }
            }
            if let Some(map) = op.map {
                chunk.maps.push((index, map));
            }
            chunk.insns.push(insn);
            let note = match op.purpose {
                Purpose::Frame(words) => Note::Frame(words.to_owned()),
                Purpose::Site(site) => Note::Rule(self.table.get(site)?.0),
            };
            match chunk.notes.last_mut() {
                Some((range, last)) if *last == note => range.end = index + 1,
                _ => chunk.notes.push((index..index + 1, note)),
            }
        }
        Ok(chunk)
    }

    fn resolve(&self, target: Target, owner: Option<BlockId>) -> Option<usize> {
        match (target, owner) {
            (Target::Label(label), Some(id)) => {
                Some(self.bases.get(&id)? + self.blocks.placed.get(id)?.block.position(label)?)
            }
            (Target::Label(label), None) => {
                let (base, block) = self.tail.as_ref()?;
                Some(base + block.position(label)?)
            }
            (Target::Block(id), _) => self.bases.get(&id).or_else(|| self.places.get(&target)).copied(),
            _ => self.places.get(&target).copied(),
        }
    }
}

/// `tail_call(ctx, map, r3)`; it comes back only if it failed.
fn tail_call(block: &mut Block, map: MapRef) {
    block.op(isa::mov(1, CTX));
    block.load_map(2, map);
    block.op(isa::call(isa::TAIL_CALL));
}
