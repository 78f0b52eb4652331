//! The connection tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felid_common::{GENERATION_EXEMPT, GENERATION_NONE, NatHandle, Side};
use felid_dataplane::{Inspection, kernel};
use felid_model::{Protocol, ResourceKey};

use crate::api::{Flow, FlowEnd, FlowFacts, FlowFilter, FlowState, FlowTable, Flows, Judgement, Refusal};
use crate::endpoint_names::EndpointNames;
use crate::run::handle::Reply;
use crate::run::names::full_name;

use super::View;

/// External addresses in force, by element of the table and id, as flows refer to them.
pub(super) type ExternalAddresses = BTreeMap<(u32, u32), IpAddr>;

/// What flows say of a local endpoint.
struct LocalEnd {
    key: ResourceKey,
    /// Whether it is the endpoint that the request names.
    is_asked_for: bool,
    /// Of the egress and the ingress policy.
    generations: [u32; 2],
}

/// What flows refer to by number: local endpoints and external addresses.
struct Names {
    endpoints: BTreeMap<u32, LocalEnd>,
    external: ExternalAddresses,
}

impl<D: Inspection> View<'_, D> {
    /// Lists flows on a thread of its own: a full table takes a while.
    pub(super) fn flows(&self, filter: FlowFilter, reply: Reply<Flows>) {
        let names = self.names(filter.endpoint.as_deref());
        if let Some(name) = &filter.endpoint
            && !names.endpoints.values().any(|end| end.is_asked_for)
        {
            drop(reply.send(Err(Refusal::Unknown(format!("no local endpoint {name:?}")))));
            return;
        }
        let source = self.dataplane.flows();
        tokio::task::spawn_blocking(move || {
            let mut flows = Flows::default();
            let listed = source.flows(&mut |flow| {
                if names.is_asked_for(&flow, &filter) {
                    flows.total += 1;
                    if flows.flows.len() < filter.limit {
                        flows.flows.push(names.describe(&flow));
                    }
                }
            });
            drop(reply.send(listed.map(|()| flows).map_err(|error| Refusal::failed(&error))));
        });
    }

    /// Returns what flows refer to; `wanted` is what a request calls the endpoint that it asks for.
    fn names(&self, wanted: Option<&str>) -> Names {
        let end = |state: kernel::EndpointState| {
            let names = match self.planner.endpoint(&state.key) {
                Some(status) => EndpointNames::of_local(&status.endpoint),
                None => EndpointNames::of_key(&state.key, &state.interface),
            };
            let end = LocalEnd {
                key: state.key,
                is_asked_for: wanted.is_some_and(|wanted| names.are_meant_by(wanted)),
                generations: state.generations,
            };
            (state.id.id, end)
        };
        Names {
            endpoints: self.dataplane.endpoints().into_iter().map(end).collect(),
            external: self.external_addresses(),
        }
    }
}

impl Names {
    fn end(&self, side: &Side) -> Option<&LocalEnd> {
        self.endpoints.get(&side.endpoint)
    }

    fn external(&self, shown: NatHandle) -> Option<IpAddr> {
        self.external.get(&(shown.index, shown.id)).copied()
    }

    fn is_asked_for(&self, flow: &kernel::FlowInfo, filter: &FlowFilter) -> bool {
        let mut ends = [&flow.egress, &flow.ingress]
            .into_iter()
            .filter_map(|side| self.end(side));
        let of_endpoint = ends.any(|end| end.is_asked_for);
        let facts = FlowFacts {
            source: (flow.source, flow.source_port),
            destination: (flow.destination, flow.destination_port),
            external: [flow.original_nat, flow.reply_nat].map(|shown| self.external(shown)),
            protocol: Protocol(flow.protocol),
            state: state(flow.state),
        };
        (filter.endpoint.is_none() || of_endpoint) && filter.matches(&facts)
    }

    /// Returns the flow as the answer shows it.
    fn describe(&self, flow: &kernel::FlowInfo) -> Flow {
        let source = (flow.source, flow.source_port);
        let destination = (flow.destination, flow.destination_port);
        Flow {
            protocol: Protocol(flow.protocol).to_string(),
            source: self.flow_end(source, &flow.egress, 0, flow.original_nat),
            destination: self.flow_end(destination, &flow.ingress, 1, flow.reply_nat),
            state: state(flow.state),
            table: match flow.table {
                kernel::FlowTable::Established => FlowTable::Established,
                kernel::FlowTable::HalfOpen => FlowTable::HalfOpen,
            },
            redirect: flow.redirect,
            fast: flow.redirect,
            age_seconds: flow.age.as_secs_f64(),
            idle_seconds: flow.idle.as_secs_f64(),
            expires_seconds: flow.timeout.saturating_sub(flow.idle).as_secs_f64(),
        }
    }

    /// `generation`: which of the endpoint's generations its policy is judged by.
    fn flow_end(&self, (address, port): (IpAddr, u16), side: &Side, generation: usize, shown: NatHandle) -> FlowEnd {
        let end = self.end(side);
        let judged = match side.generation {
            GENERATION_NONE => Judgement::None,
            GENERATION_EXEMPT => Judgement::Exempt,
            own if end.and_then(|end| end.generations.get(generation)) == Some(&own) => Judgement::Allowed,
            _ => Judgement::Stale,
        };
        let external = || {
            let external = self.external(shown);
            external.map_or_else(|| "gone".to_owned(), |address| address.to_string())
        };
        FlowEnd {
            address: address.to_string(),
            port,
            endpoint: end.map(|end| full_name(&end.key)),
            shown_as: (shown.id != 0).then(external),
            judged,
        }
    }
}

const fn state(state: kernel::FlowState) -> FlowState {
    match state {
        kernel::FlowState::New => FlowState::New,
        kernel::FlowState::Answered => FlowState::Answered,
        kernel::FlowState::Established => FlowState::Established,
        kernel::FlowState::Closing => FlowState::Closing,
        kernel::FlowState::Closed => FlowState::Closed,
        kernel::FlowState::Reset => FlowState::Reset,
        kernel::FlowState::Revoked => FlowState::Revoked,
    }
}
