//! The packets of a comparison, as frames.

use std::net::IpAddr;

use felid_common::protocol;
use felid_compile::Direction;
use felid_compile::reference::Packet;
use felid_compile::testing::{Rng, World};
use felid_model::resolved::ResolvedPolicy;

use crate::frames::Frame;
use crate::packet_craft::fragment_header;

const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVER: [u8; 6] = [0xee; 6];

/// A packet that the kernel reads as the reference does, and its frame.
pub(super) fn packet(
    world: &World,
    rng: &mut Rng,
    policy: &ResolvedPolicy,
    direction: Direction,
) -> Option<(Packet, Vec<u8>)> {
    let mut packet = world.packet(rng, policy, direction);
    let peer = if direction == Direction::Ingress {
        packet.src
    } else {
        packet.dst
    };
    // To itself: not a matter between two parties.
    if world.own.contains(&peer) {
        return None;
    }
    // No addresses of one party, and the host's own networks: dropped or sent elsewhere before
    // policy is asked.
    let odd = |address: IpAddr| {
        address.is_multicast() || address.is_unspecified() || address.is_loopback() || address == IpAddr::from([255; 4])
    };
    if direction == Direction::Egress && !world.own.contains(&packet.src) && odd(packet.src) {
        return None;
    }
    if direction == Direction::Egress && (packet.is_martian() || packet.is_to_link()) {
        return None;
    }
    let v6 = packet.src.is_ipv6();
    // Extension headers are no protocols of IPv6; error messages and neighbour discovery are not
    // judged by policy.
    if v6 && matches!(packet.protocol.0, 0 | 43 | 44 | 50 | 51 | 59 | 60 | 135 | 139 | 140) {
        return None;
    }
    let bytes = frame_of(&mut packet, rng);
    Some((packet, bytes))
}

/// A frame without options or extension headers, cut behind its L4 header.
pub(super) fn parts(packet: &Packet, whole: &[u8], rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
    let v6 = packet.src.is_ipv6();
    let mut body: Vec<u8> = whole.iter().skip(if v6 { 54 } else { 34 }).copied().collect();
    body.resize(body.len().next_multiple_of(8), 0);
    let identification = rng.bits() as u16;
    let part = |offset: usize, more: bool, body: &[u8]| {
        let mut frame = Frame::new(SENDER, RECEIVER, packet.src, packet.dst);
        let offset = offset as u16;
        if v6 {
            frame.extensions = vec![fragment_header(offset, more, identification.into())];
        } else {
            frame.fragment = (identification, (offset / 8) | (u16::from(more) << 13));
        }
        frame.ip(packet.protocol.0, body)
    };
    (part(0, true, &body), part(body.len(), false, &[0; 16]))
}

/// The frame of a packet; what a frame cannot say is changed in the packet.
pub(crate) fn frame_of(packet: &mut Packet, rng: &mut Rng) -> Vec<u8> {
    let v6 = packet.src.is_ipv6();
    let frame = Frame::new(SENDER, RECEIVER, packet.src, packet.dst);
    match packet.protocol.0 {
        protocol::TCP => frame.tcp(packet.src_port, packet.dst_port, 2),
        protocol::UDP => frame.udp(packet.src_port, packet.dst_port, b"felid"),
        protocol::SCTP => frame.sctp(packet.src_port, packet.dst_port, 1),
        protocol::UDPLITE => {
            let mut body = Vec::from(packet.src_port.to_be_bytes());
            body.extend(packet.dst_port.to_be_bytes());
            body.extend([0, 8, 0, 0]);
            frame.ip(protocol::UDPLITE, &body)
        }
        number => {
            (packet.src_port, packet.dst_port) = (0, 0);
            // Errors and neighbour discovery of its own version are not policy's business: a query
            // instead.
            match (number, v6, packet.icmp_type) {
                (protocol::ICMP, false, 3..=5 | 11 | 12) => packet.icmp_type = 8,
                (protocol::ICMPV6, true, ..128 | 130..=137 | 143) => packet.icmp_type = 128,
                _ => {}
            }
            let identifier = rng.bits().to_be_bytes();
            let (icmp_type, icmp_code) = (packet.icmp_type, packet.icmp_code);
            frame.ip(
                number,
                &[icmp_type, icmp_code, 0, 0, identifier[0], identifier[1], 0, 1],
            )
        }
    }
}
