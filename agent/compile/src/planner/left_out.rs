//! Policies that are left out because what they select does not fit into the kernel's tables.
//!
//! In: the table that is too small, and the policies of the local endpoints. Out: which policies
//! are at fault. Never: what runs instead, which [`super::fallback`] decides.
//!
//! The policies of a namespace are weighed together, and those of the cluster are: the heaviest of
//! these groups gives up its heaviest policy first. So nobody can push out the policies of others
//! by many small ones. What is left out depends on the present records and on what is in force
//! only. It is tried again when the policy changes, when the tables or its sets have become
//! noticeably emptier, and whenever [`Planner::retry`] says so.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy, ResolvedRule, ResolvedRules, SetId};

use super::Planner;
use super::compiler::Compiler;
use super::draft::Dirty;
use super::sets::{SetNo, Sets};
use super::types::PlanError;

/// The part of a size by which something must have become smaller before a policy is tried again.
const NOTICEABLE: usize = 16;

/// Policies that are left out, by their records.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<ResourceKey, Omission>);

/// Why a policy is left out.
#[derive(Debug)]
struct Omission {
    reason: Arc<str>,
    /// Its rules of both directions: another version of the policy is not left out.
    rules: Vec<Arc<Vec<ResolvedRule>>>,
    /// The table that is too small, and its size.
    map: &'static str,
    available: usize,
    /// How many entries the policy needs there at most.
    weight: usize,
    /// How many entries were in force there.
    used: usize,
}

/// Policies that may be at fault, by their namespaces.
type Groups = BTreeMap<Option<Arc<str>>, BTreeMap<ResourceKey, Suspect>>;

/// A policy that may be at fault.
#[derive(Default)]
struct Suspect {
    rules: Vec<Arc<Vec<ResolvedRule>>>,
    sets: BTreeSet<SetNo>,
}

impl LeftOut {
    /// Returns why a policy of an endpoint cannot be in force, if one of its records is left out.
    pub(super) fn reason(&self, policy: &ResolvedPolicy) -> Option<Arc<str>> {
        if self.0.is_empty() {
            return None;
        }
        let omission = |list: &ResolvedRules| {
            self.0
                .get(&list.key)
                .filter(|omission| omission.rules.contains(&list.rules))
        };
        lists(policy).find_map(omission).map(|omission| omission.reason.clone())
    }

    /// Returns whether all of these rules of a record are left out already.
    fn has(&self, key: &ResourceKey, rules: &[Arc<Vec<ResolvedRule>>]) -> bool {
        self.0
            .get(key)
            .is_some_and(|omission| rules.iter().all(|rules| omission.rules.contains(rules)))
    }
}

/// Returns all policies and profiles of an endpoint's policy.
fn lists(policy: &ResolvedPolicy) -> impl Iterator<Item = &ResolvedRules> {
    policy
        .tiers
        .iter()
        .flat_map(|tier| &tier.policies)
        .chain(&policy.profiles)
}

/// Returns every set that a rule names.
fn sets_of(rule: &ResolvedRule) -> impl Iterator<Item = &SetId> {
    [&rule.source, &rule.destination].into_iter().flat_map(|side| {
        let addresses = side.sets.iter().chain(&side.not_sets);
        let ports = side
            .named_ports
            .iter()
            .chain(&side.not_named_ports)
            .chain(&side.service_ports);
        addresses.chain(ports)
    })
}

fn weight<'a>(sets: &Sets, of: impl Iterator<Item = &'a SetNo>, map: &str) -> usize {
    of.map(|set| sets.load(*set, map)).sum()
}

impl<C: Compiler> Planner<C> {
    /// Leaves out the policies that are at fault for an error, and adds the endpoints concerned to
    /// what is to be planned. Returns whether there are any.
    pub(super) fn leave_out(&mut self, error: &PlanError, dirty: &mut Dirty) -> bool {
        let PlanError::Capacity { map, needed, available } = *error else {
            return false;
        };
        let mut excess = needed.saturating_sub(available);
        let mut groups = self.suspects();
        let mut chosen = BTreeSet::new();
        while excess > 0 {
            let Some((key, suspect, weight)) = self.heaviest(&mut groups, map) else {
                break;
            };
            excess = excess.saturating_sub(weight);
            let reason =
                format!("{map} is too small: {needed} needed, room for {available}; {key} alone selects {weight}");
            chosen.insert(key.clone());
            self.left_out.0.insert(
                key,
                Omission {
                    reason: reason.into(),
                    rules: suspect.rules,
                    map,
                    available,
                    weight,
                    used: self.used(map),
                },
            );
        }
        self.mark_users(&chosen, dirty);
        !chosen.is_empty()
    }

    /// Tries policies again for which there may be room now.
    pub(super) fn readmit(&mut self, dirty: &mut Dirty) {
        if self.left_out.0.is_empty() || dirty.is_empty() {
            return;
        }
        let smaller = |now: usize, then: usize, whole: usize| now < then && then - now >= whole / NOTICEABLE;
        let mut chosen = BTreeSet::new();
        for (key, omission) in &self.left_out.0 {
            let rules = omission.rules.iter().flat_map(|rules| rules.iter());
            let sets: BTreeSet<SetNo> = rules.flat_map(sets_of).filter_map(|id| self.sets.find(id)).collect();
            let weight = weight(&self.sets, sets.iter(), omission.map);
            if smaller(weight, omission.weight, omission.weight)
                || smaller(self.used(omission.map), omission.used, omission.available)
            {
                chosen.insert(key.clone());
            }
        }
        self.left_out.0.retain(|key, _| !chosen.contains(key));
        self.mark_users(&chosen, dirty);
    }

    /// Returns how many entries of a map are in force.
    fn used(&self, map: &str) -> usize {
        match map {
            "classes" => self.classes.used(),
            map => self.entries.used(map),
        }
    }

    /// Adds the endpoints that any of these policies selects to what is to be planned.
    fn mark_users(&self, policies: &BTreeSet<ResourceKey>, dirty: &mut Dirty) {
        if policies.is_empty() {
            return;
        }
        let uses = |policy: &ResolvedPolicy| lists(policy).any(|list| policies.contains(&list.key));
        let concerned = |endpoint: &&Arc<LocalEndpoint>| uses(&endpoint.egress) || uses(&endpoint.ingress);
        let endpoints = self.desired.values().filter(concerned);
        dirty.endpoints.extend(endpoints.map(|endpoint| endpoint.key.clone()));
    }

    /// Returns the policies of all local endpoints that are not left out, by their namespaces.
    fn suspects(&self) -> Groups {
        let mut groups = Groups::new();
        let mut seen = HashSet::new();
        let policies = self
            .desired
            .values()
            .flat_map(|endpoint| [&endpoint.egress, &endpoint.ingress]);
        let policies = policies.filter(|policy| policy.closed.is_none());
        for list in policies.flat_map(|policy| lists(policy)) {
            if !seen.insert((&list.key, Arc::as_ptr(&list.rules))) {
                continue;
            }
            let group = groups.entry(list.key.namespace.clone()).or_default();
            let suspect = group.entry(list.key.clone()).or_default();
            let sets = list.rules.iter().flat_map(sets_of);
            suspect.sets.extend(sets.filter_map(|id| self.sets.find(id)));
            suspect.rules.push(list.rules.clone());
        }
        for group in groups.values_mut() {
            group.retain(|key, suspect| !self.left_out.has(key, &suspect.rules));
        }
        groups
    }

    /// Takes the heaviest policy out of the heaviest group. Returns its weight, too; `None` if
    /// nothing weighs anything.
    fn heaviest(&self, groups: &mut Groups, map: &str) -> Option<(ResourceKey, Suspect, usize)> {
        let of_group = |policies: &BTreeMap<ResourceKey, Suspect>| {
            let sets: BTreeSet<&SetNo> = policies.values().flat_map(|suspect| &suspect.sets).collect();
            weight(&self.sets, sets.into_iter(), map)
        };
        let (_, policies) = groups.iter_mut().max_by_key(|(_, policies)| of_group(policies))?;
        let of_policy = |suspect: &Suspect| weight(&self.sets, suspect.sets.iter(), map);
        let (key, weight) = policies
            .iter()
            .map(|(key, suspect)| (key.clone(), of_policy(suspect)))
            .filter(|(_, weight)| *weight > 0)
            .max_by_key(|(_, weight)| *weight)?;
        let suspect = policies.remove(&key)?;
        Some((key, suspect, weight))
    }
}
