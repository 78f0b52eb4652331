//! What a packet leaves to be done by whoever sends it on: a checksum that is not filled in yet,
//! and a segmentation that is still to come.
//!
//! Whoever sends from a packet socket with `PACKET_VNET_HDR`, or from a virtual machine, chooses
//! where the kernel stores that checksum and how it segments, after every program has read the
//! packet. So the stub of each endpoint, which can read the kernel's own `struct sk_buff`,
//! describes both in the word [`CB_OFFLOAD`](crate::CB_OFFLOAD) of `skb->cb`, and the programs
//! compare it with the header that they read. Zero says that no checksum is left to be done; a
//! packet that is to be segmented all the same is segmented by the headers that it has.

use crate::protocol;

/// Bits of the word that hold where the checksum begins, in bytes from the start of the Ethernet
/// header.
pub const OFFLOAD_START: u32 = 0xffff;
/// How far left in the word the distance stands between there and the place where the checksum is
/// stored: eight bits.
pub const OFFLOAD_FIELD_SHIFT: u32 = 16;
/// The longest distance, which also stands for all that are longer. No protocol's checksum is so
/// far from the start of its header.
pub const OFFLOAD_FIELD_MAX: u32 = 255;
/// The checksum is not filled in (`CHECKSUM_PARTIAL`). Without this bit, start and distance are
/// zero.
pub const OFFLOAD_CHECKSUM: u32 = 1 << 24;
/// The packet carries another one (`skb->encapsulation`): the start is that of the first of the
/// inner headers.
pub const OFFLOAD_ENCAPSULATED: u32 = 1 << 25;
/// It will be segmented as TCP over IPv4.
pub const OFFLOAD_TCP_V4: u32 = 1 << 26;
/// It will be segmented as TCP over IPv6.
pub const OFFLOAD_TCP_V6: u32 = 1 << 27;
/// It will be segmented as UDP, into datagrams or fragments.
pub const OFFLOAD_UDP: u32 = 1 << 28;
/// It will be segmented as SCTP.
pub const OFFLOAD_SCTP: u32 = 1 << 29;
/// It will be segmented in a way that fits none of these alone.
pub const OFFLOAD_OTHER: u32 = 1 << 30;
/// Every kind of segmentation.
pub const OFFLOAD_SEGMENTS: u32 = OFFLOAD_TCP_V4 | OFFLOAD_TCP_V6 | OFFLOAD_UDP | OFFLOAD_SCTP | OFFLOAD_OTHER;

/// Returns where in an L4 header its checksum is, in bytes, or `None` if a sender never leaves that
/// protocol's checksum to others.
#[inline(always)]
pub const fn checksum_field(version: u8, number: u8) -> Option<u32> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP | protocol::UDPLITE => Some(6),
        protocol::SCTP => Some(8),
        protocol::ICMP if version == 4 => Some(2),
        protocol::ICMPV6 if version == 6 => Some(2),
        _ => None,
    }
}

/// Returns the kind of segmentation that goes with a protocol over an IP version, or 0 if none
/// does.
#[inline(always)]
pub const fn segments_of(version: u8, number: u8) -> u32 {
    match number {
        protocol::TCP if version == 4 => OFFLOAD_TCP_V4,
        protocol::TCP => OFFLOAD_TCP_V6,
        protocol::UDP => OFFLOAD_UDP,
        protocol::SCTP => OFFLOAD_SCTP,
        _ => 0,
    }
}

/// Whether a packet that is no fragment may leave to others what `word` says, where its L4 header
/// of protocol `number` over IP `version` begins `l4` bytes behind the start of the Ethernet
/// header.
///
/// The checksum must be that header's own and nothing else, so that storing it changes nothing that
/// was read. In a packet that carries another one the inner headers must lie behind the outer ones:
/// then whatever is stored is stored in what the outer packet carries.
#[inline(always)]
pub const fn offload_fits(word: u32, version: u8, number: u8, l4: u32) -> bool {
    if word & OFFLOAD_ENCAPSULATED != 0 {
        let header = match number {
            protocol::IPIP | protocol::IPV6 => 0,
            protocol::GRE => 4,
            protocol::UDP => 8,
            _ => return false,
        };
        return word & OFFLOAD_START >= l4 + header;
    }
    let segments = word & OFFLOAD_SEGMENTS;
    if segments & !segments_of(version, number) != 0 {
        return false;
    }
    let checksum = word & !OFFLOAD_SEGMENTS;
    match checksum_field(version, number) {
        _ if checksum == 0 => true,
        Some(field) => checksum == l4 | field << OFFLOAD_FIELD_SHIFT | OFFLOAD_CHECKSUM,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: u32 = 34;

    const fn word(start: u32, field: u32) -> u32 {
        start | field << OFFLOAD_FIELD_SHIFT | OFFLOAD_CHECKSUM
    }

    #[test]
    fn the_judged_headers_own_checksum_and_no_other_place() {
        for (number, field) in [
            (protocol::TCP, 16),
            (protocol::UDP, 6),
            (protocol::UDPLITE, 6),
            (protocol::SCTP, 8),
            (protocol::ICMP, 2),
        ] {
            for start in 0..200 {
                for at in 0..=OFFLOAD_FIELD_MAX {
                    let fits = offload_fits(word(start, at), 4, number, V4);
                    assert_eq!(fits, start == V4 && at == field, "protocol {number}: {start} + {at}");
                }
            }
        }
        assert!(offload_fits(word(54, 2), 6, protocol::ICMPV6, 54));
        // The other version's ICMP, and what has no checksum that is known of.
        for (version, number) in [
            (4, protocol::ICMPV6),
            (6, protocol::ICMP),
            (4, 0),
            (4, 99),
            (4, protocol::GRE),
        ] {
            for field in [0, 2, 6, 8, 16] {
                assert!(!offload_fits(word(V4, field), version, number, V4), "protocol {number}");
            }
        }
    }

    #[test]
    fn segments_are_those_of_the_judged_protocol() {
        let kinds = [OFFLOAD_TCP_V4, OFFLOAD_TCP_V6, OFFLOAD_UDP, OFFLOAD_SCTP, OFFLOAD_OTHER];
        for (version, number, right) in [
            (4, protocol::TCP, OFFLOAD_TCP_V4),
            (6, protocol::TCP, OFFLOAD_TCP_V6),
            (4, protocol::UDP, OFFLOAD_UDP),
            (6, protocol::UDP, OFFLOAD_UDP),
            (4, protocol::SCTP, OFFLOAD_SCTP),
            (4, protocol::ICMP, 0),
            (4, protocol::UDPLITE, 0),
            (4, 99, 0),
        ] {
            for kind in kinds {
                assert_eq!(
                    offload_fits(kind, version, number, V4),
                    kind == right,
                    "protocol {number}, {kind:x}"
                );
                assert!(!offload_fits(kind | OFFLOAD_OTHER, version, number, V4));
                if let Some(field) = checksum_field(version, number) {
                    assert_eq!(offload_fits(word(V4, field) | kind, version, number, V4), kind == right);
                    assert!(!offload_fits(word(V4, field + 1) | kind, version, number, V4));
                }
            }
        }
    }

    #[test]
    fn inner_headers_lie_behind_the_outer_ones() {
        let inner = |start: u32| start | OFFLOAD_ENCAPSULATED | OFFLOAD_CHECKSUM | OFFLOAD_OTHER;
        for (number, header) in [
            (protocol::IPIP, 0),
            (protocol::IPV6, 0),
            (protocol::GRE, 4),
            (protocol::UDP, 8),
        ] {
            assert!(offload_fits(inner(V4 + header), 4, number, V4));
            assert!(offload_fits(inner(V4 + header + 30), 4, number, V4));
            for start in 0..V4 + header {
                assert!(
                    !offload_fits(inner(start), 4, number, V4),
                    "protocol {number} at {start}"
                );
            }
        }
        for number in [protocol::TCP, protocol::SCTP, protocol::ICMP, 99] {
            assert!(
                !offload_fits(inner(V4 + 60), 4, number, V4),
                "protocol {number} carries no packets"
            );
        }
    }
}
