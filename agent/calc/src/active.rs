//! Rules of a policy or profile that a local endpoint uses: resolved, and their sets held.

use std::sync::Arc;

use felid_model::resolved::ResolvedRule;
use felid_model::{Direction, Rule};

use crate::rules::{SetRules, resolve_rules};
use crate::sets::ActiveSets;

/// Rules of one direction. Equal versions mean equal rules of the same record.
#[derive(Clone, Debug)]
pub(crate) struct VersionedRules {
    pub(crate) version: u64,
    pub(crate) rules: Arc<Vec<ResolvedRule>>,
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct ActiveRules {
    pub(crate) ingress: VersionedRules,
    pub(crate) egress: VersionedRules,
    sets: SetRules,
}

/// Hands out versions; none twice.
#[derive(Debug, Default)]
pub(crate) struct VersionCounter(u64);

impl VersionCounter {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

impl ActiveRules {
    /// Resolves rules in place of `old` and holds their sets instead of its. Unchanged directions
    /// keep their version.
    pub(crate) fn replace(
        old: Option<ActiveRules>,
        [ingress, egress]: [&[Rule]; 2],
        namespace: Option<&str>,
        sets: &mut ActiveSets,
        versions: &mut VersionCounter,
    ) -> ActiveRules {
        let mut named = SetRules::new();
        let mut direction = |rules: &[Rule], old: Option<&VersionedRules>| {
            let rules = resolve_rules(rules, namespace, &mut named);
            match old.filter(|old| *old.rules == rules) {
                Some(old) => old.clone(),
                None => VersionedRules {
                    version: versions.next(),
                    rules: Arc::new(rules),
                },
            }
        };
        let ingress = direction(ingress, old.as_ref().map(|old| &old.ingress));
        let egress = direction(egress, old.as_ref().map(|old| &old.egress));
        sets.acquire(&named);
        if let Some(old) = old {
            old.release(sets);
        }
        ActiveRules {
            ingress,
            egress,
            sets: named,
        }
    }

    /// Gives the sets back.
    pub(crate) fn release(self, sets: &mut ActiveSets) {
        sets.release(&self.sets);
    }

    /// The rules for traffic of this direction.
    pub(crate) fn of(&self, direction: Direction) -> &VersionedRules {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
