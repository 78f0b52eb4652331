//! Keeping felid's programs first at the hooks of its interfaces.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use super::attach::load_stub;
use super::{Attach, Endpoints};
use felid_model::ResourceKey;

use crate::error::Result;
use crate::kernel::guard::{Contested, GuardReport, InterferenceKind};
use crate::kernel::links::{Foreign, Role, suffix};
use crate::sys::{self, Hook};

/// A hook where programs of others run first.
struct Displaced<'a> {
    ifindex: u32,
    hook: Hook,
    before: &'a [u32],
}

impl Endpoints {
    /// Looks at every hook that felid is attached to: takes the first place back, attaches again
    /// what was detached, and follows the programs of others that came or went.
    pub(crate) fn guard(&mut self, now: Instant, attach: &Attach<'_>, report: &mut GuardReport) {
        let mut touched = BTreeSet::new();
        for ifindex in self.links.interfaces() {
            match self.guard_interface(ifindex, now, attach, report) {
                Ok(true) => drop(touched.insert(ifindex)),
                Ok(false) => {}
                // It went away: its event is on the way.
                Err(error) if error.is_gone() => {}
                Err(error) => report.problem(self.name_of(ifindex), error.to_string()),
            }
        }
        for (key, name) in self.unreadable() {
            let what = format!(
                "interface {name} of {key} carries no Ethernet frames (a tun device, perhaps): its packets cannot be judged, and the \
                 endpoint is closed"
            );
            report.problem(name, what);
        }
        if touched.is_empty() {
            return;
        }
        let touched: Vec<u32> = touched.into_iter().collect();
        for error in self.reconcile(&touched, attach) {
            report.problem("", error.to_string());
        }
    }

    /// One interface. Returns whether something there is not as it was known to be.
    fn guard_interface(
        &mut self,
        ifindex: u32,
        now: Instant,
        attach: &Attach<'_>,
        report: &mut GuardReport,
    ) -> Result<bool> {
        let mut changed = false;
        let mut found = Foreign::default();
        for hook in Hook::ALL {
            let Some(role) = self.links.role_at(ifindex, hook) else {
                continue;
            };
            let mut state = self.links.hook_state(ifindex, hook)?;
            if state.is_missing {
                if role != Role::Inherited || self.interfaces.contains_key(&ifindex) {
                    let name = self.name_of(ifindex);
                    let hook = suffix(hook);
                    report.repaired(
                        InterferenceKind::Detached,
                        format!("felid's program was detached from interface {name} ({hook}): it is attached again"),
                    );
                }
                return Ok(true);
            }
            if !state.before.is_empty() {
                changed |= self.links.find_strays(ifindex)?;
                state = self.links.hook_state(ifindex, hook)?;
                if !state.before.is_empty() {
                    let before = &state.before;
                    changed |= self.contest(&Displaced { ifindex, hook, before }, now, attach, report);
                    state = self.links.hook_state(ifindex, hook)?;
                }
            }
            found.before.extend(state.before);
            found.after.extend(state.after);
        }
        let known = self.foreign.get(&ifindex);
        Ok(changed || known.is_some_and(|known| known.before != found.before || known.after != found.after))
    }

    /// Takes the first place at a hook back, unless it was lost too often lately. Returns whether
    /// it did.
    fn contest(
        &mut self,
        displaced: &Displaced<'_>,
        now: Instant,
        attach: &Attach<'_>,
        report: &mut GuardReport,
    ) -> bool {
        let &Displaced { ifindex, hook, before } = displaced;
        let what = Contested::Hook(ifindex, hook);
        let (name, at) = (self.name_of(ifindex), suffix(hook));
        let programs: Vec<String> = before.iter().map(|program| describe(*program)).collect();
        let ran = format!(
            "{} ran before felid's at interface {name} ({at}) and could let packets pass it",
            programs.join(", ")
        );
        if self.contests.wait(what, now).is_some() {
            let times = self.contests.times(what);
            report.problem(
                name,
                format!(
                    "{ran}; felid took the first place back {times} times lately, and waits longer each time before it does so again"
                ),
            );
            return false;
        }
        match self.take_head(ifindex, hook, attach) {
            Ok(()) => {
                let times = self.contests.put_right(what, now);
                let next = self.contests.wait(what, now).map_or_else(String::new, |wait| {
                    format!(
                        "; as this is the {times}th time, felid leaves it alone for {} s if it happens again",
                        wait.as_secs()
                    )
                });
                report.repaired(
                    InterferenceKind::Displaced,
                    format!("{ran}: felid's is the first again{next}"),
                );
                true
            }
            Err(error) => {
                report.problem(name, format!("{ran}; felid's cannot be put first: {error}"));
                false
            }
        }
    }

    fn take_head(&mut self, ifindex: u32, hook: Hook, attach: &Attach<'_>) -> Result<()> {
        match self.links.role_at(ifindex, hook) {
            Some(Role::Stub(id)) => {
                let copy = load_stub(hook, id, attach)?;
                self.links.take_head(ifindex, hook, copy.as_fd())
            }
            Some(Role::Closed | Role::Inherited) => self.links.take_head_with_same(ifindex, hook),
            None => Ok(()),
        }
    }

    /// Endpoints whose interfaces are there, but cannot be judged.
    fn unreadable(&self) -> Vec<(ResourceKey, Arc<str>)> {
        let owners = self.interfaces.values().filter(|state| !state.is_ethernet);
        let owners = owners.filter_map(|state| Some((self.owner(&state.name)?.0.clone(), Arc::clone(&state.name))));
        owners.collect()
    }

    /// Name of an interface for people.
    pub(super) fn name_of(&self, ifindex: u32) -> Arc<str> {
        let state = self.interfaces.get(&ifindex);
        state.map_or_else(
            || format!("with index {ifindex}").into(),
            |state| Arc::clone(&state.name),
        )
    }
}

/// A program of somebody else's, for people.
fn describe(id: u32) -> String {
    let info = sys::program_by_id(id).and_then(|program| sys::program_info(program.as_fd()));
    match info {
        Ok(info) if !info.name.is_empty() => format!("the program {} ({id})", info.name.escape_debug()),
        _ => format!("the program {id}"),
    }
}
