//! Keys of flows: the 5-tuple without a direction, in structures and in words.

use crate::shared;

shared! {
/// Key of an IPv4 flow: the 5-tuple without a direction. "Low" is the side whose (address, port) is
/// smaller as the machine compares the packet's words (any order would do), see [`FlowKeyV4::new`].
/// ICMP queries carry their identifier as both ports; other protocols without ports, and other ICMP
/// messages, carry zeros.
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
    /// What [`protocol::word`](crate::protocol::word) says: the IP protocol number in the low byte;
    /// for ICMP and ICMPv6 also the type of the query (of the message, if it is none) in bits 8-15,
    /// the code in bits 16-23, and for queries [`QUERIER_LOW`]; else zeros.
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
}

/// A bit of a key's `protocol` word that is set for ICMP queries alone: whoever asks is the low
/// side. Two hosts that ask each other under one identifier have two flows, of which each needs its
/// own permission.
pub const QUERIER_LOW: u32 = 1 << 24;

/// A key as it lies in memory, in words that programs can write at once: several small stores that
/// the kernel's hash function reads as one word would make it wait for each of them.
pub type ImageV4 = [u64; 2];

/// A key of IPv6 as it lies in memory, as [`ImageV4`] is one of IPv4.
pub type ImageV6 = [u64; 5];

impl FlowKeyV4 {
    /// Returns the key of a packet, and whether its source is the low side. Addresses and ports are
    /// in network byte order.
    #[inline(always)]
    pub const fn new(src: u32, src_port: u16, dst: u32, dst_port: u16, protocol: u8) -> (Self, bool) {
        Self::with_word(src, src_port, dst, dst_port, protocol as u32)
    }

    /// Returns the same as [`FlowKeyV4::new`], given the whole `protocol` word.
    #[inline(always)]
    pub const fn with_word(src: u32, src_port: u16, dst: u32, dst_port: u16, protocol: u32) -> (Self, bool) {
        let source_is_low = src < dst || (src == dst && src_port <= dst_port);
        let (low, high, low_port, high_port) = if source_is_low {
            (src, dst, src_port, dst_port)
        } else {
            (dst, src, dst_port, src_port)
        };
        let key = Self {
            low,
            high,
            low_port,
            high_port,
            protocol,
        };
        (key, source_is_low)
    }

    /// Returns the same as [`FlowKeyV4::with_word`], in memory's form. `ports` is the first word of
    /// the L4 header as it lies in the packet.
    #[inline(always)]
    pub const fn image(src: u32, dst: u32, ports: u32, protocol: u32) -> (ImageV4, bool) {
        if src < dst || (src == dst && ports_in_order(ports)) {
            ([join(src, dst), join(ports, protocol)], true)
        } else {
            ([join(dst, src), join(ports.rotate_left(16), protocol)], false)
        }
    }

    /// Returns this key in memory's form.
    #[inline(always)]
    pub const fn to_image(&self) -> ImageV4 {
        [
            join(self.low, self.high),
            join(join_ports(self.low_port, self.high_port), self.protocol),
        ]
    }

    /// Returns the fingerprint that is stored in the value; see
    /// [`Flow::check`](crate::Flow::check).
    #[inline(always)]
    pub const fn check(&self) -> u64 {
        Self::check_of(&self.to_image())
    }

    /// Returns [`FlowKeyV4::check`] of a key in memory's form.
    #[inline(always)]
    pub const fn check_of(image: &ImageV4) -> u64 {
        // An odd multiplier keeps the words' bits apart; 1 keeps an all-zero (never written) value
        // from matching.
        mix(image[0], image[1]) | 1
    }
}

impl FlowKeyV6 {
    /// Returns the key of a packet, and whether its source is the low side. Addresses and ports are
    /// in network byte order.
    #[inline(always)]
    pub const fn new(src: [u32; 4], src_port: u16, dst: [u32; 4], dst_port: u16, protocol: u8) -> (Self, bool) {
        Self::with_word(src, src_port, dst, dst_port, protocol as u32)
    }

    /// Returns the same as [`FlowKeyV6::new`], given the whole `protocol` word.
    #[inline(always)]
    pub const fn with_word(src: [u32; 4], src_port: u16, dst: [u32; 4], dst_port: u16, protocol: u32) -> (Self, bool) {
        let (a, b) = (join_address(src), join_address(dst));
        let source_is_low = a[0] < b[0] || (a[0] == b[0] && (a[1] < b[1] || (a[1] == b[1] && src_port <= dst_port)));
        let (low, high, low_port, high_port) = if source_is_low {
            (src, dst, src_port, dst_port)
        } else {
            (dst, src, dst_port, src_port)
        };
        let key = Self {
            low,
            high,
            low_port,
            high_port,
            protocol,
        };
        (key, source_is_low)
    }

    /// Returns the same as [`FlowKeyV6::with_word`], in memory's form. Addresses are two words
    /// each, and `ports` is the first word of the L4 header, as they lie in the packet.
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

    /// Returns this key in memory's form.
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

    /// Returns the fingerprint that is stored in the value; see
    /// [`Flow::check`](crate::Flow::check).
    #[inline(always)]
    pub const fn check(&self) -> u64 {
        Self::check_of(&self.to_image())
    }

    /// Returns [`FlowKeyV6::check`] of a key in memory's form.
    #[inline(always)]
    pub const fn check_of(image: &ImageV6) -> u64 {
        mix(mix(image[0], image[1]) ^ mix(image[2], image[4]), image[3]) | 1
    }
}

/// Returns two words that follow each other in memory as one.
#[inline(always)]
pub const fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        (second as u64) << 32 | first as u64
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// Returns an address of four words as two, as it lies in memory.
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

/// Returns an address of two words as four, as it lies in memory. This is the reverse of
/// [`join_address`].
#[inline(always)]
pub const fn split_address(address: [u64; 2]) -> [u32; 4] {
    let ((a, b), (c, d)) = (split(address[0]), split(address[1]));
    [a, b, c, d]
}

/// Returns two ports that follow each other in memory as one word.
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
    use crate::protocol;

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
