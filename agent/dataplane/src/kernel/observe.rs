//! Reading what the programs count.

use std::collections::BTreeMap;

use felid_common::{DropReason, Event};

use super::maps::CountMaps;
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// The per-CPU counter arrays.
pub(crate) struct Counters {
    counters: RawMap,
    drops: RawMap,
    events: RawMap,
}

impl Counters {
    pub(crate) fn new(maps: CountMaps) -> Self {
        Self {
            counters: maps.counters,
            drops: maps.drops,
            events: maps.events,
        }
    }

    /// Policy counters that are not zero, by index.
    pub(crate) fn policies(&self) -> Result<BTreeMap<u32, u64>> {
        let mut sums = BTreeMap::new();
        each(&self.counters, "counters", |index, sum| {
            if sum != 0 {
                sums.insert(index, sum);
            }
        })?;
        Ok(sums)
    }

    /// Dropped packets by reason; every reason is there.
    pub(crate) fn drops(&self) -> Result<Vec<(DropReason, u64)>> {
        named(&self.drops, "drops", DropReason::ALL)
    }

    /// Other things that happened; every one is there.
    pub(crate) fn events(&self) -> Result<Vec<(Event, u64)>> {
        named(&self.events, "events", Event::ALL)
    }

    /// Sets policy counters to zero.
    pub(crate) fn clear(&self, indexes: impl Iterator<Item = u32>) -> Result<()> {
        let keys: Vec<u8> = indexes.flat_map(u32::to_ne_bytes).collect();
        let values = vec![0; keys.len() / 4 * self.counters.value_size()];
        self.counters
            .update_batch(&keys, &values)
            .map_err(|error| KernelError::call("reset the map counters")(error.error))
    }
}

fn named<T: Copy>(map: &RawMap, name: &str, all: &[T]) -> Result<Vec<(T, u64)>> {
    let mut counted: Vec<(T, u64)> = all.iter().map(|item| (*item, 0)).collect();
    each(map, name, |index, sum| {
        if let Some(item) = counted.get_mut(index as usize) {
            item.1 = sum;
        }
    })?;
    Ok(counted)
}

/// The sum of all CPUs.
pub(crate) fn sum(values: &[u8]) -> u64 {
    let values = values.as_chunks::<8>().0.iter();
    values.fold(0, |sum, value| sum.wrapping_add(u64::from_ne_bytes(*value)))
}

/// Calls `visit` with each index and the sum of all CPUs.
pub(crate) fn each(map: &RawMap, name: &str, mut visit: impl FnMut(u32, u64)) -> Result<()> {
    map.dump(|key, values| {
        if let Ok(key) = key.try_into() {
            visit(u32::from_ne_bytes(key), sum(values));
        }
    })
    .map_err(KernelError::call(format!("read the map {name}")))
}
