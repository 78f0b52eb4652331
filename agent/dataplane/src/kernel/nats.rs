//! 1:1 translations in the kernel: the table, what is counted, the networks where they do not show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_common::{NatSeed, NetKeyV4, NetKeyV6, SETTING_NATS};
use felid_compile::nat::{Mapping, Mappings, NatChange, NatTable};
use felid_compile::transaction::EndpointId;
use ipnet::IpNet;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Kernel;
use super::maps::NatMaps;
use super::mirror::Mirror;
use super::observe::{each, sum};
use super::tables::{key_v4, key_v6};
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// The tables of translations.
pub(crate) struct Nats {
    map: RawMap,
    flows: RawMap,
    cluster_v4: Mirror<NetKeyV4, u32>,
    cluster_v6: Mirror<NetKeyV6, u32>,
    table: NatTable,
    /// External addresses in force and what they stand for, by endpoint.
    by_endpoint: BTreeMap<EndpointId, BTreeMap<IpAddr, IpAddr>>,
    /// A record is about to come into force.
    expected: bool,
    /// Flows of the translations that have ended in this run.
    ended_flows: u64,
}

/// A translation in force and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatFlows {
    /// The internal address, and its endpoint.
    pub mapping: Mapping,
    /// The index of its element of the table, by which flows refer to it.
    pub index: u32,
    /// The id that the element has, by which flows tell it from an earlier one.
    pub id: u32,
    /// How many flows began with it.
    pub flows: u64,
}

/// The maps of translations, and what a previous run left in them.
pub(crate) struct LeftNats {
    maps: NatMaps,
    elements: Vec<(u32, felid_common::Nat)>,
}

/// Reads what a previous run left in the kernel.
pub(crate) fn read(maps: NatMaps) -> Result<LeftNats> {
    let mut elements = Vec::new();
    maps.nats
        .dump(|key, value| {
            if let (Ok(key), Ok(value)) = (u32::read_from_bytes(key), felid_common::Nat::read_from_bytes(value)) {
                elements.push((key, value));
            }
        })
        .map_err(KernelError::call("read the map nats"))?;
    Ok(LeftNats { maps, elements })
}

impl Nats {
    /// Goes on from what a previous run left. New ids are taken from `next_id` on.
    pub(crate) fn adopt(left: LeftNats, seed: NatSeed, next_id: u32) -> Result<Self> {
        let LeftNats { maps, elements } = left;
        let mut nats = Self {
            map: maps.nats,
            flows: maps.nat_flows,
            cluster_v4: Mirror::adopt("cluster_v4", maps.cluster_v4, |_, _| false)?,
            cluster_v6: Mirror::adopt("cluster_v6", maps.cluster_v6, |_, _| false)?,
            table: NatTable::adopt(elements, seed, next_id),
            by_endpoint: BTreeMap::new(),
            expected: false,
            ended_flows: 0,
        };
        nats.index();
        Ok(nats)
    }

    fn index(&mut self) {
        self.by_endpoint.clear();
        for (external, mapping, ..) in self.table.in_force() {
            let of_endpoint = self.by_endpoint.entry(mapping.endpoint).or_default();
            of_endpoint.insert(external, mapping.internal);
        }
    }

    fn write(&mut self, writes: &[(u32, felid_common::Nat)]) -> Result<()> {
        for (index, nat) in writes {
            if nat.id == 0 && self.table.is_in_force(*index) {
                self.ended_flows += self.flows_of(*index);
            }
            self.map
                .update(&index.to_ne_bytes(), nat.as_bytes())
                .map_err(KernelError::call("write the map nats"))?;
            self.table.wrote(*index, *nat);
        }
        Ok(())
    }

    /// What was counted of one. That it cannot be read must keep none from ending.
    fn flows_of(&self, index: u32) -> u64 {
        let values = self.flows.lookup(&index.to_ne_bytes());
        values.ok().flatten().map_or(0, |values| sum(&values))
    }

    /// To be called when a grace period has passed since the last write: elements that were freed
    /// may be used again.
    pub(crate) fn finish(&mut self) {
        self.table.finish();
    }

    /// `SETTING_NATS` as it must be now.
    pub(crate) fn setting_flags(&self) -> u32 {
        if self.expected || self.table.in_use() {
            SETTING_NATS
        } else {
            0
        }
    }

    /// Records in force, read from the kernel.
    pub(crate) fn count(&self) -> Result<usize> {
        let mut count = 0;
        self.map
            .dump(|_, value| {
                count += usize::from(felid_common::Nat::read_from_bytes(value).is_ok_and(|nat| nat.id != 0));
            })
            .map_err(KernelError::call("read the map nats"))?;
        Ok(count)
    }
}

impl Kernel {
    /// Ends the translations that are not among these. It is called before a transaction takes
    /// something away that they need; the transaction's grace period is theirs, too.
    pub fn retire_nats(&mut self, wanted: &Mappings) -> Result<()> {
        let ended = self.nats.table.retire(wanted);
        if ended.is_empty() {
            return Ok(());
        }
        let done = self.nats.write(&ended);
        self.nats.index();
        done
    }

    /// Returns what there is to do for these translations to be those in force, between two
    /// transactions: [`Kernel::end_nats`], a grace period if the change says so, and
    /// [`Kernel::begin_nats`].
    pub fn plan_nats(&self, wanted: &Mappings) -> NatChange {
        self.nats.table.plan(wanted)
    }

    /// Ends the translations that go. It is the first half of a change.
    pub fn end_nats(&mut self, change: &NatChange) -> Result<()> {
        let done = self.nats.write(&change.ended);
        self.nats.index();
        done
    }

    /// Begins the new translations. It is the second half of a change, after a grace period if the
    /// change asks for one.
    pub fn begin_nats(&mut self, change: &NatChange) -> Result<()> {
        if change.wait {
            self.nats.finish();
        }
        let done = self.begin(change);
        self.nats.expected = false;
        self.nats.index();
        done?;
        self.follow_nats_flag()
    }

    fn begin(&mut self, change: &NatChange) -> Result<()> {
        if !change.begun.is_empty() {
            self.raise_next_nat_id(change.next_id)?;
            self.nats.table.stored(change.next_id);
            self.nats.expected = true;
            self.follow_nats_flag()?;
        }
        self.nats.write(&change.filled)?;
        let keys: Vec<u8> = change.counted.iter().flat_map(|index| index.to_ne_bytes()).collect();
        let zeros = vec![0; change.counted.len() * self.nats.flows.value_size()];
        self.nats
            .flows
            .update_batch(&keys, &zeros)
            .map_err(|error| KernelError::call("reset the map nat_flows")(error.error))?;
        self.nats.write(&change.begun)?;
        self.nats.write(&change.replaced)
    }

    /// Has the programs look into the table only while there is something in it.
    fn follow_nats_flag(&mut self) -> Result<()> {
        if self.settings.written.flags & SETTING_NATS == self.nats.setting_flags() {
            return Ok(());
        }
        self.write_settings()
    }

    /// Sets the networks where workloads are known by their own addresses, whatever the setting
    /// says.
    pub fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<()> {
        let whole: Vec<IpNet> = prefixes.iter().copied().collect();
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for prefix in IpNet::aggregate(&whole) {
            match prefix {
                IpNet::V4(net) => drop(v4.insert(key_v4(&net))),
                IpNet::V6(net) => drop(v6.insert(key_v6(&net))),
            }
        }
        follow("cluster_v4", &mut self.nats.cluster_v4, &v4)?;
        follow("cluster_v6", &mut self.nats.cluster_v6, &v6)
    }

    /// Returns the translations of an endpoint in force: the internal address by the external one.
    pub fn nats_of(&self, endpoint: EndpointId) -> BTreeMap<IpAddr, IpAddr> {
        self.nats.by_endpoint.get(&endpoint).cloned().unwrap_or_default()
    }

    /// Translations in force, of every endpoint that has some.
    pub(crate) const fn nats_by_endpoint(&self) -> &BTreeMap<EndpointId, BTreeMap<IpAddr, IpAddr>> {
        &self.nats.by_endpoint
    }

    /// Returns how many flows began with translations that have ended since the agent started.
    pub const fn ended_nat_flows(&self) -> u64 {
        self.nats.ended_flows
    }

    /// Reads the translations in force and how many flows began with each, by external address.
    pub fn nat_flows(&self) -> Result<BTreeMap<IpAddr, NatFlows>> {
        let mut nats: BTreeMap<u32, (IpAddr, NatFlows)> = BTreeMap::new();
        for (external, mapping, index, id) in self.nats.table.in_force() {
            let nat = NatFlows {
                mapping,
                index,
                id,
                flows: 0,
            };
            nats.insert(index, (external, nat));
        }
        if !nats.is_empty() {
            each(&self.nats.flows, "nat_flows", |index, flows| {
                if let Some((_, nat)) = nats.get_mut(&index) {
                    nat.flows = flows;
                }
            })?;
        }
        Ok(nats.into_values().collect())
    }
}

/// Makes a table hold these keys.
fn follow<K>(name: &'static str, table: &mut Mirror<K, u32>, wanted: &BTreeSet<K>) -> Result<()>
where
    K: Copy + Ord + zerocopy::IntoBytes + zerocopy::FromBytes + zerocopy::Immutable,
{
    let capacity = table.map().max_entries() as usize;
    if wanted.len() > capacity {
        return Err(KernelError::Full {
            table: name,
            wanted: wanted.len(),
            capacity,
        });
    }
    // What an earlier attempt left undone.
    table.roll_back(None);
    table.flush()?;
    let gone: Vec<K> = table
        .actual()
        .keys()
        .filter(|key| !wanted.contains(key))
        .copied()
        .collect();
    if table.reserve(wanted.iter()).is_err() {
        // What goes must make room first, though for a moment some networks are not covered.
        gone.iter().for_each(|key| table.want(*key, None));
        table.flush()?;
    }
    // Additions are written before deletions, so that what a wider or narrower prefix covers is
    // covered throughout.
    gone.iter().for_each(|key| table.want(*key, None));
    for key in wanted {
        table.want(*key, Some(1));
    }
    table.flush()?;
    table.commit();
    Ok(())
}
