//! Which flows are asked for, and how they are shown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_common::{GENERATION_EXEMPT, GENERATION_NONE, Shown, Side};
use felid_dataplane::kernel::{EndpointState, FlowInfo, FlowState};
use felid_model::{Protocol, ResourceKey};
use ipnet::IpNet;

use crate::api::{Flow, FlowEnd};

use super::handle::Refusal;

/// A selection of flows; every part that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFilter {
    /// At least one end is in one of these.
    pub addresses: Vec<IpNet>,
    /// The originator is in one of these.
    pub sources: Vec<IpNet>,
    /// The responder is in one of these.
    pub destinations: Vec<IpNet>,
    /// At least one end has one of these ports.
    pub ports: Vec<u16>,
    /// The protocol.
    pub protocol: Option<u8>,
    /// One end is this local endpoint: name, `namespace/name` or interface.
    pub endpoint: Option<String>,
    /// The state's name.
    pub state: Option<String>,
    /// At most so many are shown.
    pub limit: usize,
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            sources: Vec::new(),
            destinations: Vec::new(),
            ports: Vec::new(),
            protocol: None,
            endpoint: None,
            state: None,
            limit: 10_000,
        }
    }
}

/// States of flows, by name.
const STATES: [FlowState; 7] = [
    FlowState::New,
    FlowState::Answered,
    FlowState::Established,
    FlowState::Closing,
    FlowState::Closed,
    FlowState::Reset,
    FlowState::Revoked,
];

/// What a filter looks at.
#[derive(Debug, Clone, Copy)]
pub struct FlowFacts<'a> {
    /// Originator's address and port.
    pub source: (IpAddr, u16),
    /// Responder's.
    pub destination: (IpAddr, u16),
    /// External addresses that they are known by.
    pub shown: [Option<IpAddr>; 2],
    /// Protocol number.
    pub protocol: u8,
    /// State's name.
    pub state: &'a str,
}

impl FlowFilter {
    /// Reads a query string's pairs.
    pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for (name, value) in pairs {
            let bad = |what: &str| Refusal::Unknown(format!("{name}={value:?} is {what}"));
            match name {
                "address" => filter
                    .addresses
                    .push(net(value).ok_or_else(|| bad("no address or prefix"))?),
                "source" => filter
                    .sources
                    .push(net(value).ok_or_else(|| bad("no address or prefix"))?),
                "destination" => filter
                    .destinations
                    .push(net(value).ok_or_else(|| bad("no address or prefix"))?),
                "port" => filter.ports.push(value.parse().map_err(|_| bad("no port"))?),
                "protocol" => filter.protocol = Some(protocol_number(value).ok_or_else(|| bad("no protocol"))?),
                "endpoint" => filter.endpoint = Some(value.to_owned()),
                "state" if STATES.iter().any(|state| state.name() == value) => filter.state = Some(value.to_owned()),
                "state" => {
                    return Err(bad(&format!(
                        "no state; there are {}",
                        STATES.map(FlowState::name).join(", ")
                    )));
                }
                "limit" => filter.limit = value.parse().map_err(|_| bad("no number"))?,
                _ => {
                    return Err(Refusal::Unknown(format!(
                        "{name:?} is no part of a question about flows"
                    )));
                }
            }
        }
        Ok(filter)
    }

    /// Whether a flow is asked for, as far as the flow itself says; the endpoint is the caller's to check.
    pub fn matches(&self, flow: &FlowFacts<'_>) -> bool {
        let (source, destination) = (flow.source, flow.destination);
        let [source_shown, destination_shown] = flow.shown;
        let one = |nets: &[IpNet], address: IpAddr| nets.iter().any(|net| net.contains(&address));
        let within = |nets: &[IpNet], address: IpAddr, shown: Option<IpAddr>| {
            one(nets, address) || shown.is_some_and(|shown| one(nets, shown))
        };
        (self.addresses.is_empty()
            || within(&self.addresses, source.0, source_shown)
            || within(&self.addresses, destination.0, destination_shown))
            && (self.sources.is_empty() || within(&self.sources, source.0, source_shown))
            && (self.destinations.is_empty() || within(&self.destinations, destination.0, destination_shown))
            && (self.ports.is_empty() || self.ports.contains(&source.1) || self.ports.contains(&destination.1))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.state.as_deref().is_none_or(|state| state == flow.state)
    }
}

fn net(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Calico's names in any case, or a number.
pub fn protocol_number(text: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 6] = [
        ("tcp", 6),
        ("udp", 17),
        ("icmp", 1),
        ("icmpv6", 58),
        ("sctp", 132),
        ("udplite", 136),
    ];
    let named = NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, number)| *number);
    named.or_else(|| text.parse().ok())
}

/// Calico's name, or the number.
pub fn protocol_name(protocol: Protocol) -> String {
    match protocol.0 {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        136 => "UDPLite".to_owned(),
        number => number.to_string(),
    }
}

/// `namespace/name`.
pub(super) fn full_name(key: &ResourceKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{}", key.name),
        None => key.name.to_string(),
    }
}

/// Whether a user may mean this endpoint: its name, `namespace/name`, or its interface.
pub(super) fn is_named(key: &ResourceKey, interface: &str, name: &str) -> bool {
    *key.name == *name || interface == name || full_name(key) == name
}

/// Endpoints by id, for flows.
pub(super) struct Names {
    pub(super) by_id: BTreeMap<u32, End>,
}

/// What flows say of a local endpoint.
pub(super) struct End {
    key: ResourceKey,
    interface: Arc<str>,
    generations: [u32; 2],
}

impl End {
    pub(super) fn is_named(&self, name: &str) -> bool {
        is_named(&self.key, &self.interface, name)
    }
}

impl Names {
    pub(super) fn new(states: Vec<EndpointState>) -> Self {
        let end = |state: EndpointState| End {
            key: state.key,
            interface: state.interface,
            generations: state.generations,
        };
        Self {
            by_id: states.into_iter().map(|state| (state.id.id, end(state))).collect(),
        }
    }
}

/// External addresses in force, by element of the table and id, as flows refer to them.
pub(super) type ShownAddresses = BTreeMap<(u32, u32), IpAddr>;

fn external(shown: Shown, addresses: &ShownAddresses) -> Option<IpAddr> {
    addresses.get(&(shown.index, shown.id)).copied()
}

/// What the filter looks at.
pub(super) fn facts(flow: &FlowInfo, addresses: &ShownAddresses) -> FlowFacts<'static> {
    FlowFacts {
        source: (flow.source, flow.source_port),
        destination: (flow.destination, flow.destination_port),
        shown: [flow.original_nat, flow.reply_nat].map(|shown| external(shown, addresses)),
        protocol: flow.protocol,
        state: flow.state.name(),
    }
}

/// The flow as the answer shows it.
pub(super) fn describe(flow: &FlowInfo, [source, destination]: [Option<&End>; 2], addresses: &ShownAddresses) -> Flow {
    let shown_as = |shown: Shown| {
        let now = || external(shown, addresses).map_or_else(|| "gone".to_owned(), |address| address.to_string());
        (shown.id != 0).then(now)
    };
    let judged = |side: &Side, end: Option<&End>, generation: usize| match side.generation {
        GENERATION_NONE => "none",
        GENERATION_EXEMPT => "exempt",
        own => match end.and_then(|end| end.generations.get(generation)) {
            Some(now) if *now == own => "allowed",
            _ => "stale",
        },
    };
    let flow_end = |address: IpAddr, port, side, end: Option<&End>, generation, shown| FlowEnd {
        address: address.to_string(),
        port,
        endpoint: end.map(|end| full_name(&end.key)),
        shown_as: shown_as(shown),
        judged: judged(side, end, generation).to_owned(),
    };
    Flow {
        protocol: protocol_name(Protocol(flow.protocol)),
        source: flow_end(
            flow.source,
            flow.source_port,
            &flow.egress,
            source,
            0,
            flow.original_nat,
        ),
        destination: flow_end(
            flow.destination,
            flow.destination_port,
            &flow.ingress,
            destination,
            1,
            flow.reply_nat,
        ),
        state: flow.state.name().to_owned(),
        table: flow.table.name().to_owned(),
        fast: flow.fast,
        age_seconds: flow.age.as_secs_f64(),
        idle_seconds: flow.idle.as_secs_f64(),
        expires_seconds: flow.timeout.saturating_sub(flow.idle).as_secs_f64(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn facts(source: &str, port: u16) -> FlowFacts<'static> {
        let source = (source.parse().unwrap(), 40_000);
        FlowFacts {
            source,
            destination: ("10.0.0.9".parse().unwrap(), port),
            shown: [None, Some("192.0.2.9".parse().unwrap())],
            protocol: 6,
            state: "established",
        }
    }

    #[test]
    fn parts_are_joined_by_and() {
        let filter = FlowFilter::from_query([("address", "10.1.0.0/16"), ("port", "80"), ("protocol", "tcp")]).unwrap();
        assert!(filter.matches(&facts("10.1.2.3", 80)));
        assert!(!filter.matches(&facts("10.2.2.3", 80)));
        assert!(!filter.matches(&facts("10.1.2.3", 81)));
        let filter = FlowFilter::from_query([("destination", "192.0.2.9")]).unwrap();
        assert!(
            filter.matches(&facts("10.1.2.3", 80)),
            "its external address is its address, too"
        );
        let filter = FlowFilter::from_query([("source", "10.0.0.9")]).unwrap();
        assert!(!filter.matches(&facts("10.1.2.3", 80)));
        assert!(
            FlowFilter::from_query([("destination", "10.0.0.9"), ("state", "established")])
                .unwrap()
                .matches(&facts("::1", 1))
        );
    }

    #[test]
    fn wrong_questions_are_refused() {
        for pair in [
            ("address", "x"),
            ("port", "70000"),
            ("protocol", "abc"),
            ("state", "open"),
            ("limit", "-1"),
            ("colour", "red"),
        ] {
            assert!(
                matches!(FlowFilter::from_query([pair]), Err(Refusal::Unknown(_))),
                "{pair:?}"
            );
        }
    }
}
