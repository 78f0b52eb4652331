//! The common case, short: a packet of an established TCP or UDP flow in the usual shape. Whatever
//! else it is goes to the slow program of the same hook, which begins afresh; so nothing here may
//! decide against a packet.

use felid_common::{
    DropReason, EGRESS, ENDPOINT_CHECK_MAC, ENDPOINT_REDIRECTABLE, Endpoint, FLOW_DEAD, FLOW_ESTABLISHED,
    FLOW_ORIGINAL_LOW, FLOW_REDIRECT, FLOW_SLOW, Flow, FlowKeyV4, FlowKeyV6, GENERATION_EXEMPT, INGRESS, NatHandle,
    OFFLOAD_CHECKSUM, OFFLOAD_FIELD_SHIFT, OFFLOAD_TCP_V4, OFFLOAD_TCP_V6, OFFLOAD_UDP, TCP_ACK, TCP_FIN, TCP_RST,
    TCP_SYN, join_address, protocol, static_programs,
};

use crate::conntrack::{key_v4, key_v6};
use crate::deliver::{self, Family, Linear};
use crate::packet::{L3, NEXT, Packet, now, settings};
use crate::translation::{self, Number};
use crate::{conntrack, judge, maps, tcp};

/// Runs the fast program of a hook.
#[inline(always)]
pub(crate) fn run<const HOOK: u32>(packet: Packet) -> i32 {
    if let Some(verdict) = attempt::<HOOK>(packet) {
        return verdict;
    }
    packet.continue_in(if HOOK == EGRESS {
        static_programs::FROM_WORKLOAD_SLOW
    } else {
        static_programs::TO_WORKLOAD_SLOW
    })
}

/// Bytes of the packet, at a constant offset below what was compared with `data_end`.
macro_rules! read {
    ($data:expr, $offset:expr, $ty:ty) => {
        // SAFETY: in the packet (the verifier checks it against the comparison with `data_end`),
        // which is read at any alignment.
        unsafe { (($data + $offset) as *const $ty).read_volatile() }
    };
}

/// Writes there.
macro_rules! write {
    ($data:expr, $offset:expr, $ty:ty, $value:expr) => {
        // SAFETY: as in `read`.
        unsafe { (($data + $offset) as *mut $ty).write_volatile($value) }
    };
}

#[inline(always)]
fn attempt<const HOOK: u32>(packet: Packet) -> Option<i32> {
    let (data, end) = (packet.data(), packet.data_end());
    if data + L3 + 20 + 8 > end || packet.vlan() {
        return None;
    }
    // Ethertype, and in the next byte the IP version and (IPv4) the header's length: no options.
    let head = u32::from_be(read!(data, 12, u32));
    if head >> 8 == 0x08_0045 {
        v4::<HOOK>(packet, data, end)
    } else if head >> 12 == 0x8_6dd6 {
        v6::<HOOK>(packet, data, end)
    } else {
        None
    }
}

#[inline(always)]
fn v4<const HOOK: u32>(packet: Packet, data: usize, end: usize) -> Option<i32> {
    const L4: usize = L3 + 20;
    let length = u32::from(u16::from_be(read!(data, L3 + 2, u16)));
    // Not zero in a fragment: more-fragments bit and offset.
    let fragment = read!(data, L3 + 6, u16) & 0x3fff_u16.to_be();
    let number = read!(data, L3 + 9, u8);
    let odd =
        oddity(data, end, L4, number, length.wrapping_sub(20))? | unlike_own::<OFFLOAD_TCP_V4>(packet, L4, number);
    if odd | u32::from(fragment) | negative(packet.len().wrapping_sub(length + L3 as u32)) != 0 {
        return None;
    }
    let (mut src, mut dst) = (read!(data, L3 + 12, u32), read!(data, L3 + 16, u32));
    let settings = settings()?;
    let (from, to) = translation::arrived_v4::<HOOK>(packet, settings, &mut src, &mut dst)?;
    let (image, low) = FlowKeyV4::image(src, dst, read!(data, L4, u32), u32::from(number));
    let flow = maps::ESTABLISHED_V4.get_ptr_mut(key_v4(&image))?;
    let found = Found {
        packet,
        data,
        end,
        flow,
        check: FlowKeyV4::check_of(&image),
        family: Family::V4,
        hz: settings.hz,
        l4: L4,
        number,
        from,
        to,
    };
    found.hit::<HOOK>(low)
}

#[inline(always)]
fn v6<const HOOK: u32>(packet: Packet, data: usize, end: usize) -> Option<i32> {
    const L4: usize = L3 + 40;
    if data + L4 + 8 > end {
        return None;
    }
    let length = u32::from(u16::from_be(read!(data, L3 + 4, u16)));
    let number = read!(data, L3 + 6, u8);
    let odd = oddity(data, end, L4, number, length)? | unlike_own::<OFFLOAD_TCP_V6>(packet, L4, number);
    if odd | negative(packet.len().wrapping_sub(length + L4 as u32)) != 0 {
        return None;
    }
    let mut src = [read!(data, L3 + 8, u64), read!(data, L3 + 16, u64)];
    let mut dst = [read!(data, L3 + 24, u64), read!(data, L3 + 32, u64)];
    let settings = settings()?;
    let (from, to) = translation::arrived_v6::<HOOK>(packet, settings, &mut src, &mut dst)?;
    let (image, low) = FlowKeyV6::image(src, dst, read!(data, L4, u32), u32::from(number));
    let flow = maps::ESTABLISHED_V6.get_ptr_mut(key_v6(&image))?;
    let found = Found {
        packet,
        data,
        end,
        flow,
        check: FlowKeyV6::check_of(&image),
        family: Family::V6,
        hz: settings.hz,
        l4: L4,
        number,
        from,
        to,
    };
    found.hit::<HOOK>(low)
}

/// Not zero if a difference that was taken modulo 2^32 is negative. The checks below are collected
/// by `|` and branched on once: many small branches cost more than the arithmetic.
#[inline(always)]
const fn negative(difference: u32) -> u32 {
    difference & 1 << 31
}

/// Zero if the L4 header is TCP in the middle of a connection, or UDP, and agrees with `length`,
/// that of the IP payload.
#[inline(always)]
fn oddity(data: usize, end: usize, l4: usize, number: u8, length: u32) -> Option<u32> {
    if number == protocol::TCP {
        if data + l4 + 20 > end {
            return None;
        }
        // Header length (in words) in the highest four bits, flags in the low byte.
        let word = u32::from(u16::from_be(read!(data, l4 + 12, u16)));
        let header = word >> 12 << 2;
        let flags = word & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) as u32;
        Some(flags ^ TCP_ACK as u32 | negative(header.wrapping_sub(20)) | negative(length.wrapping_sub(header)))
    } else if number == protocol::UDP {
        let claimed = u32::from(u16::from_be(read!(data, l4 + 4, u16)));
        Some(claimed ^ length | negative(length.wrapping_sub(8)))
    } else {
        None
    }
}

/// Zero if what the packet leaves to others to do is nothing, or the checksum and the segmentation
/// of its own L4 header, which begins at `l4`. `number` is TCP, whose segments are of the kind
/// `TCP_SEGMENTS`, or UDP.
#[inline(always)]
fn unlike_own<const TCP_SEGMENTS: u32>(packet: Packet, l4: usize, number: u8) -> u32 {
    let left = packet.offload();
    if left == 0 {
        return 0;
    }
    let (segments, field) = if number == protocol::TCP {
        (TCP_SEGMENTS, 16)
    } else {
        (OFFLOAD_UDP, 6)
    };
    left & !segments ^ (l4 as u32 | field << OFFLOAD_FIELD_SHIFT | OFFLOAD_CHECKSUM)
}

/// A packet and the element that its key found.
struct Found {
    packet: Packet,
    data: usize,
    end: usize,
    flow: *mut Flow,
    check: u64,
    family: Family,
    /// Jiffies a second: for how long after it was seen the fast programs take a flow's packets;
    /// the next one goes through the slow program, which renews that or finds the flow expired.
    hz: u32,
    /// Offset of the L4 header.
    l4: usize,
    /// L4 protocol.
    number: u8,
    /// Translations by which the packet's addresses were replaced in the key.
    from: Number,
    to: Number,
}

impl Found {
    #[inline(always)]
    const fn headers(&self) -> Linear {
        Linear {
            data: self.data,
            end: self.end,
            family: self.family,
        }
    }

    #[inline(always)]
    fn hit<const HOOK: u32>(self, low: bool) -> Option<i32> {
        // At `from_workload` the source's side is this interface's own, at `to_workload` the
        // destination's. One copy of the code for each direction: fields at constant offsets
        // instead of a choice at each.
        const _: () = assert!(FLOW_ORIGINAL_LOW == 1);
        let original = (conntrack::read_word(self.flow).state() ^ u32::from(low)) & 1 == 0;
        if original == (HOOK == EGRESS) {
            self.side::<HOOK, true>()
        } else {
            self.side::<HOOK, false>()
        }
    }

    #[inline(always)]
    fn side<const HOOK: u32, const MINE_IS_EGRESS: bool>(self) -> Option<i32> {
        let packet = self.packet;
        // What needs a call comes first, so that nothing has to be saved across it. The other end's
        // record is looked at below; index 0, where there is none, is a record that nobody uses.
        let own = maps::ENDPOINTS.get(packet.own_index())?;
        let theirs = maps::ENDPOINTS.get(conntrack::read_index(self.flow, !MINE_IS_EGRESS))?;
        let now = now();
        if HOOK == EGRESS && own.flags & ENDPOINT_CHECK_MAC != 0 && !same_mac(self.data, own) {
            return None;
        }
        let word = conntrack::read_word(self.flow);
        let state = word.state();
        let mine = conntrack::read_side(self.flow, MINE_IS_EGRESS);
        let original = (HOOK == EGRESS) == MINE_IS_EGRESS;
        // That the originator goes on after an answer is for the slow program to note.
        let needed = if original { u32::from(FLOW_ESTABLISHED) } else { 0 };
        // What came by the host's stack all the same may be another connection.
        let unwanted = if HOOK == INGRESS { FLOW_REDIRECT } else { 0 };
        // All at once: the stub's endpoint lives and is the one this side was judged for, by its
        // current policy, and the element is this flow's, without a reset, and not older than a
        // second.
        let id = packet.own_id();
        let old = negative(self.hz.wrapping_sub(now.wrapping_sub(word.seen())));
        let odd = mine.endpoint ^ id
            | own.id ^ id
            | negative(id.wrapping_sub(1))
            | old
            | (state ^ needed) & (u32::from(FLOW_DEAD | FLOW_SLOW | unwanted) | needed | conntrack::both(TCP_RST));
        let stale = mine.generation ^ judge::generation(own, MINE_IS_EGRESS);
        let other_flow = conntrack::read_check(self.flow) ^ self.check;
        if u64::from(odd | stale) | other_flow != 0 {
            // The host's own flows are exempt from policy, but only what the host generates.
            let exempt = mine.generation == GENERATION_EXEMPT && (HOOK == EGRESS || packet.ingress_ifindex() == 0);
            if u64::from(odd) | other_flow != 0 || !exempt {
                return None;
            }
        }
        if !self.other_end_holds::<HOOK, MINE_IS_EGRESS>(theirs, state) {
            return None;
        }
        let (from, to) = (
            conntrack::read_shown(self.flow, original),
            conntrack::read_shown(self.flow, !original),
        );
        // Another name for the same tuple: the slow program says what that is.
        if translation::number(to) ^ self.to != 0 || (HOOK == INGRESS && translation::number(from) ^ self.from != 0) {
            return None;
        }
        let redirected = HOOK == EGRESS && state & u32::from(FLOW_REDIRECT) != 0;
        if HOOK == EGRESS && !redirected {
            packet.tag_for_host(MINE_IS_EGRESS);
        }
        self.note(state, original)?;
        if from.id | to.id != 0 {
            return self.translate::<HOOK>(from, to, own, redirected.then_some(theirs));
        }
        if !redirected {
            return Some(NEXT);
        }
        deliver::redirect_linear(packet, self.headers(), own, theirs)
    }

    /// Whether the flow's other end, if it is a local endpoint, is still what the entry says.
    /// `theirs`: the record at its index.
    #[inline(always)]
    fn other_end_holds<const HOOK: u32, const MINE_IS_EGRESS: bool>(&self, theirs: &Endpoint, state: u32) -> bool {
        let other = conntrack::read_side(self.flow, !MINE_IS_EGRESS);
        if HOOK == INGRESS {
            // What claims a local endpoint's address must come from its interface.
            other.endpoint == 0 || theirs.id ^ other.endpoint | theirs.ifindex ^ self.packet.ingress_ifindex() == 0
        } else if state & u32::from(FLOW_REDIRECT) != 0 {
            // No side of a redirected flow is exempt.
            let stale = other.generation ^ judge::generation(theirs, !MINE_IS_EGRESS);
            theirs.id ^ other.endpoint | stale | !theirs.flags & ENDPOINT_REDIRECTABLE == 0
        } else {
            true
        }
    }

    /// A packet of a flow of which one end has an external address; see [`crate::translation`].
    #[inline(always)]
    fn translate<const HOOK: u32>(
        &self,
        from: NatHandle,
        to: NatHandle,
        own: &Endpoint,
        target: Option<&'static Endpoint>,
    ) -> Option<i32> {
        // Whoever talks to itself is left to the slow program.
        if from.id != 0 && to.id != 0 {
            return None;
        }
        let shown = if from.id != 0 { from } else { to };
        let nat = maps::NATS.get(shown.index)?;
        if nat.id != shown.id {
            return None;
        }
        let (data, end) = (self.data, self.end);
        let header = if self.family == Family::V4 { L3 + 20 } else { L3 + 40 };
        if data + header > end {
            return None;
        }
        if let Some(target) = target
            && !deliver::prepare(self.packet, self.headers(), own, target)
        {
            return None;
        }
        let (source, old, new) = if HOOK == EGRESS && from.id != 0 {
            (true, &nat.other, &nat.address)
        } else if (HOOK == EGRESS && target.is_some()) || (HOOK == INGRESS && to.id != 0) {
            (false, &nat.address, &nat.other)
        } else {
            return Some(NEXT);
        };
        let difference = translation::difference(old, new);
        if self.family == Family::V4 {
            write!(data, L3 + if source { 12 } else { 16 }, u32, new[0]);
            let sum = read!(data, L3 + 10, u16);
            write!(data, L3 + 10, u16, translation::changed(sum, difference));
        } else {
            let at = L3 + if source { 8 } else { 24 };
            let new = join_address(*new);
            write!(data, at, u64, new[0]);
            write!(data, at + 8, u64, new[1]);
        }
        let sum = self.l4 + if self.number == protocol::TCP { 16 } else { 6 };
        if !translation::correct(self.packet, sum as u32, self.number, difference) {
            return Some(self.packet.drop(DropReason::Internal));
        }
        Some(match target {
            Some(target) => deliver::redirect(self.packet, target),
            None => NEXT,
        })
    }

    /// Notes what the sender of a TCP segment acknowledges and its window, if it is a segment that
    /// the other end takes; see [`crate::tcp`]. Mostly that is what it said before.
    #[inline(always)]
    fn note(&self, state: u32, original: bool) -> Option<()> {
        let (data, end) = (self.data, self.end);
        if self.number != protocol::TCP {
            return Some(());
        }
        if data + self.l4 + 16 > end {
            return None;
        }
        let acknowledged = u32::from_be(read!(data, self.l4 + 8, u32));
        let window = u16::from_be(read!(data, self.l4 + 14, u16));
        let expects = |end| conntrack::read_expects(self.flow, end);
        let forward = acknowledged.wrapping_sub(expects(original));
        if forward | u32::from(window ^ conntrack::read_window(self.flow, original)) == 0 {
            return Some(());
        }
        let sequence = u32::from_be(read!(data, self.l4 + 4, u32));
        let reach = |end| tcp::reach(state, end, conntrack::read_window(self.flow, end));
        let in_reach = tcp::near(sequence, expects(!original), reach(!original));
        if in_reach && forward <= reach(original) && conntrack::is(self.flow, self.check) {
            conntrack::write_expects(self.flow, original, acknowledged, window);
        }
        Some(())
    }
}

#[inline(always)]
fn same_mac(data: usize, own: &Endpoint) -> bool {
    let mac = own.mac;
    read!(data, 6, u32) == u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]])
        && read!(data, 10, u16) == u16::from_ne_bytes([mac[4], mac[5]])
}
