//! What the planner says about itself. Everything is as of the last completed transaction, but for problems, which are as of the
//! last plan.

use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::LocalEndpoint;

use super::compiler::Compiler;
use super::plan::InForce;
use super::types::{EndpointStatus, PlanError, Problem, Stats};
use super::{Planner, PlannerOptions};
use crate::program::Program;
use crate::transaction::{CounterName, EndpointId, ProgramId};

impl<C: Compiler> Planner<C> {
    /// The sizes it was made with.
    pub fn options(&self) -> &PlannerOptions {
        &self.options
    }

    /// Sizes, for metrics. While a transaction is under way, slots, classes, programs and counters of both states are counted.
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

    /// Whether a transaction is under way.
    pub fn busy(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Why the last plan was refused, if nothing changed since.
    pub fn refused(&self) -> Option<&PlanError> {
        self.refused.as_ref()
    }

    /// Policies that are not in force as they should be.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.troubles.values().map(|trouble| &trouble.problem)
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

    /// What is in force for an endpoint.
    pub fn endpoint(&self, key: &ResourceKey) -> Option<EndpointStatus> {
        self.endpoints.get(key).and_then(|in_force| self.status(in_force))
    }

    /// What is in force for all endpoints, sorted by key.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointStatus> + '_ {
        self.endpoints.values().filter_map(|in_force| self.status(in_force))
    }

    /// The same without their programs, which take a moment to find.
    pub fn in_force(&self) -> impl Iterator<Item = (EndpointId, &LocalEndpoint)> + Clone + '_ {
        self.endpoints
            .values()
            .map(|in_force| (in_force.id, &*in_force.endpoint))
    }

    /// A program, as long as it is loaded.
    pub fn program(&self, id: ProgramId) -> Option<&Arc<Program>> {
        self.programs.get(id)
    }

    /// Names of the policy counters.
    pub fn counters(&self) -> impl Iterator<Item = (u32, &CounterName)> {
        self.programs.counters().names()
    }
}
