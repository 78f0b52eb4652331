//! Kinds of addresses: the host's own, those of a link, those that belong on none.

use crate::maps::PeerInfo;

/// Whether two addresses are equal.
#[inline(always)]
pub(crate) const fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// fe80::/10.
#[inline(always)]
pub(crate) const fn is_link_local(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 22 == 0xfe80 >> 6
}

/// ff00::/8.
#[inline(always)]
pub(crate) const fn is_multicast_v6(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 24 == 0xff
}

/// Whether an address pair must never be seen on a link (RFC 1122, 3.2.1.3; RFC 4291, 2.5):
/// loopback or "this network" at either end, IPv4 mapped into IPv6 at either end, no IPv6 address
/// at the destination; a reserved, broadcast or multicast address as a source.
#[inline(always)]
pub(crate) const fn is_martian(version: u8, src: &[u32; 4], dst: &[u32; 4]) -> bool {
    const fn never_v4(address: u32) -> bool {
        let network = u32::from_be(address) >> 24;
        network == 0 || network == 127
    }
    const fn never_v6(address: &[u32; 4]) -> bool {
        let last = u32::from_be(address[3]);
        let mapped = u32::from_be(address[2]) == 0xffff;
        address[0] | address[1] == 0 && (mapped || (address[2] == 0 && last == 1))
    }
    if version == 4 {
        never_v4(src[0]) || never_v4(dst[0]) || u32::from_be(src[0]) >> 28 >= 0xe
    } else {
        let nowhere = dst[0] | dst[1] | dst[2] | dst[3] == 0;
        never_v6(src) || never_v6(dst) || nowhere || is_multicast_v6(src)
    }
}

/// Whether an address is beyond the host and its links: neither the host's own nor one that no
/// router forwards to.
#[inline(always)]
pub(crate) fn is_beyond(version: u8, address: &[u32; 4], peer: &PeerInfo) -> bool {
    let on_link = if version == 4 {
        // Multicast, and above it the limited broadcast.
        u32::from_be(address[0]) >> 28 >= 0xe
    } else {
        is_link_local(address) || is_multicast_v6(address)
    };
    !peer.is_host() && !on_link
}
