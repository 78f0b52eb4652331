//! The state of the whole agent.

use felid_common::Event;
use felid_dataplane::Inspection;

use crate::api::{self, Endpoint, EndpointState, Status};

use crate::run::parts::severity;
use crate::text;

use super::View;

/// Returns how many endpoints are in a state.
pub(super) fn count(endpoints: &[Endpoint], state: EndpointState) -> usize {
    endpoints.iter().filter(|endpoint| endpoint.state == state).count()
}

impl<D: Inspection> View<'_, D> {
    pub(super) fn status(&self) -> Status {
        let settings = self.configuration.settings();
        let outlets = &self.reporting.outlets;
        let not_ready = self.not_ready();
        let source = |(name, source): (&&str, &String)| {
            let source = source.clone();
            ((*name).to_owned(), api::SettingValue { source })
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: settings.node.0.clone(),
            datastore: settings.datastore.to_string(),
            started: api::rfc3339(self.reporting.started),
            ready: not_ready.is_empty(),
            not_ready,
            notices: self.notices(),
            in_sync: self.records.was_in_sync(),
            resync: Some(self.records.connection()),
            programmed: self.programming.is_programmed(),
            epoch: self.dataplane.epoch(),
            revisions: self.revision_report(),
            last_programming: self.last_programming(),
            counts: self.counts(),
            log: self.log_counts(),
            nat: self.nat_counts(),
            problems: self.record_problems(),
            failures: self.reporting.failures.report(),
            settings: settings.sources.iter().map(source).collect(),
            metrics: outlets.addresses.metrics.clone(),
            health: outlets.addresses.health.clone(),
        }
    }

    /// Returns what people should know of the host: what stands there beside felid, and what was
    /// done to felid.
    fn notices(&self) -> Vec<String> {
        let interference = self.dataplane.interference();
        let repaired = interference.repaired.iter().map(|(kind, times)| {
            let kind = kind.name();
            format!("others undid something that felid needs, {times} times since the start ({kind}): it was put right, see the log")
        });
        let notices = self.reporting.outlets.health.notices();
        let node = self.records.node_notice(&self.configuration.settings().node.0);
        let turned_away = self.reporting.outlets.metrics.condition.all_turned_away();
        let turned_away = turned_away.filter(|(_, count)| *count > 0).map(|(server, count)| {
            format!("the agent's server of {server} has turned away {count} connections since the start, since too many were open")
        });
        notices
            .into_iter()
            .chain(node)
            .chain(repaired)
            .chain(turned_away)
            .collect()
    }

    fn last_programming(&self) -> Option<api::Programming> {
        let (last, total) = self.programming.last()?;
        Some(api::Programming {
            at: api::rfc3339(last.at),
            latency_ms: last.latency.as_secs_f64() * 1e3,
            updates: last.updates,
            total,
        })
    }

    fn revision_report(&self) -> api::Revisions {
        let (enforced, at) = self.revisions.enforced().unzip();
        api::Revisions {
            seen: self.revisions.seen(),
            enforced: enforced.unwrap_or(0),
            enforced_at: at.map(api::rfc3339),
        }
    }

    fn counts(&self) -> api::Counts {
        let calc = self.calc.stats();
        let planner = self.planner.stats();
        let endpoints = self.endpoints();
        api::Counts {
            workload_endpoints: calc.endpoints,
            local_endpoints: endpoints.len(),
            enforcing: count(&endpoints, EndpointState::Enforcing),
            waiting: count(&endpoints, EndpointState::Waiting),
            closed: count(&endpoints, EndpointState::Closed),
            policies: calc.policies,
            active_policies: calc.active_policies,
            staged_policies: calc.staged_policies,
            profiles: calc.profiles,
            tiers: calc.tiers,
            network_sets: calc.network_sets,
            selectors: calc.selectors,
            sets: planner.slots,
            classes: planner.classes,
            addresses: planner.peers_v4 + planner.peers_v6,
            prefixes: planner.nets_v4 + planner.nets_v6,
            named_ports: planner.named_ports,
            programs: planner.programs,
        }
    }

    /// Returns the same numbers as the metrics.
    fn log_counts(&self) -> Option<api::Log> {
        let counters = self.dataplane.counters().ok()?;
        let of = |event: Event| {
            let found = counters.events.iter().find(|(known, _)| *known == event);
            found.map_or(0, |(_, total)| *total)
        };
        Some(api::Log {
            logged: of(Event::Logged),
            suppressed: of(Event::LogSuppressed),
            lost: of(Event::LogLost),
        })
    }

    /// Returns what the datastore found in documents, then what the calculation found between
    /// records.
    fn record_problems(&self) -> Vec<api::Problem> {
        let in_documents = self.records.problems().list().iter().map(|problem| api::Problem {
            severity: problem.severity,
            file: problem.file().map(|(path, _)| text::shown(path)),
            line: problem.file().and_then(|(_, line)| Some(line? as u64)),
            object: problem.object().map(|(key, _)| text::shown(key)),
            resource_version: problem.object().and_then(|(_, version)| Some(text::shown(version?))),
            resource: problem.resource.as_deref().map(text::shown),
            field: problem.field.as_deref().map(text::shown),
            value: problem.value.as_deref().map(text::shown),
            reason: text::shown(&problem.reason),
            in_force: Some(text::shown(&problem.consequence())),
        });
        let between = self.records.between().iter().map(|problem| api::Problem {
            severity: severity(problem),
            reason: text::shown(&problem.to_string()),
            ..api::Problem::default()
        });
        in_documents.chain(between).collect()
    }
}
