//! Profiles: who inherits their labels, and which local endpoints use their rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{Kind, Profile, ResourceKey};

use crate::active::{ActiveRules, VersionCounter};
use crate::ids::ItemId;
use crate::sets::ActiveSets;

/// One profile: its record, and those that name it whether it exists or not.
#[derive(Debug, Default)]
pub(crate) struct ProfileEntry {
    pub(crate) record: Option<Arc<Profile>>,
    /// Items that inherit its labels.
    inheritors: BTreeSet<ItemId>,
    /// Local endpoints that use its rules.
    pub(crate) locals: BTreeSet<ItemId>,
    pub(crate) rules: Option<ActiveRules>,
    /// The record has other rules than `rules`.
    stale: bool,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    entries: BTreeMap<String, ProfileEntry>,
    /// Records of each name: a `Profile` sorts before what a `Namespace` or `ServiceAccount`
    /// implies, and the first is in force.
    records: BTreeMap<String, BTreeMap<ResourceKey, Arc<Profile>>>,
    /// Profiles whose rules may have to be resolved or given up.
    touched: BTreeSet<String>,
}

/// Who is concerned by a changed record.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    /// Their labels may have changed.
    pub(crate) labels: BTreeSet<ItemId>,
    /// Their policy may have changed.
    pub(crate) rules: BTreeSet<ItemId>,
}

impl Profiles {
    /// Sets a record, `None` = gone.
    pub(crate) fn put(&mut self, key: &ResourceKey, record: Option<Arc<Profile>>) -> Concerned {
        let name = key.profile_name();
        let records = self.records.entry(name.clone()).or_default();
        match record {
            Some(record) => records.insert(key.clone(), record),
            None => records.remove(key),
        };
        let first = records.values().next().cloned();
        if records.is_empty() {
            self.records.remove(&name);
        }
        self.put_first(&name, first)
    }

    /// Sets the record that is in force for a name.
    fn put_first(&mut self, name: &str, record: Option<Arc<Profile>>) -> Concerned {
        let mut concerned = Concerned::default();
        if record.is_none() && !self.entries.contains_key(name) {
            return concerned;
        }
        let entry = self.entries.entry(name.to_owned()).or_default();
        let labels = |record: &Option<Arc<Profile>>| record.as_ref().map(|profile| profile.labels_to_apply.clone());
        if labels(&entry.record) != labels(&record) {
            concerned.labels.clone_from(&entry.inheritors);
        }
        let rules = |record: &Option<Arc<Profile>>| record.as_ref().map(|p| (p.ingress.clone(), p.egress.clone()));
        if rules(&entry.record) != rules(&record) {
            concerned.rules.clone_from(&entry.locals);
            entry.stale = true;
            self.touched.insert(name.to_owned());
        }
        entry.record = record;
        self.tidy(name);
        concerned
    }

    /// Notes that an item inherits the labels of other profiles now.
    pub(crate) fn inherit(&mut self, id: ItemId, old: &[String], new: &[String]) {
        self.change(id, old, new, |entry| &mut entry.inheritors);
    }

    /// Notes that a local endpoint uses other profiles now.
    pub(crate) fn use_rules(&mut self, id: ItemId, old: &[String], new: &[String]) {
        self.touched.extend(old.iter().chain(new).cloned());
        self.change(id, old, new, |entry| &mut entry.locals);
    }

    fn change(
        &mut self,
        id: ItemId,
        old: &[String],
        new: &[String],
        of: fn(&mut ProfileEntry) -> &mut BTreeSet<ItemId>,
    ) {
        for name in new {
            match self.entries.get_mut(name) {
                Some(entry) => of(entry).insert(id),
                None => of(self.entries.entry(name.clone()).or_default()).insert(id),
            };
        }
        for name in old.iter().filter(|name| !new.contains(name)) {
            if let Some(entry) = self.entries.get_mut(name) {
                of(entry).remove(&id);
            }
            self.tidy(name);
        }
    }

    fn tidy(&mut self, name: &str) {
        let unused = |entry: &ProfileEntry| {
            entry.record.is_none() && entry.inheritors.is_empty() && entry.locals.is_empty() && entry.rules.is_none()
        };
        if self.entries.get(name).is_some_and(unused) {
            self.entries.remove(name);
        }
    }

    /// Resolves rules that became active or changed; gives up those that are not used any more.
    pub(crate) fn recompute(&mut self, sets: &mut ActiveSets, versions: &mut VersionCounter) {
        for name in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            if entry.rules.is_some() && !entry.stale && !entry.locals.is_empty() {
                continue;
            }
            entry.stale = false;
            let old = entry.rules.take();
            match entry.record.as_ref().filter(|_| !entry.locals.is_empty()) {
                Some(profile) => {
                    let rules = [profile.ingress.as_slice(), profile.egress.as_slice()];
                    entry.rules = Some(ActiveRules::replace(old, rules, None, sets, versions));
                }
                None => {
                    if let Some(old) = old {
                        old.release(sets);
                    }
                    self.tidy(&name);
                }
            }
        }
    }

    /// The records of those that exist, in the order of the names.
    pub(crate) fn records(&self, names: &[String]) -> Vec<Arc<Profile>> {
        names
            .iter()
            .filter_map(|name| self.entries.get(name)?.record.clone())
            .collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&ProfileEntry> {
        self.entries.get(name)
    }

    /// Profiles that exist, and those whose rules are active.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let existing = self.entries.values().filter(|entry| entry.record.is_some()).count();
        (
            existing,
            self.entries.values().filter(|entry| entry.rules.is_some()).count(),
        )
    }
}

/// Identity of the profile of this name.
pub(crate) fn profile_key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::Profile,
        namespace: None,
        name: name.into(),
    }
}
