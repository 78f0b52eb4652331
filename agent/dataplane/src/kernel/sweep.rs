//! Ending flows that have expired.

use std::collections::HashMap;

use felid_common::{
    Flow, FlowKeyV4, FlowKeyV6, Nat, SWEEP_ESTABLISHED, SWEEP_HALF_OPEN, SWEEP_KEYS_V4, SWEEP_KEYS_V6, Sweep, TCP_RST,
};
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
        let mut names = Names::new(&self.nats);
        let mut stats = SweepStats::default();
        for (map, table) in [(&self.established_v4, Established), (&self.half_open_v4, HalfOpen)] {
            sweep::<FlowKeyV4>(map, table, &self.sweep_v4, SWEEP_KEYS_V4, &now, &mut names, &mut stats)?;
        }
        for (map, table) in [(&self.established_v6, Established), (&self.half_open_v6, HalfOpen)] {
            sweep::<FlowKeyV6>(map, table, &self.sweep_v6, SWEEP_KEYS_V6, &now, &mut names, &mut stats)?;
        }
        Ok(stats)
    }
}

/// Which translations that flows began with are over. Each is looked up once.
struct Names<'a> {
    nats: &'a RawMap,
    over: HashMap<(u32, u32), bool>,
}

impl<'a> Names<'a> {
    fn new(nats: &'a RawMap) -> Self {
        Self {
            nats,
            over: HashMap::new(),
        }
    }

    /// Whether an end of the flow is shown by a translation that is over; what cannot be read is taken to hold.
    fn over(&mut self, flow: &Flow) -> bool {
        [flow.original_nat, flow.reply_nat].into_iter().any(|shown| {
            shown.id != 0
                && *self.over.entry((shown.index, shown.id)).or_insert_with(|| {
                    let value = self.nats.lookup(&shown.index.to_ne_bytes()).ok().flatten();
                    let nat = value.and_then(|value| Nat::read_from_bytes(&value).ok());
                    nat.is_some_and(|nat| nat.id != shown.id)
                })
        })
    }
}

fn sweep<K: FlowKey>(
    map: &RawMap,
    table: FlowTable,
    program: &Lazy,
    at_once: u32,
    now: &Now,
    names: &mut Names<'_>,
    stats: &mut SweepStats,
) -> Result<()> {
    let mut candidates: Vec<K> = Vec::new();
    visit::<K>(map, |key, flow| {
        stats.checked += 1;
        let protocol = protocol_of(key.parts().protocol);
        let mut flow = *flow;
        if names.over(&flow) {
            // As the programs see it.
            flow.tcp_original |= TCP_RST;
        }
        if now.since(flow.last_seen) > now.timeout(&flow, protocol, table) {
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
