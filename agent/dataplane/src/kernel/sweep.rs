//! Ending flows that have expired.

use felid_common::{FlowKeyV4, FlowKeyV6, SWEEP_ESTABLISHED, SWEEP_HALF_OPEN, SWEEP_KEYS_V4, SWEEP_KEYS_V6, Sweep};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::conntrack::{Conntrack, FlowKey, FlowTable, Now, protocol_of, visit};
use super::embedded::{Lazy, force};
use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStats {
    /// Flows looked at.
    pub checked: u64,
    /// Flows that seemed to have expired.
    pub candidates: u64,
    /// Flows that the kernel then ended.
    pub expired: u64,
}

impl Conntrack {
    /// Ends the flows that have expired. What seems so in a copy of the tables is only proposed: the program in the kernel decides, for
    /// a packet may come at any time.
    pub fn sweep(&self) -> Result<SweepStats> {
        use FlowTable::{Established, HalfOpen};
        let now = self.now()?;
        let mut stats = SweepStats::default();
        for (map, table) in [(&self.established_v4, Established), (&self.half_open_v4, HalfOpen)] {
            sweep::<FlowKeyV4>(map, table, &self.sweep_v4, SWEEP_KEYS_V4, &now, &mut stats)?;
        }
        for (map, table) in [(&self.established_v6, Established), (&self.half_open_v6, HalfOpen)] {
            sweep::<FlowKeyV6>(map, table, &self.sweep_v6, SWEEP_KEYS_V6, &now, &mut stats)?;
        }
        Ok(stats)
    }
}

fn sweep<K: FlowKey>(
    map: &RawMap,
    table: FlowTable,
    program: &Lazy,
    at_once: u32,
    now: &Now,
    stats: &mut SweepStats,
) -> Result<()> {
    let mut candidates: Vec<K> = Vec::new();
    visit::<K>(map, |key, flow| {
        stats.checked += 1;
        let protocol = protocol_of(key.parts().protocol);
        if now.since(flow.last_seen) > now.timeout(flow, protocol, table) {
            candidates.push(*key);
        }
    })?;
    stats.candidates += candidates.len() as u64;
    if candidates.is_empty() {
        return Ok(());
    }
    let program = force(program)?;
    for keys in candidates.chunks(at_once as usize) {
        let header = Sweep {
            table: match table {
                FlowTable::Established => SWEEP_ESTABLISHED,
                FlowTable::HalfOpen => SWEEP_HALF_OPEN,
            },
            count: u32::try_from(keys.len()).unwrap_or(0),
            ..Sweep::default()
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
