//! Packets as bytes, for test runs of the kernel programs: every field can be set, checksums of IPv4 and L4 are right unless asked otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// FIN, SYN, RST, ACK.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// A packet to be built.
#[derive(Clone, Debug)]
pub struct Craft {
    /// Destination MAC.
    pub to: [u8; 6],
    /// Source MAC.
    pub from: [u8; 6],
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// Protocol of `payload` (after any extension headers).
    pub protocol: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and whole bytes, of which the first (next header) is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: identification; flags and offset word.
    pub fragment: (u16, u16),
    /// L4 header and data.
    pub payload: Vec<u8>,
}

impl Craft {
    /// From one address to another, nothing in it yet.
    pub fn new(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Self {
        Self {
            to: [0; 6],
            from: [2, 0, 0, 0, 0, 1],
            src: src.into(),
            dst: dst.into(),
            hops: 64,
            protocol: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: (0, 0),
            payload: Vec::new(),
        }
    }

    /// With this source MAC.
    #[must_use]
    pub fn mac(mut self, from: [u8; 6]) -> Self {
        self.from = from;
        self
    }

    /// With this hop count.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// With this L4 payload as it is.
    #[must_use]
    pub fn raw(mut self, protocol: u8, payload: Vec<u8>) -> Self {
        self.protocol = protocol;
        self.payload = payload;
        self
    }

    /// TCP with sequence and acknowledgement numbers.
    #[must_use]
    pub fn tcp_with(self, src_port: u16, dst_port: u16, flags: u8, sequence: u32, acknowledged: u32) -> Self {
        let mut header = Vec::new();
        header.extend(src_port.to_be_bytes());
        header.extend(dst_port.to_be_bytes());
        header.extend(sequence.to_be_bytes());
        header.extend(acknowledged.to_be_bytes());
        header.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.checked(6, header, 16)
    }

    /// TCP.
    #[must_use]
    pub fn tcp(self, src_port: u16, dst_port: u16, flags: u8) -> Self {
        self.tcp_with(src_port, dst_port, flags, 1000, 2000)
    }

    /// UDP with some data.
    #[must_use]
    pub fn udp(self, src_port: u16, dst_port: u16, data: &[u8]) -> Self {
        let mut header = Vec::new();
        header.extend(src_port.to_be_bytes());
        header.extend(dst_port.to_be_bytes());
        header.extend((8 + data.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        header.extend(data);
        self.checked(17, header, 6)
    }

    /// SCTP: common header and a chunk's worth of zeros.
    #[must_use]
    pub fn sctp(self, src_port: u16, dst_port: u16) -> Self {
        let mut header = Vec::new();
        header.extend(src_port.to_be_bytes());
        header.extend(dst_port.to_be_bytes());
        header.extend([0; 12]);
        self.raw(132, header)
    }

    /// ICMP or ICMPv6 by the family: type, code, the four bytes after the checksum, data.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Self {
        let protocol = if self.src.is_ipv4() { 1 } else { 58 };
        let mut header = vec![kind, code, 0, 0];
        header.extend(rest);
        header.extend(data);
        self.checked(protocol, header, 2)
    }

    /// Echo request (or reply) with an identifier.
    #[must_use]
    pub fn echo(self, identifier: u16, reply: bool) -> Self {
        let kind = match (self.src.is_ipv4(), reply) {
            (true, false) => 8,
            (true, true) => 0,
            (false, false) => 128,
            (false, true) => 129,
        };
        let id = identifier.to_be_bytes();
        self.icmp(kind, 0, [id[0], id[1], 0, 1], &[0; 8])
    }

    fn checked(mut self, protocol: u8, mut payload: Vec<u8>, at: usize) -> Self {
        let mut sum = vec![];
        if protocol != 1 {
            match (self.src, self.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    sum.extend(src.octets());
                    sum.extend(dst.octets());
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    sum.extend(src.octets());
                    sum.extend(dst.octets());
                }
                _ => {}
            }
            sum.extend([0, protocol]);
            sum.extend((payload.len() as u16).to_be_bytes());
        }
        sum.extend(&payload);
        let checksum = checksum(&sum);
        payload[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        self.protocol = protocol;
        self.payload = payload;
        self
    }

    /// The bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.v4(src, dst));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.v6(src, dst));
            }
            _ => {}
        }
        frame
    }

    /// The IP packet alone, as it stands inside an ICMP error.
    pub fn ip(&self) -> Vec<u8> {
        self.build().split_off(14)
    }

    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend(((header + self.payload.len()) as u16).to_be_bytes());
        ip.extend(self.fragment.0.to_be_bytes());
        ip.extend(self.fragment.1.to_be_bytes());
        ip.extend([self.hops, self.protocol, 0, 0]);
        ip.extend(src.octets());
        ip.extend(dst.octets());
        ip.extend(&self.options);
        let checksum = checksum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip.extend(&self.payload);
        ip
    }

    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        let mut body = Vec::new();
        for (n, (_, bytes)) in self.extensions.iter().enumerate() {
            let mut bytes = bytes.clone();
            bytes[0] = self.extensions.get(n + 1).map_or(self.protocol, |(next, _)| *next);
            body.extend(bytes);
        }
        body.extend(&self.payload);
        let first = self.extensions.first().map_or(self.protocol, |(number, _)| *number);
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((body.len() as u16).to_be_bytes());
        ip.extend([first, self.hops]);
        ip.extend(src.octets());
        ip.extend(dst.octets());
        ip.extend(body);
        ip
    }
}

/// The Internet checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv6 fragment header: offset in bytes, more fragments, identification.
pub fn fragment_header(offset: u16, more: bool, identification: u32) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    (44, bytes)
}

/// An ARP packet for Ethernet and IPv4.
pub fn arp(operation: u16, from: [u8; 6], sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(from);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}
