//! One chunk: its entry, its blocks, its ends; jumps are resolved here.

use std::collections::{BTreeMap, BTreeSet};

use felid_common::{VERDICT_ALLOW, VERDICT_DENY, fixed};
use felid_model::resolved::ResolvedAction;

use crate::block::{Block, BlockId, Label, Op, Patch, Purpose, Target};
use crate::compile::{CompileError, Direction};
use crate::frame::{CTX, ENTRY, FRAME, KEY_SLOT, NAMED_ROW, OWN_ROW_SLOT, ROW, SCRATCH, VALUE, look_up_row, scratch};
use crate::isa::{self, Cond, Size};
use crate::layout::{Blocks, Table};
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
    pub(crate) fn new(
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

    pub(crate) fn assemble(mut self, chunks: &[Vec<BlockId>]) -> Result<Chunk, CompileError> {
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
        let mut judges = false;
        let mut ends: BTreeMap<usize, Label> = BTreeMap::new();
        // One block for all of it: labels need one owner.
        let mut out = Block::new(Purpose::Frame("verdict"));
        let mut places = Vec::new();
        for target in wanted {
            match target {
                Target::Verdict(site) => {
                    let (rule, end) = self.table.get(site)?;
                    places.push((target, out.ops.len()));
                    out.set_purpose(Purpose::Site(site));
                    out.op(isa::store_imm(Size::W, SCRATCH, scratch!(rule), rule as i32));
                    let label = *ends.entry(end).or_insert_with(|| out.label());
                    out.jump(Target::Label(label));
                    judge.push(site);
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
        if !judge.is_empty() || judges {
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
            match op.patch {
                Some(Patch::Rule(site)) => insn.imm = self.table.get(site)?.0 as i32,
                Some(Patch::Counter(site)) => {
                    let counter = self.table.counters.get(self.table.get(site)?.1);
                    insn.imm = *counter.ok_or(CompileError::Internal("a count without a counter"))? as i32;
                }
                Some(Patch::Table) => insn.imm = self.table.id as i32,
                None => {}
            }
            if let Some(map) = op.map {
                chunk.maps.push((index, map));
            }
            chunk.insns.push(insn);
            let note = match op.purpose {
                Purpose::Frame(words) => Note::Frame(words),
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
