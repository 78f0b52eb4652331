//! Shares of the conntrack tables: how much each endpoint may have, what it has, and counting
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use felid_common::{Charge, FLOW_BORROWED, FlowCount, MAX_ENDPOINTS, Recount};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::conntrack::Conntrack;
use super::embedded::force;
use super::maps::Capacities;
use crate::error::{KernelError, Result};
use crate::sys;

/// How many times as many flows beyond its share an endpoint may have as the pool has left: one
/// alone gets eight ninths of the pool.
const GREED: u32 = 8;
/// Rings are made for at least so many indexes of endpoints, so that they seldom become shorter.
const LEAST_RINGS: u32 = 64;
/// Elements that the arrays of rings and fragments have at least: one for each ring.
pub(crate) const LEAST_PLACES: u32 = 2 * MAX_ENDPOINTS;

/// Who shares the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Population {
    /// How many endpoints there are.
    pub(crate) endpoints: u32,
    /// The highest index of one.
    pub(crate) highest: u32,
}

impl Population {
    /// That of the endpoints with these indexes, each of which is named once.
    pub(crate) fn of(indexes: impl Iterator<Item = u32>) -> Self {
        indexes.fold(Self::default(), |all, index| Self {
            endpoints: all.endpoints + 1,
            highest: all.highest.max(index),
        })
    }
}

/// What each endpoint may have, as the programs are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) share: [u32; 2],
    pub(crate) pool: [u32; 2],
    pub(crate) limit: u32,
    pub(crate) greed: u32,
    pub(crate) ring: u32,
    pub(crate) fragment_ring: u32,
}

impl Shares {
    /// Half of each table belongs to the endpoints, in equal shares, and one to the host; the rest
    /// is the pool. `limit`: what an endpoint may have at all; 0 = as much as the pool gives.
    pub(crate) fn new(sizes: &Capacities, population: Population, limit: u32) -> Self {
        let holders = population.endpoints + 1;
        let tables = [sizes.established_v4, sizes.established_v6];
        let share = tables.map(|entries| entries / 2 / holders);
        let rings = (population.highest + 1).next_power_of_two().max(LEAST_RINGS);
        let slots = |entries: u32| 1 << (entries.max(LEAST_PLACES) / 2 / rings).max(1).ilog2();
        Self {
            share,
            pool: [tables[0] - share[0] * holders, tables[1] - share[1] * holders],
            limit: if limit == 0 { i32::MAX as u32 } else { limit },
            greed: if limit == 0 { GREED } else { i32::MAX as u32 },
            ring: slots(sizes.half_open),
            fragment_ring: slots(sizes.fragments),
        }
    }

    /// Puts them into the settings of the programs.
    pub(crate) const fn encode(&self, settings: &mut felid_common::Settings) {
        settings.flow_share = self.share;
        settings.flow_pool = self.pool;
        settings.flow_limit = self.limit;
        settings.flow_greed = self.greed;
        settings.flow_ring = self.ring;
        settings.fragment_ring = self.fragment_ring;
    }
}

/// What an endpoint has of the conntrack tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUsage {
    /// The index of its record; 0 stands for the host, for the flows that it begins itself.
    pub index: u32,
    /// Its id; 0 stands for the host.
    pub id: u32,
    /// Established flows (IPv4, IPv6).
    pub established: [u32; 2],
    /// How many it may have at present.
    pub allowed: [u32; 2],
    /// New flows that were refused, since the endpoint is there.
    pub refused: u64,
    /// Half-open flows of its own that made room for newer ones, since the endpoint is there.
    pub replaced: u64,
}

/// Established flows of one table by whom they are charged to: index and id.
pub(super) type Tally = BTreeMap<(u32, u32), u32>;

/// Notes whom a flow is charged to.
pub(super) fn tally(tally: &mut Tally, charge: Charge) {
    *tally.entry((charge.index, charge.id)).or_default() += 1;
}

/// What is counted, as signed numbers: below zero for an instant where CPUs count at once.
const fn signed(count: u32) -> i64 {
    count as i32 as i64
}

/// Whether an element is about an endpoint, or the host.
const fn is_used(index: u32, count: &FlowCount) -> bool {
    index == 0 || (count.id != 0 && index != FLOW_BORROWED)
}

/// The part of a difference that changes which happened meanwhile do not explain.
const fn beyond(difference: i64, changes: i64) -> i64 {
    if difference > changes {
        difference - changes
    } else if difference < -changes {
        difference + changes
    } else {
        0
    }
}

/// How many established flows beyond their shares all endpoints have.
fn borrowed(counts: &[FlowCount], family: usize, share: u32) -> i64 {
    let used = (0..).zip(counts).filter(|(index, count)| is_used(*index, count));
    used.map(|(_, count)| (signed(count.established[family]) - i64::from(share)).max(0))
        .sum()
}

impl Conntrack {
    /// Reads what is counted for each index.
    pub(super) fn flow_counts(&self) -> Result<Vec<FlowCount>> {
        let mut counts = Vec::with_capacity(self.maps.counts.max_entries() as usize);
        self.maps
            .counts
            .dump(|_, value| counts.push(FlowCount::read_from_bytes(value).unwrap_or_default()))
            .map_err(KernelError::call("read the map flow_counts"))?;
        Ok(counts)
    }

    /// Returns what each endpoint that ever had a flow has of the tables. It fails if the counts
    /// cannot be read.
    pub fn usage(&self) -> Result<Vec<FlowUsage>> {
        let counts = self.flow_counts()?;
        let settings = self.now()?.settings;
        let all = counts.get(FLOW_BORROWED as usize).copied().unwrap_or_default();
        let used = (0..).zip(&counts).filter(|(index, count)| is_used(*index, count));
        Ok(used
            .map(|(index, count)| {
                let allowed = |family: usize| {
                    let share = i64::from(settings.flow_share[family]);
                    let left = i64::from(settings.flow_pool[family]) - signed(all.established[family]);
                    let has = signed(count.established[family]).max(share);
                    // Each one more leaves one less.
                    let greed = i64::from(settings.flow_greed);
                    let more = (left.max(0) * greed - (has - share)).max(0) / (greed + 1);
                    (has + more.min(left.max(0))).min(i64::from(settings.flow_limit)) as u32
                };
                FlowUsage {
                    index,
                    id: count.id,
                    established: count.established.map(|count| signed(count).max(0) as u32),
                    allowed: [allowed(0), allowed(1)],
                    refused: count.refused,
                    replaced: count.replaced,
                }
            })
            .collect())
    }

    /// Returns who has more than half of the established flows of one IP version that they may
    /// have: index and id.
    pub(super) fn crowded(&self, family: usize) -> Result<BTreeSet<(u32, u32)>> {
        let usage = self.usage()?.into_iter();
        let crowded = usage.filter(|usage| usage.established[family] > usage.allowed[family] / 2);
        Ok(crowded.map(|usage| (usage.index, usage.id)).collect())
    }

    /// Compares what was counted before and after a walk through a table with what the walk found,
    /// and corrects what packets that came meanwhile do not explain. Returns how many counts were
    /// wrong.
    pub(super) fn recount(&self, family: usize, before: &[FlowCount], found: &Tally) -> Result<u64> {
        let after = self.flow_counts()?;
        let mut corrected = 0;
        for ((index, before), after) in (0..).zip(before).zip(&after) {
            if !is_used(index, after) || before.id != after.id {
                continue;
            }
            let there = i64::from(found.get(&(index, after.id)).copied().unwrap_or(0));
            let changes = after.changes[family].wrapping_sub(before.changes[family]);
            let missing = beyond(there - signed(before.established[family]), changes.into());
            if missing != 0 {
                tracing::debug!(index, family, missing, "the count of an endpoint's flows was wrong");
                corrected += u64::from(self.correct(index, after.id, family, missing)?);
            }
        }
        self.recount_borrowed(family)?;
        Ok(corrected)
    }

    /// The same for the flows beyond all shares, which follow from the others.
    fn recount_borrowed(&self, family: usize) -> Result<()> {
        let share = self.now()?.settings.flow_share[family];
        let (first, second) = (self.flow_counts()?, self.flow_counts()?);
        let changes: u32 = iter::zip(&first, &second)
            .map(|(first, second)| second.changes[family].wrapping_sub(first.changes[family]))
            .fold(0, u32::saturating_add);
        let Some(counted) = first.get(FLOW_BORROWED as usize) else {
            return Ok(());
        };
        let difference = borrowed(&first, family, share) - signed(counted.established[family]);
        let missing = beyond(difference, changes.into());
        if missing != 0 {
            self.correct(FLOW_BORROWED, 0, family, missing)?;
        }
        Ok(())
    }

    /// Adds to a count; false if the endpoint is gone.
    fn correct(&self, index: u32, id: u32, family: usize, missing: i64) -> Result<bool> {
        let wanted = Recount {
            index,
            id,
            family: u32::from(family != 0),
            difference: missing as u32,
            ..Recount::default()
        };
        let program = force(&self.programs.recount)?;
        let run = sys::test_run(program, wanted.as_bytes(), &[], 1).map_err(KernelError::call("run recount"))?;
        Ok(Recount::read_from_prefix(&run.data).is_ok_and(|(result, _)| result.done != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(endpoints: u32, highest: u32, limit: u32) -> Shares {
        Shares::new(&Capacities::default(), Population { endpoints, highest }, limit)
    }

    #[test]
    fn shares_and_pool_never_exceed_the_table() {
        let sizes = Capacities::default();
        for endpoints in [0, 1, 2, 30, 110, 250, 4095] {
            let shares = shares(endpoints, endpoints, 0);
            for (family, entries) in [(0, sizes.established_v4), (1, sizes.established_v6)] {
                let given = shares.share[family] * (endpoints + 1);
                assert_eq!(given + shares.pool[family], entries, "{endpoints} endpoints");
                assert!(shares.pool[family] >= entries / 2);
            }
            let rings = (endpoints + 1).max(LEAST_RINGS);
            assert!(2 * rings * shares.ring <= sizes.half_open.max(LEAST_PLACES) && shares.ring.is_power_of_two());
            assert!(2 * rings * shares.fragment_ring <= sizes.fragments.max(LEAST_PLACES));
        }
    }

    #[test]
    fn a_node_with_few_endpoints_has_long_rings() {
        assert_eq!(shares(30, 30, 0).ring, 1024);
        assert_eq!(shares(30, 63, 0).ring, 1024);
        assert_eq!(shares(64, 64, 0).ring, 512);
        assert_eq!(shares(3, 4095, 0).ring, 16, "every index has a ring");
        let tiny = Capacities {
            half_open: 1,
            fragments: 1,
            ..Capacities::default()
        };
        let tiny = Shares::new(
            &tiny,
            Population {
                endpoints: 4095,
                highest: 4095,
            },
            0,
        );
        assert_eq!((tiny.ring, tiny.fragment_ring), (1, 1));
    }

    #[test]
    fn a_limit_takes_the_place_of_greed() {
        let limited = shares(10, 10, 5000);
        assert_eq!(limited.limit, 5000);
        assert!(limited.greed > GREED);
        assert_eq!(shares(10, 10, 0).greed, GREED);
    }

    #[test]
    fn what_packets_explain_is_left_alone() {
        assert_eq!(beyond(5, 5), 0);
        assert_eq!(beyond(-5, 5), 0);
        assert_eq!(beyond(7, 5), 2);
        assert_eq!(beyond(-7, 0), -7);
    }
}
