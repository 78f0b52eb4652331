//! One chunk: its entry, its blocks, its ends; jumps are resolved here.

use std::collections::BTreeMap;

use felid_common::{VERDICT_ALLOW, VERDICT_DENY, fixed};
use felid_model::resolved::ResolvedAction;

use crate::block::{Block, BlockId, Label, Op, Patch, Purpose, Target};
use crate::compile::{CompileError, Direction};
use crate::frame::{CTX, ENTRY, FRAME, KEY_SLOT, NAMED_ROW, OWN_ROW_SLOT, ROW, SCRATCH, VALUE, look_up_row, scratch};
use crate::isa::{self, Cond, Size};
use crate::layout::{Blocks, Placed, Table};
use crate::program::{Chunk, Insn, MapRef, Note};

/// `TCX_DROP`.
const DROP: i32 = 2;

/// Builds one chunk.
pub(crate) struct Assembler<'a> {
    blocks: &'a Blocks,
    table: &'a Table,
    home: &'a BTreeMap<BlockId, usize>,
    entries: &'a [Vec<BlockId>],
    direction: Direction,
    chunk: usize,
    /// Where its blocks begin.
    bases: BTreeMap<BlockId, usize>,
    /// Where the stub of each site is, if there is one.
    stubs: Vec<Option<usize>>,
    /// Where other targets are.
    places: BTreeMap<Target, usize>,
}

/// What a chunk consists of: entry, blocks, ends.
struct Piece<'a> {
    base: usize,
    ops: &'a [Op],
    block: &'a Block,
    placed: Option<&'a Placed>,
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(
        blocks: &'a Blocks,
        table: &'a Table,
        home: &'a BTreeMap<BlockId, usize>,
        entries: &'a [Vec<BlockId>],
        direction: Direction,
        chunk: usize,
    ) -> Self {
        Self {
            blocks,
            table,
            home,
            entries,
            direction,
            chunk,
            bases: BTreeMap::new(),
            stubs: vec![None; table.sites()],
            places: BTreeMap::new(),
        }
    }

    pub(crate) fn assemble(mut self, chunks: &[Vec<BlockId>]) -> Result<Chunk, CompileError> {
        let ids = chunks.get(self.chunk).map(Vec::as_slice).unwrap_or_default();
        let blocks = self.blocks;
        let entry = self.entry(ids);
        let mut wanted: Vec<Target> = entry.ops.iter().filter_map(|op| op.target).collect();
        let mut base = entry.ops.len();
        let mut pieces = vec![Piece {
            base: 0,
            ops: &entry.ops,
            block: &entry,
            placed: None,
        }];
        for (index, id) in ids.iter().enumerate() {
            let Some(placed) = blocks.placed.get(*id) else { continue };
            wanted.extend(&placed.ways);
            let following = ids.get(index + 1).map(|id| Target::Block(*id));
            let ops = match placed.block.ops.split_last() {
                // A last jump that leads to the following block is left out.
                Some((last, rest))
                    if last.insn.code == isa::JA
                        && following.is_some()
                        && last.target.map(|target| placed.resolve(target)) == following =>
                {
                    rest
                }
                _ => &placed.block.ops,
            };
            self.bases.insert(*id, base);
            pieces.push(Piece {
                base,
                ops,
                block: &placed.block,
                placed: Some(placed),
            });
            base += ops.len();
        }
        wanted.sort_unstable();
        wanted.dedup();
        let ends = self.ends(wanted, base)?;
        pieces.push(Piece {
            base,
            ops: &ends.ops,
            block: &ends,
            placed: None,
        });
        self.finish(&pieces, base + ends.ops.len())
    }

    /// Looks up what the blocks need, and goes to the first of them.
    fn entry(&self, ids: &[BlockId]) -> Block {
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
        if uses(|block| block.uses_own_row) {
            let class = match self.direction {
                Direction::Ingress => scratch!(dst_class),
                Direction::Egress => scratch!(src_class),
            };
            block.op(isa::load(Size::W, 1, SCRATCH, class));
            look_up_row(&mut block, 1, VALUE);
            block.op(isa::store(Size::DW, FRAME, OWN_ROW_SLOT, VALUE));
        }
        if uses_named {
            block.op(isa::mov_imm(NAMED_ROW, 0));
        }
        if self.chunk == 0 {
            let (v4, v6) = match self.blocks.starts.as_slice() {
                [v4, v6, spoofed_v4, spoofed_v6] => {
                    block.op(isa::load(Size::W, VALUE, SCRATCH, scratch!(spoofed)));
                    block.branch(isa::jump_imm(Cond::Eq, VALUE, 4), *spoofed_v4);
                    block.branch(isa::jump_imm(Cond::Eq, VALUE, 6), *spoofed_v6);
                    (*v4, *v6)
                }
                starts => {
                    let at = |target: Option<&Target>| *target.unwrap_or(&Target::Drop);
                    (at(starts.first()), at(starts.last()))
                }
            };
            block.op(isa::load(Size::B, 1, SCRATCH, scratch!(ip_version)));
            block.branch(isa::jump_imm(Cond::Eq, 1, 4), v4);
            block.branch(isa::jump_imm(Cond::Eq, 1, 6), v6);
        } else {
            block.op(isa::load(Size::H, 1, SCRATCH, ENTRY));
            for (number, id) in self.entries.get(self.chunk).into_iter().flatten().enumerate() {
                block.branch(isa::jump_imm(Cond::Eq, 1, number as i32), Target::Block(*id));
            }
        }
        block.jump(Target::Drop);
        block
    }

    /// Verdicts, exits, and the ways out, which follow the blocks.
    fn ends(&mut self, wanted: Vec<Target>, base: usize) -> Result<Block, CompileError> {
        let mut leave = Vec::new();
        let mut judges = false;
        let mut ends: BTreeMap<usize, Label> = BTreeMap::new();
        // One block for all of it: labels need one owner.
        let mut out = Block::new(Purpose::Frame("verdict"));
        let mut places = Vec::new();
        for target in wanted {
            match target {
                Target::Verdict(site) => {
                    let (rule, end) = self.table.get(site)?;
                    if let Some(stub) = self.stubs.get_mut(site) {
                        *stub = Some(base + out.ops.len());
                    }
                    out.set_purpose(Purpose::Site(site));
                    out.op(isa::store_imm(Size::W, SCRATCH, scratch!(rule), rule as i32));
                    let label = *ends.entry(end).or_insert_with(|| out.label());
                    out.jump(Target::Label(label));
                    judges = true;
                }
                Target::Judge => judges = true,
                Target::Block(id) if !self.bases.contains_key(&id) => leave.push(id),
                _ => {}
            }
        }
        out.set_purpose(Purpose::Frame("verdict"));
        let judged = out.label();
        for (end, label) in &ends {
            let (Some(name), Some(counter)) = (self.table.ends.get(*end), self.table.counters.get(*end)) else {
                return Err(CompileError::Internal("a verdict without a counter"));
            };
            let verdict = if name.action == ResolvedAction::Allow {
                VERDICT_ALLOW
            } else {
                VERDICT_DENY
            };
            out.bind(*label);
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(verdict), verdict as i32));
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(counter), *counter as i32));
            out.jump(Target::Label(judged));
        }
        if judges {
            out.bind(judged);
            places.push((Target::Judge, out.ops.len()));
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
            out.op(isa::store_imm(Size::H, SCRATCH, ENTRY, entry as i32));
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
        self.places
            .extend(places.into_iter().map(|(target, place)| (target, base + place)));
        Ok(out)
    }

    /// Resolves jumps, collects map references and notes.
    fn finish(self, pieces: &[Piece<'_>], length: usize) -> Result<Chunk, CompileError> {
        let mut chunk = Chunk::default();
        chunk.insns.reserve_exact(length);
        for piece in pieces {
            for op in piece.ops {
                let insn = self.instruction(piece, op, chunk.insns.len())?;
                if let Some(map) = op.map {
                    chunk.maps.push((chunk.insns.len(), map));
                }
                let note = match op.purpose {
                    Purpose::Frame(words) => Note::Frame(words),
                    Purpose::Site(site) => Note::Rule(self.table.get(site)?.0),
                };
                let index = chunk.insns.len();
                match chunk.notes.last_mut() {
                    Some((range, last)) if *last == note => range.end = index + 1,
                    _ => chunk.notes.push((index..index + 1, note)),
                }
                chunk.insns.push(insn);
            }
        }
        Ok(chunk)
    }

    /// The instruction at this place.
    fn instruction(&self, piece: &Piece<'_>, op: &Op, index: usize) -> Result<Insn, CompileError> {
        let mut insn = op.insn;
        if let Some(target) = op.target {
            let place = self
                .resolve(target, piece)
                .ok_or(CompileError::Internal("a jump to nowhere"))?;
            let distance = place as i64 - (index as i64 + 1);
            insn.off = i16::try_from(distance).map_err(|_| CompileError::Internal("a jump too far"))?;
            if distance < 0 {
                return Err(CompileError::Internal("a jump backwards"));
            }
        }
        match op.patch {
            Some(Patch::Rule(site)) => insn.imm = self.table.get(site)?.0 as i32,
            Some(Patch::Counter(site)) => {
                let counter = self.table.counters.get(self.table.get(site)?.1);
                insn.imm = *counter.ok_or(CompileError::Internal("a count without a counter"))? as i32;
            }
            Some(Patch::Table) => insn.imm = self.table.id as i32,
            None => {}
        }
        Ok(insn)
    }

    fn resolve(&self, target: Target, piece: &Piece<'_>) -> Option<usize> {
        if let Target::Label(label) = target {
            return Some(piece.base + piece.block.position(label)?);
        }
        let target = piece.placed.map_or(target, |placed| placed.resolve(target));
        match target {
            Target::Verdict(site) => self.stubs.get(site).copied().flatten(),
            Target::Block(id) => self.bases.get(&id).or_else(|| self.places.get(&target)).copied(),
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
