//! Ports of fragmented datagrams: the first fragment shows them, the later ones are judged by what it showed. Each first fragment is judged
//! by its own ports, and later ones may not reach back over its header, so that nothing else can stand there after reassembly.

use felid_common::{Drop, Fragment, FragmentKeyV4, FragmentKeyV6, protocol};

use crate::maps;
use crate::packet::{now, settings};
use crate::parse::{self, Part};
use crate::state::State;

/// Seconds that a datagram may take: as long as hosts wait for its parts at most (RFC 8200: 60).
const PATIENCE: u32 = 60;

#[inline(always)]
fn key_v4(state: &mut State, endpoint: u32, part: Part) -> FragmentKeyV4 {
    let hook = state.private().hook;
    let tuple = state.tuple();
    FragmentKeyV4 {
        src: tuple.src[0],
        dst: tuple.dst[0],
        endpoint,
        identification: part.identification,
        protocol_hook: u32::from(part.protocol) | u32::from(hook) << 8,
    }
}

#[inline(always)]
fn key_v6(state: &mut State, endpoint: u32, part: Part) -> FragmentKeyV6 {
    let hook = state.private().hook;
    let tuple = state.tuple();
    FragmentKeyV6 {
        src: tuple.src,
        dst: tuple.dst,
        endpoint,
        identification: part.identification,
        protocol_hook: u32::from(part.protocol) | u32::from(hook) << 8,
    }
}

/// Notes the ports of a first fragment that carried `length` bytes.
#[inline(always)]
pub(crate) fn remember(state: &mut State, endpoint: u32, part: Part, length: u32) -> Result<(), Drop> {
    let tuple = state.tuple();
    let icmp = u16::from(tuple.icmp_type) | u16::from(tuple.icmp_code) << 8;
    let (number, version) = (tuple.protocol, tuple.ip_version);
    let private = state.private();
    let value = Fragment {
        src_port: private.src_port,
        dst_port: private.dst_port,
        first_length: length as u16,
        icmp,
        seen: now(),
        protocol: u32::from(number),
    };
    let noted = if version == 4 {
        maps::FRAGMENTS_V4.insert(key_v4(state, endpoint, part), value, 0)
    } else {
        maps::FRAGMENTS_V6.insert(key_v6(state, endpoint, part), value, 0)
    };
    noted.map_err(|_| Drop::ConntrackFull)
}

/// Gives a later fragment the ports of its first one.
#[inline(always)]
pub(crate) fn recall(state: &mut State, endpoint: u32, part: Part) -> Result<(), Drop> {
    let version = state.tuple().ip_version;
    let found = if version == 4 {
        maps::FRAGMENTS_V4.get_ptr(key_v4(state, endpoint, part))
    } else {
        maps::FRAGMENTS_V6.get_ptr(key_v6(state, endpoint, part))
    };
    // SAFETY: a looked-up element stays readable while the program runs. If it is recycled meanwhile, it still holds the ports of some
    // allowed first fragment; what passes is then a later fragment that nobody can reassemble.
    let first = unsafe { *found.ok_or(Drop::UnknownFragment)? };
    let hz = settings().ok_or(Drop::Internal)?.hz;
    if now().wrapping_sub(first.seen) > hz.wrapping_mul(PATIENCE) {
        return Err(Drop::UnknownFragment);
    }
    if part.offset < u32::from(first.first_length) {
        return Err(Drop::BadFragment);
    }
    let number = first.protocol as u8;
    let (kind, code) = (first.icmp as u8, (first.icmp >> 8) as u8);
    if parse::is_icmp(version, number) {
        // The identifier stands for both ports.
        parse::set_icmp(state, number, kind, code, first.src_port);
    } else {
        parse::set_ports(state, number, first.src_port, first.dst_port);
        if matches!(number, protocol::ICMP | protocol::ICMPV6) {
            parse::set_foreign_icmp(state, number, kind, code);
        }
    }
    Ok(())
}
