//! The records: how the connection to the datastore stands, and what is wrong with what it gives.

use std::collections::BTreeSet;
use std::sync::Arc;

use felid_calc::{Calc, Inconsistency};
use felid_datastore::{Batch, InForce, Problems, Update};
use felid_model::Severity;

use crate::api;
use crate::metrics::Metrics;

use crate::run::connection::Connection;

use super::Revisions;

/// What is known of the records, beside what the calculation makes of them.
#[derive(Debug)]
pub(in crate::run) struct Records {
    connection: Connection,
    /// How often the datastore has said that it is in sync.
    synced: u64,
    /// What the datastore found wrong with single documents.
    problems: Arc<Problems>,
    /// What the calculation found wrong between records.
    between: Vec<Inconsistency>,
    /// The nodes that endpoints are of, where none is of this one.
    other_nodes: BTreeSet<String>,
}

/// What a batch held.
#[derive(Debug)]
pub(in crate::run) struct Taken {
    /// How many records it changes.
    pub(in crate::run) changes: usize,
    /// What the datastore held when this barrier was asked for has been taken in.
    pub(in crate::run) barrier: Option<u64>,
}

/// Nodes that are named where no endpoint is of this one.
const NAMED_NODES: usize = 10;

impl Records {
    pub(in crate::run) fn new(metrics: &Metrics) -> Self {
        Self {
            connection: Connection::new(metrics),
            synced: 0,
            problems: Arc::default(),
            between: Vec::new(),
            other_nodes: BTreeSet::new(),
        }
    }

    /// Hands a batch over to the calculation.
    pub(in crate::run) fn take_batch(
        &mut self,
        batch: Batch,
        (calc, revisions): (&mut Calc, &mut Revisions),
        metrics: &Metrics,
    ) -> Taken {
        let mut changes = 0;
        let mut barrier = None;
        for update in batch.updates {
            match update {
                Update::Apply(resource) => {
                    revisions.apply(&resource);
                    calc.apply(resource);
                    changes += 1;
                }
                Update::Delete(key) => {
                    revisions.delete(&key);
                    calc.delete(&key);
                    changes += 1;
                }
                Update::ResyncBegins => self.connection.resync_begins(metrics),
                Update::InSync => {
                    self.synced += 1;
                    self.connection.in_sync(metrics);
                }
                Update::Lost(reason) => self.connection.lost(reason, metrics),
                Update::Barrier(number) => barrier = barrier.max(Some(number)),
            }
        }
        metrics.records.updates.inc_by(changes as u64);
        self.problems = batch.problems;
        self.count(metrics);
        Taken { changes, barrier }
    }

    /// Takes in what the calculation finds wrong between records. What is new and what is gone is
    /// logged.
    pub(in crate::run) fn follow(&mut self, problems: Vec<Inconsistency>, metrics: &Metrics) {
        // Bad policies are among the datastore's problems, with their place.
        let problems = problems.into_iter();
        let now: Vec<Inconsistency> = problems
            .filter(|problem| !matches!(problem, Inconsistency::BadPolicy { .. }))
            .collect();
        if now == self.between {
            return;
        }
        let known: BTreeSet<Inconsistency> = self.between.iter().map(identity).collect();
        let found: BTreeSet<Inconsistency> = now.iter().map(identity).collect();
        for problem in now.iter().filter(|problem| !known.contains(&identity(problem))) {
            match severity(problem) {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        for problem in self
            .between
            .iter()
            .filter(|problem| !found.contains(&identity(problem)))
        {
            tracing::info!("no longer: {problem}");
        }
        self.between = now;
        self.count(metrics);
    }

    /// Notes of which nodes the endpoints are. Where none is of this node its name may be wrong,
    /// which is logged once.
    pub(in crate::run) fn follow_nodes(&mut self, node: &str, calc: &Calc) {
        let stats = calc.stats();
        let nodes = if stats.local_endpoints == 0 && stats.endpoints > 0 {
            calc.nodes()
        } else {
            BTreeSet::new()
        };
        let other_nodes = if nodes.contains(node) { BTreeSet::new() } else { nodes };
        let is_new = self.other_nodes.is_empty() && !other_nodes.is_empty();
        self.other_nodes = other_nodes;
        if is_new {
            let notice = self.node_notice(node).unwrap_or_default();
            tracing::warn!("{notice}");
        }
    }

    /// Returns what to say where no endpoint is of this node, but some are of others.
    pub(in crate::run) fn node_notice(&self, node: &str) -> Option<String> {
        let names: Vec<&str> = self.other_nodes.iter().take(NAMED_NODES).map(String::as_str).collect();
        let more = match self.other_nodes.len().saturating_sub(NAMED_NODES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!(
            "no endpoint record is of this node, {node:?}; the records are of {names:?}{more}: is the node's name (--node) right?"
        );
        (!names.is_empty()).then_some(text)
    }

    fn count(&self, metrics: &Metrics) {
        let in_documents = self.problems.list().iter().map(|problem| problem.severity);
        let all: Vec<Severity> = in_documents.chain(self.between.iter().map(severity)).collect();
        for wanted in [Severity::Error, Severity::Warning] {
            let count = all.iter().filter(|severity| **severity == wanted).count();
            metrics.records.set_problems(wanted, count);
        }
    }

    /// Returns whether the datastore has been read completely since the agent started.
    pub(in crate::run) const fn was_in_sync(&self) -> bool {
        self.connection.was_in_sync()
    }

    /// Returns how often the datastore has said since the start that it is in sync.
    pub(in crate::run) const fn synced(&self) -> u64 {
        self.synced
    }

    /// Returns the connection as `felid status` shows it.
    pub(in crate::run) fn connection(&self) -> api::Resync {
        self.connection.report()
    }

    /// Returns what the datastore found wrong with single documents.
    pub(in crate::run) fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Returns what the calculation found wrong between records, as of the last time it was looked
    /// at.
    pub(in crate::run) fn between(&self) -> &[Inconsistency] {
        &self.between
    }

    /// Returns the errors that are reasons not to be ready.
    ///
    /// Where the last good version, or another file's, is in force, the node does what it was last
    /// told: a bad edit must not keep an agent from being rolled out. `felid status` and the
    /// metrics say it all the same.
    pub(in crate::run) fn blocking(&self) -> impl Iterator<Item = String> + '_ {
        let unmet = self.problems.errors();
        let unmet = unmet.filter(|problem| !matches!(problem.in_force, InForce::LastGood | InForce::Elsewhere(_)));
        // Between records there is no last good version: something is closed or left out.
        let between = self.between.iter();
        let between = between.filter(|problem| severity(problem) == Severity::Error);
        unmet.map(ToString::to_string).chain(between.map(ToString::to_string))
    }
}

/// Returns how much a problem between records matters.
pub(in crate::run) fn severity(problem: &Inconsistency) -> Severity {
    if problem.is_warning() {
        Severity::Warning
    } else {
        Severity::Error
    }
}

/// Returns the problem without what changes while it stays the same problem: how many endpoints it
/// concerns.
fn identity(problem: &Inconsistency) -> Inconsistency {
    let mut same = problem.clone();
    if let Inconsistency::MissingTier { endpoints, .. } | Inconsistency::BadPolicy { endpoints, .. } = &mut same {
        *endpoints = 0;
    }
    same
}
