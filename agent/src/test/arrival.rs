//! What a probe is recognised by where it arrives.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use felid_common::protocol;
use felid_compile::reference::Packet;

/// A packet as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    /// Ports; of ICMP messages type, code and identifier; else nothing.
    rest: Vec<u8>,
}

impl Arrival {
    /// What a probe's packet will look like; `number` is the one it was made with.
    pub(crate) fn of(packet: &Packet, number: usize) -> Self {
        let frame = crate::verdict::frame(packet, [0; 6], [0; 6], number);
        Self::read(&frame).unwrap_or(Self {
            protocol: packet.protocol.0,
            src: packet.src,
            dst: packet.dst,
            rest: Vec::new(),
        })
    }

    /// Reads a frame; `None` if it is no packet that a probe could be.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let array = |at: usize| frame.get(at..at + 16)?.first_chunk::<16>().copied();
        let (number, src, dst, at): (u8, IpAddr, IpAddr, usize) = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = 14 + usize::from(frame.get(14)? & 15) * 4;
                let address = |at: usize| Some(Ipv4Addr::from(*frame.get(at..at + 4)?.first_chunk::<4>()?));
                (*frame.get(23)?, address(26)?.into(), address(30)?.into(), header)
            }
            [0x86, 0xdd] => (
                *frame.get(20)?,
                Ipv6Addr::from(array(22)?).into(),
                Ipv6Addr::from(array(38)?).into(),
                54,
            ),
            _ => return None,
        };
        let icmp = number
            == if src.is_ipv4() {
                protocol::ICMP
            } else {
                protocol::ICMPV6
            };
        let rest = match number {
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE => frame.get(at..at + 4)?.to_vec(),
            _ if icmp => [frame.get(at..at + 2)?, frame.get(at + 4..at + 6)?].concat(),
            _ => Vec::new(),
        };
        // The answer to a SYN has the probe's ports turned round, so it is never taken for one.
        Some(Self {
            protocol: number,
            src,
            dst,
            rest,
        })
    }

    /// What it has in common with packets of the other direction of its flow: two such probes must
    /// not be under way together.
    pub(crate) fn undirected(&self) -> (u8, IpAddr, IpAddr, Vec<u8>) {
        let icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        let mut rest = self.rest.clone();
        if !icmp
            && let [a, b, c, d] = rest[..]
            && (self.src, [a, b]) > (self.dst, [c, d])
        {
            rest = vec![c, d, a, b];
        }
        if icmp {
            // Messages without an identifier are one flow by their addresses; those with one are
            // told apart by it.
            let version = if self.src.is_ipv4() { 4 } else { 6 };
            let kind = rest.first().copied().unwrap_or_default();
            rest = match protocol::icmp_query(version, kind) {
                Some(_) => rest.split_off(2.min(rest.len())),
                None => Vec::new(),
            };
        }
        (self.protocol, self.src.min(self.dst), self.src.max(self.dst), rest)
    }
}

/// Numbers of probes in groups that may be sent together: no flow twice, in neither direction,
/// unless it is the same packet.
pub(crate) fn rounds(arrivals: &[Arrival]) -> Vec<Vec<usize>> {
    let mut rounds: Vec<(BTreeSet<_>, BTreeSet<&Arrival>, Vec<usize>)> = Vec::new();
    for (number, arrival) in arrivals.iter().enumerate() {
        let flow = arrival.undirected();
        let fits = rounds
            .iter_mut()
            .find(|(flows, same, _)| same.contains(arrival) || !flows.contains(&flow));
        match fits {
            Some((flows, same, numbers)) => {
                flows.insert(flow);
                same.insert(arrival);
                numbers.push(number);
            }
            None => rounds.push(([flow].into(), [arrival].into(), vec![number])),
        }
    }
    rounds.into_iter().map(|(.., numbers)| numbers).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use felid_model::Protocol;

    use super::*;

    fn packet(src: &str, dst: &str, protocol: u8, ports: (u16, u16)) -> Packet {
        Packet {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: Protocol(protocol),
            src_port: ports.0,
            dst_port: ports.1,
            icmp_type: 8,
            icmp_code: 0,
        }
    }

    #[test]
    fn both_directions_of_a_flow_are_in_different_rounds() {
        let there = Arrival::of(&packet("10.0.0.1", "10.0.0.2", 6, (4000, 80)), 0);
        let back = Arrival::of(&packet("10.0.0.2", "10.0.0.1", 6, (80, 4000)), 1);
        let other = Arrival::of(&packet("10.0.0.1", "10.0.0.2", 6, (4001, 80)), 2);
        assert_eq!(rounds(&[there.clone(), back, other, there]), [vec![0, 2, 3], vec![1]]);
        let plain =
            [("fd00::1", "fd00::2"), ("fd00::2", "fd00::1")].map(|(a, b)| Arrival::of(&packet(a, b, 253, (0, 0)), 0));
        assert_eq!(rounds(&plain).len(), 2);
        let echoes = [0, 1].map(|n| Arrival::of(&packet("10.0.0.1", "10.0.0.2", 1, (0, 0)), n));
        assert_eq!(rounds(&echoes).len(), 1);
        assert_ne!(echoes[0], echoes[1]);
    }
}
