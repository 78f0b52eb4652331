//! Who claims what only one can have: an interface of this node, an address on it. The lexically smallest key wins.

use std::collections::{BTreeMap, BTreeSet};

use felid_model::ResourceKey;

/// Claims, and the things whose claimants changed since the last look.
#[derive(Debug)]
pub(crate) struct Claims<T> {
    claimants: BTreeMap<T, BTreeSet<ResourceKey>>,
    touched: BTreeSet<T>,
}

impl<T: Ord + Clone> Claims<T> {
    pub(crate) fn new() -> Self {
        Claims {
            claimants: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    pub(crate) fn claim(&mut self, thing: &T, key: &ResourceKey) {
        if self.claimants.entry(thing.clone()).or_default().insert(key.clone()) {
            self.touched.insert(thing.clone());
        }
    }

    pub(crate) fn release(&mut self, thing: &T, key: &ResourceKey) {
        let Some(keys) = self.claimants.get_mut(thing) else {
            return;
        };
        if keys.remove(key) {
            self.touched.insert(thing.clone());
        }
        if keys.is_empty() {
            self.claimants.remove(thing);
        }
    }

    /// Who has it.
    pub(crate) fn winner(&self, thing: &T) -> Option<&ResourceKey> {
        self.claimants.get(thing)?.first()
    }

    /// Claimants of everything that was touched since the last call.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<ResourceKey> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .iter()
            .filter_map(|thing| self.claimants.get(thing))
            .flatten()
            .cloned()
            .collect()
    }
}
