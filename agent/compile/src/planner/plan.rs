//! One plan: from what changed in the records to a transaction, or to nothing at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, NamedPortMember, ResolvedPolicy, SetIds};
use ipnet::IpNet;

use super::compiler::Compiler;
use super::entries::{Moved, Outcome, Sources, is_host, with_all_below};
use super::policy::Input;
use super::types::{PlanError, Problem, identity};
use super::{Outstanding, Planner};
use crate::compile::Direction;
use crate::transaction::{EndpointChange, EndpointId, EndpointPlan, ProgramId, Transaction};

/// Both directions, in the order of [`InForce::inputs`].
const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Why an endpoint is closed whose policy has no program, in listings. The same for all of them, so that they share it.
const CLOSED: &str = "the policy cannot be compiled";

/// What changed and is not planned yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) endpoints: BTreeSet<ResourceKey>,
    pub(super) prefixes: HashSet<IpNet>,
    pub(super) named_ports: BTreeSet<NamedPortMember>,
}

impl Dirty {
    fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.prefixes.is_empty() && self.named_ports.is_empty()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.prefixes.extend(other.prefixes);
        self.named_ports.extend(other.named_ports);
    }
}

/// What is in force for an endpoint.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) id: EndpointId,
    pub(super) identity: [u32; 4],
    pub(super) endpoint: Arc<LocalEndpoint>,
    /// What its programs were compiled from, egress first.
    pub(super) inputs: [Arc<Input>; 2],
}

/// A policy that is not in force as it should be, and what it should have been compiled from.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) problem: Problem,
    pub(super) wanted: Input,
}

/// A plan in the making.
#[derive(Debug, Default)]
struct Draft {
    endpoints: BTreeMap<ResourceKey, Option<InForce>>,
    /// Endpoints whose plan is to be in the transaction: directions to be revoked, egress first.
    set: BTreeMap<ResourceKey, [bool; 2]>,
    new: HashSet<EndpointId>,
    troubles: BTreeMap<(ResourceKey, Direction), Trouble>,
    /// Every set that a policy of any endpoint names, by the records; only found out if needed.
    named: Option<SetIds>,
    missing_endpoints: usize,
    next_id: u32,
    transaction: Transaction,
}

/// Whether every address of the first list is in the second.
fn keeps_addresses(old: &LocalEndpoint, new: &LocalEndpoint) -> bool {
    old.addresses.iter().all(|address| new.addresses.contains(address))
}

impl<C: Compiler> Planner<C> {
    /// Plans what changed. On error everything staged is still there, to be rolled back.
    pub(super) fn draft(&mut self, dirty: &Dirty) -> Result<Option<(Transaction, Outstanding)>, PlanError> {
        if dirty.is_empty() && !self.fresh {
            return Ok(None);
        }
        let mut draft = Draft {
            next_id: self.next_endpoint_id,
            ..Draft::default()
        };
        let affected = self.affected(dirty);
        for key in &affected {
            self.plan_endpoint(key, &mut draft)?;
        }
        if self.fresh {
            let kept: HashSet<EndpointId> = draft.endpoints.values().flatten().map(|in_force| in_force.id).collect();
            for &id in self.adopted.values().filter(|id| !kept.contains(id)) {
                draft
                    .transaction
                    .endpoints
                    .insert(id, EndpointChange::Gone { key: None });
            }
        }
        if draft.missing_endpoints > 0 {
            let (needed, available) = (
                self.indexes.used() + draft.missing_endpoints,
                self.options.max_endpoints.saturating_sub(1) as usize,
            );
            return Err(PlanError::Capacity {
                map: "endpoints",
                needed,
                available,
            });
        }
        let settled = self.programs.settle(&mut self.sets);
        let transaction = &mut draft.transaction;
        transaction.new_programs = settled.new_programs;
        transaction.old_programs = settled.old_programs;
        transaction.new_counters = settled.new_counters;
        transaction.old_counters = settled.old_counters;
        self.plan_entries(dirty, &mut draft)?;
        self.plan_endpoint_changes(&mut draft);
        draft.transaction.next_endpoint_id = draft.next_id;
        self.next_endpoint_id = draft.next_id;
        self.note_troubles(&affected, draft.troubles);
        let outstanding = Outstanding {
            endpoints: draft.endpoints,
            outcome: Outcome::of(&draft.transaction),
        };
        let empty = draft.transaction.is_empty();
        Ok(Some((draft.transaction, outstanding)).filter(|_| !empty))
    }

    /// Endpoints that a change may concern: their own records, memberships of their own addresses, their own named ports.
    fn affected(&self, dirty: &Dirty) -> BTreeSet<ResourceKey> {
        let mut affected = dirty.endpoints.clone();
        for &prefix in &dirty.prefixes {
            affected.extend(self.book.owners_below(prefix).cloned());
        }
        for member in &dirty.named_ports {
            affected.extend(self.book.owners(member.address).cloned());
        }
        if !dirty.endpoints.is_empty() {
            // Whether an old policy can stay depends on the sets that others name.
            affected.extend(self.troubles.keys().map(|(key, _)| key.clone()));
        }
        affected
    }

    fn plan_endpoint(&mut self, key: &ResourceKey, draft: &mut Draft) -> Result<(), PlanError> {
        let old = self.endpoints.get(key).cloned();
        let Some(endpoint) = self.desired.get(key).cloned() else {
            if let Some(old) = old {
                self.leave(key, &old, draft);
                draft.endpoints.insert(key.clone(), None);
            }
            return Ok(());
        };
        let identity = identity(key, &endpoint.interface_name);
        let same = old.as_ref().filter(|old| old.identity == identity);
        let id = match same {
            Some(old) => old.id,
            None => self.endpoint_id(identity, draft)?,
        };
        let mut inputs = Vec::with_capacity(2);
        for (index, wanted) in self
            .policies
            .inputs(&endpoint, &self.book, &self.sets)
            .into_iter()
            .enumerate()
        {
            let before = old.as_ref().and_then(|old| old.inputs.get(index)).cloned();
            inputs.push(self.choose(key, &endpoint, wanted, before, draft)?);
        }
        let Ok(inputs) = <[Arc<Input>; 2]>::try_from(inputs) else {
            return Ok(());
        };
        if let Some(same) = same {
            if *same.endpoint == *endpoint && same.inputs == inputs {
                return Ok(());
            }
            let moved = !keeps_addresses(&same.endpoint, &endpoint);
            let changed = [0, 1].map(|i| {
                let (old, new) = (same.inputs.get(i), inputs.get(i));
                moved || old.and_then(|i| self.programs.program_of(i)) != new.and_then(|i| self.programs.program_of(i))
            });
            draft.set.insert(key.clone(), changed);
            same.inputs.iter().for_each(|input| self.programs.stage_user(input, -1));
        } else {
            if let Some(old) = &old {
                self.leave(key, old, draft);
            }
            draft.set.insert(key.clone(), [!draft.new.contains(&id); 2]);
        }
        inputs.iter().for_each(|input| self.programs.stage_user(input, 1));
        draft.endpoints.insert(
            key.clone(),
            Some(InForce {
                id,
                identity,
                endpoint,
                inputs,
            }),
        );
        Ok(())
    }

    /// An endpoint, or its old interface, goes.
    fn leave(&mut self, key: &ResourceKey, old: &InForce, draft: &mut Draft) {
        old.inputs.iter().for_each(|input| self.programs.stage_user(input, -1));
        draft
            .transaction
            .endpoints
            .insert(old.id, EndpointChange::Gone { key: Some(key.clone()) });
    }

    /// The place of an endpoint that has none yet: the one it had in a previous run, or a new one.
    fn endpoint_id(&mut self, identity: [u32; 4], draft: &mut Draft) -> Result<EndpointId, PlanError> {
        if let Some(&id) = self.adopted.get(&identity) {
            return Ok(id);
        }
        let Some(index) = self.indexes.take() else {
            draft.missing_endpoints += 1;
            return Ok(EndpointId { index: 0, id: 0 });
        };
        let id = EndpointId {
            index,
            id: draft.next_id,
        };
        draft.next_id = draft.next_id.checked_add(1).ok_or(PlanError::Ids)?;
        draft.new.insert(id);
        Ok(id)
    }

    /// The input to run for an endpoint's direction: the wanted one; if that has no program, the old policy; if that cannot
    /// stay, one that denies all.
    fn choose(
        &mut self,
        key: &ResourceKey,
        endpoint: &LocalEndpoint,
        wanted: Input,
        before: Option<Arc<Input>>,
        draft: &mut Draft,
    ) -> Result<Arc<Input>, PlanError> {
        let direction = wanted.policy.direction;
        let reason = match self.obtain(wanted.clone()) {
            Ok(input) => return Ok(input),
            Err(reason) => reason,
        };
        let mut trouble = Trouble {
            problem: Problem {
                endpoint: key.clone(),
                direction,
                closed: false,
                reason,
            },
            wanted,
        };
        // The calculation says nothing of sets that no policy names any more, so a policy that names such sets cannot be kept:
        // it would run on members as they once were.
        let named = draft.named.get_or_insert_with(|| self.sets_named());
        let kept = before.map(|before| before.policy.clone());
        if let Some(policy) = kept.filter(|policy| policy.sets().all(|set| named.contains(set))) {
            let own = policy.own(endpoint, &self.book, &self.sets);
            if let Ok(input) = self.obtain(Input { policy, own }) {
                trouble.problem.closed = input.policy.resolved.closed.is_some();
                draft.troubles.insert((key.clone(), direction), trouble);
                return Ok(input);
            }
        }
        trouble.problem.closed = true;
        draft.troubles.insert((key.clone(), direction), trouble);
        let closed = Arc::new(ResolvedPolicy {
            closed: Some(CLOSED.into()),
            ..ResolvedPolicy::default()
        });
        let policy = self.policies.intern(direction, &closed);
        let own = policy.own(endpoint, &self.book, &self.sets);
        self.obtain(Input { policy, own }).map_err(PlanError::Closed)
    }

    /// The shared form of an input, or why it has no program.
    fn obtain(&mut self, input: Input) -> Result<Arc<Input>, Arc<str>> {
        self.programs.obtain(&self.compiler, input, &mut self.sets)
    }

    /// Every set that a policy of any endpoint names, by the records.
    fn sets_named(&mut self) -> SetIds {
        let mut named = SetIds::new();
        let mut seen = HashSet::new();
        for endpoint in self.desired.values() {
            for (direction, resolved) in DIRECTIONS.into_iter().zip([&endpoint.egress, &endpoint.ingress]) {
                if seen.insert((direction, Arc::as_ptr(resolved))) {
                    named.extend(self.policies.intern(direction, resolved).sets().cloned());
                }
            }
        }
        named
    }

    /// Plans the entries of all addresses, prefixes and named ports whose memberships may have changed.
    fn plan_entries(&mut self, dirty: &Dirty, draft: &mut Draft) -> Result<(), PlanError> {
        let mut prefixes = dirty.prefixes.clone();
        let mut named_ports = dirty.named_ports.clone();
        for set in self.sets.settle() {
            prefixes.extend(self.sets.prefixes(set));
            named_ports.extend(self.sets.named_ports(set));
        }
        for key in draft.endpoints.keys() {
            let both = [
                self.endpoints.get(key),
                draft.endpoints.get(key).and_then(Option::as_ref),
            ];
            for address in both
                .into_iter()
                .flatten()
                .flat_map(|in_force| &in_force.endpoint.addresses)
            {
                prefixes.insert(IpNet::from(*address));
            }
        }
        if self.fresh {
            let (all_prefixes, all_named_ports) = self.entries.all();
            prefixes.extend(all_prefixes);
            named_ports.extend(all_named_ports);
        }
        with_all_below(&mut prefixes, &self.book);

        let ids = |key: &ResourceKey| match draft.endpoints.get(key) {
            Some(planned) => planned.as_ref().map(|in_force| in_force.id),
            None => self.endpoints.get(key).map(|in_force| in_force.id),
        };
        let mut moved = Moved::new(&self.classes);
        let mut sources = Sources {
            book: &self.book,
            sets: &self.sets,
            classes: &mut self.classes,
        };
        let transaction = &mut draft.transaction;
        let mut lost_address = HashSet::new();
        let mut new_host = false;
        for prefix in prefixes {
            if !is_host(&prefix) {
                if let Some(change) = self.entries.plan_net(prefix, &mut sources, &mut moved, self.fresh) {
                    transaction.nets.insert(prefix, change);
                }
                continue;
            }
            let address = prefix.addr();
            if let Some((old, change)) = self
                .entries
                .plan_peer(address, &mut sources, ids, &mut moved, self.fresh)
            {
                lost_address.extend(
                    old.and_then(|old| old.endpoint)
                        .filter(|&id| change.after.endpoint != Some(id)),
                );
                new_host |= change.after.host && !old.is_some_and(|old| old.host);
                transaction.peers.insert(address, change);
            }
        }
        for member in named_ports {
            if let Some(change) = self
                .entries
                .plan_named_port(member, &mut sources, &mut moved, self.fresh)
            {
                transaction.named_ports.insert(member, change);
            }
        }
        if let Some(needed) = self.classes.overflow() {
            let available = self.options.max_classes.saturating_sub(1) as usize;
            return Err(PlanError::Capacity {
                map: "classes",
                needed,
                available,
            });
        }
        self.entries.check(transaction, &self.options)?;
        transaction.classes = self.classes.staged();
        self.revoke(draft, &moved, &lost_address, new_host);
        Ok(())
    }

    /// Finds the endpoints whose flows must be judged again though their programs stay as they are.
    fn revoke(&self, draft: &mut Draft, moved: &Moved, lost_address: &HashSet<EndpointId>, new_host: bool) {
        let hit = if moved.any() {
            self.programs.revoked(&moved.lost, &moved.gained)
        } else {
            HashSet::new()
        };
        if hit.is_empty() && lost_address.is_empty() && !new_host {
            return;
        }
        for (key, old) in &self.endpoints {
            let now = match draft.endpoints.get(key) {
                Some(Some(now)) if now.id == old.id => now,
                Some(_) => continue,
                None => old,
            };
            // An address of the host is judged by the host's own rules, too.
            let all = lost_address.contains(&now.id);
            let [egress, ingress] = now.inputs.each_ref().map(|input| all || hit.contains(input));
            let revoked = [egress || new_host, ingress];
            if revoked != [false; 2] {
                let flags = draft.set.entry(key.clone()).or_default();
                *flags = [flags[0] || revoked[0], flags[1] || revoked[1]];
            }
        }
    }

    fn plan_endpoint_changes(&self, draft: &mut Draft) {
        for (key, &[revoke_egress, revoke_ingress]) in &draft.set {
            let planned = draft
                .endpoints
                .get(key)
                .and_then(Option::as_ref)
                .or_else(|| self.endpoints.get(key));
            let Some(InForce {
                id,
                endpoint,
                inputs: [egress, ingress],
                ..
            }) = planned
            else {
                continue;
            };
            let program = |input: &Input| self.programs.program_of(input).unwrap_or(ProgramId(0));
            let plan = EndpointPlan {
                endpoint: endpoint.clone(),
                egress: program(egress),
                ingress: program(ingress),
                revoke_egress,
                revoke_ingress,
            };
            draft.transaction.endpoints.insert(*id, EndpointChange::Set(plan));
        }
    }

    /// Remembers what could not be put in force among the endpoints that were looked at.
    fn note_troubles(
        &mut self,
        affected: &BTreeSet<ResourceKey>,
        troubles: BTreeMap<(ResourceKey, Direction), Trouble>,
    ) {
        if self.troubles.is_empty() && troubles.is_empty() {
            return;
        }
        self.troubles.retain(|(key, _), _| !affected.contains(key));
        self.troubles.extend(troubles);
        let wanted: HashSet<&Input> = self.troubles.values().map(|trouble| &trouble.wanted).collect();
        self.programs.forget_rejected(|input| wanted.contains(input));
    }
}
