//! Policy counters: a stable index per name, as long as some loaded program counts with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ids::IdPool;
use crate::transaction::CounterName;
use crate::types::Counters;

/// Names and indices. Index 0 collects what finds no index of its own.
#[derive(Debug)]
pub(super) struct CounterTable {
    by_name: HashMap<CounterName, u32>,
    /// Index -> name and the number of loaded programs that count with it.
    names: BTreeMap<u32, (CounterName, usize)>,
    pool: IdPool,
    allocated: Vec<u32>,
    programs: BTreeMap<u32, isize>,
}

impl CounterTable {
    pub(super) fn new(max_counters: u32) -> Self {
        Self {
            by_name: HashMap::new(),
            names: BTreeMap::new(),
            pool: IdPool::new(1, max_counters),
            allocated: Vec::new(),
            programs: BTreeMap::new(),
        }
    }

    /// Index of a name, a new one if there is room, else 0.
    fn index(&mut self, name: &CounterName) -> u32 {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        let Some(index) = self.pool.take() else { return 0 };
        self.by_name.insert(name.clone(), index);
        self.names.insert(index, (name.clone(), 0));
        self.allocated.push(index);
        index
    }

    /// A program that counts with this index will be loaded (+1) or unloaded (-1).
    pub(super) fn stage_program(&mut self, index: u32, change: isize) {
        *self.programs.entry(index).or_default() += change;
    }

    /// Decides which counters stay. Returns the new ones and those that go with this plan.
    pub(super) fn stage_changes(&mut self) -> (BTreeMap<u32, CounterName>, Vec<u32>) {
        let mut new = BTreeMap::new();
        for index in std::mem::take(&mut self.allocated) {
            if self.programs.get(&index).is_some_and(|&n| n > 0) {
                if let Some((name, _)) = self.names.get(&index) {
                    new.insert(index, name.clone());
                }
                self.allocated.push(index);
            } else {
                self.remove(index);
            }
        }
        let old = self
            .programs
            .iter()
            .filter(|(index, change)| {
                self.names
                    .get(index)
                    .is_some_and(|(_, n)| *n > 0 && n.saturating_add_signed(**change) == 0)
            })
            .map(|(&index, _)| index)
            .collect();
        (new, old)
    }

    fn remove(&mut self, index: u32) {
        if let Some((name, _)) = self.names.remove(&index) {
            self.by_name.remove(&name);
            self.pool.give(index);
        }
    }

    pub(super) fn commit(&mut self) {
        for (index, change) in std::mem::take(&mut self.programs) {
            let Some((_, programs)) = self.names.get_mut(&index) else {
                continue;
            };
            *programs = programs.saturating_add_signed(change);
            if *programs == 0 {
                self.remove(index);
            }
        }
        self.allocated.clear();
        self.pool.commit();
    }

    pub(super) fn rollback(&mut self) {
        self.programs.clear();
        for index in std::mem::take(&mut self.allocated) {
            self.remove(index);
        }
        self.pool.commit();
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = (u32, &CounterName)> {
        self.names.iter().map(|(index, (name, _))| (*index, name))
    }

    /// Whether all indices are taken, so that some names may share index 0.
    pub(super) fn full(&self) -> bool {
        self.pool.free() == 0
    }
}

/// Hands out counters to one compilation and remembers them.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    pub(super) table: &'a mut CounterTable,
    pub(super) used: BTreeSet<u32>,
}

impl Counters for Recorder<'_> {
    fn counter(&mut self, name: &CounterName) -> u32 {
        let index = self.table.index(name);
        if index != 0 {
            self.used.insert(index);
        }
        index
    }
}
