//! Translations of the local endpoints: which are in force, and which are not and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_compile::nat::{Claim, Conflict, HostAddresses, Mappings, Resolved, resolve};
use felid_compile::planner::Planner;
use felid_compile::transaction::{EndpointChange, Transaction};
use felid_dataplane::{AddressTranslation, DataplaneError, Inspection, KernelError};

use crate::config::Settings;
use crate::run::names::full_name;

/// What the pipeline knows of translations.
#[derive(Debug)]
pub(in crate::run) struct Translations {
    /// Something that decides which are in force is not what it was.
    dirty: bool,
    /// Not in force, and why.
    conflicts: BTreeMap<Claim, Conflict>,
}

impl Translations {
    pub(in crate::run) const fn new() -> Self {
        Self {
            dirty: true,
            conflicts: BTreeMap::new(),
        }
    }

    /// Has translations decided anew at the next opportunity.
    pub(in crate::run) const fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Returns whether they have to be decided anew.
    pub(in crate::run) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Returns those that are not in force because of others or of the host, and why.
    pub(in crate::run) const fn conflicts(&self) -> &BTreeMap<Claim, Conflict> {
        &self.conflicts
    }

    /// Ends the translations that a transaction leaves no ground for, before it frees or gives away
    /// what they lead to.
    pub(in crate::run) fn retire(
        settings: &Settings,
        transaction: &Transaction,
        planner: &Planner,
        dataplane: &mut (impl AddressTranslation + Inspection),
    ) -> Result<(), KernelError> {
        if transaction.endpoints.is_empty() {
            return Ok(());
        }
        let kept = planner.in_force();
        let kept = kept.filter(|(id, _)| !transaction.endpoints.contains_key(id));
        let set = transaction.endpoints.iter().filter_map(|(id, change)| match change {
            EndpointChange::Set(plan) => Some((*id, &*plan.endpoint)),
            EndpointChange::Gone { .. } => None,
        });
        let wanted = if settings.floating_ips {
            resolve(kept.chain(set), &host_addresses(settings, dataplane)).mappings
        } else {
            Mappings::default()
        };
        dataplane.retire_nats(&wanted)
    }

    /// Makes the translations of the endpoints in force those in force. Returns what could not be
    /// done to the host's network.
    pub(in crate::run) async fn follow(
        &mut self,
        settings: &Settings,
        planner: &Planner,
        dataplane: &mut (impl AddressTranslation + Inspection),
    ) -> Result<Vec<DataplaneError>, KernelError> {
        let resolved = if settings.floating_ips {
            resolve(planner.in_force(), &host_addresses(settings, dataplane))
        } else {
            Resolved::default()
        };
        let (no_room, errors) = dataplane.set_nats(&resolved.mappings).await?;
        let mut conflicts = resolved.conflicts;
        conflicts.extend(without_room(&no_room, &resolved.mappings, planner));
        self.note(conflicts);
        self.dirty = false;
        Ok(errors)
    }

    /// Logs each conflict once, and when it is over.
    fn note(&mut self, conflicts: BTreeMap<Claim, Conflict>) {
        for (claim, conflict) in &conflicts {
            if self.conflicts.get(claim) != Some(conflict) {
                let endpoint = full_name(&claim.endpoint);
                tracing::warn!(external = %claim.external, internal = %claim.internal, endpoint, "not translated: {conflict}");
            }
        }
        for claim in self.conflicts.keys().filter(|claim| !conflicts.contains_key(*claim)) {
            let endpoint = full_name(&claim.endpoint);
            tracing::info!(external = %claim.external, internal = %claim.internal, endpoint, "the conflict is over, or nobody claims it any more");
        }
        self.conflicts = conflicts;
    }
}

/// The addresses of the host that decide which translations may be in force.
fn host_addresses(settings: &Settings, dataplane: &impl Inspection) -> HostAddresses {
    HostAddresses {
        own: dataplane.host_addresses(),
        in_use: dataplane.host_uses(),
        allowed: settings.external_ip_allowed.0.clone(),
    }
}

/// The conflicts of the external addresses for which the kernel has no room.
fn without_room(
    externals: &BTreeSet<IpAddr>,
    mappings: &Mappings,
    planner: &Planner,
) -> impl Iterator<Item = (Claim, Conflict)> {
    externals.iter().filter_map(|external| {
        let mapping = mappings.get(external)?;
        let (_, endpoint) = planner.in_force().find(|(id, _)| *id == mapping.endpoint)?;
        let claim = Claim {
            external: *external,
            internal: mapping.internal,
            endpoint: endpoint.key.clone(),
        };
        Some((claim, Conflict::NoRoom))
    })
}
