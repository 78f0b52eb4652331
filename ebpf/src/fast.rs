//! The common case, short: a packet of an established TCP or UDP flow in the usual shape. Whatever else it is goes to the slow program
//! of the same hook, which begins afresh; so nothing here may decide against a packet.

use felid_common::{
    EGRESS, ENDPOINT_CHECK_MAC, Endpoint, FLOW_DEAD, FLOW_FAST, FLOW_ORIGINAL_LOW, Flow, FlowKeyV4, FlowKeyV6,
    GENERATION_EXEMPT, INGRESS, Settings, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, fixed, protocol,
};

use crate::deliver::{self, Family};
use crate::packet::{ETH_IPV4, ETH_IPV6, L3, NEXT, Packet, now, settings};
use crate::conntrack::{Word, both};
use crate::{conntrack, maps};

/// Runs the fast program of a hook.
#[inline(always)]
pub(crate) fn run<const HOOK: u32>(packet: Packet) -> i32 {
    packet.set_missed(false);
    match attempt::<HOOK>(packet) {
        Some(verdict) => verdict,
        None => packet.continue_in(if HOOK == EGRESS { fixed::FROM_WORKLOAD_SLOW } else { fixed::TO_WORKLOAD_SLOW }),
    }
}

/// Bytes of the packet, at a constant offset below what was compared with `data_end`.
macro_rules! read {
    ($data:expr, $offset:expr, $ty:ty) => {
        // SAFETY: in the packet (the verifier checks it against the comparison with `data_end`), which is read at any alignment.
        unsafe { (($data + $offset) as *const $ty).read_volatile() }
    };
}

#[inline(always)]
fn attempt<const HOOK: u32>(packet: Packet) -> Option<i32> {
    let (data, end) = (packet.data(), packet.data_end());
    if data + L3 + 20 + 8 > end || packet.vlan() {
        return None;
    }
    match read!(data, 12, u16) {
        ETH_IPV4 => v4::<HOOK>(packet, data, end),
        ETH_IPV6 => v6::<HOOK>(packet, data, end),
        _ => None,
    }
}

#[inline(always)]
fn v4<const HOOK: u32>(packet: Packet, data: usize, end: usize) -> Option<i32> {
    const L4: usize = L3 + 20;
    let length = u32::from(u16::from_be(read!(data, L3 + 2, u16)));
    // Version 4 without options; no fragment (more-fragments bit and offset zero).
    if read!(data, L3, u8) != 0x45
        || read!(data, L3 + 6, u16) & 0x3fff_u16.to_be() != 0
        || length + L3 as u32 > packet.len()
    {
        return None;
    }
    let settings = settings()?;
    let number = read!(data, L3 + 9, u8);
    usual_l4(data, end, L4, number, length.checked_sub(20)?, settings)?;
    let (src, dst) = (read!(data, L3 + 12, u32), read!(data, L3 + 16, u32));
    let (key, low) = FlowKeyV4::new(src, read!(data, L4, u16), dst, read!(data, L4 + 2, u16), number);
    let Some(flow) = maps::ESTABLISHED_V4.get_ptr_mut(&key) else {
        packet.set_missed(true);
        return None;
    };
    flow_hit::<HOOK>(packet, data, end, flow, key.check(), low, number, settings, Family::V4)
}

#[inline(always)]
fn v6<const HOOK: u32>(packet: Packet, data: usize, end: usize) -> Option<i32> {
    const L4: usize = L3 + 40;
    if data + L4 + 8 > end {
        return None;
    }
    let length = u32::from(u16::from_be(read!(data, L3 + 4, u16)));
    if read!(data, L3, u8) >> 4 != 6 || length + L4 as u32 > packet.len() {
        return None;
    }
    let settings = settings()?;
    let number = read!(data, L3 + 6, u8);
    usual_l4(data, end, L4, number, length, settings)?;
    let src = [read!(data, L3 + 8, u32), read!(data, L3 + 12, u32), read!(data, L3 + 16, u32), read!(data, L3 + 20, u32)];
    let dst = [read!(data, L3 + 24, u32), read!(data, L3 + 28, u32), read!(data, L3 + 32, u32), read!(data, L3 + 36, u32)];
    let (key, low) = FlowKeyV6::new(src, read!(data, L4, u16), dst, read!(data, L4 + 2, u16), number);
    let Some(flow) = maps::ESTABLISHED_V6.get_ptr_mut(&key) else {
        packet.set_missed(true);
        return None;
    };
    flow_hit::<HOOK>(packet, data, end, flow, key.check(), low, number, settings, Family::V6)
}

/// `Some` if the L4 header is TCP in the middle of a connection, or UDP, and agrees with the length of the IP payload.
#[inline(always)]
fn usual_l4(data: usize, end: usize, l4: usize, number: u8, length: u32, settings: &Settings) -> Option<()> {
    if number == protocol::TCP {
        if data + l4 + 20 > end || length < 20 {
            return None;
        }
        let header = u32::from(read!(data, l4 + 12, u8) >> 4) * 4;
        let flags = read!(data, l4 + 13, u8) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
        (flags == TCP_ACK && header >= 20 && header <= length).then_some(())
    } else if number == protocol::UDP {
        let port = u32::from(u16::from_be(read!(data, l4 + 2, u16)));
        let claimed = u32::from(u16::from_be(read!(data, l4 + 4, u16)));
        (claimed == length && length >= 8 && port != settings.vxlan_port).then_some(())
    } else {
        None
    }
}

#[expect(clippy::too_many_arguments, reason = "inlined; a struct would be built on the stack for every packet")]
#[inline(always)]
fn flow_hit<const HOOK: u32>(
    packet: Packet,
    data: usize,
    end: usize,
    flow: *mut Flow,
    check: u64,
    low: bool,
    number: u8,
    settings: &Settings,
    family: Family,
) -> Option<i32> {
    let own = packet.own()?;
    if HOOK == EGRESS && own.flags & ENDPOINT_CHECK_MAC != 0 && !same_mac(data, own) {
        return None;
    }
    let word = conntrack::read_word(flow);
    let state = word.state();
    if state & (u32::from(FLOW_DEAD) | both(TCP_RST)) != 0 || state & both(TCP_FIN) == both(TCP_FIN) {
        return None;
    }
    let original = (state & u32::from(FLOW_ORIGINAL_LOW) != 0) == low;
    // At `from_workload` the source's side is this interface's own, at `to_workload` the destination's.
    let (mine, other, generation) = if (HOOK == EGRESS) == original {
        (conntrack::read_egress(flow), conntrack::read_ingress(flow), own.egress_generation)
    } else {
        (conntrack::read_ingress(flow), conntrack::read_egress(flow), own.ingress_generation)
    };
    if mine.endpoint != own.id {
        return None;
    }
    if mine.generation != generation && (mine.generation != GENERATION_EXEMPT || (HOOK == INGRESS && packet.ingress_ifindex() != 0)) {
        return None;
    }
    if !conntrack::is(flow, check) {
        return None;
    }
    let now = now();
    let age = conntrack::age(now, word.seen());
    if age >= settings.hz {
        let timeout = if number == protocol::TCP { settings.tcp_established } else { settings.udp };
        if age > timeout {
            return None;
        }
        // Losing the race is fine: another packet noted it, or the slow program or the sweeper has more to say.
        conntrack::swap_word(flow, check, word, Word::new(now, state));
    }
    if HOOK == INGRESS {
        // What claims a local endpoint's address must come from its interface.
        if other.endpoint != 0 {
            let source = maps::ENDPOINTS.get(other.index)?;
            if source.id != other.endpoint || source.ifindex != packet.ingress_ifindex() {
                return None;
            }
        }
        return Some(NEXT);
    }
    if state & u32::from(FLOW_FAST) == 0 {
        return Some(NEXT);
    }
    let target = maps::ENDPOINTS.get(other.index)?;
    let generation = if original { target.ingress_generation } else { target.egress_generation };
    if target.id != other.endpoint || (other.generation != generation && other.generation != GENERATION_EXEMPT) {
        return None;
    }
    deliver::common(packet, data, end, own, target, family)
}

#[inline(always)]
fn same_mac(data: usize, own: &Endpoint) -> bool {
    let mac = own.mac;
    read!(data, 6, u32) == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]) && read!(data, 10, u16) == u16::from_ne_bytes([mac[4], mac[5]])
}
