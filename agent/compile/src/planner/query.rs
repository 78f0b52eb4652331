//! What the planner says about itself. Everything is as of the last completed transaction, but for
//! problems, which are as of the last plan.

use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::LocalEndpoint;

use super::compiler::Compiler;
use super::draft::InForce;
use super::types::{EndpointStatus, PlanError, PolicyFailure, Stats};
use super::{Planner, PlannerOptions};
use crate::program::Program;
use crate::transaction::{CounterName, EndpointId, ProgramId};

impl<C: Compiler> Planner<C> {
    /// Returns the sizes that the planner was made with.
    pub fn options(&self) -> &PlannerOptions {
        &self.options
    }

    /// Returns the sizes of what is planned, for metrics. While a transaction is under way, slots,
    /// classes, programs and counters of the old and of the new state are counted.
    pub fn stats(&self) -> Stats {
        let (programs, program_users) = self.programs.counts();
        let mut stats = Stats {
            slots: self.sets.slots_used(),
            classes: self.classes.used(),
            programs,
            program_users,
            endpoints: self.endpoints.len(),
            counters: self.programs.counters().names().count(),
            counters_full: self.programs.counters().full(),
            ..Stats::default()
        };
        self.entries.fill(&mut stats);
        stats
    }

    /// Returns whether a transaction is under way.
    pub fn busy(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Returns why the last plan was refused, if nothing has changed since.
    pub fn refused(&self) -> Option<&PlanError> {
        self.refused.as_ref()
    }

    /// Returns the policies that are not in force as they should be.
    pub fn problems(&self) -> impl Iterator<Item = &PolicyFailure> {
        self.fallbacks.values().map(|fallback| &fallback.problem)
    }

    fn status(&self, in_force: &InForce) -> Option<EndpointStatus> {
        let [egress, ingress] = in_force.inputs.each_ref().map(|input| self.programs.program_of(input));
        Some(EndpointStatus {
            id: in_force.id,
            endpoint: in_force.endpoint.clone(),
            egress: egress?,
            ingress: ingress?,
        })
    }

    /// Returns what is in force for an endpoint, or `None` if it has nothing yet.
    pub fn endpoint(&self, key: &ResourceKey) -> Option<EndpointStatus> {
        self.endpoints.get(key).and_then(|in_force| self.status(in_force))
    }

    /// Returns what is in force for each endpoint, in the order of their keys.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointStatus> + '_ {
        self.endpoints.values().filter_map(|in_force| self.status(in_force))
    }

    /// Returns the endpoints in force with their ids, without looking for their programs.
    pub fn in_force(&self) -> impl Iterator<Item = (EndpointId, &LocalEndpoint)> + Clone + '_ {
        self.endpoints
            .values()
            .map(|in_force| (in_force.id, &*in_force.endpoint))
    }

    /// Returns a program, as long as it is loaded.
    pub fn program(&self, id: ProgramId) -> Option<&Arc<Program>> {
        self.programs.get(id)
    }

    /// Returns the names of the policy counters by their indexes.
    pub fn counters(&self) -> impl Iterator<Item = (u32, &CounterName)> {
        self.programs.counters().names()
    }
}
