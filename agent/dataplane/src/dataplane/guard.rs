//! Looking several times a second whether what felid needs still stands, and telling what others
//! did to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Dataplane;
use crate::driver::Interference;
use crate::kernel::{Contested, Contests, GuardReport, InterferenceKind};
use crate::net::{Interfaces, let_through};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(400);
/// A look takes at most one part in this many of the time, so that many interfaces do not eat a
/// CPU.
const SHARE: u32 = 50;
/// The longest time between two looks.
const LONGEST_PERIOD: Duration = Duration::from_secs(2);
/// Time between two looks at the host's firewall.
const FIREWALL_PERIOD: Duration = Duration::from_millis(900);
/// Where problems of the host's firewall stand among those of the network.
pub(super) const FIREWALL: &str = "firewall";
/// Sentences of one kind that are logged within [`FOLD`]; the rest is counted.
const LOGGED: u32 = 8;
/// See [`LOGGED`].
const FOLD: Duration = Duration::from_secs(60);

/// When to look next, and what the looks before found.
pub(super) struct Guard {
    next: Instant,
    pub(super) found: Interference,
    /// Sentences logged lately, by kind.
    logged: BTreeMap<InterferenceKind, Folded>,
    contests: Contests,
    /// The last interface whose other end was looked at.
    pub(super) last_peer: u32,
    firewall: FirewallState,
}

struct Folded {
    since: Instant,
    count: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            next: Instant::now() + PERIOD,
            found: Interference::default(),
            logged: BTreeMap::new(),
            contests: Contests::default(),
            last_peer: 0,
            firewall: FirewallState::default(),
        }
    }
}

impl Guard {
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Takes what a look found that began at `began`.
    fn take(&mut self, report: GuardReport, began: Instant) {
        for (kind, what) in report.repaired {
            self.count(kind, &what, began);
        }
        self.found.problems = report.problems;
        let pause = (began.elapsed() * SHARE).clamp(PERIOD, LONGEST_PERIOD);
        self.next = Instant::now() + pause;
    }

    /// Notes that sysctls of an interface were changed by others, and are as felid needs them
    /// again.
    pub(super) fn sysctls_repaired(&mut self, name: &str, files: &[String]) {
        let files = files.join(", ");
        let what =
            format!("somebody changed sysctls of interface {name} ({files}): they are as felid needs them again");
        self.count(InterferenceKind::Sysctl, &what, Instant::now());
    }

    fn count(&mut self, kind: InterferenceKind, what: &str, now: Instant) {
        *self.found.repaired.entry(kind).or_default() += 1;
        self.log(kind, what, now);
    }

    fn log(&mut self, kind: InterferenceKind, what: &str, now: Instant) {
        let folded = self.logged.entry(kind).or_insert(Folded { since: now, count: 0 });
        if now.saturating_duration_since(folded.since) >= FOLD {
            if folded.count > LOGGED {
                let more = folded.count - LOGGED;
                tracing::warn!(
                    "{more} more times something of felid's was undone by others ({})",
                    kind.name()
                );
            }
            *folded = Folded { since: now, count: 0 };
        }
        folded.count = folded.count.saturating_add(1);
        if folded.count <= LOGGED {
            tracing::warn!("{what}");
        }
    }
}

/// Felid's rules in the host's firewall.
#[derive(Default)]
struct FirewallState {
    /// When they were looked at last.
    looked: Option<Instant>,
    /// For which interfaces they stood then.
    interfaces: BTreeSet<Interfaces>,
    present: usize,
}

impl Dataplane {
    /// Looks whether programs, pins and sysctls are as they shall be, and puts right what is not.
    pub(super) async fn guard(&mut self) {
        let began = Instant::now();
        let mut report = self.kernel.guard(began);
        self.guard_sysctls(began, &mut report).await;
        self.guard_firewall(began, &mut report);
        self.guard.take(report, began);
    }

    async fn guard_sysctls(&mut self, now: Instant, report: &mut GuardReport) {
        if !self.synced {
            return;
        }
        let changed = self.net.guard_forwarding();
        if !changed.is_empty() {
            let what = format!(
                "somebody changed the sysctls {}: they are as felid needs them again",
                changed.join(", ")
            );
            report.repaired(InterferenceKind::Sysctl, what);
        }
        // What cannot be asked now is asked the next time; that it is never answered shows in
        // everything else.
        let configured = self.routing.configured.clone();
        let Ok(drifted) = self.net.drifted(&configured).await else {
            return;
        };
        for (index, files) in drifted {
            let Some(link) = self.host.links.get(&index) else {
                continue;
            };
            let name = link.name.clone();
            let what = format!("somebody changed sysctls of interface {name}: {}", files.join(", "));
            let contested = Contested::Sysctls(index);
            if self.guard.contests.wait(contested, now).is_some() {
                let times = self.guard.contests.times(contested);
                let fight = format!(
                    "{what}; felid has set them {times} times lately, and waits longer each time before it does so again"
                );
                report.problem(name, fight);
                continue;
            }
            self.guard.contests.put_right(contested, now);
            let may_spoof = configured.get(&index).is_some_and(|may_spoof| *may_spoof);
            let set = self.net.configure_interface(&name, may_spoof);
            if !set.changed.is_empty() {
                self.guard.sysctls_repaired(&name, &set.changed);
            }
        }
    }
}

impl Dataplane {
    /// Interfaces of workloads: those with felid's prefixes, and those of endpoints beside them.
    fn workload_interfaces(&self) -> BTreeSet<Interfaces> {
        let prefixes = &self.host.prefixes;
        let outside = self.routing.wanted.keys();
        let outside = outside.filter(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())));
        let prefixes = prefixes.iter().map(|prefix| Interfaces::Prefix(prefix.as_str().into()));
        prefixes
            .chain(outside.map(|name| Interfaces::Name(name.clone())))
            .collect()
    }

    /// Looks whether felid's rules in the host's firewall stand, where they are needed.
    fn guard_firewall(&mut self, now: Instant, report: &mut GuardReport) {
        let looked = self.guard.firewall.looked;
        if !self.synced || looked.is_some_and(|looked| now.saturating_duration_since(looked) < FIREWALL_PERIOD) {
            return;
        }
        let interfaces = self.workload_interfaces();
        let problems = match let_through(&interfaces) {
            Ok(found) => {
                let known = &self.guard.firewall;
                if found.added > 0 && known.present >= found.present && known.interfaces == interfaces {
                    let (added, chain) = (found.added, "the chain FORWARD");
                    let what = format!("somebody removed {added} of felid's rules from {chain}: they are there again");
                    report.repaired(InterferenceKind::Firewall, what);
                } else if found.added > 0 {
                    tracing::info!(
                        rules = found.added,
                        "the host's chain FORWARD drops what it does not accept: rules of felid's accept there what comes from workloads \
                         and goes to them"
                    );
                }
                self.guard.firewall.present = found.present;
                self.guard.firewall.interfaces = interfaces;
                found.problems
            }
            Err(error) => vec![format!("cannot look at the host's firewall: {error}")],
        };
        self.guard.firewall.looked = Some(now);
        let standing = &mut self.routing.problems;
        if problems.is_empty() {
            standing.remove(FIREWALL);
        } else {
            standing.insert(FIREWALL.into(), problems);
        }
    }
}
