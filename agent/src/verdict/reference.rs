//! The verdict by the reference evaluator, from records alone: egress of the source, then ingress of the destination, and what felid
//! does beside policy.

use felid_compile::reference::{Decided, Decision, evaluate};
use felid_model::{EndpointToHostAction, ResourceKey};

use super::probe::{Party, Probe};
use super::state::State;

/// What is said of a packet, side by side.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// Whether it gets through.
    pub(crate) allowed: bool,
    /// By the source's endpoint, if the source is one.
    pub(crate) egress: Option<Decision>,
    /// By the destination's, if it is one and was asked.
    pub(crate) ingress: Option<Decision>,
    /// What decided if no policy did.
    pub(crate) beside: Option<Beside>,
}

/// What decides beside policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// The host may always reach its own workloads.
    FromHost,
    /// `defaultEndpointToHostAction` drops what egress policy allows.
    ToHost,
    /// An endpoint without addresses, or of a clashing interface: nothing of it is in force.
    NoEndpoint,
}

/// Judges a packet.
pub(crate) fn judge(state: &State, probe: &Probe) -> Verdict {
    let mut verdict = Verdict {
        allowed: true,
        egress: None,
        ingress: None,
        beside: None,
    };
    if let Party::Endpoint { key, .. } = &probe.from {
        let Some(endpoint) = state.endpoints.get(key) else {
            return verdict.denied(Beside::NoEndpoint);
        };
        let decision = evaluate(&endpoint.egress, &probe.packet, state);
        verdict.allowed = decision.allowed;
        verdict.egress = Some(decision);
        if !verdict.allowed {
            return verdict;
        }
    }
    match &probe.to {
        Party::Endpoint { .. } if probe.from == Party::Host => verdict.beside = Some(Beside::FromHost),
        Party::Endpoint { key, .. } => {
            let Some(endpoint) = state.endpoints.get(key) else {
                return verdict.denied(Beside::NoEndpoint);
            };
            let decision = evaluate(&endpoint.ingress, &probe.packet, state);
            verdict.allowed = decision.allowed;
            verdict.ingress = Some(decision);
        }
        Party::Host if state.config.endpoint_to_host == EndpointToHostAction::Drop => {
            return verdict.denied(Beside::ToHost);
        }
        Party::Host | Party::External => {}
    }
    verdict
}

impl Verdict {
    fn denied(mut self, beside: Beside) -> Self {
        self.allowed = false;
        self.beside = Some(beside);
        self
    }

    /// What decided, for machines: `KIND/[NAMESPACE/]NAME rule N`, `default-deny`, or `host`.
    pub(crate) fn decided_by(&self) -> String {
        match (self.beside, self.ingress.as_ref().or(self.egress.as_ref())) {
            (Some(Beside::FromHost), _) => "host".to_owned(),
            (Some(Beside::ToHost | Beside::NoEndpoint), _) | (None, None) => "default-deny".to_owned(),
            (None, Some(decision)) => decided_by(&decision.by),
        }
    }

    /// What decided, for people, side by side.
    pub(crate) fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (side, decision) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            if let Some(decision) = decision {
                let verb = if decision.allowed { "allowed" } else { "denied" };
                parts.push(format!("{side} {verb} by {}", describe(&decision.by)));
            }
        }
        parts.extend(self.beside.map(|beside| match beside {
            Beside::FromHost => "the host may always reach its own workloads".to_owned(),
            Beside::ToHost => "defaultEndpointToHostAction drops it".to_owned(),
            Beside::NoEndpoint => "no endpoint is in force there".to_owned(),
        }));
        parts.join("; ")
    }
}

/// `KIND/[NAMESPACE/]NAME` as the record writes its kind.
pub(crate) fn record(key: &ResourceKey) -> String {
    let kind = key.kind.record_kind();
    match &key.namespace {
        Some(namespace) => format!("{kind}/{namespace}/{}", key.name),
        None => format!("{kind}/{}", key.name),
    }
}

/// What decided, for machines.
pub(crate) fn decided_by(by: &Decided) -> String {
    match by {
        Decided::Rule { key, index, .. } => format!("{} rule {index}", record(key)),
        Decided::EndOfTier(_) | Decided::NoProfile | Decided::Closed(_) => "default-deny".to_owned(),
    }
}

/// What decided, in words.
pub(crate) fn describe(by: &Decided) -> String {
    match by {
        Decided::Rule { key, tier, index } => {
            let tier = tier.as_ref().map(|tier| format!(" in tier {tier}")).unwrap_or_default();
            format!("{} rule {index}{tier}", record(key))
        }
        Decided::EndOfTier(tier) => format!("the end of tier {tier}"),
        Decided::NoProfile => "default: no rule of any tier or profile".to_owned(),
        Decided::Closed(reason) => format!("closing: {reason}"),
    }
}
