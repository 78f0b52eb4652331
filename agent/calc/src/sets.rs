//! Which sets are active: those that a policy or profile of a local endpoint names.

use std::collections::{BTreeMap, BTreeSet};

use felid_model::resolved::SetId;

use crate::rules::{SetRule, SetRules};

#[derive(Debug)]
struct SetEntry {
    users: usize,
    rule: SetRule,
    /// Whether the memberships know it.
    live: bool,
}

/// The sets that are in use, and how many policies and profiles name each.
#[derive(Debug, Default)]
pub(crate) struct ActiveSets {
    entries: BTreeMap<SetId, SetEntry>,
    /// Entries whose first user came or whose last user went since the last look.
    touched: BTreeSet<SetId>,
}

impl ActiveSets {
    /// One more user of each.
    pub(crate) fn acquire(&mut self, sets: &SetRules) {
        for (id, rule) in sets {
            let entry = self.entries.entry(id.clone()).or_insert_with(|| SetEntry {
                users: 0,
                rule: rule.clone(),
                live: false,
            });
            entry.users += 1;
            if entry.users == 1 {
                self.touched.insert(id.clone());
            }
        }
    }

    /// One user less of each.
    pub(crate) fn release(&mut self, sets: &SetRules) {
        for id in sets.keys() {
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                self.touched.insert(id.clone());
            }
        }
    }

    /// Sets that became active, and those that no longer are, since the last call.
    pub(crate) fn take_changes(&mut self) -> (SetRules, SetRules) {
        let (mut started, mut stopped) = (SetRules::new(), SetRules::new());
        for id in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            match (entry.users > 0, entry.live) {
                (true, false) => {
                    entry.live = true;
                    started.insert(id, entry.rule.clone());
                }
                (false, live) => {
                    if let Some(entry) = self.entries.remove(&id)
                        && live
                    {
                        stopped.insert(id, entry.rule);
                    }
                }
                (true, true) => {}
            }
        }
        (started, stopped)
    }

    /// What each is, in words.
    pub(crate) fn texts(&self) -> BTreeMap<SetId, String> {
        self.entries
            .iter()
            .map(|(id, entry)| (id.clone(), entry.rule.to_string()))
            .collect()
    }

    /// Active sets.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }
}
