//! Ending flows that have expired.

use std::collections::BTreeSet;

use felid_common::{
    FLOW_CLOSING, FLOW_REVOKED, FlowKeyV4, FlowKeyV6, SWEEP_ESTABLISHED, SWEEP_HALF_OPEN, SWEEP_KEYS_V4, SWEEP_KEYS_V6,
    Sweep,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::conntrack::{Conntrack, FlowKey, FlowTable, Now, protocol_of, visit};
use super::embedded::{Lazy, force};
use super::shares::{Tally, tally};
use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// What a sweep for expired flows did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStats {
    /// How many flows it looked at.
    pub checked: u64,
    /// How many of them seemed to have expired.
    pub candidates: u64,
    /// How many of those the kernel then ended.
    pub expired: u64,
    /// Whether the table of established flows is still full (to 98 of 100) afterwards: that of
    /// IPv4, that of IPv6.
    pub full: [bool; 2],
    /// How many endpoints' counts of flows were not what the tables hold, and were corrected.
    pub corrected: u64,
    /// Whether an endpoint had more than half of the flows that it may have: its closed ones are
    /// then ended before their time, and the next sweep should follow soon.
    pub crowded: bool,
}

impl Conntrack {
    /// Ends the flows that have expired. What seems so in a copy of the tables is only proposed:
    /// the program in the kernel decides, for a packet may come at any time. It fails if a table
    /// cannot be read, or the program cannot be run.
    pub fn sweep(&self) -> Result<SweepStats> {
        let now = self.now()?;
        let mut stats = SweepStats::default();
        self.sweep_family::<FlowKeyV4>(0, &now, (&self.programs.sweep_v4, SWEEP_KEYS_V4), &mut stats)?;
        self.sweep_family::<FlowKeyV6>(1, &now, (&self.programs.sweep_v6, SWEEP_KEYS_V6), &mut stats)?;
        Ok(stats)
    }

    /// Sweeps the tables of one IP version by a program, which takes so many keys at once.
    fn sweep_family<K: FlowKey>(
        &self,
        family: usize,
        now: &Now,
        (program, at_once): (&Lazy, u32),
        stats: &mut SweepStats,
    ) -> Result<()> {
        let tables = if family == 0 { self.maps.v4() } else { self.maps.v6() };
        for (map, table) in tables {
            let before = *stats;
            let counted = self.flow_counts()?;
            let mut charged = Tally::new();
            let crowded = if table == FlowTable::Established {
                self.crowded(family)?
            } else {
                BTreeSet::new()
            };
            stats.crowded |= !crowded.is_empty();
            let found = expired::<K>(map, now, &crowded, (stats, &mut charged))?;
            if table == FlowTable::Established {
                stats.corrected += self.recount(family, &counted, &charged)?;
            }
            let header = Sweep {
                table: match table {
                    FlowTable::Established => SWEEP_ESTABLISHED,
                    FlowTable::HalfOpen => SWEEP_HALF_OPEN,
                },
                closed: u32::from(!crowded.is_empty()),
                ..Sweep::default()
            };
            end(&found, header, program, at_once, stats)?;
            stats.full[family] |= table == FlowTable::Established && is_full(&before, stats, map);
        }
        Ok(())
    }
}

/// Whether a table has hardly any room, by what was looked at and ended in it.
fn is_full(before: &SweepStats, after: &SweepStats, map: &RawMap) -> bool {
    let ended = after.expired - before.expired;
    let left = (after.checked - before.checked).saturating_sub(ended);
    left * 100 >= u64::from(map.max_entries()) * 98
}

/// Flows of a table that seem to have expired, or are closed and charged to endpoints that are
/// `crowded`; notes whom each flow is charged to.
fn expired<K: FlowKey>(
    map: &RawMap,
    now: &Now,
    crowded: &BTreeSet<(u32, u32)>,
    (stats, charged): (&mut SweepStats, &mut Tally),
) -> Result<Vec<K>> {
    let mut candidates: Vec<K> = Vec::new();
    visit::<K>(map, |key, flow| {
        stats.checked += 1;
        let charge = flow.charge();
        tally(charged, charge);
        let protocol = protocol_of(key.parts().protocol);
        let silent = now.since(flow.last_seen);
        let over = flow.flags & (FLOW_CLOSING | FLOW_REVOKED) == FLOW_CLOSING
            && silent > now.settings.hz
            && crowded.contains(&(charge.index, charge.id));
        if over || silent > now.timeout(flow, protocol) {
            candidates.push(*key);
        }
    })?;
    stats.candidates += candidates.len() as u64;
    Ok(candidates)
}

/// Has the kernel end those of the candidates that have really expired, `at_once` in one call of
/// `program`.
fn end<K: FlowKey>(
    candidates: &[K],
    header: Sweep,
    program: &Lazy,
    at_once: u32,
    stats: &mut SweepStats,
) -> Result<()> {
    if candidates.is_empty() {
        return Ok(());
    }
    let program = force(program)?;
    for keys in candidates.chunks(at_once as usize) {
        let header = Sweep {
            count: u32::try_from(keys.len()).unwrap_or(0),
            ..header
        };
        let mut data = header.as_bytes().to_vec();
        for key in keys {
            data.extend_from_slice(key.as_bytes());
        }
        let run = sys::test_run(program, &data, &[], 1).map_err(KernelError::call("run the sweeper"))?;
        if let Ok((result, _)) = Sweep::read_from_prefix(&run.data) {
            stats.expired += u64::from(result.deleted);
        }
    }
    Ok(())
}
