//! One plan: from what changed in the records to a transaction, or to nothing at all.
//!
//! In: what changed since the last plan. Out: a transaction, and what becomes in force once it is
//! complete. Never: anything that cannot be rolled back.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::LocalEndpoint;

use super::compiler::Compiler;
use super::draft::{Dirty, Draft, InForce};
use super::entries::EntriesAfter;
use super::fallback::Wanted;
use super::policy::Input;
use super::types::{PlanError, identity};
use super::{Outstanding, Planner};
use crate::transaction::{EndpointChange, EndpointId, Transaction};

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
        let changes = self.programs.stage_changes(&mut self.sets);
        let transaction = &mut draft.transaction;
        transaction.new_programs = changes.new_programs;
        transaction.old_programs = changes.old_programs;
        transaction.new_counters = changes.new_counters;
        transaction.old_counters = changes.old_counters;
        self.plan_entries(dirty, &mut draft)?;
        self.plan_endpoint_changes(&mut draft);
        draft.transaction.next_endpoint_id = draft.next_id;
        self.next_endpoint_id = draft.next_id;
        self.note_fallbacks(&affected, draft.fallbacks);
        let outstanding = Outstanding {
            endpoints: draft.endpoints,
            entries: EntriesAfter::of(&draft.transaction),
        };
        let empty = draft.transaction.is_empty();
        Ok(Some((draft.transaction, outstanding)).filter(|_| !empty))
    }

    /// Endpoints that a change may concern: their own records, memberships of their own addresses,
    /// their own named ports.
    fn affected(&self, dirty: &Dirty) -> BTreeSet<ResourceKey> {
        let mut affected = dirty.endpoints.clone();
        for &prefix in &dirty.prefixes {
            affected.extend(self.addresses.owners_below(prefix).cloned());
        }
        for member in &dirty.named_ports {
            affected.extend(self.addresses.owners(member.address).cloned());
        }
        if !dirty.endpoints.is_empty() {
            // Whether an old policy can stay depends on the sets that others name.
            affected.extend(self.fallbacks.keys().map(|(key, _)| key.clone()));
        }
        affected
    }

    /// Returns what an endpoint's two programs are to be made of, egress and ingress in the
    /// planner's order.
    fn choose_inputs(
        &mut self,
        endpoint: &Arc<LocalEndpoint>,
        old: Option<&InForce>,
        draft: &mut Draft,
    ) -> Result<Option<[Arc<Input>; 2]>, PlanError> {
        let wanted = self.policies.inputs(endpoint, &self.addresses, &self.sets);
        let mut inputs = Vec::with_capacity(2);
        for (index, input) in wanted.into_iter().enumerate() {
            let before = old.and_then(|old| old.inputs.get(index)).cloned();
            let wanted = Wanted {
                endpoint,
                input,
                before,
            };
            inputs.push(self.choose(wanted, draft)?);
        }
        Ok(<[Arc<Input>; 2]>::try_from(inputs).ok())
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
            Some(old) => Some(old.id),
            None => self.endpoint_id(identity, draft)?,
        };
        let Some(id) = id else {
            if let Some(old) = &old {
                self.leave(key, old, draft);
                draft.endpoints.insert(key.clone(), None);
            }
            self.note_no_room(&endpoint, draft);
            return Ok(());
        };
        let Some(inputs) = self.choose_inputs(&endpoint, old.as_ref(), draft)? else {
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

    /// Returns the place of an endpoint that has none yet: the one it had in a previous run, or a
    /// new one; `None` if there is no room.
    fn endpoint_id(&mut self, identity: [u32; 4], draft: &mut Draft) -> Result<Option<EndpointId>, PlanError> {
        if let Some(&id) = self.adopted.get(&identity) {
            return Ok(Some(id));
        }
        let Some(index) = self.indexes.take() else {
            return Ok(None);
        };
        let id = EndpointId {
            index,
            id: draft.next_id,
        };
        draft.next_id = draft.next_id.checked_add(1).ok_or(PlanError::Ids)?;
        draft.new.insert(id);
        Ok(Some(id))
    }
}
