//! Random packets that hit the edges of what policies say.

use std::net::IpAddr;

use felid_common::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};
use felid_model::Protocol;
use felid_model::resolved::{ResolvedPolicy, ResolvedRule, ResolvedSide, SetId};

use super::world::{ICMP_TYPES, PORTS, address_in, edges};
use super::{Rng, World};
use crate::Direction;
use crate::reference::Packet;

impl World {
    /// A packet to (ingress) or from (egress) the endpoint. Most are made to fit some rule of the
    /// policy, or to miss it narrowly.
    pub fn packet(&self, rng: &mut Rng, policy: &ResolvedPolicy, direction: Direction) -> Packet {
        let lists: Vec<_> = policy
            .tiers
            .iter()
            .flat_map(|tier| &tier.policies)
            .chain(&policy.profiles)
            .filter(|l| !l.rules.is_empty())
            .collect();
        let rule = rng
            .pick(&lists)
            .and_then(|list| rng.pick(&list.rules))
            .filter(|_| rng.percent(85))
            .cloned();
        let own = rng
            .pick(&self.own)
            .copied()
            .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let own = match rng.pick(&self.spoofed) {
            Some(net) if direction == Direction::Egress && rng.percent(60) => {
                let edges = edges(net);
                match rng.pick(&edges) {
                    Some(edge) if rng.percent(30) => *edge,
                    _ => address_in(rng, net),
                }
            }
            _ => own,
        };
        let (own_side, peer_side) = match (&rule, direction) {
            (None, _) => (None, None),
            (Some(rule), Direction::Ingress) => (Some(&rule.destination), Some(&rule.source)),
            (Some(rule), Direction::Egress) => (Some(&rule.source), Some(&rule.destination)),
        };
        let peer = self.peer(rng, peer_side, own.is_ipv4());
        let protocol = protocol(rng, rule.as_ref());
        let own_port = self.port(rng, own_side, own);
        let peer_port = self.port(rng, peer_side, peer);
        let (src, src_port, dst, dst_port) = match direction {
            Direction::Ingress => (peer, peer_port, own, own_port),
            Direction::Egress => (own, own_port, peer, peer_port),
        };
        let has_ports = matches!(protocol, TCP | UDP | SCTP);
        let port = |port: u16| if has_ports { port } else { 0 };
        let (icmp_type, icmp_code) = icmp(rng, rule.as_ref());
        let is_icmp = matches!(protocol, ICMP | ICMPV6);
        Packet {
            src,
            dst,
            protocol: Protocol(protocol),
            src_port: port(src_port),
            dst_port: port(dst_port),
            icmp_type: if is_icmp { icmp_type } else { 0 },
            icmp_code: if is_icmp { icmp_code } else { 0 },
        }
    }

    fn peer(&self, rng: &mut Rng, side: Option<&ResolvedSide>, v4: bool) -> IpAddr {
        let mut nets = Vec::new();
        if let Some(side) = side {
            nets.extend(side.nets.iter().chain(&side.not_nets).copied());
            nets.extend(
                side.sets
                    .iter()
                    .chain(&side.not_sets)
                    .filter_map(|set| self.sets.get(set))
                    .flatten()
                    .copied(),
            );
            let ports = side
                .named_ports
                .iter()
                .chain(&side.not_named_ports)
                .chain(&side.service_ports)
                .filter_map(|set| self.named_ports.get(set));
            nets.extend(ports.flatten().map(|member| ipnet::IpNet::from(member.address)));
        }
        nets.retain(|net| net.addr().is_ipv4() == v4);
        if let Some(net) = rng.pick(&nets)
            && rng.percent(75)
        {
            return address_in(rng, net);
        }
        let peers: Vec<_> = self.peers.iter().filter(|address| address.is_ipv4() == v4).collect();
        match rng.pick(&peers) {
            Some(address) => **address,
            None if v4 => IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)),
            None => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        }
    }

    fn port(&self, rng: &mut Rng, side: Option<&ResolvedSide>, address: IpAddr) -> u16 {
        let mut ports = Vec::new();
        if let Some(side) = side {
            for (first, last) in side.ports.iter().chain(&side.not_ports) {
                ports.extend([*first, *last, first.saturating_sub(1), last.saturating_add(1)]);
            }
            let sets: Vec<&SetId> = side
                .named_ports
                .iter()
                .chain(&side.not_named_ports)
                .chain(&side.service_ports)
                .collect();
            for member in sets.iter().filter_map(|set| self.named_ports.get(*set)).flatten() {
                if member.address == address || rng.percent(20) {
                    ports.push(member.port);
                }
            }
        }
        match rng.pick(&ports) {
            Some(port) if rng.percent(90) => *port,
            _ if rng.percent(60) => rng.pick(&PORTS).copied().unwrap_or(80),
            _ => rng.bits() as u16,
        }
    }
}

/// Type and code that the rule speaks of, or nearly.
fn icmp(rng: &mut Rng, rule: Option<&ResolvedRule>) -> (u8, u8) {
    let said = rule.and_then(|rule| rule.fields.not_icmp.filter(|_| rng.percent(50)).or(rule.fields.icmp));
    let icmp_type = said
        .and_then(|icmp| icmp.icmp_type)
        .filter(|_| rng.percent(75))
        .or_else(|| rng.pick(&ICMP_TYPES).copied());
    let code = said
        .and_then(|icmp| icmp.code)
        .filter(|_| rng.percent(75))
        .unwrap_or_else(|| rng.below(3) as u8);
    (icmp_type.unwrap_or(8), code)
}

fn protocol(rng: &mut Rng, rule: Option<&ResolvedRule>) -> u8 {
    if let Some(Protocol(protocol)) = rule.and_then(|rule| rule.protocol)
        && rng.percent(85)
    {
        return protocol;
    }
    if rule.is_some_and(|rule| rule.fields.icmp.or(rule.fields.not_icmp).is_some()) && rng.percent(80) {
        return if rng.percent(50) { ICMP } else { ICMPV6 };
    }
    rng.pick(&[TCP, TCP, TCP, UDP, UDP, SCTP, ICMP, ICMPV6, UDPLITE, 253, 0])
        .copied()
        .unwrap_or(TCP)
}
