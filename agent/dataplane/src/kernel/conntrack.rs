//! The conntrack tables: what flows there are, and ending those that have expired.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use felid_common::{
    ALIASED, FLOW_DEAD, FLOW_ESTABLISHED, FLOW_ORIGINAL_LOW, FLOW_REDIRECT, FLOW_REPLIED, FLOW_REVOKED, Flow,
    FlowKeyV4, FlowKeyV6, NatHandle, PORT_ALIAS, Side, TCP_FIN, TCP_RST, protocol,
};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::embedded::Sweepers;
use super::maps::FlowMaps;
use super::settings::jiffies;
use super::shares::Tally;
use super::tables::bytes;
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// The table that a flow stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowTable {
    /// Flows that were answered. They are never evicted.
    Established,
    /// TCP flows without an answer, and flows of other protocols with packets in one direction. An
    /// endpoint's own oldest ones make room for its new ones.
    HalfOpen,
}

/// The state of a flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowState {
    /// TCP: there is no answer yet. Other protocols: packets went in one direction only.
    New,
    /// TCP: there was an answer, and the handshake is not complete.
    Answered,
    /// TCP: the handshake is complete. Other protocols: packets went in both directions.
    Established,
    /// TCP: one end has sent its FIN.
    Closing,
    /// TCP: both ends have sent their FIN.
    Closed,
    /// TCP: there was a RST, and nothing that undoes it.
    Reset,
    /// Policy has stopped allowing it: its packets are dropped.
    Revoked,
}

impl FlowState {
    /// Returns the name in metrics and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Revoked => "revoked",
        }
    }
}

impl FlowTable {
    /// Returns the name in metrics and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What the tables say of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// The table that it stands in.
    pub table: FlowTable,
    /// The number of the IP protocol.
    pub protocol: u8,
    /// ICMP and ICMPv6: the type of the query, and the code.
    pub icmp: Option<(u8, u8)>,
    /// The originator's own address.
    pub source: IpAddr,
    /// The originator's port, or the ICMP identifier; 0 where there is none. Host byte order.
    pub source_port: u16,
    /// The responder's own address.
    pub destination: IpAddr,
    /// The responder's port, 0 where there is none. Host byte order.
    pub destination_port: u16,
    /// What the packets so far amount to.
    pub state: FlowState,
    /// The time since its first packet, modulo 2^32 jiffies: 49 days at 1000 Hz.
    pub age: Duration,
    /// The time since its last packet, to a second.
    pub idle: Duration,
    /// The silence after which it ends.
    pub timeout: Duration,
    /// Whether its packets are redirected past the host's stack.
    pub redirect: bool,
    /// The originator's endpoint, and the generation under which its egress policy allowed the
    /// flow.
    pub egress: Side,
    /// The responder's endpoint, and the generation under which its ingress policy allowed the
    /// flow.
    pub ingress: Side,
    /// The translation under which the originator is known to the responder.
    pub original_nat: NatHandle,
    /// The translation under which the responder is known to the originator.
    pub reply_nat: NatHandle,
}

/// How many flows there are, by table, IP version and state.
pub type FlowCounts = BTreeMap<(FlowTable, u8, FlowState), u64>;

/// The tables of flows, and the programs that end expired ones. It depends on nothing else of the
/// kernel half, so that listings and sweeps wait for nothing.
pub struct Conntrack {
    pub(super) maps: FlowMaps,
    settings: RawMap,
    pub(super) programs: Sweepers,
}

/// Key of a flow, of either family.
pub(super) trait FlowKey: FromBytes + IntoBytes + Immutable + Copy {
    fn parts(&self) -> Parts;
    fn check_word(&self) -> u64;
}

pub(super) struct Parts {
    low: IpAddr,
    high: IpAddr,
    low_port: u16,
    high_port: u16,
    pub(super) protocol: u32,
}

impl FlowKey for FlowKeyV4 {
    fn parts(&self) -> Parts {
        let address = |word: u32| IpAddr::from(word.to_ne_bytes());
        let (low_port, high_port) = (u16::from_be(self.low_port), u16::from_be(self.high_port));
        Parts {
            low: address(self.low),
            high: address(self.high),
            low_port,
            high_port,
            protocol: self.protocol,
        }
    }

    fn check_word(&self) -> u64 {
        self.check()
    }
}

impl FlowKey for FlowKeyV6 {
    fn parts(&self) -> Parts {
        let address = |words| IpAddr::from(bytes(words));
        let (low_port, high_port) = (u16::from_be(self.low_port), u16::from_be(self.high_port));
        Parts {
            low: address(self.low),
            high: address(self.high),
            low_port,
            high_port,
            protocol: self.protocol,
        }
    }

    fn check_word(&self) -> u64 {
        self.check()
    }
}

pub(super) const fn protocol_of(word: u32) -> u8 {
    (word & 0xff) as u8
}

fn state(flow: &Flow, protocol: u8) -> FlowState {
    if flow.flags & FLOW_REVOKED != 0 {
        return FlowState::Revoked;
    }
    let replied = flow.flags & FLOW_REPLIED != 0;
    if protocol != protocol::TCP {
        return if replied {
            FlowState::Established
        } else {
            FlowState::New
        };
    }
    if (flow.tcp_original | flow.tcp_reply) & TCP_RST != 0 {
        FlowState::Reset
    } else if flow.tcp_original & flow.tcp_reply & TCP_FIN != 0 {
        FlowState::Closed
    } else if (flow.tcp_original | flow.tcp_reply) & TCP_FIN != 0 {
        FlowState::Closing
    } else if flow.flags & FLOW_ESTABLISHED != 0 {
        FlowState::Established
    } else if replied {
        FlowState::Answered
    } else {
        FlowState::New
    }
}

/// The present, for ages.
pub(super) struct Now {
    jiffies: u32,
    pub(super) settings: felid_common::Settings,
}

impl Now {
    pub(super) fn since(&self, then: u32) -> u32 {
        // A packet may have come in after the clock was read.
        let passed = self.jiffies.wrapping_sub(then);
        if passed > u32::MAX / 2 { 0 } else { passed }
    }

    fn duration(&self, jiffies: u32) -> Duration {
        Duration::from_millis(u64::from(jiffies) * 1000 / u64::from(self.settings.hz.max(1)))
    }

    pub(super) const fn timeout(&self, flow: &Flow, protocol: u8) -> u32 {
        Flow::timeout(flow.flags, flow.tcp_original, flow.tcp_reply, protocol, &self.settings)
    }
}

fn describe<K: FlowKey>(key: &K, flow: &Flow, table: FlowTable, now: &Now) -> FlowInfo {
    let parts = key.parts();
    let protocol = protocol_of(parts.protocol);
    let (low, high) = ((parts.low, parts.low_port), (parts.high, parts.high_port));
    let (source, destination) = if flow.flags & FLOW_ORIGINAL_LOW != 0 {
        (low, high)
    } else {
        (high, low)
    };
    let alias = if flow.tcp_original & ALIASED != 0 {
        PORT_ALIAS
    } else {
        0
    };
    let [_, icmp_type, icmp_code, _] = parts.protocol.to_le_bytes();
    FlowInfo {
        table,
        protocol,
        icmp: matches!(protocol, protocol::ICMP | protocol::ICMPV6).then_some((icmp_type, icmp_code)),
        source: source.0,
        source_port: source.1 ^ alias,
        destination: destination.0,
        destination_port: destination.1,
        state: state(flow, protocol),
        // Ages beyond half the number circle would look like the future: the whole circle is used
        // here.
        age: now.duration(now.jiffies.wrapping_sub(flow.created)),
        idle: now.duration(now.since(flow.last_seen)),
        timeout: now.duration(now.timeout(flow, protocol)),
        redirect: flow.flags & FLOW_REDIRECT != 0,
        egress: flow.originator.side(),
        ingress: flow.responder.side(),
        original_nat: flow.originator.shown(),
        reply_nat: flow.responder.shown(),
    }
}

pub(super) fn visit<K: FlowKey>(map: &RawMap, mut seen: impl FnMut(&K, &Flow)) -> Result<()> {
    map.dump(|key, value| {
        if let (Ok(key), Ok(flow)) = (K::read_from_bytes(key), Flow::read_from_bytes(value))
            && flow.check == key.check_word()
            && flow.flags & FLOW_DEAD == 0
        {
            seen(&key, &flow);
        }
    })
    .map_err(KernelError::call("read the conntrack tables"))
}

impl FlowMaps {
    /// The tables of IPv4.
    pub(super) const fn v4(&self) -> [(&RawMap, FlowTable); 2] {
        [
            (&self.established_v4, FlowTable::Established),
            (&self.half_open_v4, FlowTable::HalfOpen),
        ]
    }

    /// The tables of IPv6.
    pub(super) const fn v6(&self) -> [(&RawMap, FlowTable); 2] {
        [
            (&self.established_v6, FlowTable::Established),
            (&self.half_open_v6, FlowTable::HalfOpen),
        ]
    }
}

impl Conntrack {
    pub(super) const fn new(maps: FlowMaps, settings: RawMap, programs: Sweepers) -> Self {
        Self {
            maps,
            settings,
            programs,
        }
    }

    /// The time, and the timeouts in force.
    pub(super) fn now(&self) -> Result<Now> {
        let value = self
            .settings
            .lookup(&[0; 4])
            .map_err(KernelError::call("read the map settings"))?;
        let settings = value
            .and_then(|value| felid_common::Settings::read_from_bytes(&value).ok())
            .unwrap_or_else(felid_common::Settings::new_zeroed);
        // The programs know 32 bits of it.
        let jiffies = (jiffies(self.programs.clock.as_fd())? & u64::from(u32::MAX)) as u32;
        Ok(Now { jiffies, settings })
    }

    /// Calls `seen` with every flow, in no order. Flows that begin or end meanwhile may be missed
    /// or seen twice. It fails if a table cannot be read.
    pub fn flows(&self, mut seen: impl FnMut(FlowInfo)) -> Result<()> {
        let now = self.now()?;
        for (map, table) in self.maps.v4() {
            visit::<FlowKeyV4>(map, |key, flow| seen(describe(key, flow, table, &now)))?;
        }
        for (map, table) in self.maps.v6() {
            visit::<FlowKeyV6>(map, |key, flow| seen(describe(key, flow, table, &now)))?;
        }
        Ok(())
    }

    /// Counts the flows. It fails if a table cannot be read.
    pub fn counts(&self) -> Result<FlowCounts> {
        let mut counts = FlowCounts::new();
        let mut count = |version, protocol, flow: &Flow, table| {
            let state = state(flow, protocol_of(protocol));
            *counts.entry((table, version, state)).or_default() += 1;
        };
        for (map, table) in self.maps.v4() {
            visit::<FlowKeyV4>(map, |key, flow| count(4, key.protocol, flow, table))?;
        }
        for (map, table) in self.maps.v6() {
            visit::<FlowKeyV6>(map, |key, flow| count(6, key.protocol, flow, table))?;
        }
        Ok(counts)
    }

    /// Forgets every flow, as if nobody had ever talked, for tests: connections that go on are
    /// judged as new ones.
    pub fn clear(&self) -> Result<()> {
        for (map, _) in self.maps.v4().into_iter().chain(self.maps.v6()) {
            let mut keys = Vec::new();
            map.dump(|key, _| keys.push(key.to_vec()))
                .map_err(KernelError::call("list flows"))?;
            for key in keys {
                map.delete(&key).map_err(KernelError::call("forget a flow"))?;
            }
        }
        for family in 0..2 {
            self.recount(family, &self.flow_counts()?, &Tally::new())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn now() -> Now {
        Now {
            jiffies: 100,
            settings: crate::kernel::Settings::default().encode(250),
        }
    }

    #[test]
    fn a_flow_reads_from_its_originator() {
        let [web, client] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(u32::from_ne_bytes);
        let (key, low) = FlowKeyV4::new(client, 40000_u16.to_be(), web, 80_u16.to_be(), 6);
        let flags = if low { FLOW_ORIGINAL_LOW } else { 0 } | FLOW_REPLIED | FLOW_ESTABLISHED;
        let flow = Flow {
            flags,
            created: 100_u32.wrapping_sub(500),
            last_seen: 50,
            ..Flow::default()
        };
        let info = describe(&key, &flow, FlowTable::Established, &now());
        assert_eq!((info.source, info.source_port), ("10.0.0.2".parse().unwrap(), 40000));
        assert_eq!(
            (info.destination, info.destination_port),
            ("10.0.0.1".parse().unwrap(), 80)
        );
        assert_eq!(info.state, FlowState::Established);
        assert_eq!(
            (info.age, info.idle),
            (Duration::from_secs(2), Duration::from_millis(200))
        );
        assert_eq!(info.timeout, Duration::from_secs(7440));
    }

    #[test]
    fn a_flow_of_the_future_is_not_idle() {
        let flow = Flow {
            last_seen: 101,
            ..Flow::default()
        };
        let key = FlowKeyV4::default();
        assert_eq!(describe(&key, &flow, FlowTable::HalfOpen, &now()).idle, Duration::ZERO);
    }

    #[test]
    fn tcp_states() {
        let flow = |tcp_original, tcp_reply, flags| Flow {
            tcp_original,
            tcp_reply,
            flags,
            ..Flow::default()
        };
        let of = |flow: Flow| state(&flow, protocol::TCP);
        assert_eq!(of(flow(2, 0, 0)), FlowState::New);
        assert_eq!(of(flow(2, 18, FLOW_REPLIED)), FlowState::Answered);
        assert_eq!(
            of(flow(18, 18, FLOW_REPLIED | FLOW_ESTABLISHED)),
            FlowState::Established
        );
        assert_eq!(of(flow(TCP_FIN, 0, FLOW_REPLIED)), FlowState::Closing);
        assert_eq!(of(flow(TCP_FIN, TCP_FIN, FLOW_REPLIED)), FlowState::Closed);
        assert_eq!(of(flow(TCP_RST, 0, 0)), FlowState::Reset);
    }
}
