//! Conntrack: keys, values and states.

use crate::{Settings, shared};

/// Protocol numbers that the programs tell apart.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;

    /// The `protocol` word of a flow's key. Without the ICMP type, a flow that was allowed for one type would let others pass.
    #[inline(always)]
    pub const fn word(protocol: u8, query_type: u8, code: u8) -> u32 {
        protocol as u32 | (query_type as u32) << 8 | (code as u32) << 16
    }

    /// The ICMP query type that both the query and its reply stand under in keys, and whether this message is the reply. `None`:
    /// the type is not one of a pair that carries an identifier.
    #[inline(always)]
    pub const fn icmp_query(version: u8, icmp_type: u8) -> Option<(u8, bool)> {
        if version == 4 {
            match icmp_type {
                // Echo, timestamp, information, address mask, extended echo.
                8 | 13 | 15 | 17 | 42 => Some((icmp_type, false)),
                0 => Some((8, true)),
                14 | 16 | 18 | 43 => Some((icmp_type - 1, true)),
                _ => None,
            }
        } else {
            match icmp_type {
                128 | 160 => Some((icmp_type, false)),
                129 | 161 => Some((icmp_type - 1, true)),
                _ => None,
            }
        }
    }
}

shared! {
/// Key of an IPv4 flow: the 5-tuple without a direction. "Low" is the side whose (address, port) is smaller as the machine compares the
/// packet's words (any order would do), see [`FlowKeyV4::new`].
/// ICMP queries carry their identifier as both ports; other protocols without ports, and other ICMP messages, carry zeros.
#[derive(Hash, PartialOrd, Ord)]
pub struct FlowKeyV4: 16 {
    /// Address of the low side, network byte order.
    pub low: u32,
    /// Address of the high side, network byte order.
    pub high: u32,
    /// Port of the low side, network byte order.
    pub low_port: u16,
    /// Port of the high side, network byte order.
    pub high_port: u16,
    /// What [`protocol::word`] says: the IP protocol number in the low byte; for ICMP and ICMPv6 also the type of the query (of the
    /// message, if it is none) in bits 8-15, the code in bits 16-23, and for queries [`QUERIER_LOW`]; else zeros.
    pub protocol: u32,
}

/// Key of an IPv6 flow, as [`FlowKeyV4`].
#[derive(Hash, PartialOrd, Ord)]
pub struct FlowKeyV6: 40 {
    /// Address of the low side, network byte order.
    pub low: [u32; 4],
    /// Address of the high side, network byte order.
    pub high: [u32; 4],
    /// Port of the low side, network byte order.
    pub low_port: u16,
    /// Port of the high side, network byte order.
    pub high_port: u16,
    /// As in [`FlowKeyV4`].
    pub protocol: u32,
}

/// One end of a flow, as far as it is a local endpoint.
pub struct Side: 12 {
    /// The endpoint's id; 0 = this end is not a local endpoint (or not judged yet).
    pub endpoint: u32,
    /// Index of its [`crate::Endpoint`] record; valid only while that record still has this id.
    pub index: u32,
    /// Generation under which this side's policy allowed the flow; [`GENERATION_NONE`] = never judged, [`GENERATION_EXEMPT`] =
    /// not subject to policy (the host reaching its own workload).
    pub generation: u32,
}

/// Under which external address one end of a flow is known to the other.
pub struct Shown: 8 {
    /// Index into `nats`.
    pub index: u32,
    /// [`crate::Nat::id`] of that element when the flow began; 0 = this end is known by its own address. Once the element has another id, the
    /// translation is gone, and the flow with it.
    pub id: u32,
}

/// What is known of one flow. "Original" is the direction of its first packet.
pub struct Flow: 64 {
    /// [`FlowKeyV4::check`] or [`FlowKeyV6::check`] of the key. The kernel may reuse a deleted element at once, so a pointer that
    /// was looked up may have become another flow: verified after reading and before writing.
    pub check: u64,
    /// Low 32 bits of jiffies when a packet was last seen, at most a second old; compare with wrapping arithmetic.
    /// Written by compare-and-swap only, so that packets and the sweeper agree on who wins.
    pub last_seen: u32,
    /// `FLOW_*` bits.
    pub flags: u16,
    /// TCP flags seen from the originator (FIN 1, SYN 2, RST 4, ACK 16).
    pub tcp_original: u8,
    /// TCP flags seen from the responder.
    pub tcp_reply: u8,
    /// The originator: judged by its egress policy.
    pub egress: Side,
    /// The responder: judged by its ingress policy.
    pub ingress: Side,
    /// Low 32 bits of jiffies when the flow was created.
    pub created: u32,
    /// Half-open TCP: sequence number of the responder's SYN-ACK plus one; an ACK of it completes the handshake. Established: for how
    /// many jiffies after `last_seen` (a second) the fast programs take packets; the next one goes through the slow program, which renews
    /// `last_seen` or finds the flow expired.
    pub handshake_or_fresh: u32,
    /// How the originator is shown to the responder.
    pub original_nat: Shown,
    /// How the responder is shown to the originator.
    pub reply_nat: Shown,
}
}

/// In [`Flow::handshake_or_fresh`]: not for the fast programs at all.
pub const NEVER_FRESH: u32 = u32::MAX;

/// The original source is the key's low side.
pub const FLOW_ORIGINAL_LOW: u16 = 1;
/// Created by `from_workload` for a local destination: both directions redirect past the host stack.
pub const FLOW_FAST: u16 = 2;
/// A packet of the reply direction has been seen.
pub const FLOW_REPLIED: u16 = 4;
/// The sweeper has claimed this entry: a miss for everyone else. (It also sets `last_seen` to half the number circle ago, in one
/// compare-and-swap, so that the claim and a packet's update exclude each other.)
pub const FLOW_DEAD: u16 = 8;
/// TCP: a RST, or a FIN of both ends, has been seen, see `tcp_original` and `tcp_reply`: not for the fast programs.
pub const FLOW_CLOSING: u16 = 16;
/// Policy has stopped allowing the flow. The entry stays for as long as either end goes on, so that what they send is judged by the
/// original tuple and not taken for a new flow of the other direction.
pub const FLOW_REVOKED: u16 = 32;

/// In a key's `protocol` word, ICMP queries only: whoever asks is the low side. Two hosts that ask each other under one identifier have
/// two flows, of which each needs its own permission.
pub const QUERIER_LOW: u32 = 1 << 24;

/// Not judged.
pub const GENERATION_NONE: u32 = 0;
/// Never judged, always valid.
pub const GENERATION_EXEMPT: u32 = u32::MAX;

/// TCP FIN. (These are the bits of the TCP header's flags byte.)
pub const TCP_FIN: u8 = 1;
/// TCP SYN.
pub const TCP_SYN: u8 = 2;
/// TCP RST.
pub const TCP_RST: u8 = 4;
/// In `tcp_original`, `tcp_reply` only: that direction went on after a RST. Once both have, the RST was not real and is forgotten.
pub const TCP_AFTER_RST: u8 = 8;
/// TCP ACK.
pub const TCP_ACK: u8 = 16;

impl Flow {
    /// How long a flow may be silent, in jiffies, by its protocol and state. `established` says in which table it is.
    #[inline(always)]
    pub const fn timeout(tcp_original: u8, tcp_reply: u8, protocol: u8, established: bool, settings: &Settings) -> u32 {
        match protocol {
            protocol::TCP => {
                if (tcp_original | tcp_reply) & TCP_RST != 0 {
                    settings.tcp_rst
                } else if tcp_original & tcp_reply & TCP_FIN != 0 {
                    settings.tcp_fin
                } else if established {
                    settings.tcp_established
                } else {
                    settings.tcp_syn
                }
            }
            protocol::UDP | protocol::UDPLITE => settings.udp,
            protocol::ICMP | protocol::ICMPV6 => settings.icmp,
            _ => settings.other,
        }
    }
}

/// A key as it lies in memory, in words that programs can write at once: several small stores that the kernel's hash function reads as
/// one word would make it wait for each of them.
pub type ImageV4 = [u64; 2];
/// As [`ImageV4`].
pub type ImageV6 = [u64; 5];

impl FlowKeyV4 {
    /// Key of a packet and whether its source is the low side. Addresses and ports in network byte order.
    #[inline(always)]
    pub const fn new(src: u32, src_port: u16, dst: u32, dst_port: u16, protocol: u8) -> (Self, bool) {
        Self::with_word(src, src_port, dst, dst_port, protocol as u32)
    }

    /// As [`FlowKeyV4::new`], with the whole `protocol` word.
    #[inline(always)]
    pub const fn with_word(src: u32, src_port: u16, dst: u32, dst_port: u16, protocol: u32) -> (Self, bool) {
        if src < dst || (src == dst && src_port <= dst_port) {
            (
                Self {
                    low: src,
                    high: dst,
                    low_port: src_port,
                    high_port: dst_port,
                    protocol,
                },
                true,
            )
        } else {
            (
                Self {
                    low: dst,
                    high: src,
                    low_port: dst_port,
                    high_port: src_port,
                    protocol,
                },
                false,
            )
        }
    }

    /// As [`FlowKeyV4::with_word`], in memory's form. `ports`: the first word of the L4 header, as it lies in the packet.
    #[inline(always)]
    pub const fn image(src: u32, dst: u32, ports: u32, protocol: u32) -> (ImageV4, bool) {
        if src < dst || (src == dst && ports_in_order(ports)) {
            ([join(src, dst), join(ports, protocol)], true)
        } else {
            ([join(dst, src), join(ports.rotate_left(16), protocol)], false)
        }
    }

    /// This key in memory's form.
    #[inline(always)]
    pub const fn to_image(&self) -> ImageV4 {
        [
            join(self.low, self.high),
            join(join_ports(self.low_port, self.high_port), self.protocol),
        ]
    }

    /// Fingerprint stored in the value, see [`Flow::check`].
    #[inline(always)]
    pub const fn check(&self) -> u64 {
        Self::check_of(&self.to_image())
    }

    /// [`FlowKeyV4::check`] of a key in memory's form.
    #[inline(always)]
    pub const fn check_of(image: &ImageV4) -> u64 {
        // An odd multiplier keeps the words' bits apart; 1 keeps an all-zero (never written) value from matching.
        mix(image[0], image[1]) | 1
    }
}

impl FlowKeyV6 {
    /// As [`FlowKeyV4::new`].
    #[inline(always)]
    pub const fn new(src: [u32; 4], src_port: u16, dst: [u32; 4], dst_port: u16, protocol: u8) -> (Self, bool) {
        Self::with_word(src, src_port, dst, dst_port, protocol as u32)
    }

    /// As [`FlowKeyV6::new`], with the whole `protocol` word.
    #[inline(always)]
    pub const fn with_word(src: [u32; 4], src_port: u16, dst: [u32; 4], dst_port: u16, protocol: u32) -> (Self, bool) {
        let (a, b) = (join_address(src), join_address(dst));
        if a[0] < b[0] || (a[0] == b[0] && (a[1] < b[1] || (a[1] == b[1] && src_port <= dst_port))) {
            (
                Self {
                    low: src,
                    high: dst,
                    low_port: src_port,
                    high_port: dst_port,
                    protocol,
                },
                true,
            )
        } else {
            (
                Self {
                    low: dst,
                    high: src,
                    low_port: dst_port,
                    high_port: src_port,
                    protocol,
                },
                false,
            )
        }
    }

    /// As [`FlowKeyV4::image`]; addresses as two words each, as they lie in the packet.
    #[inline(always)]
    pub const fn image(src: [u64; 2], dst: [u64; 2], ports: u32, protocol: u32) -> (ImageV6, bool) {
        if src[0] < dst[0] || (src[0] == dst[0] && (src[1] < dst[1] || (src[1] == dst[1] && ports_in_order(ports)))) {
            ([src[0], src[1], dst[0], dst[1], join(ports, protocol)], true)
        } else {
            (
                [dst[0], dst[1], src[0], src[1], join(ports.rotate_left(16), protocol)],
                false,
            )
        }
    }

    /// This key in memory's form.
    #[inline(always)]
    pub const fn to_image(&self) -> ImageV6 {
        let (low, high) = (join_address(self.low), join_address(self.high));
        [
            low[0],
            low[1],
            high[0],
            high[1],
            join(join_ports(self.low_port, self.high_port), self.protocol),
        ]
    }

    /// Fingerprint stored in the value, see [`Flow::check`].
    #[inline(always)]
    pub const fn check(&self) -> u64 {
        Self::check_of(&self.to_image())
    }

    /// [`FlowKeyV6::check`] of a key in memory's form.
    #[inline(always)]
    pub const fn check_of(image: &ImageV6) -> u64 {
        mix(mix(image[0], image[1]) ^ mix(image[2], image[4]), image[3]) | 1
    }
}

/// Two words that follow each other in memory.
#[inline(always)]
pub const fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        (second as u64) << 32 | first as u64
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// An address of four words as two.
#[inline(always)]
pub const fn join_address(address: [u32; 4]) -> [u64; 2] {
    [join(address[0], address[1]), join(address[2], address[3])]
}

#[inline(always)]
const fn split(word: u64) -> (u32, u32) {
    if cfg!(target_endian = "little") {
        (word as u32, (word >> 32) as u32)
    } else {
        ((word >> 32) as u32, word as u32)
    }
}

/// An address of two words as four.
#[inline(always)]
pub const fn split_address(address: [u64; 2]) -> [u32; 4] {
    let ((a, b), (c, d)) = (split(address[0]), split(address[1]));
    [a, b, c, d]
}

/// Two ports that follow each other in memory.
#[inline(always)]
pub const fn join_ports(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        (second as u32) << 16 | first as u32
    } else {
        (first as u32) << 16 | second as u32
    }
}

/// Whether the first of two ports is not greater than the second.
#[inline(always)]
const fn ports_in_order(ports: u32) -> bool {
    let (half, other) = (ports as u16, (ports >> 16) as u16);
    if cfg!(target_endian = "little") {
        half <= other
    } else {
        other <= half
    }
}

#[inline(always)]
const fn mix(a: u64, b: u64) -> u64 {
    a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u32; 4] = [0x1234_5678, 2, 0x8000_0000, 4];

    #[test]
    fn both_directions_have_one_key() {
        for (src_port, dst_port) in [(1, 2), (0x100, 1), (7, 7)] {
            for dst in [A, [1, 2, 3, 4], [0x1234_5678, 2, 0x7fff_ffff, 9]] {
                let (there, low) = FlowKeyV6::new(A, src_port, dst, dst_port, 6);
                let (back, back_low) = FlowKeyV6::new(dst, dst_port, A, src_port, 6);
                assert_eq!(there, back);
                assert!(low != back_low || (A == dst && src_port == dst_port));
                let (there, low) = FlowKeyV4::new(A[0], src_port, dst[0], dst_port, 6);
                let (back, back_low) = FlowKeyV4::new(dst[0], dst_port, A[0], src_port, 6);
                assert_eq!(there, back);
                assert!(low != back_low || (A[0] == dst[0] && src_port == dst_port));
            }
        }
    }

    #[test]
    fn images_are_what_lies_in_memory() {
        for (src_port, dst_port) in [(1_u16, 2_u16), (0x100, 1), (7, 7), (0xffff, 0)] {
            for dst in [A, [1, 2, 3, 4], [0x1234_5678, 2, 0x7fff_ffff, 9]] {
                let (key, low) = FlowKeyV6::with_word(A, src_port, dst, dst_port, 0x0008_0001);
                let (image, image_low) = FlowKeyV6::image(
                    join_address(A),
                    join_address(dst),
                    join_ports(src_port, dst_port),
                    0x0008_0001,
                );
                assert_eq!((key.to_image(), low), (image, image_low));
                let (key, low) = FlowKeyV4::with_word(A[0], src_port, dst[0], dst_port, 17);
                let (image, image_low) = FlowKeyV4::image(A[0], dst[0], join_ports(src_port, dst_port), 17);
                assert_eq!((key.to_image(), low), (image, image_low));
            }
        }
        #[cfg(feature = "user")]
        {
            use zerocopy::IntoBytes as _;
            let (key, _) = FlowKeyV6::new(A, 5, [9; 4], 6, 17);
            assert_eq!(key.as_bytes(), key.to_image().as_bytes());
            let (key, _) = FlowKeyV4::new(1, 5, 2, 6, 17);
            assert_eq!(key.as_bytes(), key.to_image().as_bytes());
        }
    }

    #[test]
    fn replies_stand_under_their_query() {
        assert_eq!(protocol::icmp_query(4, 0), Some((8, true)));
        assert_eq!(protocol::icmp_query(4, 8), Some((8, false)));
        assert_eq!(protocol::icmp_query(6, 129), Some((128, true)));
        assert_eq!(protocol::icmp_query(6, 8), None);
        assert_eq!(protocol::icmp_query(4, 3), None);
    }
}
