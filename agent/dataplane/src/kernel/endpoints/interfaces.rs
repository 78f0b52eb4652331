//! The host's interfaces: which are there, whose they are, and what should stand at their hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_compile::transaction::{EndpointId, EndpointPlan};
use felid_model::ResourceKey;

use super::Endpoints;
use super::attach::Attach;
use crate::error::{KernelError, Result};
use crate::kernel::expedite::Expedited;
use crate::kernel::links::{Foreign, Role};
use crate::link::LinkState;
use crate::sys::Hook;

impl Endpoints {
    /// Interfaces outside the prefixes where an earlier run's programs stand, and that no endpoint
    /// claims.
    pub(super) fn find_unclaimed(&self) -> BTreeSet<u32> {
        let guarded = self.links.interfaces().into_iter();
        let unclaimed = guarded.filter(|ifindex| {
            let state = self.interfaces.get(ifindex);
            state.is_some_and(|state| self.owner(&state.name).is_none() && !self.has_prefix(&state.name))
        });
        unclaimed.collect()
    }

    /// The names of the interfaces that stay closed because nobody claims them.
    pub(crate) fn unclaimed(&self) -> BTreeSet<Arc<str>> {
        let unclaimed = if self.synced {
            &self.unclaimed
        } else {
            &self.find_unclaimed()
        };
        let states = unclaimed.iter().filter_map(|ifindex| self.interfaces.get(ifindex));
        states.map(|state| Arc::clone(&state.name)).collect()
    }

    /// The interface of an endpoint, unless another endpoint has it.
    pub(super) fn interface_of(&self, id: EndpointId, plan: &EndpointPlan) -> Option<&LinkState> {
        let name = &plan.endpoint.interface_name;
        if self.owner(name).is_some_and(|(_, owner)| owner != id) {
            return None;
        }
        self.interfaces.get(self.by_name.get(name)?)
    }

    pub(super) fn owner(&self, name: &str) -> Option<(&ResourceKey, EndpointId)> {
        self.claims.get(name)?.first_key_value().map(|(key, id)| (key, *id))
    }

    /// Whether an interface is a virtual machine's, as Felix tells them: OpenStack names them
    /// `tap...`, and `interfacePrefix` says so.
    pub(super) fn is_virtual_machine(&self, name: &str) -> bool {
        let mut prefixes = self.prefixes.iter();
        prefixes.any(|prefix| prefix.starts_with("tap") && name.starts_with(prefix.as_str()))
    }

    fn has_prefix(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Every interface of the host as it is now; what is not among them is gone.
    pub(crate) fn set_interfaces(&mut self, states: Vec<LinkState>, attach: &Attach<'_>) -> Vec<KernelError> {
        let before = std::mem::take(&mut self.interfaces);
        self.by_name.clear();
        let is_first = !std::mem::replace(&mut self.known, true);
        for state in states {
            self.by_name.insert(Arc::clone(&state.name), state.ifindex);
            self.interfaces.insert(state.ifindex, state);
        }
        self.unclaimed.retain(|ifindex| self.interfaces.contains_key(ifindex));
        let errors = if is_first { self.find_strays() } else { Vec::new() };
        let all: BTreeSet<u32> = before
            .into_keys()
            .chain(self.interfaces.keys().copied())
            .chain(self.links.interfaces())
            .chain(self.guarded.actual().keys().copied())
            .collect();
        let reconciled = self.reconcile(&all.into_iter().collect::<Vec<_>>(), attach);
        errors.into_iter().chain(reconciled).collect()
    }

    /// Takes over what earlier runs left at interfaces, wherever they pinned it: what they closed
    /// or judged stays so until this run knows better.
    fn find_strays(&mut self) -> Vec<KernelError> {
        let mut errors = Vec::new();
        for ifindex in self.interfaces.keys() {
            match self.links.find_strays(*ifindex) {
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// One interface that is new or has changed.
    pub(crate) fn set_interface(&mut self, state: LinkState, attach: &Attach<'_>) -> Vec<KernelError> {
        let ifindex = state.ifindex;
        let mut touched = vec![ifindex];
        if let Some(old) = self.interfaces.get(&ifindex)
            && self.by_name.get(&old.name) == Some(&ifindex)
        {
            self.by_name.remove(&old.name);
        }
        // Another one of this name: it has been renamed or is gone, and its own event is on the
        // way.
        touched.extend(self.by_name.insert(Arc::clone(&state.name), ifindex));
        self.interfaces.insert(ifindex, state);
        self.reconcile(&touched, attach)
    }

    /// An interface that is gone.
    pub(crate) fn remove_interface(&mut self, ifindex: u32, attach: &Attach<'_>) -> Vec<KernelError> {
        if let Some(old) = self.interfaces.remove(&ifindex)
            && self.by_name.get(&old.name) == Some(&ifindex)
        {
            self.by_name.remove(&old.name);
        }
        self.unclaimed.remove(&ifindex);
        self.reconcile(&[ifindex], attach)
    }

    /// Other prefixes of workload interfaces from now on.
    pub(crate) fn set_prefixes(&mut self, prefixes: Vec<String>, attach: &Attach<'_>) -> Vec<KernelError> {
        self.prefixes = prefixes;
        let all: Vec<u32> = self.interfaces.keys().copied().collect();
        self.reconcile(&all, attach)
    }

    /// What should stand at an interface; `None` = nothing of ours.
    fn role(&self, ifindex: u32) -> Option<Role> {
        let Some(state) = self.interfaces.get(&ifindex) else {
            return self.links.role(ifindex).filter(|_| !self.known);
        };
        if self.by_name.get(&state.name) != Some(&ifindex) {
            return self.has_prefix(&state.name).then_some(Role::Closed);
        }
        if let Some((_, id)) = self.owner(&state.name) {
            return Some(if state.is_ethernet {
                Role::Stub(id)
            } else {
                Role::Closed
            });
        }
        if !self.synced && self.links.role(ifindex).is_some() {
            return Some(Role::Inherited);
        }
        let is_closed = self.has_prefix(&state.name) || self.unclaimed.contains(&ifindex);
        is_closed.then_some(Role::Closed)
    }

    /// Brings hooks and records of interfaces in line. Goes on after an error: one interface must
    /// not keep others open.
    pub(super) fn reconcile(&mut self, interfaces: &[u32], attach: &Attach<'_>) -> Vec<KernelError> {
        let mut errors = Vec::new();
        let changes = interfaces
            .iter()
            .filter(|&&ifindex| self.role(ifindex).is_some() != self.links.role(ifindex).is_some());
        let expedited = Expedited::start(attach.directory, 2 * changes.count());
        for &ifindex in interfaces {
            match self.reconcile_one(ifindex, attach) {
                Ok(Some(mut foreign)) => {
                    if let Some(state) = self.interfaces.get(&ifindex) {
                        foreign.filters = Arc::clone(&state.filters);
                    }
                    self.foreign.insert(ifindex, foreign);
                    continue;
                }
                Ok(None) => {}
                // It went away meanwhile: its event is on the way.
                Err(error) if error.is_gone() => {}
                Err(error) => errors.push(error),
            }
            self.foreign.remove(&ifindex);
        }
        drop(expedited);
        errors.extend(self.refresh_records().err());
        errors.extend(self.mark_guarded(interfaces).err());
        errors
    }

    /// Writes which of these interfaces are guarded. Where a previous run's programs still stand,
    /// what that run wrote holds: they may be of a version that tags nothing.
    fn mark_guarded(&mut self, interfaces: &[u32]) -> Result<()> {
        for &ifindex in interfaces {
            match self.links.role_at(ifindex, Hook::FromWorkload) {
                Some(Role::Stub(_) | Role::Closed) => self.guarded.want(ifindex, Some(1)),
                Some(Role::Inherited) => {}
                None => self.guarded.want(ifindex, None),
            }
        }
        self.guarded.commit();
        self.guarded.flush()
    }

    /// One of them. Returns the programs of others, if it is one where ours stand.
    fn reconcile_one(&mut self, ifindex: u32, attach: &Attach<'_>) -> Result<Option<Foreign>> {
        let inspected = self.role(ifindex).map(|_| self.links.inspect(ifindex));
        // Asked again: the inspection may have found that a link is another interface's.
        let Some(role) = self.role(ifindex) else {
            self.links.remove(ifindex)?;
            return Ok(None);
        };
        if self.links.role(ifindex) == Some(role) {
            return inspected.transpose();
        }
        self.attach(ifindex, role, attach)?;
        self.links.inspect(ifindex).map(Some)
    }

    /// What stands at each interface that felid is attached to.
    pub(crate) fn roles(&self) -> BTreeMap<u32, Option<Role>> {
        self.links
            .interfaces()
            .into_iter()
            .map(|ifindex| (ifindex, self.links.role(ifindex)))
            .collect()
    }
}
