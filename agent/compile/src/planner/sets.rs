//! The sets that anything is a member of or that any program tests: their members, and their slots
//! (bits of class rows).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use felid_model::resolved::{NamedPortMember, SetId, SetIds};
use ipnet::IpNet;

use super::ids::IdPool;
use crate::program::Slots;

/// A set's number inside the planner; reused once nothing mentions the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetNo(u32);

/// The sets a key is a member of, sorted.
pub(super) type Numbers = Arc<[SetNo]>;

#[derive(Debug)]
struct SetRecord {
    id: SetId,
    /// Prefixes that are members themselves.
    prefixes: HashSet<IpNet>,
    named_ports: BTreeSet<NamedPortMember>,
    /// Numbers of its members, by the map that has them.
    load: SetLoad,
    /// Its bit, if programs of the planned state test it (or may be about to).
    slot: Option<u32>,
    /// Its bit, if only programs of the state that is being left test it.
    retiring: Option<u32>,
    /// Loaded programs that test it.
    programs: usize,
}

/// Numbers of a set's members, by the map that has them.
#[derive(Clone, Copy, Debug, Default)]
struct SetLoad {
    peers_v4: usize,
    peers_v6: usize,
    nets_v4: usize,
    nets_v6: usize,
}

impl SetLoad {
    fn of_prefix(&mut self, prefix: &IpNet) -> &mut usize {
        let is_address = prefix.prefix_len() == prefix.max_prefix_len();
        match (is_address, prefix.addr().is_ipv4()) {
            (true, true) => &mut self.peers_v4,
            (true, false) => &mut self.peers_v6,
            (false, true) => &mut self.nets_v4,
            (false, false) => &mut self.nets_v6,
        }
    }
}

/// What changed about slots in one plan.
#[derive(Debug, Default)]
struct StagedSlots {
    allocated: Vec<SetNo>,
    retiring: Vec<SetNo>,
    programs: HashMap<SetNo, isize>,
}

/// All sets.
#[derive(Debug)]
pub(super) struct Sets {
    by_id: HashMap<SetId, SetNo>,
    records: Vec<Option<SetRecord>>,
    vacant: Vec<u32>,
    slots: IdPool,
    staged: StagedSlots,
}

impl Sets {
    pub(super) fn new(max_slots: u32) -> Self {
        Self {
            by_id: HashMap::new(),
            records: Vec::new(),
            vacant: Vec::new(),
            slots: IdPool::new(0, max_slots),
            staged: StagedSlots::default(),
        }
    }

    fn get(&self, set: SetNo) -> Option<&SetRecord> {
        self.records.get(set.0 as usize).and_then(Option::as_ref)
    }

    fn get_mut(&mut self, set: SetNo) -> Option<&mut SetRecord> {
        self.records.get_mut(set.0 as usize).and_then(Option::as_mut)
    }

    /// The set's number; a new one if nothing knew the set. A set without members and slot must be
    /// given up by [`Self::release`].
    fn number(&mut self, id: &SetId) -> SetNo {
        if let Some(&set) = self.by_id.get(id) {
            return set;
        }
        let record = SetRecord {
            id: id.clone(),
            prefixes: HashSet::new(),
            named_ports: BTreeSet::new(),
            load: SetLoad::default(),
            slot: None,
            retiring: None,
            programs: 0,
        };
        let set = match self.vacant.pop() {
            Some(index) => {
                if let Some(place) = self.records.get_mut(index as usize) {
                    *place = Some(record);
                }
                SetNo(index)
            }
            None => {
                self.records.push(Some(record));
                SetNo((self.records.len() - 1) as u32)
            }
        };
        self.by_id.insert(id.clone(), set);
        set
    }

    /// The set's number, if anything knows the set.
    pub(super) fn find(&self, id: &SetId) -> Option<SetNo> {
        self.by_id.get(id).copied()
    }

    /// The set's identity.
    pub(super) fn id(&self, set: SetNo) -> Option<&SetId> {
        self.get(set).map(|record| &record.id)
    }

    /// The numbers of sets that a key becomes a member of. To be followed by [`Self::move_prefix`]
    /// or [`Self::move_named_port`].
    pub(super) fn numbers(&mut self, sets: &SetIds) -> Numbers {
        let mut numbers: Vec<SetNo> = sets.iter().map(|id| self.number(id)).collect();
        numbers.sort_unstable();
        numbers.into()
    }

    /// A prefix leaves some sets and joins others.
    pub(super) fn move_prefix(&mut self, prefix: IpNet, old: &[SetNo], new: &[SetNo]) {
        for &set in new.iter().filter(|set| old.binary_search(set).is_err()) {
            if let Some(record) = self.get_mut(set) {
                record.prefixes.insert(prefix);
                *record.load.of_prefix(&prefix) += 1;
            }
        }
        for &set in old.iter().filter(|set| new.binary_search(set).is_err()) {
            if let Some(record) = self.get_mut(set)
                && record.prefixes.remove(&prefix)
            {
                *record.load.of_prefix(&prefix) -= 1;
            }
            self.release(set);
        }
    }

    /// A named port leaves some sets and joins others.
    pub(super) fn move_named_port(&mut self, member: NamedPortMember, old: &[SetNo], new: &[SetNo]) {
        for &set in new.iter().filter(|set| old.binary_search(set).is_err()) {
            if let Some(record) = self.get_mut(set) {
                record.named_ports.insert(member);
            }
        }
        for &set in old.iter().filter(|set| new.binary_search(set).is_err()) {
            if let Some(record) = self.get_mut(set) {
                record.named_ports.remove(&member);
            }
            self.release(set);
        }
    }

    /// Forgets a set without members and slot.
    fn release(&mut self, set: SetNo) {
        let unused = self.get(set).is_some_and(|record| {
            record.prefixes.is_empty()
                && record.named_ports.is_empty()
                && record.slot.is_none()
                && record.retiring.is_none()
        });
        if unused && let Some(record) = self.records.get_mut(set.0 as usize).and_then(Option::take) {
            self.by_id.remove(&record.id);
            self.vacant.push(set.0);
        }
    }

    /// Prefixes that are members of the set themselves.
    pub(super) fn prefixes(&self, set: SetNo) -> impl Iterator<Item = IpNet> + '_ {
        self.get(set)
            .into_iter()
            .flat_map(|record| record.prefixes.iter().copied())
    }

    /// Members of a named-port set.
    pub(super) fn named_ports(&self, set: SetNo) -> impl Iterator<Item = NamedPortMember> + '_ {
        self.get(set)
            .into_iter()
            .flat_map(|record| record.named_ports.iter().copied())
    }

    /// Returns how many entries of a map a set's members need at most. Each of them may need a
    /// class of its own.
    pub(super) fn load(&self, set: SetNo, map: &str) -> usize {
        let Some(record) = self.get(set) else { return 0 };
        match map {
            "peers_v4" => record.load.peers_v4,
            "peers_v6" => record.load.peers_v6,
            "nets_v4" => record.load.nets_v4,
            "nets_v6" => record.load.nets_v6,
            "named_ports" => record.named_ports.len(),
            "classes" => record.prefixes.len() + record.named_ports.len(),
            _ => 0,
        }
    }

    /// Sets the bits of these sets in a row, as far as they have any.
    pub(super) fn mark(&self, sets: &[SetNo], row: &mut [u64]) {
        for &set in sets {
            if let Some(slot) = self.get(set).and_then(|record| record.slot)
                && let Some(word) = row.get_mut(slot as usize / 64)
            {
                *word |= 1 << (slot % 64);
            }
        }
    }

    /// Whether any of these sets has a bit.
    pub(super) fn any_slot(&self, sets: &[SetNo]) -> bool {
        sets.iter()
            .any(|&set| self.get(set).is_some_and(|record| record.slot.is_some()))
    }

    /// Gives the sets slots, all or none, new ones side by side in this order if there is room for
    /// that. Err = how many more slots are needed than there are in all.
    pub(super) fn allocate<'a>(&mut self, sets: impl Iterator<Item = &'a SetId> + Clone) -> Result<(), usize> {
        let missing = sets.clone().filter(|id| self.slot(id).is_none()).count();
        if missing > self.slots.free() {
            return Err(self.slots.used() + missing);
        }
        self.slots.prefer(missing);
        for id in sets {
            let set = self.number(id);
            let Some(record) = self.records.get_mut(set.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            if record.slot.is_none() {
                record.slot = self.slots.take();
                self.staged.allocated.push(set);
            }
        }
        Ok(())
    }

    /// A program that tests the set will be loaded (+1) or unloaded (-1).
    pub(super) fn stage_program(&mut self, set: SetNo, change: isize) {
        *self.staged.programs.entry(set).or_default() += change;
    }

    /// Decides which slots the planned state needs. Returns the sets whose bits appear or vanish.
    pub(super) fn stage_changes(&mut self) -> Vec<SetNo> {
        let mut changed = Vec::new();
        for set in std::mem::take(&mut self.staged.allocated) {
            if self.staged.programs.get(&set).is_some_and(|&n| n > 0) {
                self.staged.allocated.push(set);
                changed.push(set);
            } else {
                self.drop_slot(set);
            }
        }
        for (&set, &change) in &self.staged.programs {
            let Some(record) = self.records.get_mut(set.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            if record.programs > 0 && record.programs.saturating_add_signed(change) == 0 {
                record.retiring = record.slot.take();
                self.staged.retiring.push(set);
                changed.push(set);
            }
        }
        changed
    }

    fn drop_slot(&mut self, set: SetNo) {
        if let Some(slot) = self.get_mut(set).and_then(|record| record.slot.take()) {
            self.slots.give(slot);
        }
        self.release(set);
    }

    /// The planned state is the only one: frees the slots that only the old one used.
    pub(super) fn commit(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for (set, change) in staged.programs {
            if let Some(record) = self.get_mut(set) {
                record.programs = record.programs.saturating_add_signed(change);
            }
        }
        for set in staged.retiring {
            if let Some(slot) = self.get_mut(set).and_then(|record| record.retiring.take()) {
                self.slots.give(slot);
            }
            self.release(set);
        }
        self.slots.commit();
    }

    /// The old state stays the only one.
    pub(super) fn rollback(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for set in staged.retiring {
            if let Some(record) = self.get_mut(set) {
                record.slot = record.retiring.take();
            }
        }
        for set in staged.allocated {
            self.drop_slot(set);
        }
        self.slots.commit();
    }

    /// Slots in all.
    pub(super) const fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Slots in use.
    pub(super) fn slots_used(&self) -> usize {
        self.slots.used()
    }
}

impl Slots for Sets {
    fn slot(&self, set: &SetId) -> Option<u32> {
        self.find(set)
            .and_then(|set| self.get(set))
            .and_then(|record| record.slot)
    }
}
