//! When to look again without being told.

use std::time::{Duration, Instant};

use crate::config::Settings;

/// When to try again what failed, and when to look at everything on the host.
#[derive(Debug)]
pub(in crate::run) struct Timers {
    retry: Retry,
    refresh_at: Option<Instant>,
}

impl Timers {
    pub(in crate::run) fn new(settings: &Settings) -> Self {
        let mut timers = Self {
            retry: Retry::new(settings.retry_interval),
            refresh_at: None,
        };
        timers.refreshed(settings);
        timers
    }

    /// Notes whether something fails.
    pub(in crate::run) fn note(&mut self, failing: bool) {
        if failing {
            self.retry.later();
        } else {
            self.retry.never();
        }
    }

    /// Returns whether it is time to try again what failed; then it is not for a while.
    pub(in crate::run) fn is_retry_due(&mut self) -> bool {
        self.retry.is_due()
    }

    /// Returns whether it is time to look at everything on the host.
    pub(in crate::run) fn is_refresh_due(&self) -> bool {
        self.refresh_at.is_some_and(|at| at <= Instant::now())
    }

    /// Notes that everything on the host has been looked at.
    pub(in crate::run) fn refreshed(&mut self, settings: &Settings) {
        let periods = [settings.route_refresh_interval, settings.interface_refresh_interval];
        let period = periods.into_iter().filter(|period| !period.is_zero()).min();
        self.refresh_at = period.map(|period| Instant::now() + period);
    }
}

/// When to try again what failed: later each time, until it works.
#[derive(Debug)]
struct Retry {
    at: Option<Instant>,
    delay: Duration,
    first: Duration,
}

impl Retry {
    /// Longest pause.
    const SLOWEST: Duration = Duration::from_secs(60);

    const fn new(first: Duration) -> Self {
        Self {
            at: None,
            delay: first,
            first,
        }
    }

    /// Something failed.
    fn later(&mut self) {
        if self.at.is_none() && !self.first.is_zero() {
            self.at = Some(Instant::now() + self.delay);
            self.delay = (self.delay * 2).min(Self::SLOWEST.max(self.first));
        }
    }

    /// Nothing fails any more.
    const fn never(&mut self) {
        self.at = None;
        self.delay = self.first;
    }

    fn is_due(&mut self) -> bool {
        let due = self.at.is_some_and(|at| at <= Instant::now());
        if due {
            self.at = None;
        }
        due
    }
}
