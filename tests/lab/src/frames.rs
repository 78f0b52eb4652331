//! Crafted Ethernet frames: what sockets cannot send.

use std::net::IpAddr;

/// A packet between two addresses of one family.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and whole bytes, of which the first (next header) is filled
    /// in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: identification; flags and offset word. For IPv6 add a [`fragment_header`].
    pub fragment: (u16, u16),
}

/// IPv4 or IPv6 header and L4 checksums are right; everything else is as it is told.
impl Frame {
    /// A plain packet.
    pub fn new(source_mac: [u8; 6], destination_mac: [u8; 6], source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source_mac,
            destination_mac,
            source,
            destination,
            ttl: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: (0, 0),
        }
    }

    /// UDP.
    pub fn udp(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(8 + payload.len());
        datagram.extend(source_port.to_be_bytes());
        datagram.extend(destination_port.to_be_bytes());
        datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        self.with_checksum(17, datagram, 6)
    }

    /// TCP without payload; flags as in the header (SYN 2, ACK 16). Both ends number what they send
    /// from 1 on, so that SYN, SYN-ACK and ACK make a connection, and what follows belongs to it.
    pub fn tcp(&self, source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
        let sequence: u32 = if flags & 2 != 0 { 1 } else { 2 };
        let acknowledges: u32 = if flags & 16 != 0 { 2 } else { 0 };
        let mut segment = Vec::with_capacity(20);
        segment.extend(source_port.to_be_bytes());
        segment.extend(destination_port.to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledges.to_be_bytes());
        segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.with_checksum(6, segment, 16)
    }

    /// SCTP with an INIT or INIT ACK chunk (type 1 or 2). Its CRC is left zero: nothing on the way
    /// looks at it.
    pub fn sctp(&self, source_port: u16, destination_port: u16, chunk: u8) -> Vec<u8> {
        let mut packet = Vec::with_capacity(32);
        packet.extend(source_port.to_be_bytes());
        packet.extend(destination_port.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([chunk, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
        self.ip(132, &packet)
    }

    /// An ICMP or ICMPv6 message (by the addresses' family) with an identifier, as queries have
    /// one.
    pub fn icmp(&self, kind: u8, code: u8, identifier: u16) -> Vec<u8> {
        let [high, low] = identifier.to_be_bytes();
        let mut message = vec![kind, code, 0, 0, high, low, 0, 1];
        message.extend(b"felid...");
        self.with_checksum(if self.source.is_ipv4() { 1 } else { 58 }, message, 2)
    }

    /// UDP-Lite that covers the whole datagram.
    pub fn udp_lite(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(8 + payload.len());
        datagram.extend(source_port.to_be_bytes());
        datagram.extend(destination_port.to_be_bytes());
        datagram.extend([0, 0, 0, 0]);
        datagram.extend(payload);
        self.with_checksum(136, datagram, 6)
    }

    /// Any protocol with this body.
    pub fn ip(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(14 + 40 + body.len());
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(0x0800_u16.to_be_bytes());
                let length = 20 + self.options.len();
                let (identification, offset) = self.fragment;
                let start = frame.len();
                frame.extend([0x40 | (length / 4) as u8, 0]);
                frame.extend(((length + body.len()) as u16).to_be_bytes());
                frame.extend(identification.to_be_bytes());
                frame.extend(offset.to_be_bytes());
                frame.extend([self.ttl, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.options);
                let checksum = checksum(&frame[start..]);
                frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(0x86dd_u16.to_be_bytes());
                let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
                let first = self.extensions.first().map_or(protocol, |(kind, _)| *kind);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(((extensions + body.len()) as u16).to_be_bytes());
                frame.extend([first, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                for (n, (_, bytes)) in self.extensions.iter().enumerate() {
                    frame.push(self.extensions.get(n + 1).map_or(protocol, |(kind, _)| *kind));
                    frame.extend(bytes.iter().skip(1));
                }
            }
            // Two families: there is no such packet, and this is none.
            _ => {}
        }
        frame.extend(body);
        frame
    }

    /// Fills the checksum at `at` of an L4 header and builds the packet.
    fn with_checksum(&self, protocol: u8, body: Vec<u8>, at: usize) -> Vec<u8> {
        self.ip(protocol, &self.checked(protocol, body, at))
    }

    /// An L4 header and data with the checksum at `at` filled in, which was zero.
    pub fn checked(&self, protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => sum(&address.octets()),
            IpAddr::V6(address) => sum(&address.octets()),
        };
        // ICMP of IPv4 alone knows nothing of the header before it.
        let pseudo = if protocol == 1 {
            0
        } else {
            octets(self.source) + octets(self.destination) + u64::from(protocol) + body.len() as u64
        };
        let checksum = fold(pseudo + sum(&body));
        body[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        body
    }
}

/// An IPv6 fragment header: offset in bytes, more fragments, identification.
pub fn fragment_header(offset: u16, more: bool, identification: u32) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    (44, bytes)
}

/// The Internet checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    fold(sum(bytes))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The L4 header's ports of a received frame with protocol `protocol`, extension headers and
/// options included; `None` if it is something else.
pub fn ports(frame: &[u8], protocol: u8) -> Option<(u16, u16)> {
    let mut next;
    let mut at;
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        0x0800 => {
            next = *frame.get(23)?;
            at = 14 + usize::from(*frame.get(14)? & 15) * 4;
        }
        0x86dd => {
            next = *frame.get(20)?;
            at = 54;
            while matches!(next, 0 | 43 | 44 | 60) {
                let length = if next == 44 {
                    8
                } else {
                    8 + usize::from(*frame.get(at + 1)?) * 8
                };
                next = *frame.get(at)?;
                at += length;
            }
        }
        _ => return None,
    }
    if next != protocol {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    Some((port(at)?, port(at + 2)?))
}
