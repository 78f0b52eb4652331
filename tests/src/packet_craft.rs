//! Packets to be changed and taken apart, for test runs of the kernel programs: a [`Frame`] with
//! its payload, of which every field can be set. Checksums of IPv4 and L4 are right unless asked
//! otherwise.

use std::net::{IpAddr, Ipv4Addr};

use felid_lab::frames::Frame;
pub use felid_lab::frames::{checksum, fragment_header};

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
    /// IPv6 extension headers: number and whole bytes, of which the first (next header) is filled
    /// in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: identification; flags and offset word.
    pub fragment: (u16, u16),
    /// L4 header and data.
    pub payload: Vec<u8>,
}

/// A TCP segment.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// Window as in the header.
    pub window: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What it carries.
    pub data: Vec<u8>,
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

    /// TCP with all that its header says. `options` is a multiple of four bytes.
    #[must_use]
    pub fn segment(self, segment: &Segment) -> Self {
        let mut header = Vec::new();
        header.extend(segment.ports.0.to_be_bytes());
        header.extend(segment.ports.1.to_be_bytes());
        header.extend(segment.sequence.to_be_bytes());
        header.extend(segment.acknowledged.to_be_bytes());
        header.extend([((5 + segment.options.len() / 4) as u8) << 4, segment.flags]);
        header.extend(segment.window.to_be_bytes());
        header.extend([0; 4]);
        header.extend(&segment.options);
        header.extend(&segment.data);
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

    fn checked(self, protocol: u8, payload: Vec<u8>, at: usize) -> Self {
        let payload = self.frame().checked(protocol, payload, at);
        self.raw(protocol, payload)
    }

    fn frame(&self) -> Frame {
        Frame {
            ttl: self.hops,
            options: self.options.clone(),
            extensions: self.extensions.clone(),
            fragment: self.fragment,
            ..Frame::new(self.from, self.to, self.src, self.dst)
        }
    }

    /// The bytes.
    pub fn build(&self) -> Vec<u8> {
        self.frame().ip(self.protocol, &self.payload)
    }

    /// The IP packet alone, as it stands inside an ICMP error.
    pub fn ip(&self) -> Vec<u8> {
        self.build().split_off(14)
    }
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
