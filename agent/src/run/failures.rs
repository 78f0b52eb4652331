//! What keeps failing, since when, and how often: for status, readiness, metrics and the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::{self, FailureKind};
use crate::metrics::Metrics;
use crate::text;

/// Reasons that are kept of one kind at one place; how many more there are is said.
const MOST: usize = 100;

/// Where something fails: an interface, or nowhere in particular.
type Place = Option<String>;

/// Failures by what and where.
#[derive(Debug)]
pub struct Failures {
    metrics: Arc<Metrics>,
    list: BTreeMap<(FailureKind, Place), Vec<Failure>>,
}

/// Something that fails, as long as it does.
#[derive(Debug, Clone, PartialEq)]
struct Failure {
    reason: String,
    since: SystemTime,
    attempts: u64,
}

/// `kind` or `kind (place)`.
fn title(kind: FailureKind, place: &Place) -> String {
    match place {
        Some(place) => format!("{kind} ({})", text::shown(place)),
        None => kind.to_string(),
    }
}

impl Failures {
    /// Returns an empty list that counts failures in these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            list: BTreeMap::new(),
        }
    }

    /// Notes that something failed (again). It is logged when the reason is new.
    pub fn set(&mut self, kind: FailureKind, reason: &dyn fmt::Display) {
        self.set_list(kind, None, vec![reason.to_string()]);
    }

    /// Notes everything that failed at one place; an empty list says that nothing does any more.
    pub fn set_list(&mut self, kind: FailureKind, place: Place, reasons: Vec<String>) {
        let key = (kind, place);
        if reasons.is_empty() {
            self.remove(&key);
            return;
        }
        let before = self.list.remove(&key).unwrap_or_default();
        let mut now: Vec<Failure> = Vec::with_capacity(reasons.len());
        for reason in text::shown_list(reasons, MOST) {
            self.metrics.condition.failed(kind);
            let old = before.iter().find(|failure| failure.reason == reason);
            if old.is_none() {
                tracing::error!("{}: {reason}", title(kind, &key.1));
            }
            now.push(Failure {
                reason,
                since: old.map_or_else(SystemTime::now, |old| old.since),
                attempts: old.map_or(1, |old| old.attempts.saturating_add(1)),
            });
        }
        self.list.insert(key, now);
    }

    /// Notes that something works again where it has no place.
    pub fn clear(&mut self, kind: FailureKind) {
        self.remove(&(kind, None));
    }

    /// Notes everything of this kind that fails now, by place.
    pub fn set_places(&mut self, kind: FailureKind, places: BTreeMap<String, Vec<String>>) {
        let known = self.list.keys().filter(|(known, _)| *known == kind);
        let works = |(_, place): &&(FailureKind, Place)| {
            let place = place.as_ref();
            place.is_some_and(|place| !places.contains_key(place))
        };
        let works_again: Vec<_> = known.filter(works).cloned().collect();
        for key in works_again {
            self.remove(&key);
        }
        for (place, reasons) in places {
            self.set_state(kind, Some(place), reasons);
        }
    }

    /// As [`Failures::set_list`], for states that are told again and again: only a change counts as
    /// another failure.
    pub fn set_state(&mut self, kind: FailureKind, place: Place, reasons: Vec<String>) {
        let key = (kind, place);
        let before = self.list.get(&key).map(Vec::as_slice).unwrap_or_default();
        let shown = text::shown_list(reasons.clone(), MOST);
        if !before.iter().map(|failure| &failure.reason).eq(&shown) {
            self.set_list(key.0, key.1, reasons);
        }
    }

    fn remove(&mut self, key: &(FailureKind, Place)) {
        for failure in self.list.remove(key).unwrap_or_default() {
            tracing::info!("{} no longer fails: {}", key.0, failure.reason);
        }
    }

    /// Returns the first reason why something of this kind fails, wherever it is.
    pub fn first(&self, kind: FailureKind) -> Option<&str> {
        let mut of_kind = self.list.iter().filter(|((known, _), _)| *known == kind);
        of_kind.find_map(|(_, list)| Some(list.first()?.reason.as_str()))
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.list.values().map(Vec::len).sum()
    }

    /// Returns whether nothing fails.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the failures that are reasons not to be ready.
    pub fn blocking(&self) -> Vec<String> {
        let blocking = self.list.iter().filter(|((kind, _), _)| kind.blocks_readiness());
        blocking
            .flat_map(|((kind, _), list)| list.iter().map(move |failure| format!("{kind}: {}", failure.reason)))
            .collect()
    }

    /// Returns all of them for status, sorted by what fails.
    pub fn report(&self) -> Vec<api::Failure> {
        let all = self
            .list
            .iter()
            .flat_map(|((kind, place), list)| list.iter().map(move |failure| (title(*kind, place), failure)));
        let mut report: Vec<api::Failure> = all
            .map(|(what, failure)| api::Failure {
                what,
                reason: failure.reason.clone(),
                since: api::rfc3339(failure.since),
                attempts: failure.attempts,
            })
            .collect();
        report.sort_by(|a, b| a.what.cmp(&b.what));
        report
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn counts_attempts_and_forgets_what_works_again() {
        let mut failures = Failures::new(Arc::new(Metrics::new(1).unwrap()));
        failures.set(FailureKind::Plan, &"too small");
        failures.set(FailureKind::Plan, &"too small");
        let cali1 = Some("cali1".to_owned());
        failures.set_list(FailureKind::Network, cali1.clone(), vec!["no route".to_owned()]);
        let report = failures.report();
        assert_eq!(
            report.iter().map(|f| (f.what.as_str(), f.attempts)).collect::<Vec<_>>(),
            [("network (cali1)", 1), ("plan", 2)]
        );
        assert_eq!(failures.blocking(), ["plan: too small"]);
        failures.clear(FailureKind::Plan);
        failures.set_list(FailureKind::Network, cali1, Vec::new());
        assert!(failures.is_empty());
    }
}
