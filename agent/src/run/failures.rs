//! What keeps failing, since when, and how often: for status, readiness, metrics and the log.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::api;
use crate::metrics::Metrics;

/// Failures by what and where.
#[derive(Debug, Default)]
pub struct Failures {
    list: BTreeMap<(&'static str, String), Vec<One>>,
}

#[derive(Debug, Clone, PartialEq)]
struct One {
    reason: String,
    since: SystemTime,
    attempts: u64,
}

/// Failures of these do not make the agent unready: what they concern is closed or unreachable, never open.
const NOT_BLOCKING: [&str; 2] = ["events", "network"];

impl Failures {
    /// Something failed (again). Logged when the reason is new.
    pub fn set(&mut self, what: &'static str, reason: String, metrics: &Metrics) {
        self.set_list(what, "", vec![reason], metrics);
    }

    /// Everything that failed at one place; empty = nothing does any more.
    pub fn set_list(&mut self, what: &'static str, place: &str, reasons: Vec<String>, metrics: &Metrics) {
        let key = (what, place.to_owned());
        if reasons.is_empty() {
            self.remove(&key);
            return;
        }
        let before = self.list.remove(&key).unwrap_or_default();
        let mut now: Vec<One> = Vec::with_capacity(reasons.len());
        for reason in reasons {
            metrics.failed(what);
            let old = before.iter().find(|one| one.reason == reason);
            if old.is_none() {
                let place = if place.is_empty() {
                    String::new()
                } else {
                    format!(" ({place})")
                };
                tracing::error!("{what}{place}: {reason}");
            }
            let since = old.map_or_else(SystemTime::now, |one| one.since);
            let attempts = old.map_or(1, |one| one.attempts.saturating_add(1));
            now.push(One {
                reason,
                since,
                attempts,
            });
        }
        self.list.insert(key, now);
    }

    /// It works again, everywhere.
    pub fn clear(&mut self, what: &'static str) {
        self.remove(&(what, String::new()));
    }

    /// Everything of this sort that fails now, by place.
    pub fn set_places(&mut self, what: &'static str, places: BTreeMap<String, Vec<String>>, metrics: &Metrics) {
        let known: Vec<_> = self
            .list
            .keys()
            .filter(|(known, place)| *known == what && !place.is_empty())
            .cloned()
            .collect();
        for key in known.iter().filter(|(_, place)| !places.contains_key(place)) {
            self.remove(key);
        }
        for (place, reasons) in places {
            self.set_state(what, &place, reasons, metrics);
        }
    }

    /// As [`Failures::set_list`], for states that are told again and again: only a change counts as another failure.
    pub fn set_state(&mut self, what: &'static str, place: &str, reasons: Vec<String>, metrics: &Metrics) {
        let before = self
            .list
            .get(&(what, place.to_owned()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        if !before.iter().map(|one| &one.reason).eq(&reasons) {
            self.set_list(what, place, reasons, metrics);
        }
    }

    fn remove(&mut self, key: &(&'static str, String)) {
        if let Some(gone) = self.list.remove(key) {
            for one in gone {
                tracing::info!("{} no longer fails: {}", key.0, one.reason);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.values().map(Vec::len).sum()
    }

    /// Whether nothing fails.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Reasons not to be ready.
    pub fn blocking(&self) -> Vec<String> {
        let blocking = self.list.iter().filter(|((what, _), _)| !NOT_BLOCKING.contains(what));
        blocking
            .flat_map(|((what, _), list)| list.iter().map(move |one| format!("{what}: {}", one.reason)))
            .collect()
    }

    /// For status.
    pub fn report(&self) -> Vec<api::Failure> {
        let all = self
            .list
            .iter()
            .flat_map(|((what, place), list)| list.iter().map(move |one| (what, place, one)));
        all.map(|(what, place, one)| api::Failure {
            what: if place.is_empty() {
                (*what).to_owned()
            } else {
                format!("{what} ({place})")
            },
            reason: one.reason.clone(),
            since: api::rfc3339(one.since),
            attempts: one.attempts,
        })
        .collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn counts_attempts_and_forgets_what_works_again() {
        let metrics = Metrics::new(1).unwrap();
        let mut failures = Failures::default();
        failures.set("plan", "too small".to_owned(), &metrics);
        failures.set("plan", "too small".to_owned(), &metrics);
        failures.set_list("network", "cali1", vec!["no route".to_owned()], &metrics);
        let report = failures.report();
        assert_eq!(
            report.iter().map(|f| (f.what.as_str(), f.attempts)).collect::<Vec<_>>(),
            [("network (cali1)", 1), ("plan", 2)]
        );
        assert_eq!(failures.blocking(), ["plan: too small"]);
        failures.clear("plan");
        failures.set_list("network", "cali1", Vec::new(), &metrics);
        assert!(failures.is_empty());
    }
}
