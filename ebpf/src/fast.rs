//! The common case, short: a packet of an established TCP or UDP flow in the usual shape. Whatever else it is goes to the slow program
//! of the same hook, which begins afresh; so nothing here may decide against a packet.

use felid_common::{
    EGRESS, ENDPOINT_CHECK_MAC, Endpoint, FLOW_DEAD, FLOW_FAST, FLOW_ORIGINAL_LOW, Flow, FlowKeyV4, FlowKeyV6,
    GENERATION_EXEMPT, INGRESS, Settings, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, fixed, protocol,
};

use crate::deliver::{self, Family};
use crate::packet::{ETH_IPV4, ETH_IPV6, L3, NEXT, Packet, now, settings};
use crate::conntrack::{Word, both, key_v4, key_v6};
use crate::{conntrack, judge, maps};

/// Runs the fast program of a hook.
#[inline(always)]
pub(crate) fn run<const HOOK: u32>(packet: Packet) -> i32 {
    let mut missed = false;
    if let Some(verdict) = attempt::<HOOK>(packet, &mut missed) {
        return verdict;
    }
    packet.set_missed(missed);
    packet.continue_in(if HOOK == EGRESS { fixed::FROM_WORKLOAD_SLOW } else { fixed::TO_WORKLOAD_SLOW })
}

/// Bytes of the packet, at a constant offset below what was compared with `data_end`.
macro_rules! read {
    ($data:expr, $offset:expr, $ty:ty) => {
        // SAFETY: in the packet (the verifier checks it against the comparison with `data_end`), which is read at any alignment.
        unsafe { (($data + $offset) as *const $ty).read_volatile() }
    };
}

#[inline(always)]
fn attempt<const HOOK: u32>(packet: Packet, missed: &mut bool) -> Option<i32> {
    let (data, end) = (packet.data(), packet.data_end());
    if data + L3 + 20 + 8 > end || packet.vlan() {
        return None;
    }
    match read!(data, 12, u16) {
        ETH_IPV4 => v4::<HOOK>(packet, data, end, missed),
        ETH_IPV6 => v6::<HOOK>(packet, data, end, missed),
        _ => None,
    }
}

#[inline(always)]
fn v4<const HOOK: u32>(packet: Packet, data: usize, end: usize, missed: &mut bool) -> Option<i32> {
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
    let (image, low) = FlowKeyV4::image(src, dst, read!(data, L4, u32), u32::from(number));
    let Some(flow) = maps::ESTABLISHED_V4.get_ptr_mut(key_v4(&image)) else {
        *missed = true;
        return None;
    };
    let found = Found { packet, data, end, flow, check: FlowKeyV4::check_of(&image), number, settings, family: Family::V4 };
    found.hit::<HOOK>(low)
}

#[inline(always)]
fn v6<const HOOK: u32>(packet: Packet, data: usize, end: usize, missed: &mut bool) -> Option<i32> {
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
    let src = [read!(data, L3 + 8, u64), read!(data, L3 + 16, u64)];
    let dst = [read!(data, L3 + 24, u64), read!(data, L3 + 32, u64)];
    let (image, low) = FlowKeyV6::image(src, dst, read!(data, L4, u32), u32::from(number));
    let Some(flow) = maps::ESTABLISHED_V6.get_ptr_mut(key_v6(&image)) else {
        *missed = true;
        return None;
    };
    let found = Found { packet, data, end, flow, check: FlowKeyV6::check_of(&image), number, settings, family: Family::V6 };
    found.hit::<HOOK>(low)
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

/// A packet and the element that its key found.
struct Found<'a> {
    packet: Packet,
    data: usize,
    end: usize,
    flow: *mut Flow,
    check: u64,
    number: u8,
    settings: &'a Settings,
    family: Family,
}

impl Found<'_> {
    #[inline(always)]
    fn hit<const HOOK: u32>(self, low: bool) -> Option<i32> {
        let own = self.packet.own()?;
        if HOOK == EGRESS && own.flags & ENDPOINT_CHECK_MAC != 0 && !same_mac(self.data, own) {
            return None;
        }
        let word = conntrack::read_word(self.flow);
        let state = word.state();
        if state & (u32::from(FLOW_DEAD) | both(TCP_RST)) != 0 || state & both(TCP_FIN) == both(TCP_FIN) {
            return None;
        }
        // At `from_workload` the source's side is this interface's own, at `to_workload` the destination's. One copy of the code for each
        // direction: fields at constant offsets instead of a choice at each.
        const _: () = assert!(FLOW_ORIGINAL_LOW == 1);
        if (state ^ u32::from(low)) & 1 == 0 {
            if HOOK == EGRESS { self.side::<HOOK, true>(own, word) } else { self.side::<HOOK, false>(own, word) }
        } else if HOOK == EGRESS {
            self.side::<HOOK, false>(own, word)
        } else {
            self.side::<HOOK, true>(own, word)
        }
    }

    #[inline(always)]
    fn side<const HOOK: u32, const MINE_IS_EGRESS: bool>(self, own: &Endpoint, word: Word) -> Option<i32> {
        let (packet, state) = (self.packet, word.state());
        let mine = conntrack::read_side(self.flow, MINE_IS_EGRESS);
        let other = conntrack::read_side(self.flow, !MINE_IS_EGRESS);
        if mine.endpoint != own.id {
            return None;
        }
        if mine.generation != judge::generation(own, MINE_IS_EGRESS)
            && (mine.generation != GENERATION_EXEMPT || (HOOK == INGRESS && packet.ingress_ifindex() != 0))
        {
            return None;
        }
        if !conntrack::is(self.flow, self.check) {
            return None;
        }
        let now = now();
        // Where another CPU's clock was ahead this is huge, too.
        let age = now.wrapping_sub(word.seen());
        if age >= self.settings.hz && age as i32 > 0 {
            let timeout = if self.number == protocol::TCP { self.settings.tcp_established } else { self.settings.udp };
            if age > timeout {
                return None;
            }
            // Losing the race is fine: another packet noted it, or the slow program or the sweeper has more to say.
            conntrack::swap_word(self.flow, self.check, word, Word::new(now, state));
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
        if target.id != other.endpoint
            || (other.generation != judge::generation(target, !MINE_IS_EGRESS) && other.generation != GENERATION_EXEMPT)
        {
            return None;
        }
        deliver::common(packet, self.data, self.end, own, target, self.family)
    }
}

#[inline(always)]
fn same_mac(data: usize, own: &Endpoint) -> bool {
    let mac = own.mac;
    read!(data, 6, u32) == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]) && read!(data, 10, u16) == u16::from_ne_bytes([mac[4], mac[5]])
}
