//! One chunk: its entry, its blocks, its ends; jumps are resolved here.
//!
//! In: the blocks of all chunks, and the rule table. Out: the plain instructions of one chunk.
//! Never: which blocks are in it, which [`crate::codegen::pack`] decides.

use std::collections::BTreeMap;

use felid_common::{VERDICT_ALLOW, VERDICT_DENY, static_programs};
use felid_model::resolved::ResolvedAction;

use crate::codegen::block::{Block, BlockId, Label, Op, Patch, Purpose, Target};
use crate::codegen::frame::{
    CTX, ENTRY, FRAME, KEY_SLOT, LOCAL_ROW_SLOT, NAMED_PORT_ROW, PEER_ROW, SCRATCH, VALUE, look_up_row, map_lookup,
    scratch,
};
use crate::codegen::isa::{self, Cond, R0, R1, R2, R3, Size};
use crate::codegen::pack::Packed;
use crate::codegen::placed::{Blocks, Placed};
use crate::codegen::rule_table::RuleTable;
use crate::program::{Chunk, Insn, MapRef, Note};
use crate::types::{CompileError, Direction};

/// `TCX_DROP`.
const DROP: i32 = 2;

/// Builds one chunk.
pub(crate) struct Assembler<'a> {
    blocks: &'a Blocks,
    table: &'a RuleTable,
    packed: &'a Packed,
    direction: Direction,
    chunk: usize,
    /// Where its blocks begin.
    bases: BTreeMap<BlockId, usize>,
    /// Where the stub of each decision point is, if there is one.
    stubs: Vec<Option<usize>>,
    /// Where other targets are.
    places: BTreeMap<Target, usize>,
}

/// A piece of a chunk: the entry, a block, or the ends.
struct Piece<'a> {
    base: usize,
    ops: &'a [Op],
    block: &'a Block,
    placed: Option<&'a Placed>,
}

/// The ends of a chunk in the making. All of it is one block, since labels need one owner.
struct ChunkEnds {
    out: Block,
    /// Where the ends begin in the chunk.
    base: usize,
    /// Where targets are, from the beginning of the ends.
    places: Vec<(Target, usize)>,
}

impl ChunkEnds {
    /// Says that the target is here.
    fn place(&mut self, target: Target) {
        self.places.push((target, self.out.ops.len()));
    }
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(
        blocks: &'a Blocks,
        table: &'a RuleTable,
        packed: &'a Packed,
        direction: Direction,
        chunk: usize,
    ) -> Self {
        Self {
            blocks,
            table,
            packed,
            direction,
            chunk,
            bases: BTreeMap::new(),
            stubs: vec![None; table.points()],
            places: BTreeMap::new(),
        }
    }

    /// Returns the chunk.
    pub(crate) fn assemble(mut self) -> Result<Chunk, CompileError> {
        let ids = self
            .packed
            .chunks
            .get(self.chunk)
            .map(Vec::as_slice)
            .unwrap_or_default();
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
            wanted.extend(&placed.successors);
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
        let ends = self.ends(&wanted, base)?;
        pieces.push(Piece {
            base,
            ops: &ends.ops,
            block: &ends,
            placed: None,
        });
        self.finish(&pieces, base + ends.ops.len())
    }

    /// Returns the entry: it looks up what the blocks need, and goes to the first of them.
    fn entry(&self, ids: &[BlockId]) -> Block {
        let uses = |test: fn(&Block) -> bool| {
            ids.iter()
                .filter_map(|id| self.blocks.placed.get(*id))
                .any(|placed| test(&placed.block))
        };
        let (local_class, peer_class) = match self.direction {
            Direction::Egress => (scratch!(src_class), scratch!(dst_class)),
            Direction::Ingress => (scratch!(dst_class), scratch!(src_class)),
        };
        let mut block = Block::new(Purpose::Frame("entry"));
        block.op(isa::mov(CTX, R1));
        block.op(isa::store_imm(Size::W, FRAME, KEY_SLOT, 0));
        map_lookup(&mut block, MapRef::Scratch, KEY_SLOT, Target::Drop);
        block.op(isa::mov(SCRATCH, R0));
        if uses(|block| block.uses_peer_row) {
            block.op(isa::load(Size::W, R1, SCRATCH, peer_class));
            look_up_row(&mut block, R1, PEER_ROW);
        }
        if uses(|block| block.uses_local_row) {
            block.op(isa::load(Size::W, R1, SCRATCH, local_class));
            look_up_row(&mut block, R1, VALUE);
            block.op(isa::store(Size::DW, FRAME, LOCAL_ROW_SLOT, VALUE));
        }
        if uses(|block| block.uses_named_port) {
            block.op(isa::mov_imm(NAMED_PORT_ROW, 0));
        }
        if self.chunk == 0 {
            self.enter_by_version(&mut block);
        } else {
            block.op(isa::load(Size::H, R1, SCRATCH, ENTRY));
            let entries = self.packed.entries.get(self.chunk).into_iter().flatten();
            for (number, id) in entries.enumerate() {
                block.branch(isa::jump_imm(Cond::Eq, R1, number as i32), Target::Block(*id));
            }
        }
        block.jump(Target::Drop);
        block
    }

    /// Leads a packet to the family of its IP version and source.
    fn enter_by_version(&self, block: &mut Block) {
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
        block.op(isa::load(Size::B, R1, SCRATCH, scratch!(ip_version)));
        block.branch(isa::jump_imm(Cond::Eq, R1, 4), v4);
        block.branch(isa::jump_imm(Cond::Eq, R1, 6), v6);
    }

    /// Returns verdicts, exits, and the drop, which follow the blocks. `wanted` is where blocks
    /// lead, `base` where the ends begin.
    fn ends(&mut self, wanted: &[Target], base: usize) -> Result<Block, CompileError> {
        let mut ends = ChunkEnds {
            out: Block::new(Purpose::Frame("verdict")),
            base,
            places: Vec::new(),
        };
        let is_external = |target: &Target| match target {
            Target::Block(id) if !self.bases.contains_key(id) => Some(*id),
            _ => None,
        };
        let external_targets: Vec<BlockId> = wanted.iter().filter_map(is_external).collect();
        self.verdicts(wanted, !external_targets.is_empty(), &mut ends)?;
        self.exits(&external_targets, &mut ends)?;
        // A tail call that fails falls through to here.
        ends.out.set_purpose(Purpose::Frame("drop"));
        ends.place(Target::Drop);
        ends.out.op(isa::mov_imm(R0, DROP));
        ends.out.op(isa::exit());
        let places = ends.places.into_iter();
        self.places.extend(places.map(|(target, place)| (target, base + place)));
        Ok(ends.out)
    }

    /// Writes the stub of each decision point that is wanted, and the verdicts that they share.
    fn verdicts(&mut self, wanted: &[Target], more_follows: bool, ends: &mut ChunkEnds) -> Result<(), CompileError> {
        let mut labels: BTreeMap<usize, Label> = BTreeMap::new();
        let out = &mut ends.out;
        for target in wanted {
            let Target::Verdict(point) = *target else { continue };
            let (rule, verdict) = self.table.get(point)?;
            if let Some(stub) = self.stubs.get_mut(point) {
                *stub = Some(ends.base + out.ops.len());
            }
            out.set_purpose(Purpose::Point(point));
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(rule), rule as i32));
            let label = *labels.entry(verdict).or_insert_with(|| out.label());
            out.jump(Target::Label(label));
        }
        out.set_purpose(Purpose::Frame("verdict"));
        let judged = out.label();
        for (verdict, label) in &labels {
            let (name, counter) = (self.table.verdicts.get(*verdict), self.table.counters.get(*verdict));
            let (Some(name), Some(counter)) = (name, counter) else {
                return Err(CompileError::Internal("a verdict without a counter"));
            };
            let verdict = match name.action {
                ResolvedAction::Allow => VERDICT_ALLOW,
                _ => VERDICT_DENY,
            };
            out.bind(*label);
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(verdict), verdict as i32));
            out.op(isa::store_imm(Size::W, SCRATCH, scratch!(counter), *counter as i32));
            out.jump(Target::Label(judged));
        }
        if !labels.is_empty() || wanted.contains(&Target::VerdictWritten) {
            out.bind(judged);
            ends.place(Target::VerdictWritten);
            ends.out.op(isa::mov_imm(R3, static_programs::POLICY_RETURN as i32));
            tail_call(&mut ends.out, MapRef::StaticPrograms);
            if more_follows {
                ends.out.jump(Target::Drop);
            }
        }
        Ok(())
    }

    /// Writes the exits to blocks of other chunks.
    fn exits(&self, external_targets: &[BlockId], ends: &mut ChunkEnds) -> Result<(), CompileError> {
        if external_targets.is_empty() {
            return Ok(());
        }
        ends.out.set_purpose(Purpose::Frame("to the next chunk"));
        let continued = ends.out.label();
        for id in external_targets {
            let chunk = self.packed.chunk_of.get(id).copied();
            let chunk = chunk.ok_or(CompileError::Internal("a jump to a block that is nowhere"))?;
            let entries = self.packed.entries.get(chunk);
            let entry = entries.and_then(|ids| ids.iter().position(|entry| entry == id));
            let entry = entry.ok_or(CompileError::Internal("a jump into a chunk without an entry there"))?;
            ends.place(Target::Block(*id));
            let out = &mut ends.out;
            out.op(isa::store_imm(Size::H, SCRATCH, ENTRY, entry as i32));
            out.op(isa::mov_imm(R3, chunk as i32));
            out.jump(Target::Label(continued));
        }
        ends.out.bind(continued);
        tail_call(&mut ends.out, MapRef::Chain);
        Ok(())
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
                    Purpose::Point(point) => Note::Rule(self.table.get(point)?.0),
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

    /// Returns the instruction at this place.
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
            Some(Patch::Rule(point)) => insn.imm = self.table.get(point)?.0 as i32,
            Some(Patch::Counter(point)) => {
                let counter = self.table.counters.get(self.table.get(point)?.1);
                insn.imm = *counter.ok_or(CompileError::Internal("a count without a counter"))? as i32;
            }
            Some(Patch::Table) => insn.imm = self.table.id as i32,
            None => {}
        }
        Ok(insn)
    }

    /// Returns where a target is in the chunk.
    fn resolve(&self, target: Target, piece: &Piece<'_>) -> Option<usize> {
        if let Target::Label(label) = target {
            return Some(piece.base + piece.block.position(label)?);
        }
        let target = piece.placed.map_or(target, |placed| placed.resolve(target));
        match target {
            Target::Verdict(point) => self.stubs.get(point).copied().flatten(),
            Target::Block(id) => self.bases.get(&id).or_else(|| self.places.get(&target)).copied(),
            _ => self.places.get(&target).copied(),
        }
    }
}

/// Calls `tail_call(ctx, map, r3)`, which comes back only if it failed.
fn tail_call(block: &mut Block, map: MapRef) {
    block.op(isa::mov(R1, CTX));
    block.load_map(R2, map);
    block.op(isa::call(isa::TAIL_CALL));
}
