//! Rules of a policy or profile that a local endpoint uses: resolved, and their sets held.

use std::sync::Arc;

use felid_model::Rule;
use felid_model::resolved::ResolvedRule;

use crate::rules::{SetRules, resolve_rules};
use crate::sets::Sets;

/// Rules of one direction. Equal versions mean equal rules of the same record.
#[derive(Clone, Debug)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) rules: Arc<Vec<ResolvedRule>>,
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct ActiveRules {
    pub(crate) ingress: Versioned,
    pub(crate) egress: Versioned,
    sets: SetRules,
}

/// Hands out versions; none twice.
#[derive(Debug, Default)]
pub(crate) struct Versions(u64);

impl Versions {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

impl ActiveRules {
    /// Resolves rules in place of `old` and holds their sets instead of its. Unchanged directions keep their version.
    pub(crate) fn replace(
        old: Option<ActiveRules>,
        [ingress, egress]: [&[Rule]; 2],
        namespace: Option<&str>,
        sets: &mut Sets,
        versions: &mut Versions,
    ) -> ActiveRules {
        let mut named = SetRules::new();
        let mut direction = |rules: &[Rule], old: Option<&Versioned>| {
            let rules = resolve_rules(rules, namespace, &mut named);
            match old.filter(|old| *old.rules == rules) {
                Some(old) => old.clone(),
                None => Versioned {
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
    pub(crate) fn release(self, sets: &mut Sets) {
        sets.release(&self.sets);
    }

    pub(crate) fn direction(&self, ingress: bool) -> &Versioned {
        if ingress { &self.ingress } else { &self.egress }
    }
}
