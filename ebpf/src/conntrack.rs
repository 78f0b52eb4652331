//! Access to the flow tables: keys, entries that may be recycled under the reader, states, promotion.

use core::ptr::addr_of;

use aya_ebpf::bindings::BPF_NOEXIST;
use felid_common::{
    Event, FLOW_CLOSING, FLOW_DEAD, FLOW_ORIGINAL_LOW, FLOW_REPLIED, FLOW_REVOKED, Flow, FlowKeyV4, FlowKeyV6, ImageV4,
    ImageV6, NEVER_FRESH, QUERIER_LOW, Settings, Shown, Side, TCP_ACK, TCP_AFTER_RST, TCP_FIN, TCP_RST, TCP_SYN, join,
    join_address, join_ports, protocol,
};

use crate::atomic::compare_and_swap;
use crate::maps;
use crate::packet::count;
use crate::state::{Private, QUERY_ANSWERS, QUERY_ASKS, QUERY_NONE, State};

/// The word that holds `last_seen` (low half), `flags`, `tcp_original` and `tcp_reply` (high half): they change together, by
/// compare-and-swap, so that a packet's update and the sweeper's claim exclude each other.
#[inline(always)]
fn word_of(flow: *mut Flow) -> *mut u64 {
    use core::mem::offset_of;
    const _: () = assert!(offset_of!(Flow, last_seen) == 8 && offset_of!(Flow, flags) == 12);
    const _: () = assert!(offset_of!(Flow, tcp_original) == 14 && offset_of!(Flow, tcp_reply) == 15);
    flow.wrapping_byte_add(offset_of!(Flow, last_seen)).cast()
}

/// `last_seen` and the state (`flags`, `tcp_original`, `tcp_reply`, from the low bits up) of a flow, read at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    #[inline(always)]
    pub(crate) const fn new(seen: u32, state: u32) -> Self {
        Self((state as u64) << 32 | seen as u64)
    }

    #[inline(always)]
    pub(crate) const fn seen(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(crate) const fn state(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Reads a field of an entry that others may write, once.
macro_rules! peek {
    ($flow:expr, $($field:tt)+) => {
        // SAFETY: a looked-up element stays readable while the program runs; what it holds is checked by `is`.
        unsafe { addr_of!((*$flow).$($field)+).read_volatile() }
    };
}

#[inline(always)]
pub(crate) fn read_word(flow: *mut Flow) -> Word {
    // SAFETY: as in `peek`.
    Word(unsafe { word_of(flow).read_volatile() })
}

/// Replaces the word if nothing else has changed it.
#[inline(always)]
pub(crate) fn swap_word(flow: *mut Flow, check: u64, old: Word, new: Word) -> bool {
    // SAFETY: an element of a map, aligned to 8 as all are.
    is(flow, check) && unsafe { compare_and_swap(word_of(flow), old.0, new.0) } == old.0
}

/// Reads one end: the originator (judged by its egress policy) or the responder.
#[inline(always)]
pub(crate) fn read_side(flow: *mut Flow, egress: bool) -> Side {
    if egress {
        Side {
            endpoint: peek!(flow, egress.endpoint),
            index: peek!(flow, egress.index),
            generation: peek!(flow, egress.generation),
        }
    } else {
        Side {
            endpoint: peek!(flow, ingress.endpoint),
            index: peek!(flow, ingress.index),
            generation: peek!(flow, ingress.generation),
        }
    }
}

/// Reads how one end is shown to the other: the originator or the responder.
#[inline(always)]
pub(crate) fn read_shown(flow: *mut Flow, original: bool) -> Shown {
    if original {
        Shown {
            index: peek!(flow, original_nat.index),
            id: peek!(flow, original_nat.id),
        }
    } else {
        Shown {
            index: peek!(flow, reply_nat.index),
            id: peek!(flow, reply_nat.id),
        }
    }
}

/// Reads the index of one end's record.
#[inline(always)]
pub(crate) fn read_index(flow: *mut Flow, egress: bool) -> u32 {
    if egress {
        peek!(flow, egress.index)
    } else {
        peek!(flow, ingress.index)
    }
}

#[inline(always)]
pub(crate) fn read_check(flow: *mut Flow) -> u64 {
    peek!(flow, check)
}

/// See [`Flow::handshake_or_fresh`]; of an established flow.
#[inline(always)]
pub(crate) fn read_fresh(flow: *mut Flow) -> u32 {
    peek!(flow, handshake_or_fresh)
}

/// Whether the element still holds the flow with this key's check.
#[inline(always)]
pub(crate) fn is(flow: *mut Flow, check: u64) -> bool {
    read_check(flow) == check
}

/// Jiffies since; zero if another CPU's clock was ahead.
#[inline(always)]
pub(crate) fn age(now: u32, seen: u32) -> u32 {
    let age = now.wrapping_sub(seen);
    if age as i32 <= 0 { 0 } else { age }
}

/// A flow's key, its check, and whether the source of the tuple it was made from is the low side.
pub(crate) struct Key {
    // One buffer for both families; the first 16 bytes are an `ImageV4`.
    image: ImageV6,
    v6: bool,
    /// See [`Flow::check`].
    pub(crate) check: u64,
    /// Whether the tuple's source is the low side.
    pub(crate) low: bool,
}

/// The key that an image is.
#[inline(always)]
pub(crate) const fn key_v4(image: &ImageV4) -> &FlowKeyV4 {
    const _: () =
        assert!(size_of::<FlowKeyV4>() == size_of::<ImageV4>() && align_of::<FlowKeyV4>() <= align_of::<ImageV4>());
    // SAFETY: same size, no stricter alignment, and every bit pattern is a key.
    unsafe { &*core::ptr::from_ref(image).cast() }
}

/// The key that an image is.
#[inline(always)]
pub(crate) const fn key_v6(image: &ImageV6) -> &FlowKeyV6 {
    const _: () =
        assert!(size_of::<FlowKeyV6>() == size_of::<ImageV6>() && align_of::<FlowKeyV6>() <= align_of::<ImageV6>());
    // SAFETY: as above.
    unsafe { &*core::ptr::from_ref(image).cast() }
}

/// [`QUERIER_LOW`] in an image's last word, for a message from the low side (or not).
#[inline(always)]
const fn querier(query: u8, low: bool) -> u64 {
    if query != QUERY_NONE && (query == QUERY_ASKS) == low {
        join(0, QUERIER_LOW)
    } else {
        0
    }
}

/// What a look into the tables gave.
pub(crate) struct Hit {
    /// The element.
    pub(crate) flow: *mut Flow,
    /// Whether it is in the established table.
    pub(crate) established: bool,
    /// What it held.
    pub(crate) copy: Flow,
}

impl Key {
    /// The key of the tuple in the scratch. Who talks to itself has one address on both sides: ports tell the directions apart, and of
    /// queries, whose ports are the same, the answer.
    #[inline(always)]
    pub(crate) fn new(state: &mut State) -> Self {
        let private = state.private();
        let (ports, word, query) = (
            join_ports(private.src_port, private.dst_port),
            private.word,
            private.query,
        );
        let tuple = state.tuple();
        if tuple.ip_version == 4 {
            let (mut image, low) = FlowKeyV4::image(tuple.src[0], tuple.dst[0], ports, word);
            let low = low && (query != QUERY_ANSWERS || tuple.src[0] != tuple.dst[0]);
            image[1] |= querier(query, low);
            Self {
                low,
                ..Self::of_v4(image)
            }
        } else {
            let (src, dst) = (join_address(tuple.src), join_address(tuple.dst));
            let (mut image, low) = FlowKeyV6::image(src, dst, ports, word);
            let low = low && (query != QUERY_ANSWERS || (src[0] ^ dst[0]) | (src[1] ^ dst[1]) != 0);
            image[4] |= querier(query, low);
            Self {
                low,
                ..Self::of_v6(image)
            }
        }
    }

    /// A key that is known; nothing is said of a direction.
    #[inline(always)]
    pub(crate) const fn of_v4(image: ImageV4) -> Self {
        Self {
            image: [image[0], image[1], 0, 0, 0],
            v6: false,
            check: FlowKeyV4::check_of(&image),
            low: true,
        }
    }

    /// Likewise IPv6.
    #[inline(always)]
    pub(crate) const fn of_v6(image: ImageV6) -> Self {
        Self {
            check: FlowKeyV6::check_of(&image),
            image,
            v6: true,
            low: true,
        }
    }

    #[inline(always)]
    const fn as_v4(&self) -> &FlowKeyV4 {
        // SAFETY: the front of the buffer is an `ImageV4`.
        key_v4(unsafe { &*core::ptr::from_ref(&self.image).cast() })
    }

    #[inline(always)]
    const fn as_v6(&self) -> &FlowKeyV6 {
        key_v6(&self.image)
    }

    #[inline(always)]
    fn element(&self, established: bool) -> Option<*mut Flow> {
        match (self.v6, established) {
            (false, true) => maps::ESTABLISHED_V4.get_ptr_mut(self.as_v4()),
            (false, false) => maps::HALF_OPEN_V4.get_ptr_mut(self.as_v4()),
            (true, true) => maps::ESTABLISHED_V6.get_ptr_mut(self.as_v6()),
            (true, false) => maps::HALF_OPEN_V6.get_ptr_mut(self.as_v6()),
        }
    }

    /// One table's entry, read and verified.
    #[inline(always)]
    pub(crate) fn look(&self, established: bool) -> Option<Hit> {
        let flow = self.element(established)?;
        let word = read_word(flow);
        let state = word.state();
        let copy = Flow {
            check: self.check,
            last_seen: word.seen(),
            flags: state as u16,
            tcp_original: (state >> 16) as u8,
            tcp_reply: (state >> 24) as u8,
            egress: read_side(flow, true),
            ingress: read_side(flow, false),
            created: peek!(flow, created),
            handshake_or_fresh: peek!(flow, handshake_or_fresh),
            original_nat: read_shown(flow, true),
            reply_nat: read_shown(flow, false),
        };
        is(flow, self.check).then_some(Hit {
            flow,
            established,
            copy,
        })
    }

    /// Half-open, then established: a flow is in the second before it leaves the first, so one that moves meanwhile is found.
    #[inline(always)]
    pub(crate) fn find(&self) -> Option<Hit> {
        if let Some(hit) = self.look(false) {
            return Some(hit);
        }
        self.look(true)
    }

    /// Adds an entry; the error is the kernel's number.
    #[inline(always)]
    pub(crate) fn insert(&self, established: bool, value: &Flow, flags: u64) -> Result<(), i32> {
        match (self.v6, established) {
            (false, true) => maps::ESTABLISHED_V4.insert(self.as_v4(), value, flags),
            (false, false) => maps::HALF_OPEN_V4.insert(self.as_v4(), value, flags),
            (true, true) => maps::ESTABLISHED_V6.insert(self.as_v6(), value, flags),
            (true, false) => maps::HALF_OPEN_V6.insert(self.as_v6(), value, flags),
        }
    }

    /// Removes an entry, if it is there.
    #[inline(always)]
    pub(crate) fn remove(&self, established: bool) {
        let _gone = match (self.v6, established) {
            (false, true) => maps::ESTABLISHED_V4.remove(self.as_v4()),
            (false, false) => maps::HALF_OPEN_V4.remove(self.as_v4()),
            (true, true) => maps::ESTABLISHED_V6.remove(self.as_v6()),
            (true, false) => maps::HALF_OPEN_V6.remove(self.as_v6()),
        };
    }
}

impl Hit {
    /// Whether the tuple that `key` was made from runs in the original direction.
    #[inline(always)]
    pub(crate) const fn original(&self, key: &Key) -> bool {
        (self.copy.flags & FLOW_ORIGINAL_LOW != 0) == key.low
    }

    /// The word that the copy was made from.
    #[inline(always)]
    pub(crate) const fn word(&self) -> Word {
        let copy = &self.copy;
        Word::new(
            copy.last_seen,
            copy.flags as u32 | (copy.tcp_original as u32) << 16 | (copy.tcp_reply as u32) << 24,
        )
    }

    /// Claimed by the sweeper, or silent for too long. What lost its translation stays as long as any other: an end may go on sending again
    /// for a quarter of an hour, which would else begin a flow under its own address.
    #[inline(always)]
    pub(crate) fn expired(&self, protocol: u8, settings: &Settings, now: u32) -> bool {
        self.copy.flags & FLOW_DEAD != 0
            || age(now, self.copy.last_seen)
                > Flow::timeout(
                    self.copy.tcp_original,
                    self.copy.tcp_reply,
                    protocol,
                    self.established,
                    settings,
                )
    }

    /// Both ends have said that they are done, or one has reset, or policy has revoked the flow: a SYN begins a new one.
    #[inline(always)]
    pub(crate) const fn closed(&self) -> bool {
        self.copy.flags & (FLOW_CLOSING | FLOW_REVOKED) != 0
    }

    /// Notes what the packet says of the flow: that it lives, the TCP flags, the first reply; and promotes it when it is established.
    #[inline(always)]
    pub(crate) fn track(&mut self, key: &Key, private: &Private, original: bool, settings: &Settings, now: u32) {
        let tcp = private.tcp;
        let old = self.word();
        let mut state = old.state() & !u32::from(FLOW_REVOKED);
        let shift = if original { 16 } else { 24 };
        if !original {
            state |= u32::from(FLOW_REPLIED);
        }
        if tcp & TCP_RST != 0 {
            // From here on, traffic in both directions takes the reset back.
            state = (state | u32::from(TCP_RST) << shift) & !both(TCP_AFTER_RST);
        } else {
            state |= u32::from(tcp) << shift;
            if state & both(TCP_RST) != 0 {
                state |= u32::from(TCP_AFTER_RST) << shift;
                if state & both(TCP_AFTER_RST) == both(TCP_AFTER_RST) {
                    state &= !both(TCP_AFTER_RST | TCP_RST);
                }
            }
        }
        let closing = state & both(TCP_RST) != 0 || state & both(TCP_FIN) == both(TCP_FIN);
        state = state & !u32::from(FLOW_CLOSING) | if closing { u32::from(FLOW_CLOSING) } else { 0 };
        let seen = if age(now, old.seen()) >= settings.hz {
            now
        } else {
            old.seen()
        };
        let new = Word::new(seen, state);
        if new != old {
            // A lost race loses one packet's flags; the next packet brings them again, and what matters is sent until answered.
            swap_word(self.flow, key.check, old, new);
        }
        // What may be VXLAN stays where every packet's destination port is looked at.
        let vxlan = private.word as u8 == protocol::UDP
            && (u32::from(u16::from_be(private.src_port)) == settings.vxlan_port
                || u32::from(u16::from_be(private.dst_port)) == settings.vxlan_port);
        if self.established {
            // Another port may have become VXLAN's.
            if vxlan && self.copy.handshake_or_fresh != NEVER_FRESH {
                self.set_handshake_or_fresh(key, NEVER_FRESH);
            }
            return;
        }
        let plain_ack = tcp & (TCP_ACK | TCP_SYN | TCP_RST) == TCP_ACK;
        if tcp & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN | TCP_ACK && !original {
            self.set_handshake_or_fresh(key, private.sequence.wrapping_add(1));
            return;
        }
        let answered = if private.word as u8 == protocol::TCP {
            if original {
                // The originator has seen the responder's sequence number, so it is where it says it is.
                plain_ack
                    && self.copy.tcp_reply & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
                    && private.acknowledged.wrapping_sub(self.copy.handshake_or_fresh) < HANDSHAKE_WINDOW
            } else {
                // The responder goes on with a connection whose originator has acknowledged something: a bogus one gets a RST.
                plain_ack && self.copy.tcp_original & TCP_ACK != 0
            }
        } else {
            !original
        };
        if answered && !vxlan {
            self.copy.handshake_or_fresh = settings.hz;
            self.promote(key, new);
        }
    }

    #[inline(always)]
    fn set_handshake_or_fresh(&self, key: &Key, value: u32) {
        if is(self.flow, key.check) {
            // SAFETY: an element of a map, aligned; verified just now to be this flow.
            unsafe { core::ptr::addr_of_mut!((*self.flow).handshake_or_fresh).write_volatile(value) };
        }
    }

    /// Policy no longer allows the flow: see [`FLOW_REVOKED`]. Says whether that is news.
    #[inline(always)]
    pub(crate) fn revoke(&self, key: &Key, now: u32) -> bool {
        let old = self.word();
        let new = Word::new(now, old.state() | u32::from(FLOW_REVOKED));
        // A lost race leaves it to the next packet.
        new != old && swap_word(self.flow, key.check, old, new) && old.state() & u32::from(FLOW_REVOKED) == 0
    }

    /// Marks one side as judged. The endpoint is written last: until then the side is nobody's or holds under its old generation.
    #[inline(always)]
    pub(crate) fn set_side(&mut self, key: &Key, egress: bool, side: Side) {
        let copy = if egress {
            &mut self.copy.egress
        } else {
            &mut self.copy.ingress
        };
        *copy = side;
        if !is(self.flow, key.check) {
            return;
        }
        // SAFETY: an element of a map, aligned; verified just now to be this flow.
        unsafe {
            let place = if egress {
                core::ptr::addr_of_mut!((*self.flow).egress)
            } else {
                core::ptr::addr_of_mut!((*self.flow).ingress)
            };
            core::ptr::addr_of_mut!((*place).index).write_volatile(side.index);
            core::ptr::addr_of_mut!((*place).generation).write_volatile(side.generation);
            core::ptr::addr_of_mut!((*place).endpoint).write_volatile(side.endpoint);
        }
    }

    #[inline(always)]
    fn promote(&mut self, key: &Key, word: Word) {
        self.copy.last_seen = word.seen();
        self.copy.flags = word.state() as u16;
        self.copy.tcp_original = (word.state() >> 16) as u8;
        self.copy.tcp_reply = (word.state() >> 24) as u8;
        match key.insert(true, &self.copy, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                count(Event::Promoted);
                key.remove(false);
            }
            // Another CPU was first.
            Err(EEXIST) => key.remove(false),
            Err(_) => count(Event::EstablishedFull),
        }
    }
}

/// How far an originator's first ACK may run ahead of the responder's SYN-ACK: what a server may send before the handshake is complete.
const HANDSHAKE_WINDOW: u32 = 1 << 20;

/// What the kernel returns if the key is there already.
pub(crate) const EEXIST: i32 = -17;

/// Bits of a state word for a TCP flag of either direction.
pub(crate) const fn both(flag: u8) -> u32 {
    (flag as u32) << 16 | (flag as u32) << 24
}
