//! A table as it is in the kernel, beside what it shall become: changes are collected, then written
//! in batches.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// Elements of one call.
const BATCH: usize = 4096;

/// A hash table, trie or array of the kernel and its contents. Only the agent writes it.
pub(crate) struct Mirror<K, V> {
    name: &'static str,
    map: RawMap,
    /// What the kernel holds.
    actual: BTreeMap<K, V>,
    /// What it shall hold where that differs; `None` = not there.
    pending: BTreeMap<K, Option<V>>,
    /// Keys whose last write failed: the kernel may hold either value.
    uncertain: BTreeSet<K>,
    /// What was wanted before the change under way, for [`Mirror::roll_back`].
    undo: BTreeMap<K, Option<V>>,
}

impl<K, V> Mirror<K, V>
where
    K: Copy + Ord + IntoBytes + FromBytes + Immutable,
    V: Copy + PartialEq + IntoBytes + FromBytes + Immutable,
{
    /// Reads what the kernel holds. Elements that `skip` accepts count as absent (free records of
    /// an array).
    pub(crate) fn adopt(name: &'static str, map: RawMap, skip: impl Fn(&K, &V) -> bool) -> Result<Self> {
        let mut actual = BTreeMap::new();
        map.dump(|key, value| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value))
                && !skip(&key, &value)
            {
                actual.insert(key, value);
            }
        })
        .map_err(KernelError::call(format!("read the map {name}")))?;
        Ok(Self {
            name,
            map,
            actual,
            pending: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            undo: BTreeMap::new(),
        })
    }

    pub(crate) const fn map(&self) -> &RawMap {
        &self.map
    }

    /// What the kernel holds.
    pub(crate) const fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    /// The value that is wanted.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self.pending.get(key) {
            Some(pending) => pending.as_ref(),
            None => self.actual.get(key),
        }
    }

    /// Whether nothing is there, nor will be after the next flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.actual.keys().all(|key| self.pending.get(key) == Some(&None)) && self.pending.values().all(Option::is_none)
    }

    /// Forgets how to undo: from here on [`Mirror::roll_back`] leads back to here.
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Wants everything as it was at the last [`Mirror::commit`]. `absent` is what stands for an
    /// element that was not there: nothing, or in an array, whose elements cannot be deleted, a
    /// free element.
    pub(crate) fn roll_back(&mut self, absent: Option<V>) {
        for (key, value) in std::mem::take(&mut self.undo) {
            self.want(key, value.or(absent));
        }
        self.undo.clear();
    }

    /// Sets what is wanted: `None` = not there.
    pub(crate) fn want(&mut self, key: K, value: Option<V>) {
        let before = self.get(&key).copied();
        self.undo.entry(key).or_insert(before);
        if self.actual.get(&key) == value.as_ref() && !self.uncertain.contains(&key) {
            self.pending.remove(&key);
        } else {
            self.pending.insert(key, value);
        }
    }

    /// An error if `keys` more would not fit.
    pub(crate) fn reserve<'a>(&self, keys: impl Iterator<Item = &'a K>) -> Result<()>
    where
        K: 'a,
    {
        let new = keys.filter(|key| !self.actual.contains_key(key)).count();
        let (wanted, capacity) = (self.actual.len() + new, self.map.max_entries() as usize);
        if new > 0 && wanted > capacity {
            return Err(KernelError::Full {
                table: self.name,
                wanted,
                capacity,
            });
        }
        Ok(())
    }

    /// Writes what is pending. After an error whatever was not written is still pending.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let name = self.name;
        let updates: Vec<(K, V)> = self
            .pending
            .iter()
            .filter_map(|(key, value)| Some((*key, (*value)?)))
            .collect();
        for chunk in updates.chunks(BATCH) {
            let mut keys = Vec::with_capacity(size_of::<K>() * chunk.len());
            let mut values = Vec::with_capacity(size_of::<V>() * chunk.len());
            for (key, value) in chunk {
                keys.extend_from_slice(key.as_bytes());
                values.extend_from_slice(value.as_bytes());
            }
            let (done, error) = match self.map.update_batch(&keys, &values) {
                Ok(()) => (chunk.len(), None),
                Err(error) => (error.done, Some(error.error)),
            };
            let (written, unwritten) = chunk.split_at(done);
            for (key, value) in written {
                self.note_written(*key, Some(*value));
            }
            if let Some(error) = error {
                self.uncertain.extend(unwritten.iter().map(|(key, _)| *key));
                return Err(KernelError::call(format!("write the map {name}"))(error));
            }
        }
        let deletions: Vec<K> = self.pending.keys().copied().collect();
        for key in deletions {
            if let Err(error) = self.map.delete(key.as_bytes()) {
                self.uncertain.insert(key);
                return Err(KernelError::call(format!("delete from the map {name}"))(error));
            }
            self.note_written(key, None);
        }
        Ok(())
    }

    /// The kernel holds this value of a key from now on; `None` = nothing.
    fn note_written(&mut self, key: K, value: Option<V>) {
        self.pending.remove(&key);
        self.uncertain.remove(&key);
        match value {
            Some(value) => self.actual.insert(key, value),
            None => self.actual.remove(&key),
        };
    }
}
