//! Which flows a request asks for.

use std::net::IpAddr;

use felid_model::Protocol;
use ipnet::IpNet;

use super::{FlowState, Refusal};

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
    pub protocol: Option<Protocol>,
    /// One end is this local endpoint: name, `namespace/name` or interface.
    pub endpoint: Option<String>,
    /// The state.
    pub state: Option<FlowState>,
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

/// What a filter looks at.
#[derive(Debug, Clone, Copy)]
pub struct FlowFacts {
    /// Originator's address and port.
    pub source: (IpAddr, u16),
    /// Responder's address and port.
    pub destination: (IpAddr, u16),
    /// External addresses that the originator and the responder are known by.
    pub external: [Option<IpAddr>; 2],
    /// Protocol.
    pub protocol: Protocol,
    /// State.
    pub state: FlowState,
}

impl FlowFilter {
    /// Reads the pairs of a query string. The error names the parameter and says what is wrong with
    /// its value.
    pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for (name, value) in pairs {
            filter.set(name, value)?;
        }
        Ok(filter)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let invalid = |expected: &str| {
            Refusal::Unknown(format!(
                "invalid value {value:?} of parameter {name:?}: expected {expected}"
            ))
        };
        let net = || parse_net(value).ok_or_else(|| invalid("an address or a prefix"));
        match name {
            "address" => self.addresses.push(net()?),
            "source" => self.sources.push(net()?),
            "destination" => self.destinations.push(net()?),
            "port" => self.ports.push(value.parse().map_err(|_| invalid("a port"))?),
            "protocol" => self.protocol = Some(parse_protocol(value).ok_or_else(|| invalid("a protocol"))?),
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "state" => {
                let state = FlowState::ALL.iter().find(|state| state.name() == value);
                let names: Vec<&str> = FlowState::ALL.iter().map(|state| state.name()).collect();
                self.state = Some(*state.ok_or_else(|| invalid(&format!("one of {}", names.join(", "))))?);
            }
            "limit" => self.limit = value.parse().map_err(|_| invalid("a number"))?,
            _ => return Err(Refusal::Unknown(format!("unknown parameter {name:?}"))),
        }
        Ok(())
    }

    /// Returns whether a flow is asked for, as far as the flow itself says. The endpoint is the
    /// caller's to check.
    pub fn matches(&self, flow: &FlowFacts) -> bool {
        let (source, destination) = (flow.source, flow.destination);
        let within = |nets: &[IpNet], address: IpAddr, external: Option<IpAddr>| {
            nets.iter()
                .any(|net| net.contains(&address) || external.is_some_and(|external| net.contains(&external)))
        };
        let from = |nets: &[IpNet]| within(nets, source.0, flow.external[0]);
        let to = |nets: &[IpNet]| within(nets, destination.0, flow.external[1]);
        (self.addresses.is_empty() || from(&self.addresses) || to(&self.addresses))
            && (self.sources.is_empty() || from(&self.sources))
            && (self.destinations.is_empty() || to(&self.destinations))
            && (self.ports.is_empty() || self.ports.contains(&source.1) || self.ports.contains(&destination.1))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.state.is_none_or(|state| state == flow.state)
    }
}

fn parse_net(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Reads Calico's names in any case, or a number.
fn parse_protocol(text: &str) -> Option<Protocol> {
    let named = (0..=u8::MAX).map(Protocol).find(|protocol| {
        let name = protocol.name();
        name.is_some_and(|name| name.eq_ignore_ascii_case(text))
    });
    named.or_else(|| text.parse().ok().map(Protocol))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn facts(source: &str, port: u16) -> FlowFacts {
        let source = (source.parse().unwrap(), 40_000);
        FlowFacts {
            source,
            destination: ("10.0.0.9".parse().unwrap(), port),
            external: [None, Some("192.0.2.9".parse().unwrap())],
            protocol: Protocol::TCP,
            state: FlowState::Established,
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
