//! Handlers of the servers' requests, on a read-only view of the pipeline.
//!
//! The pipeline calls them between two rounds, so an answer is one consistent moment. What takes
//! long (listing a full connection table) is done on a thread of its own.

mod endpoints;
mod flows;
mod nats;
mod programs;
mod sample;
mod status;
pub(super) mod wait;

use felid_calc::Calc;
use felid_compile::planner::Planner;
use felid_dataplane::Inspection;

use crate::explain::Snapshot;
use crate::text;

use super::handle::{Progress, Request};
use super::parts::{Configuration, Programming, Records, Reporting, Revisions, Translations};

/// Reasons against readiness that are told; how many more there are is said.
const REASONS: usize = 100;

/// Everything that answers are made of.
pub(super) struct View<'a, D> {
    pub(super) dataplane: &'a D,
    pub(super) calc: &'a Calc,
    pub(super) planner: &'a Planner,
    pub(super) configuration: &'a Configuration,
    pub(super) records: &'a Records,
    pub(super) programming: &'a Programming,
    pub(super) translations: &'a Translations,
    pub(super) revisions: &'a Revisions,
    pub(super) reporting: &'a Reporting,
}

impl<D: Inspection> View<'_, D> {
    /// Answers a request. Whoever asked may have gone: then nobody minds.
    pub(super) fn handle(&self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(self.status()))),
            Request::Endpoints(reply) => drop(reply.send(Ok(self.endpoints()))),
            Request::Flows(filter, reply) => self.flows(filter, reply),
            Request::Nats(reply) => self.list_nats(reply),
            Request::Program(name, direction, reply) => drop(reply.send(self.programs(&name, direction))),
            Request::Snapshot(reply) => drop(reply.send(Ok(self.snapshot()))),
            Request::Progress(reply) => drop(reply.send(Ok(self.progress()))),
            Request::Sample(reply) => drop(reply.send(self.sample())),
            // The pipeline keeps it until it is so.
            Request::Wait(..) => {}
        }
    }

    /// Returns what is in force, except what the planner or the kernel refused.
    fn snapshot(&self) -> Snapshot {
        let settings = self.configuration.settings();
        let hosts = self.dataplane.host_addresses();
        Snapshot::new(&settings.node.0, self.calc, hosts, settings.closes_host())
    }

    fn progress(&self) -> Progress {
        Progress {
            synced: self.records.synced(),
            pending: self.programming.pending(),
        }
    }

    /// Returns why the agent is not ready; empty = it is.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.records.was_in_sync() {
            let datastore = &self.configuration.settings().datastore;
            reasons.push(format!("{datastore} has not been read completely yet"));
        } else if !self.programming.is_programmed() {
            reasons.push("the kernel has not been programmed yet".to_owned());
        }
        reasons.extend(self.reporting.failures.blocking());
        reasons.extend(self.records.blocking());
        text::shown_list(reasons, REASONS)
    }
}
