//! The verdict by the reference evaluator, from records alone: egress of the source, then ingress
//! of the destination, and what felid does beside policy.

use felid_common::DropReason;
use felid_compile::reference::{Decided, Decision, Packet, evaluate};
use felid_model::ResourceKey;

use super::probe::{FirstPacket, Party};
use super::state::PolicyState;

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

/// Why a packet is dropped before policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For machines: the name of the drop reason.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) words: &'static str,
}

/// Whether a packet is dropped before policy is asked, by its addresses or its kind alone.
pub(crate) fn refusal(packet: &Packet, from: Sender, to_host: bool) -> Option<Refusal> {
    let (reason, words) = if from == Sender::Workload && packet.is_martian() {
        (
            DropReason::Martian,
            "an address of the packet belongs on no link; it is dropped, whatever policy says",
        )
    } else if from != Sender::Host && packet.is_icmp_error() {
        (
            DropReason::UnrelatedError,
            "an ICMP error passes only if it quotes a packet of a known flow; it begins none, whatever policy says",
        )
    } else if from == Sender::Workload && packet.is_to_link() && !to_host {
        (
            DropReason::EndpointToHost,
            "on its link a workload reaches the host alone, whatever policy says",
        )
    } else {
        return None;
    };
    Some(Refusal {
        name: reason.name(),
        words,
    })
}

/// Who sends a packet, as far as that matters before policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A workload of this node.
    Workload,
    /// The node itself.
    Host,
    /// Anybody else.
    Outside,
}

/// What decides beside policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// The host may always reach its own workloads.
    FromHost,
    /// `defaultEndpointToHostAction` drops what egress policy allows.
    ToHost,
    /// It is dropped before policy is asked.
    Refused(Refusal),
    /// An endpoint without addresses, or of a clashing interface: nothing of it is in force.
    NoEndpoint,
}

/// Judges a packet.
pub(crate) fn judge(state: &PolicyState, probe: &FirstPacket) -> Verdict {
    let mut verdict = Verdict {
        allowed: true,
        egress: None,
        ingress: None,
        beside: None,
    };
    let from = match probe.from {
        Party::Endpoint { .. } => Sender::Workload,
        Party::Host => Sender::Host,
        Party::External => Sender::Outside,
    };
    if let Some(refusal) = refusal(&probe.packet, from, probe.to == Party::Host) {
        return verdict.denied(Beside::Refused(refusal));
    }
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
        Party::Endpoint { key, .. } => {
            // An interface that no endpoint is in force at is closed for the host, too.
            let Some(endpoint) = state.endpoints.get(key) else {
                return verdict.denied(Beside::NoEndpoint);
            };
            if probe.from == Party::Host {
                verdict.beside = Some(Beside::FromHost);
                return verdict;
            }
            let decision = evaluate(&endpoint.ingress, &probe.packet, state);
            verdict.allowed = decision.allowed;
            verdict.ingress = Some(decision);
        }
        Party::Host if state.host_closed => {
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

    /// What decided, for machines: `KIND/[NAMESPACE/]NAME rule N`, `default-deny`, `host`, or the
    /// name of a drop reason: `unrelated_error`, `martian`, `endpoint_to_host`.
    pub(crate) fn decided_by(&self) -> String {
        match (self.beside, self.ingress.as_ref().or(self.egress.as_ref())) {
            (Some(Beside::FromHost), _) => "host".to_owned(),
            (Some(Beside::Refused(refusal)), _) => refusal.name.to_owned(),
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
            Beside::Refused(refusal) => refusal.words.to_owned(),
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
