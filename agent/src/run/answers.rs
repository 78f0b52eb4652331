//! Answers to the questions of the servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use felid_calc::Problem;
use felid_common::Event;
use felid_compile::listing::listing;
use felid_compile::program::RuleRef;
use felid_compile::transaction::ProgramId;
use felid_dataplane::kernel::EndpointState;
use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, ResolvedAction, ResolvedPolicy};

use crate::api::{self, Direction, Endpoint, Flows, ProgramLine, ProgramListing, Status, Way};
use crate::config::HostAction;
use crate::explain::Snapshot;
use crate::metrics::{KernelSample, PolicySample};

use super::dataplane::Dataplane;
use super::flows::{FlowFilter, Names, describe, facts, full_name, is_named};
use super::handle::{Question, Refusal, Reply};
use super::pipeline::Pipeline;

/// Counters that stand for no policy of their own.
const UNCOUNTED: &str = "uncounted";

impl<D: Dataplane> Pipeline<D> {
    /// Answers between two rounds. Whoever asked may have gone: then nobody minds.
    pub(super) fn answer(&mut self, question: Question) {
        match question {
            Question::Status(reply) => drop(reply.send(Ok(self.status()))),
            Question::Endpoints(reply) => drop(reply.send(Ok(self.endpoints()))),
            Question::Flows(filter, reply) => self.flows(filter, reply),
            Question::Nats(reply) => self.list_nats(reply),
            Question::Program(name, way, reply) => drop(reply.send(self.programs(&name, way))),
            Question::Snapshot(reply) => drop(reply.send(Ok(self.snapshot()))),
            Question::Progress(reply) => drop(reply.send(Ok((self.metrics.updates.get(), self.pending)))),
            Question::Sample(reply) => drop(reply.send(self.sample())),
        }
    }

    /// What is in force, except what the planner or the kernel refused.
    fn snapshot(&self) -> Snapshot {
        let closed = self.settings.default_endpoint_to_host_action == HostAction::Drop;
        Snapshot::new(
            &self.settings.node.0,
            &self.calc,
            self.dataplane.host_addresses(),
            closed,
        )
    }

    fn status(&self) -> Status {
        let calc = self.calc.stats();
        let planner = self.planner.stats();
        let endpoints = self.endpoints();
        let in_state = |state: &str| endpoints.iter().filter(|endpoint| endpoint.state == state).count();
        let reasons = self.reasons();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.settings.node.0.clone(),
            datastore: self.settings.datastore.to_string(),
            started: api::rfc3339(self.started),
            ready: reasons.is_empty(),
            not_ready: reasons,
            notices: self.health.notices(),
            in_sync: self.in_sync,
            programmed: self.programmed,
            epoch: self.dataplane.epoch(),
            last_programming: self.last.map(|last| api::Programming {
                at: api::rfc3339(last.at),
                latency_ms: last.latency.as_secs_f64() * 1e3,
                updates: last.updates,
                total: self.total,
            }),
            counts: api::Counts {
                workload_endpoints: calc.endpoints,
                local_endpoints: endpoints.len(),
                enforcing: in_state("enforcing"),
                waiting: in_state("waiting"),
                closed: in_state("closed"),
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
            },
            log: self.log_counts(),
            nat: self.nat_counts(),
            problems: self.record_problems(),
            failures: self.failures.report(),
            settings: self
                .settings
                .sources
                .iter()
                .map(|(name, source)| ((*name).to_owned(), api::SettingValue { source: source.clone() }))
                .collect(),
            metrics: self.addresses.metrics(),
            health: self.addresses.health(),
        }
    }

    /// The same numbers as in the metrics.
    fn log_counts(&self) -> Option<api::Log> {
        let counted = self.dataplane.counted().ok()?;
        let of = |event: Event| counted.events.get(event.name()).copied().unwrap_or(0);
        Some(api::Log {
            logged: of(Event::Logged),
            suppressed: of(Event::LogSuppressed),
            lost: of(Event::LogLost),
        })
    }

    /// What the datastore found in files, then what the calculation found between records.
    fn record_problems(&self) -> Vec<api::Problem> {
        let from_files = self.problems.list().iter().map(|problem| api::Problem {
            severity: match problem.severity {
                felid_datastore::Severity::Error => "error",
                felid_datastore::Severity::Warning => "warning",
            }
            .to_owned(),
            file: problem.file.as_ref().map(ToString::to_string),
            line: problem.line.map(|line| line as u64),
            resource: problem.resource.clone(),
            field: problem.field.clone(),
            value: problem.value.clone(),
            reason: problem.reason.clone(),
            in_force: Some(problem.in_force.to_string()),
        });
        // Bad policies are in the first list already, with their place.
        let between = self
            .calc
            .problems()
            .into_iter()
            .filter(|problem| !matches!(problem, Problem::BadPolicy { .. }));
        let between = between.map(|problem| api::Problem {
            severity: if problem.is_warning() { "warning" } else { "error" }.to_owned(),
            reason: problem.to_string(),
            ..api::Problem::default()
        });
        from_files.chain(between).collect()
    }

    /// Every endpoint of this node, also those that could not get their interface.
    fn endpoints(&self) -> Vec<Endpoint> {
        let states: BTreeMap<ResourceKey, EndpointState> = self
            .dataplane
            .endpoints()
            .into_iter()
            .map(|state| (state.key.clone(), state))
            .collect();
        let users = self.program_users();
        let mut troubles: BTreeMap<&ResourceKey, Vec<(bool, String)>> = BTreeMap::new();
        for problem in self.planner.problems() {
            troubles
                .entry(&problem.endpoint)
                .or_default()
                .push((problem.closed, problem.to_string()));
        }
        let mut list: Vec<Endpoint> = self
            .calc
            .endpoints()
            .map(|endpoint| {
                let trouble = troubles.get(&endpoint.key).map(Vec::as_slice).unwrap_or_default();
                self.endpoint(endpoint, states.get(&endpoint.key), trouble, &users)
            })
            .collect();
        for problem in self.calc.problems() {
            if let Problem::InterfaceTaken {
                endpoint, interface, ..
            } = &problem
            {
                list.push(Endpoint {
                    namespace: endpoint.namespace.as_deref().unwrap_or_default().to_owned(),
                    name: endpoint.name.to_string(),
                    interface: interface.to_string(),
                    state: "closed".to_owned(),
                    reason: Some(problem.to_string()),
                    ..Endpoint::default()
                });
            }
        }
        list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        list
    }

    /// How many directions of endpoints use each program.
    fn program_users(&self) -> BTreeMap<ProgramId, usize> {
        let mut users = BTreeMap::new();
        for status in self.planner.endpoints() {
            *users.entry(status.egress).or_default() += 1;
            *users.entry(status.ingress).or_default() += 1;
        }
        users
    }

    fn endpoint(
        &self,
        endpoint: &LocalEndpoint,
        state: Option<&EndpointState>,
        troubles: &[(bool, String)],
        users: &BTreeMap<ProgramId, usize>,
    ) -> Endpoint {
        let status = self.planner.endpoint(&endpoint.key);
        let mut reasons: Vec<String> = Vec::new();
        let mut closed = false;
        for (way, policy) in [(Way::Ingress, &endpoint.ingress), (Way::Egress, &endpoint.egress)] {
            if let Some(reason) = &policy.closed {
                closed = true;
                reasons.push(format!("{}: {reason}", way.name()));
            }
        }
        for (all_denied, reason) in troubles {
            closed |= all_denied;
            reasons.push(reason.clone());
        }
        let mut waiting = false;
        match state {
            None => {
                closed = true;
                reasons.push("not in the kernel yet".to_owned());
            }
            Some(EndpointState {
                conflict: Some(other),
                interface,
                ..
            }) => {
                closed = true;
                reasons.push(format!("{other} has interface {interface}"));
            }
            Some(EndpointState {
                ifindex: None,
                interface,
                ..
            }) => {
                waiting = true;
                reasons.push(format!("interface {interface} is not there"));
            }
            Some(state) => {
                if !state.attached {
                    closed = true;
                    reasons.push(format!("its programs are not at interface {}", state.interface));
                }
                if !state.foreign.filters.is_empty() {
                    reasons.push(format!(
                        "filters of others see packets after felid does: {}",
                        state.foreign.filters.join(", ")
                    ));
                }
                if !state.foreign.before.is_empty() {
                    reasons.push(format!(
                        "programs {:?} of others see packets before felid does",
                        state.foreign.before
                    ));
                }
            }
        }
        let direction = |policy: &ResolvedPolicy, program: Option<ProgramId>, generation: Option<u32>| Direction {
            policies: policies(policy),
            program: program.map(|program| program.0),
            shared_by: program.and_then(|program| users.get(&program).copied()).unwrap_or(0),
            generation,
        };
        let [egress_generation, ingress_generation] = match state {
            Some(state) => state.generations.map(Some),
            None => [None, None],
        };
        Endpoint {
            namespace: endpoint.key.namespace.as_deref().unwrap_or_default().to_owned(),
            name: endpoint.key.name.to_string(),
            interface: endpoint.interface_name.to_string(),
            ifindex: state.and_then(|state| state.ifindex),
            addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
            mac: endpoint.mac.map(mac_text),
            state: if waiting {
                "waiting"
            } else if closed {
                "closed"
            } else {
                "enforcing"
            }
            .to_owned(),
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            fast: state.map(|state| state.fast),
            profiles: endpoint.profiles.clone(),
            ingress: Some(direction(
                &endpoint.ingress,
                status.as_ref().map(|status| status.ingress),
                ingress_generation,
            )),
            egress: Some(direction(
                &endpoint.egress,
                status.as_ref().map(|status| status.egress),
                egress_generation,
            )),
        }
    }

    /// Lists flows on a thread of their own: a full table takes a while.
    fn flows(&self, filter: FlowFilter, reply: Reply<Flows>) {
        let names = Names::new(self.dataplane.endpoints());
        if let Some(name) = &filter.endpoint
            && !names.by_id.values().any(|end| end.is_named(name))
        {
            drop(reply.send(Err(Refusal::Unknown(format!("no local endpoint {name:?}")))));
            return;
        }
        let source = self.dataplane.flows();
        let shown = self.shown_addresses();
        tokio::task::spawn_blocking(move || {
            let mut flows = Flows::default();
            let listed = source.flows(&mut |flow| {
                let ends = [&flow.egress, &flow.ingress].map(|side| names.by_id.get(&side.endpoint));
                let of_endpoint = filter
                    .endpoint
                    .as_ref()
                    .is_none_or(|name| ends.iter().flatten().any(|end| end.is_named(name)));
                if of_endpoint && filter.matches(&facts(&flow, &shown)) {
                    flows.total += 1;
                    if flows.flows.len() < filter.limit {
                        flows.flows.push(describe(&flow, ends, &shown));
                    }
                }
            });
            let answer = listed.map(|()| flows).map_err(Refusal::Failed);
            drop(reply.send(answer));
        });
    }

    fn programs(&self, name: &str, way: Option<Way>) -> Result<Vec<ProgramListing>, Refusal> {
        let all: Vec<_> = self.planner.endpoints().collect();
        let found: Vec<_> = all
            .iter()
            .filter(|status| is_named(&status.endpoint.key, &status.endpoint.interface_name, name))
            .collect();
        let status = match found.as_slice() {
            [] => {
                return Err(Refusal::Unknown(format!(
                    "no local endpoint {name:?} has programs in the kernel"
                )));
            }
            [one] => one,
            several => {
                let names: Vec<String> = several.iter().map(|status| full_name(&status.endpoint.key)).collect();
                return Err(Refusal::Unknown(format!("{name:?} may be {}", names.join(" or "))));
            }
        };
        let ways = way.map_or_else(|| vec![Way::Ingress, Way::Egress], |way| vec![way]);
        let mut listings = Vec::new();
        for way in ways {
            let of = |status: &felid_compile::planner::EndpointStatus| match way {
                Way::Ingress => status.ingress,
                Way::Egress => status.egress,
            };
            let id = of(status);
            let Some(program) = self.planner.program(id) else {
                return Err(Refusal::Failed(format!(
                    "program {} is being replaced; ask again",
                    id.0
                )));
            };
            let lines = listing(program).into_iter().map(|line| ProgramLine {
                chunk: line.chunk,
                index: line.index,
                code: line.code,
                note: line.note,
            });
            listings.push(ProgramListing {
                endpoint: full_name(&status.endpoint.key),
                direction: way.name().to_owned(),
                program: id.0,
                shared_by: all
                    .iter()
                    .filter(|other| of(other) == id)
                    .map(|other| full_name(&other.endpoint.key))
                    .collect(),
                rules: program.rules.iter().map(rule_text).collect(),
                lines: lines.collect(),
            });
        }
        Ok(listings)
    }

    /// Brings the metrics up to date: what changes with every packet is read only when somebody looks.
    fn sample(&mut self) -> Result<(), Refusal> {
        let calc = self.calc.stats();
        let planner = self.planner.stats();
        let m = &self.metrics;
        m.active_local_endpoints.set(calc.local_endpoints as i64);
        m.active_local_policies.set(calc.active_policies as i64);
        m.active_local_selectors.set(calc.selectors as i64);
        m.cluster_workload_endpoints.set(calc.endpoints as i64);
        m.cluster_policies.set(calc.policies as i64);
        m.cluster_profiles.set(calc.profiles as i64);
        m.cluster_tiers.set(calc.tiers as i64);
        m.programs.set(planner.programs as i64);
        m.program_users.set(planner.program_users as i64);
        m.epoch.set(self.dataplane.epoch().into());
        let capacities = self.dataplane.capacities();
        let of = |capacity: u32| capacity as usize;
        m.set_table("peers_v4", planner.peers_v4, of(capacities.peers));
        m.set_table("peers_v6", planner.peers_v6, of(capacities.peers));
        m.set_table("nets_v4", planner.nets_v4, of(capacities.nets));
        m.set_table("nets_v6", planner.nets_v6, of(capacities.nets));
        m.set_table("named_ports", planner.named_ports, of(capacities.named_ports));
        m.set_table("classes", planner.classes, of(capacities.classes));
        m.set_table("sets", planner.slots, of(capacities.class_bits));
        m.set_table("endpoints", planner.endpoints, of(felid_common::MAX_ENDPOINTS));
        let endpoints = self.endpoints();
        let in_state = |state: &str| endpoints.iter().filter(|endpoint| endpoint.state == state).count();
        m.set_endpoints(in_state("enforcing"), in_state("waiting"), in_state("closed"));
        self.sample_nats();
        let m = &self.metrics;
        let counted = self.dataplane.counted().map_err(Refusal::Failed)?;
        let mut policies: Vec<PolicySample> = self
            .planner
            .counters()
            .map(|(index, name)| PolicySample {
                index,
                tier: Arc::clone(&name.tier),
                policy: Arc::clone(&name.policy),
                action: name.action,
                staged: name.staged,
                total: counted.policies.get(&index).copied().unwrap_or(0),
            })
            .collect();
        if let Some(total) = counted.policies.get(&0) {
            policies.push(PolicySample {
                index: 0,
                tier: "".into(),
                policy: UNCOUNTED.into(),
                action: ResolvedAction::Deny,
                staged: false,
                total: *total,
            });
        }
        m.kernel(&KernelSample {
            drops: counted.drops,
            events: counted.events,
            policies,
        });
        Ok(())
    }
}

/// `tier: Kind/[namespace/]name` in the order they are asked; profiles where no policy is.
fn policies(policy: &ResolvedPolicy) -> Vec<String> {
    let tiers = policy.tiers.iter().flat_map(|tier| {
        tier.policies
            .iter()
            .map(move |rules| format!("{}: {}", tier.name, rules.key))
    });
    let profiles = policy.profiles.iter().map(|rules| rules.key.to_string());
    tiers.chain(profiles).collect()
}

fn rule_text(rule: &RuleRef) -> String {
    let place = match (&rule.key, &rule.tier, rule.index) {
        (Some(key), Some(tier), Some(index)) => format!("{tier}: {key} rule {index}: "),
        (Some(key), None, Some(index)) => format!("{key} rule {index}: "),
        (Some(key), _, None) => format!("{key}: "),
        (None, Some(tier), _) => format!("end of tier {tier}: "),
        (None, None, _) => String::new(),
    };
    format!("{place}{}", rule.text)
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}
