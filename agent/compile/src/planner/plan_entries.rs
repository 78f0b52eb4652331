//! The part of a plan that concerns map entries, and the endpoints whose flows must be judged again
//! because of them.
//!
//! In: what changed, and the endpoints as they will be. Out: changes of entries, new classes,
//! directions to be revoked. Never: programs.

use std::collections::{BTreeSet, HashSet};

use felid_model::ResourceKey;
use felid_model::resolved::NamedPortMember;
use ipnet::IpNet;

use super::Planner;
use super::compiler::Compiler;
use super::draft::{Dirty, Draft, InForce};
use super::entries::{Moved, Sources, is_host, with_all_below};
use super::policy::Input;
use super::types::PlanError;
use crate::transaction::{EndpointChange, EndpointId, EndpointPlan, ProgramId};

impl<C: Compiler> Planner<C> {
    /// Finds all prefixes and named ports whose entries may have changed.
    fn entries_to_plan(&mut self, dirty: &Dirty, draft: &Draft) -> (HashSet<IpNet>, BTreeSet<NamedPortMember>) {
        let mut prefixes = dirty.prefixes.clone();
        let mut named_ports = dirty.named_ports.clone();
        for set in self.sets.stage_changes() {
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
        with_all_below(&mut prefixes, &self.addresses);
        (prefixes, named_ports)
    }

    /// Plans the entries of all addresses, prefixes and named ports whose memberships may have
    /// changed.
    pub(super) fn plan_entries(&mut self, dirty: &Dirty, draft: &mut Draft) -> Result<(), PlanError> {
        let (prefixes, named_ports) = self.entries_to_plan(dirty, draft);
        let ids = |key: &ResourceKey| match draft.endpoints.get(key) {
            Some(planned) => planned.as_ref().map(|in_force| in_force.id),
            None => self.endpoints.get(key).map(|in_force| in_force.id),
        };
        let mut moved = Moved::new(&self.classes);
        let mut sources = Sources {
            addresses: &self.addresses,
            sets: &self.sets,
            classes: &mut self.classes,
            fresh: self.fresh,
        };
        let transaction = &mut draft.transaction;
        let mut lost_address = HashSet::new();
        let mut new_host = false;
        for prefix in prefixes {
            if !is_host(&prefix) {
                if let Some(change) = self.entries.plan_net(prefix, &mut sources, &mut moved) {
                    transaction.nets.insert(prefix, change);
                }
                continue;
            }
            let address = prefix.addr();
            if let Some((old, change)) = self.entries.plan_peer(address, &mut sources, ids, &mut moved) {
                lost_address.extend(
                    old.and_then(|old| old.endpoint)
                        .filter(|&id| change.after.endpoint != Some(id)),
                );
                new_host |= change.after.host && !old.is_some_and(|old| old.host);
                transaction.peers.insert(address, change);
            }
        }
        for member in named_ports {
            if let Some(change) = self.entries.plan_named_port(member, &mut sources, &mut moved) {
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

    pub(super) fn plan_endpoint_changes(&self, draft: &mut Draft) {
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
}
