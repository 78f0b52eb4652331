//! Which changes of the records are enforced, and since when.
//!
//! Every change of a record that is taken in has a number, its *revision*. Revisions are counted
//! from the start of the agent. A revision is enforced when a transaction that was planned with it
//! is complete: the kernel has switched, and established flows that it forbids are revoked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use felid_compile::transaction::{EndpointChange, EndpointId, Transaction};
use felid_model::{Resource, ResourceKey};

/// What is known of a record.
#[derive(Debug)]
pub(in crate::run) struct Version {
    /// The number of its last change.
    pub(in crate::run) revision: u64,
    /// Since when that is enforced; `None` = it is not yet.
    pub(in crate::run) enforced: Option<SystemTime>,
    /// The node that the record names, if it is a workload endpoint's.
    pub(in crate::run) node: Option<Arc<str>>,
}

/// How far enforcement has come.
#[derive(Debug, Default)]
pub(in crate::run) struct Revisions {
    seen: u64,
    enforced: u64,
    /// Since when.
    at: Option<SystemTime>,
    /// The revision with which the transaction under way was planned.
    under_way: u64,
    records: HashMap<ResourceKey, Version>,
    /// Records whose last change is not enforced yet, by its number, and when the first of these
    /// changes came.
    open: BTreeMap<u64, (ResourceKey, Instant)>,
    /// When the last transaction that concerned each endpoint was complete.
    endpoints: HashMap<EndpointId, SystemTime>,
}

impl Revisions {
    /// Notes that a version of a record has been taken in.
    pub(in crate::run) fn apply(&mut self, resource: &Resource) {
        self.seen += 1;
        let key = resource.key();
        let node = match resource {
            Resource::WorkloadEndpoint(endpoint) => Some(Arc::from(endpoint.node.as_str())),
            _ => None,
        };
        let version = Version {
            revision: self.seen,
            enforced: None,
            node,
        };
        let before = self.records.insert(key.clone(), version);
        let since = before.and_then(|before| self.open.remove(&before.revision));
        let since = since.map_or_else(Instant::now, |(_, since)| since);
        self.open.insert(self.seen, (key.clone(), since));
    }

    /// Notes that a record is gone.
    pub(in crate::run) fn delete(&mut self, key: &ResourceKey) {
        self.seen += 1;
        if let Some(before) = self.records.remove(key) {
            self.open.remove(&before.revision);
        }
    }

    /// Returns how many changes have been taken in.
    pub(in crate::run) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Returns up to which change everything is enforced, and since when; `None` before the first
    /// time.
    pub(in crate::run) fn enforced(&self) -> Option<(u64, SystemTime)> {
        Some((self.enforced, self.at?))
    }

    /// Returns what is known of a record.
    pub(in crate::run) fn record(&self, key: &ResourceKey) -> Option<&Version> {
        self.records.get(key)
    }

    /// Returns since when the endpoint's policy is enforced as it is: since it changed last, or
    /// since this run of the agent confirmed it.
    pub(in crate::run) fn endpoint(&self, id: EndpointId) -> Option<SystemTime> {
        self.endpoints.get(&id).copied()
    }

    /// Notes that a transaction is in force that was planned with all that has been taken in.
    pub(in crate::run) const fn in_force(&mut self) {
        self.under_way = self.seen;
    }

    /// Notes that the transaction under way is complete. Returns how long each change of a record
    /// took that is enforced by it.
    pub(in crate::run) fn complete(&mut self, transaction: &Transaction) -> Vec<Duration> {
        let now = SystemTime::now();
        for (id, change) in &transaction.endpoints {
            match change {
                EndpointChange::Set(_) => drop(self.endpoints.insert(*id, now)),
                EndpointChange::Gone { .. } => drop(self.endpoints.remove(id)),
            }
        }
        self.advance(self.under_way, now)
    }

    /// Notes that there is nothing to do for what has been taken in. Returns the same.
    pub(in crate::run) fn nothing_to_do(&mut self) -> Vec<Duration> {
        if self.at.is_some() && self.enforced == self.seen {
            return Vec::new();
        }
        self.advance(self.seen, SystemTime::now())
    }

    fn advance(&mut self, to: u64, now: SystemTime) -> Vec<Duration> {
        self.enforced = to;
        self.at = Some(now);
        let later = self.open.split_off(&to.saturating_add(1));
        let done = std::mem::replace(&mut self.open, later);
        let mut times = Vec::with_capacity(done.len());
        for (key, since) in done.into_values() {
            times.push(since.elapsed());
            if let Some(version) = self.records.get_mut(&key) {
                version.enforced = Some(now);
            }
        }
        times
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use felid_model::Kind;

    use super::*;

    fn tier(name: &str) -> Resource {
        Resource::Inert(ResourceKey::new(Kind::Tier, None, name))
    }

    fn is_enforced(revisions: &Revisions, name: &str) -> bool {
        let key = ResourceKey::new(Kind::Tier, None, name);
        revisions.record(&key).unwrap().enforced.is_some()
    }

    #[test]
    fn what_comes_during_a_transaction_is_enforced_by_the_next() {
        let mut revisions = Revisions::default();
        revisions.apply(&tier("a"));
        revisions.in_force();
        revisions.apply(&tier("b"));
        revisions.apply(&tier("a"));
        assert_eq!(revisions.enforced(), None);
        let times = revisions.complete(&Transaction::default());
        assert_eq!(times.len(), 0, "the version of a that was enforced is not the last one");
        assert_eq!(revisions.enforced().unwrap().0, 1);
        assert!(!is_enforced(&revisions, "a") && !is_enforced(&revisions, "b"));
        revisions.in_force();
        assert_eq!(revisions.complete(&Transaction::default()).len(), 2);
        assert_eq!((revisions.enforced().unwrap().0, revisions.seen()), (3, 3));
        assert!(is_enforced(&revisions, "a") && is_enforced(&revisions, "b"));
        assert_eq!(revisions.nothing_to_do().len(), 0);
    }

    #[test]
    fn what_is_not_enforced_for_long_is_kept_once_for_each_record() {
        let mut revisions = Revisions::default();
        for _ in 0..1000 {
            revisions.apply(&tier("a"));
            revisions.apply(&tier("b"));
            revisions.delete(&ResourceKey::new(Kind::Tier, None, "b"));
        }
        assert_eq!((revisions.open.len(), revisions.records.len()), (1, 1));
        assert_eq!(revisions.nothing_to_do().len(), 1);
        assert_eq!(revisions.enforced().unwrap().0, 3000);
    }
}
