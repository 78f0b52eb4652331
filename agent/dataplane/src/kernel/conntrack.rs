//! The conntrack tables: what flows there are, and ending those that have expired.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use felid_common::{
    FLOW_DEAD, FLOW_FAST, FLOW_ORIGINAL_LOW, FLOW_REPLIED, FLOW_REVOKED, Flow, FlowKeyV4, FlowKeyV6, Shown, Side,
    TCP_FIN, TCP_RST, protocol,
};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::embedded::Lazy;
use super::settings::jiffies;
use super::tables::bytes;
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// The table a flow stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowTable {
    /// Answered flows; never evicted.
    Established,
    /// Unanswered TCP, one-way UDP; the oldest give way.
    HalfOpen,
}

/// State of a flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowState {
    /// TCP: no answer yet. Other protocols: one direction only.
    New,
    /// TCP: answered, handshake not complete.
    Answered,
    /// TCP: open. Other protocols: both directions seen.
    Established,
    /// TCP: one side has sent its FIN.
    Closing,
    /// TCP: both have.
    Closed,
    /// TCP: a RST was seen, and nothing that undoes it.
    Reset,
    /// Policy has stopped allowing it: its packets are dropped.
    Revoked,
}

impl FlowState {
    /// Name in metrics and listings.
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
    /// Name in metrics and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// Where it stands.
    pub table: FlowTable,
    /// IP protocol number.
    pub protocol: u8,
    /// ICMP and ICMPv6: type of the query and code.
    pub icmp: Option<(u8, u8)>,
    /// Who began.
    pub source: IpAddr,
    /// Its port, or the ICMP identifier; 0 where there is none.
    pub source_port: u16,
    /// Whom it addressed.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// State.
    pub state: FlowState,
    /// Since its first packet (modulo 49 days at 1000 Hz).
    pub age: Duration,
    /// Since its last packet, to a second.
    pub idle: Duration,
    /// Silence after which it ends.
    pub timeout: Duration,
    /// Takes the path past the host's stack.
    pub fast: bool,
    /// The originator's endpoint and when its egress policy allowed the flow.
    pub egress: Side,
    /// The responder's.
    pub ingress: Side,
    /// How the originator is shown to the responder.
    pub original_nat: Shown,
    /// How the responder is shown to the originator.
    pub reply_nat: Shown,
}

/// How many flows: by table, IP version and state.
pub type FlowCounts = BTreeMap<(FlowTable, u8, FlowState), u64>;

/// The conntrack tables and the programs that look after them. Independent of everything else in the kernel half, so that listings and
/// sweeps wait for nothing.
pub struct Conntrack {
    pub(crate) established_v4: RawMap,
    pub(crate) established_v6: RawMap,
    pub(crate) half_open_v4: RawMap,
    pub(crate) half_open_v6: RawMap,
    pub(crate) settings: RawMap,
    pub(crate) clock: OwnedFd,
    pub(crate) sweep_v4: Lazy,
    pub(crate) sweep_v6: Lazy,
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

fn state(flow: &Flow, protocol: u8, table: FlowTable) -> FlowState {
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
    } else if table == FlowTable::Established {
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
    settings: felid_common::Settings,
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

    pub(super) fn timeout(&self, flow: &Flow, protocol: u8, table: FlowTable) -> u32 {
        let established = table == FlowTable::Established;
        Flow::timeout(flow.tcp_original, flow.tcp_reply, protocol, established, &self.settings)
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
    let [_, icmp_type, icmp_code, _] = parts.protocol.to_le_bytes();
    FlowInfo {
        table,
        protocol,
        icmp: matches!(protocol, protocol::ICMP | protocol::ICMPV6).then_some((icmp_type, icmp_code)),
        source: source.0,
        source_port: source.1,
        destination: destination.0,
        destination_port: destination.1,
        state: state(flow, protocol, table),
        // Ages beyond half the number circle would look like the future: the whole circle is used here.
        age: now.duration(now.jiffies.wrapping_sub(flow.created)),
        idle: now.duration(now.since(flow.last_seen)),
        timeout: now.duration(now.timeout(flow, protocol, table)),
        fast: flow.flags & FLOW_FAST != 0,
        egress: flow.egress,
        ingress: flow.ingress,
        original_nat: flow.original_nat,
        reply_nat: flow.reply_nat,
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

impl Conntrack {
    pub(super) fn now(&self) -> Result<Now> {
        let value = self
            .settings
            .lookup(&[0; 4])
            .map_err(KernelError::call("read the map settings"))?;
        let settings = value
            .and_then(|value| felid_common::Settings::read_from_bytes(&value).ok())
            .unwrap_or_else(felid_common::Settings::new_zeroed);
        // The programs know 32 bits of it.
        let jiffies = (jiffies(self.clock.as_fd())? & u64::from(u32::MAX)) as u32;
        Ok(Now { jiffies, settings })
    }

    /// Calls `seen` with every flow, in no order.
    pub fn flows(&self, mut seen: impl FnMut(FlowInfo)) -> Result<()> {
        use FlowTable::{Established, HalfOpen};
        let now = self.now()?;
        for (map, table) in [(&self.established_v4, Established), (&self.half_open_v4, HalfOpen)] {
            visit::<FlowKeyV4>(map, |key, flow| seen(describe(key, flow, table, &now)))?;
        }
        for (map, table) in [(&self.established_v6, Established), (&self.half_open_v6, HalfOpen)] {
            visit::<FlowKeyV6>(map, |key, flow| seen(describe(key, flow, table, &now)))?;
        }
        Ok(())
    }

    /// Counts the flows.
    pub fn counts(&self) -> Result<FlowCounts> {
        use FlowTable::{Established, HalfOpen};
        let mut counts = FlowCounts::new();
        for (map, table) in [(&self.established_v4, Established), (&self.half_open_v4, HalfOpen)] {
            visit::<FlowKeyV4>(map, |key, flow| {
                *counts
                    .entry((table, 4, state(flow, protocol_of(key.protocol), table)))
                    .or_default() += 1;
            })?;
        }
        for (map, table) in [(&self.established_v6, Established), (&self.half_open_v6, HalfOpen)] {
            visit::<FlowKeyV6>(map, |key, flow| {
                *counts
                    .entry((table, 6, state(flow, protocol_of(key.protocol), table)))
                    .or_default() += 1;
            })?;
        }
        Ok(counts)
    }

    /// Forgets every flow, as if nobody had ever talked. For tests: connections that go on are judged as new ones.
    pub fn clear(&self) -> Result<()> {
        for map in [
            &self.half_open_v4,
            &self.half_open_v6,
            &self.established_v4,
            &self.established_v6,
        ] {
            let mut keys = Vec::new();
            map.dump(|key, _| keys.push(key.to_vec()))
                .map_err(KernelError::call("list flows"))?;
            for key in keys {
                map.delete(&key).map_err(KernelError::call("forget a flow"))?;
            }
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
        let flags = if low { FLOW_ORIGINAL_LOW } else { 0 } | FLOW_REPLIED;
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
        assert_eq!(info.timeout, Duration::from_secs(3600));
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
        let of = |flow: Flow, table| state(&flow, protocol::TCP, table);
        assert_eq!(of(flow(2, 0, 0), FlowTable::HalfOpen), FlowState::New);
        assert_eq!(of(flow(2, 18, FLOW_REPLIED), FlowTable::HalfOpen), FlowState::Answered);
        assert_eq!(
            of(flow(18, 18, FLOW_REPLIED), FlowTable::Established),
            FlowState::Established
        );
        assert_eq!(
            of(flow(TCP_FIN, 0, FLOW_REPLIED), FlowTable::Established),
            FlowState::Closing
        );
        assert_eq!(
            of(flow(TCP_FIN, TCP_FIN, FLOW_REPLIED), FlowTable::Established),
            FlowState::Closed
        );
        assert_eq!(of(flow(TCP_RST, 0, 0), FlowTable::Established), FlowState::Reset);
    }
}
