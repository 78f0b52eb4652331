//! From blocks to chunks: what fits together, how chunks are entered and left.
//!
//! In: the blocks of each section, with symbolic targets. Out: chunks of plain instructions, and
//! the rule table. Never: what blocks test. A chunk is
//!
//! ```text
//! entry      looks scratch and class row up; then goes on by IP version (chunk 0), or by what
//!            the chunk before left in the upper half of Scratch::verdict
//! blocks     of one or more sections
//! verdicts   one stub for each rule that decides here: Scratch::{rule, verdict, counter},
//!            then tail call static_programs[POLICY_RETURN]
//! exits      to blocks in other chunks: upper half of Scratch::verdict = which entry, then
//!            tail call chain[chunk]
//! drop       return 2
//! ```

use crate::codegen::assemble::Assembler;
use crate::codegen::pack::pack;
use crate::codegen::placed::{Blocks, SectionFamily};
use crate::codegen::rule_table::RuleTable;
use crate::ir::decision::DecisionPoint;
use crate::program::{Chunk, RuleRef};
use crate::types::{CompileError, Counters, Direction};

/// Lays a program out. One family is the same for both IP versions; else there are IPv4 and IPv6,
/// and perhaps both again for sources that are not the endpoint's own. Counters are asked for only
/// if there will be a program.
pub(crate) fn layout(
    points: &[DecisionPoint<'_>],
    families: Vec<SectionFamily>,
    direction: Direction,
    counters: &mut impl Counters,
) -> Result<(Vec<Chunk>, Vec<RuleRef>), CompileError> {
    let blocks = Blocks::new(families);
    let live = blocks.live();
    let mut table = RuleTable::new(points, &blocks, &live);
    let packed = pack(&blocks, &live, &table)?;
    table.counters = table.verdicts.iter().map(|name| counters.counter(name)).collect();
    let chunks = (0..packed.chunks.len())
        .map(|chunk| Assembler::new(&blocks, &table, &packed, direction, chunk).assemble())
        .collect::<Result<_, _>>()?;
    Ok((chunks, table.rules))
}
