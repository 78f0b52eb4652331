//! Watching over what others could undo: places at hooks, links, pins, the bpffs itself.
//!
//! Nobody tells when somebody attaches a program before felid's, detaches one of felid's or removes
//! a pin. So it is looked at several times a second, and put right. Who undoes it again and again
//! is answered less and less often, so that there is no endless fight; what does not stand
//! meanwhile is a problem that keeps the agent from being ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Kernel;
use super::pins::repin;
use crate::error::Result;
use crate::sys::Hook;

/// What somebody else did to what felid needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterferenceKind {
    /// A program stood before felid's at a hook.
    Displaced,
    /// A program of felid's was detached from a hook.
    Detached,
    /// Pins were removed.
    Unpinned,
    /// The directory of pins was removed, or its bpffs unmounted or covered by another.
    Unmounted,
    /// Sysctls were changed.
    Sysctl,
    /// Rules that let workloads' packets through the host's firewall were removed.
    Firewall,
}

impl InterferenceKind {
    /// Every kind, in the order of the metrics.
    pub const ALL: [Self; 6] = [
        Self::Displaced,
        Self::Detached,
        Self::Unpinned,
        Self::Unmounted,
        Self::Sysctl,
        Self::Firewall,
    ];

    /// Returns the name in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Displaced => "displaced",
            Self::Detached => "detached",
            Self::Unpinned => "unpinned",
            Self::Unmounted => "unmounted",
            Self::Sysctl => "sysctl",
            Self::Firewall => "firewall",
        }
    }
}

/// What a look at everything found.
#[derive(Debug, Default)]
pub struct GuardReport {
    /// What others had undone and felid has put right: the kind, and a sentence for people.
    pub repaired: Vec<(InterferenceKind, String)>,
    /// What does not stand as it shall, by the name of the interface; the empty name stands for the
    /// host as a whole.
    pub problems: BTreeMap<Arc<str>, Vec<String>>,
}

impl GuardReport {
    pub(crate) fn repaired(&mut self, kind: InterferenceKind, what: String) {
        self.repaired.push((kind, what));
    }

    pub(crate) fn problem(&mut self, place: impl Into<Arc<str>>, what: String) {
        self.problems.entry(place.into()).or_default().push(what);
    }
}

/// What somebody may fight with felid about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contested {
    /// The first place at a hook of an interface.
    Hook(u32, Hook),
    /// The sysctls of an interface.
    Sysctls(u32),
}

/// How often felid puts something right at once; then it waits.
const AT_ONCE: u32 = 3;
/// The first wait. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Without a loss for this long, whatever was before is forgotten.
const PEACE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Contest {
    times: u32,
    last: Instant,
    not_before: Instant,
}

/// What others have undone lately, and how often.
#[derive(Debug, Default)]
pub(crate) struct Contests(BTreeMap<Contested, Contest>);

impl Contests {
    /// How long felid leaves something as others made it, although it has been undone; `None` = it
    /// may be put right now.
    pub(crate) fn wait(&self, what: Contested, now: Instant) -> Option<Duration> {
        let contest = self.0.get(&what)?;
        let left = contest.not_before.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Notes that it was put right. Returns how often that has been so lately.
    pub(crate) fn put_right(&mut self, what: Contested, now: Instant) -> u32 {
        self.0
            .retain(|_, contest| now.saturating_duration_since(contest.last) < PEACE);
        let contest = self.0.entry(what).or_insert(Contest {
            times: 0,
            last: now,
            not_before: now,
        });
        contest.times = contest.times.saturating_add(1);
        contest.last = now;
        contest.not_before = now + pause(contest.times);
        contest.times
    }

    /// How often it was put right lately.
    pub(crate) fn times(&self, what: Contested) -> u32 {
        self.0.get(&what).map_or(0, |contest| contest.times)
    }
}

/// The wait after something was put right this many times.
fn pause(times: u32) -> Duration {
    match times.checked_sub(AT_ONCE) {
        None => Duration::ZERO,
        Some(over) => FIRST_WAIT.saturating_mul(1 << over.min(16)).min(LONGEST_WAIT),
    }
}

impl Kernel {
    /// Looks whether everything stands as it shall at interfaces and in the bpffs, and puts right
    /// what does not. It takes a few microseconds for each interface, and is called several times a
    /// second.
    pub fn guard(&mut self, now: Instant) -> GuardReport {
        let mut report = GuardReport::default();
        self.guard_pins(&mut report);
        let (endpoints, attach) = self.at_interfaces();
        endpoints.guard(now, &attach, &mut report);
        report
    }

    fn guard_pins(&mut self, report: &mut GuardReport) {
        let was_intact = self.pins.is_intact();
        let path = self.pins.path.display().to_string();
        match self.repin(was_intact) {
            Ok(0) if was_intact => {}
            Ok(count) if was_intact => report.repaired(
                InterferenceKind::Unpinned,
                format!("somebody removed {count} pins below {path}: they are there again"),
            ),
            Ok(_) => report.repaired(
                InterferenceKind::Unmounted,
                format!("{path} was removed, or its bpffs unmounted or covered by another mount: everything is pinned there again"),
            ),
            Err(error) => report.problem(
                "",
                format!("not everything is pinned below {path}, so that policy would end with the agent: {error}"),
            ),
        }
    }

    fn repin(&mut self, was_intact: bool) -> Result<usize> {
        if !was_intact {
            self.pins.restore()?;
        }
        let mut count = self.pins.repin()? + self.endpoints.links().repin()?;
        for (path, chain) in self.programs.generated.chains() {
            count += usize::from(repin(path, chain)?);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_becomes_slower_and_is_forgotten() {
        let (start, what) = (Instant::now(), Contested::Sysctls(7));
        let mut contests = Contests::default();
        assert_eq!(contests.wait(what, start), None);
        for times in 1..AT_ONCE {
            assert_eq!(contests.put_right(what, start), times);
            assert_eq!(contests.wait(what, start), None, "the first times at once");
        }
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            contests.put_right(what, now);
            assert_eq!(contests.wait(what, now), Some(Duration::from_secs(wait)));
            assert_eq!(
                contests.wait(Contested::Sysctls(8), now),
                None,
                "others are not concerned"
            );
            now += Duration::from_secs(wait);
            assert_eq!(contests.wait(what, now), None);
        }
        now += PEACE;
        assert_eq!(contests.put_right(what, now), 1);
    }
}
