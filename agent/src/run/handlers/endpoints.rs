//! The local endpoints, and where each stands.

use std::collections::BTreeMap;

use felid_calc::Inconsistency;
use felid_compile::transaction::{EndpointId, ProgramId};
use felid_dataplane::{Inspection, kernel};
use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy};

use crate::api::{self, DirectionPolicy, Endpoint, EndpointFlows, EndpointState};
use crate::text;

use super::View;

/// Reasons that are told of one endpoint.
const REASONS: usize = 16;

/// What is said of one endpoint, while it is found out.
#[derive(Default)]
struct Findings {
    closed: bool,
    waiting: bool,
    reasons: Vec<String>,
}

impl Findings {
    fn closed(&mut self, reason: String) {
        self.closed = true;
        self.reasons.push(reason);
    }

    fn state(&self) -> EndpointState {
        if self.waiting {
            EndpointState::Waiting
        } else if self.closed {
            EndpointState::Closed
        } else {
            EndpointState::Enforcing
        }
    }

    /// Notes the directions that policy closes.
    fn policies(&mut self, endpoint: &LocalEndpoint) {
        for (direction, policy) in [("ingress", &endpoint.ingress), ("egress", &endpoint.egress)] {
            if let Some(reason) = &policy.closed {
                self.closed(format!("{direction}: {reason}"));
            }
        }
    }

    /// Notes profiles that do not exist. The endpoint enforces its policies nevertheless.
    fn profiles(&mut self, key: &ResourceKey, problems: &[Inconsistency]) {
        for problem in problems {
            if let Inconsistency::MissingProfile { endpoint, profile } = problem
                && endpoint == key
            {
                self.reasons.push(format!(
                    "profile {profile:?} does not exist; what the policies leave undecided is denied"
                ));
            }
        }
    }

    /// Notes how it stands in the kernel.
    fn kernel(&mut self, state: Option<&kernel::EndpointState>) {
        let Some(state) = state else {
            self.closed("not in the kernel yet".to_owned());
            return;
        };
        let interface = &state.interface;
        if let Some(other) = &state.conflict {
            self.closed(format!("{other} has interface {interface}"));
            return;
        }
        if state.ifindex.is_none() {
            self.waiting = true;
            self.reasons.push(format!("interface {interface} is not there"));
            return;
        }
        if !state.attached {
            self.closed(format!("its programs are not at interface {interface}"));
        }
        let foreign = &state.foreign;
        if !foreign.filters.is_empty() {
            let filters = foreign.filters.join(", ");
            self.reasons
                .push(format!("filters of others see packets after felid does: {filters}"));
        }
        if !foreign.before.is_empty() {
            let before = &foreign.before;
            self.reasons
                .push(format!("programs {before:?} of others see packets before felid does"));
        }
    }
}

/// What answers about all endpoints are made of, found out once.
struct Facts {
    states: BTreeMap<ResourceKey, kernel::EndpointState>,
    /// How many directions of endpoints use each program.
    users: BTreeMap<ProgramId, usize>,
    /// What the planner says: whether everything is denied, and why.
    problems: BTreeMap<ResourceKey, Vec<(bool, String)>>,
    /// What is wrong between records.
    between: Vec<Inconsistency>,
    /// What each endpoint has of the conntrack tables, by its id; nothing if that cannot be read.
    usage: BTreeMap<u32, kernel::FlowUsage>,
}

impl<D: Inspection> View<'_, D> {
    /// Returns every endpoint of this node, also those that could not get their interface.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let facts = self.endpoint_facts();
        let known = self.calc.endpoints().map(|endpoint| self.endpoint(endpoint, &facts));
        let mut list: Vec<Endpoint> = known.collect();
        for problem in &facts.between {
            if let Inconsistency::InterfaceTaken {
                endpoint, interface, ..
            } = problem
            {
                list.push(Endpoint {
                    namespace: endpoint.namespace.as_deref().unwrap_or_default().to_owned(),
                    name: endpoint.name.to_string(),
                    interface: interface.to_string(),
                    state: EndpointState::Closed,
                    reason: Some(text::shown(&problem.to_string())),
                    ..Endpoint::default()
                });
            }
        }
        list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        list
    }

    fn endpoint_facts(&self) -> Facts {
        let states = self.dataplane.endpoints().into_iter();
        let mut users = BTreeMap::new();
        for status in self.planner.endpoints() {
            *users.entry(status.egress).or_default() += 1;
            *users.entry(status.ingress).or_default() += 1;
        }
        let mut problems: BTreeMap<ResourceKey, Vec<(bool, String)>> = BTreeMap::new();
        for problem in self.planner.problems() {
            let of_endpoint = problems.entry(problem.endpoint.clone()).or_default();
            of_endpoint.push((problem.closed, problem.to_string()));
        }
        let usage = self.dataplane.flows().usage().unwrap_or_else(|error| {
            tracing::warn!("cannot read what endpoints have of the conntrack tables: {error}");
            Vec::new()
        });
        Facts {
            usage: usage.into_iter().map(|usage| (usage.id, usage)).collect(),
            states: states.map(|state| (state.key.clone(), state)).collect(),
            users,
            problems,
            between: self.calc.problems(),
        }
    }

    fn enforced_since(&self, id: EndpointId) -> Option<String> {
        self.revisions.endpoint(id).map(api::rfc3339)
    }

    fn endpoint(&self, endpoint: &LocalEndpoint, facts: &Facts) -> Endpoint {
        let status = self.planner.endpoint(&endpoint.key);
        let state = facts.states.get(&endpoint.key);
        let mut findings = Findings::default();
        findings.policies(endpoint);
        findings.profiles(&endpoint.key, &facts.between);
        for (all_denied, reason) in facts.problems.get(&endpoint.key).into_iter().flatten() {
            findings.closed |= all_denied;
            findings.reasons.push(reason.clone());
        }
        findings.kernel(state);
        let direction = |policy: &ResolvedPolicy, program: Option<ProgramId>, index: usize| DirectionPolicy {
            policies: policies(policy),
            program: program.map(|program| program.0),
            shared_by: program
                .and_then(|program| facts.users.get(&program).copied())
                .unwrap_or(0),
            generation: state.and_then(|state| state.generations.get(index).copied()),
        };
        let (egress, ingress) = status.as_ref().map(|status| (status.egress, status.ingress)).unzip();
        let redirectable = state.map(|state| state.redirectable);
        Endpoint {
            namespace: endpoint.key.namespace.as_deref().unwrap_or_default().to_owned(),
            name: endpoint.key.name.to_string(),
            interface: endpoint.interface_name.to_string(),
            ifindex: state.and_then(|state| state.ifindex),
            addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
            external_addresses: external_addresses(endpoint),
            mac: endpoint.mac.map(mac_text),
            state: findings.state(),
            reason: (!findings.reasons.is_empty()).then(|| text::shown_list(findings.reasons, REASONS).join("; ")),
            redirectable,
            fast: redirectable,
            profiles: endpoint.profiles.clone(),
            enforced_at: status.as_ref().and_then(|status| self.enforced_since(status.id)),
            ingress: Some(direction(&endpoint.ingress, ingress, 1)),
            egress: Some(direction(&endpoint.egress, egress, 0)),
            flows: state
                .and_then(|state| facts.usage.get(&state.id.id))
                .map(endpoint_flows),
        }
    }
}

/// Returns the policies in the order they are asked, as `tier: Kind/[namespace/]name`; then the
/// profiles.
fn policies(policy: &ResolvedPolicy) -> Vec<String> {
    let tiers = policy.tiers.iter().flat_map(|tier| {
        tier.policies
            .iter()
            .map(move |rules| format!("{}: {}", tier.name, rules.key))
    });
    let profiles = policy.profiles.iter().map(|rules| rules.key.to_string());
    tiers.chain(profiles).collect()
}

fn endpoint_flows(usage: &kernel::FlowUsage) -> EndpointFlows {
    EndpointFlows {
        established_v4: usage.established[0],
        allowed_v4: usage.allowed[0],
        established_v6: usage.established[1],
        allowed_v6: usage.allowed[1],
        refused: usage.refused,
        replaced: usage.replaced,
    }
}

fn external_addresses(endpoint: &LocalEndpoint) -> Vec<String> {
    let translated = endpoint.ip_nats.iter().map(|nat| nat.external);
    let by_others = endpoint.aws_elastic_ips.iter().copied();
    translated.chain(by_others).map(|address| address.to_string()).collect()
}

fn mac_text(mac: [u8; 6]) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
