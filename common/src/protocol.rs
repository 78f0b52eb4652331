//! Protocol numbers that the programs tell apart, and what ICMP types mean to conntrack.

/// ICMP for IPv4 (RFC 792).
pub const ICMP: u8 = 1;
/// IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// IPv6 in IP (RFC 4213).
pub const IPV6: u8 = 41;
/// Generic routing encapsulation (RFC 2784).
pub const GRE: u8 = 47;
/// ICMP for IPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// SCTP (RFC 9260).
pub const SCTP: u8 = 132;
/// UDP-Lite (RFC 3828).
pub const UDPLITE: u8 = 136;

/// Returns the `protocol` word of a flow's key. Without the ICMP type, a flow that was allowed for
/// one type would let others pass.
#[inline(always)]
pub const fn word(protocol: u8, query_type: u8, code: u8) -> u32 {
    protocol as u32 | (query_type as u32) << 8 | (code as u32) << 16
}

/// Returns whether an ICMP message (`version` 4) or ICMPv6 message (6) of this type reports an
/// error about a packet that it quotes.
#[inline(always)]
pub const fn icmp_is_error(version: u8, icmp_type: u8) -> bool {
    if version == 4 {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        matches!(icmp_type, 3..=5 | 11 | 12)
    } else {
        // RFC 4443: errors are the types below 128.
        icmp_type < 128
    }
}

/// Returns the ICMP query type that both the query and its reply stand under in keys, and whether
/// this message is the reply. It is `None` if the type is not one of a pair that carries an
/// identifier.
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
