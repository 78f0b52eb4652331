//! The packet of a probe as a frame.

use felid_common::protocol;
use felid_compile::reference::Packet;
use felid_lab::frames::Frame;

/// TCP's SYN.
const SYN: u8 = 2;
/// SCTP's INIT.
const INIT: u8 = 1;
/// What datagrams carry.
const PAYLOAD: &[u8] = b"felid test";

/// The frame. `number` becomes the identifier of ICMP messages.
pub(crate) fn frame(packet: &Packet, source_mac: [u8; 6], destination_mac: [u8; 6], number: usize) -> Vec<u8> {
    let frame = Frame::new(source_mac, destination_mac, packet.src, packet.dst);
    let (src, dst) = (packet.src_port, packet.dst_port);
    let icmp = if packet.src.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    match packet.protocol.0 {
        protocol::TCP => frame.tcp(src, dst, SYN),
        protocol::UDP => frame.udp(src, dst, PAYLOAD),
        protocol::SCTP => frame.sctp(src, dst, INIT),
        protocol::UDPLITE => frame.udp_lite(src, dst, PAYLOAD),
        number_of if number_of == icmp => {
            let identifier = u16::try_from(number % 65_535 + 1).unwrap_or(1);
            frame.icmp(packet.icmp_type, packet.icmp_code, identifier)
        }
        // What would be ICMP in the other family too: a protocol as any other.
        other => frame.ip(other, PAYLOAD),
    }
}
