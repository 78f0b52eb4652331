//! The table of rules that a program speaks of, and what each deciding rule writes.
//!
//! In: decision points, and the blocks that can be reached. Out: a line for each decision point
//! that stands in them, and the names of the counters. Never: where instructions are.

use std::collections::BTreeMap;

use felid_model::resolved::ResolvedAction;

use crate::codegen::block::{BlockId, Patch, Purpose, Target};
use crate::codegen::placed::Blocks;
use crate::ir::decision::{DecisionPoint, PointId};
use crate::program::{RuleRef, table_id};
use crate::types::{CompileError, CounterName};

/// The rule table, and what each deciding point writes.
pub(crate) struct RuleTable {
    pub(crate) rules: Vec<RuleRef>,
    /// For each decision point: the index of its line, and of its verdict in [`Self::verdicts`].
    points: Vec<Option<(u32, usize)>>,
    /// The different verdicts: what is counted and said.
    pub(crate) verdicts: Vec<CounterName>,
    /// What tells the table apart from others, see [`table_id`].
    pub(crate) id: u32,
    /// The counters of the verdicts, once it is certain that there will be a program.
    pub(crate) counters: Vec<u32>,
}

impl RuleTable {
    /// Makes the table of the blocks that can be reached.
    pub(crate) fn new(points: &[DecisionPoint<'_>], blocks: &Blocks, live: &[BlockId]) -> Self {
        let lines = lines(points.len(), blocks, live);
        let mut table = Self {
            rules: Vec::with_capacity(lines.iter().filter(|line| **line != RuleLine::None).count()),
            points: vec![None; points.len()],
            verdicts: Vec::new(),
            id: 0,
            counters: Vec::new(),
        };
        let mut verdicts: BTreeMap<CounterName, usize> = BTreeMap::new();
        let mut last: Option<(&DecisionPoint<'_>, usize)> = None;
        for ((point, line), place) in points.iter().zip(&lines).zip(&mut table.points) {
            if *line == RuleLine::None {
                continue;
            }
            let mut verdict = 0;
            if *line == RuleLine::Decides {
                // Neighbours mostly have the same verdict.
                verdict = match last.filter(|(other, _)| other.counts_like(point)) {
                    Some((_, verdict)) => verdict,
                    None => {
                        let name = point.counter();
                        *verdicts.entry(name.clone()).or_insert_with(|| {
                            table.verdicts.push(name);
                            table.verdicts.len() - 1
                        })
                    }
                };
                last = Some((point, verdict));
            }
            *place = Some((table.rules.len() as u32, verdict));
            table.rules.push(RuleRef {
                key: point.key.cloned(),
                tier: point.tier.cloned(),
                index: point.index(),
                logs: point.action == ResolvedAction::Log,
                text: point.text(),
            });
        }
        table.id = table_id(&table.rules);
        table
    }

    /// Returns the number of all decision points.
    pub(crate) fn points(&self) -> usize {
        self.points.len()
    }

    /// Returns the index of a decision point's line, and that of its verdict.
    pub(crate) fn get(&self, point: PointId) -> Result<(u32, usize), CompileError> {
        self.points
            .get(point)
            .copied()
            .flatten()
            .ok_or(CompileError::Internal("a verdict without a rule"))
    }
}

/// What a decision point has in the rule table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RuleLine {
    None,
    /// It has a line, since instructions are there for it.
    Listed,
    /// It has a line and a counter.
    Decides,
}

/// Finds out what each decision point has. Rules that only hand on have a line, too.
fn lines(points: usize, blocks: &Blocks, live: &[BlockId]) -> Vec<RuleLine> {
    let mut lines: Vec<RuleLine> = vec![RuleLine::None; points];
    let mut mark = |point: PointId, line: RuleLine| {
        if let Some(known) = lines.get_mut(point) {
            *known = line.max(*known);
        }
    };
    let mut verdict = |target: &Target| {
        if let Target::Verdict(point) = target {
            mark(*point, RuleLine::Decides);
        }
    };
    blocks.starts.iter().for_each(&mut verdict);
    for placed in live.iter().filter_map(|id| blocks.placed.get(*id)) {
        placed.successors.iter().for_each(&mut verdict);
    }
    let placed = live.iter().filter_map(|id| blocks.placed.get(*id));
    for op in placed.flat_map(|placed| &placed.block.ops) {
        if let Purpose::Point(point) = op.purpose {
            mark(point, RuleLine::Listed);
        }
        if let Some(Patch::Counter(point)) = op.patch {
            mark(point, RuleLine::Decides);
        }
    }
    lines
}
