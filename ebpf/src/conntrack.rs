//! Access to the flow tables: keys, entries that may be recycled under the reader.

mod ring;

use core::ptr::{addr_of, addr_of_mut};

use felid_common::{
    Charge, FLOW_CLOSING, FLOW_DEAD, FLOW_ESTABLISHED, FLOW_ORIGINAL_LOW, FLOW_REPLIED, FLOW_REVOKED, Flow, FlowEnd,
    FlowKeyV4, FlowKeyV6, ImageV4, ImageV6, NatHandle, QUERIER_LOW, Settings, Side, join, join_address, join_ports,
    protocol,
};

use crate::atomic::compare_and_swap;
use crate::maps;
use crate::shares;
use crate::state::{QUERY_ANSWERS, QUERY_ASKS, QUERY_NONE, State};

/// The word that holds `last_seen` (low half), `flags`, `tcp_original` and `tcp_reply` (high half):
/// they change together, by compare-and-swap, so that a packet's update and the sweeper's claim
/// exclude each other.
#[inline(always)]
fn word_of(flow: *mut Flow) -> *mut u64 {
    use core::mem::offset_of;
    const _: () = assert!(offset_of!(Flow, last_seen) == 8 && offset_of!(Flow, flags) == 12);
    const _: () = assert!(offset_of!(Flow, tcp_original) == 14 && offset_of!(Flow, tcp_reply) == 15);
    flow.wrapping_byte_add(offset_of!(Flow, last_seen)).cast()
}

/// `last_seen` and the state (`flags`, `tcp_original`, `tcp_reply`, from the low bits up) of a
/// flow, read at once.
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
        // SAFETY: a looked-up element stays readable while the program runs; what it holds is
        // checked by `is`.
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

/// Reads a field of the originator or of the responder.
macro_rules! peek_end {
    ($flow:expr, $originator:expr, $field:ident) => {
        if $originator {
            peek!($flow, originator.$field)
        } else {
            peek!($flow, responder.$field)
        }
    };
}

/// Reads one end's side: the originator's (judged by its egress policy) or the responder's.
#[inline(always)]
pub(crate) fn read_side(flow: *mut Flow, originator: bool) -> Side {
    Side {
        endpoint: peek_end!(flow, originator, endpoint),
        index: u32::from(peek_end!(flow, originator, index)),
        generation: peek_end!(flow, originator, generation),
    }
}

/// Reads how one end is shown to the other: the originator or the responder.
#[inline(always)]
pub(crate) fn read_shown(flow: *mut Flow, originator: bool) -> NatHandle {
    NatHandle {
        index: u32::from(peek_end!(flow, originator, nat_index)),
        id: peek_end!(flow, originator, nat_id),
    }
}

/// Reads one end.
#[inline(always)]
fn read_end(flow: *mut Flow, originator: bool) -> FlowEnd {
    FlowEnd::new(
        read_side(flow, originator),
        read_shown(flow, originator),
        read_expects(flow, originator),
    )
}

/// Reads the index of one end's record.
#[inline(always)]
pub(crate) fn read_index(flow: *mut Flow, originator: bool) -> u32 {
    u32::from(peek_end!(flow, originator, index))
}

/// Reads [`FlowEnd::expects`] of one end.
#[inline(always)]
pub(crate) fn read_expects(flow: *mut Flow, originator: bool) -> u32 {
    peek_end!(flow, originator, expects)
}

/// Reads one of [`Flow::windows`].
#[inline(always)]
pub(crate) fn read_window(flow: *mut Flow, originator: bool) -> u16 {
    peek!(flow, windows[usize::from(!originator)])
}

/// Notes what one end expects and how much it can take, in an element that was verified to be this
/// flow's.
#[inline(always)]
pub(crate) fn write_expects(flow: *mut Flow, originator: bool, expects: u32, window: u16) {
    // SAFETY: fields of a map's element, aligned. Other CPUs may write them meanwhile, each as one
    // word: the last one stands.
    unsafe {
        if originator {
            addr_of_mut!((*flow).originator.expects).write_volatile(expects);
            addr_of_mut!((*flow).windows[0]).write_volatile(window);
        } else {
            addr_of_mut!((*flow).responder.expects).write_volatile(expects);
            addr_of_mut!((*flow).windows[1]).write_volatile(window);
        }
    }
}

#[inline(always)]
pub(crate) fn read_check(flow: *mut Flow) -> u64 {
    peek!(flow, check)
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
    /// The key of the tuple in the scratch. Who talks to itself has one address on both sides:
    /// ports tell the directions apart, and of queries, whose ports are the same, the answer.
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
            originator: read_end(flow, true),
            responder: read_end(flow, false),
            created: peek!(flow, created),
            windows: [read_window(flow, true), read_window(flow, false)],
        };
        is(flow, self.check).then_some(Hit {
            flow,
            established,
            copy,
        })
    }

    /// Half-open, then established: a flow is in the second before it leaves the first, so one that
    /// moves meanwhile is found.
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

    /// Removes an entry and nothing else; whether it was there.
    #[inline(always)]
    fn remove(&self, established: bool) -> bool {
        match (self.v6, established) {
            (false, true) => maps::ESTABLISHED_V4.remove(self.as_v4()),
            (false, false) => maps::HALF_OPEN_V4.remove(self.as_v4()),
            (true, true) => maps::ESTABLISHED_V6.remove(self.as_v6()),
            (true, false) => maps::HALF_OPEN_V6.remove(self.as_v6()),
        }
        .is_ok()
    }

    /// Removes a half-open entry, if it is there.
    #[inline(always)]
    pub(crate) fn remove_half_open(&self) -> bool {
        self.remove(false)
    }

    /// Removes an established entry, if it is there, and gives back what it took of a share.
    /// Whoever removes it does so, and only they.
    #[inline(always)]
    pub(crate) fn remove_established(&self, settings: &Settings) -> bool {
        let Some(flow) = self.element(true) else { return false };
        let charge = Charge::of(&read_end(flow, true), &read_end(flow, false));
        let same = is(flow, self.check);
        let removed = self.remove(true);
        if removed && same {
            shares::give(&charge, self.family(), settings);
        }
        removed
    }

    /// Removes what there is of the flow.
    #[inline(always)]
    pub(crate) fn forget(&self, settings: &Settings) {
        self.remove_established(settings);
        self.remove(false);
    }

    /// Index of the IP version in what is kept for both.
    #[inline(always)]
    pub(crate) const fn family(&self) -> usize {
        self.v6 as usize
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

    /// Claimed by the sweeper, or silent for too long. What lost its translation stays as long as
    /// any other: an end may go on sending again for a quarter of an hour, which would else begin a
    /// flow under its own address.
    #[inline(always)]
    pub(crate) fn expired(&self, protocol: u8, settings: &Settings, now: u32) -> bool {
        self.copy.flags & FLOW_DEAD != 0
            || age(now, self.copy.last_seen)
                > Flow::timeout(
                    self.copy.flags,
                    self.copy.tcp_original,
                    self.copy.tcp_reply,
                    protocol,
                    settings,
                )
    }

    /// Both ends have said that they are done, or one has reset, or policy has revoked the flow: a
    /// SYN begins a new one.
    #[inline(always)]
    pub(crate) const fn closed(&self) -> bool {
        self.copy.flags & (FLOW_CLOSING | FLOW_REVOKED) != 0
    }

    /// 1 = both ends are done, or one has reset; policy has no part in it. Without a branch: the
    /// verifier follows each on its own.
    #[inline(always)]
    pub(crate) const fn over(&self) -> u32 {
        let flags = self.copy.flags as u32;
        flags >> FLOW_CLOSING.trailing_zeros() & !(flags >> FLOW_REVOKED.trailing_zeros()) & 1
    }

    /// Whether the other end has taken part: what opens a connection against the direction of such
    /// a flow is one of its own.
    #[inline(always)]
    pub(crate) const fn answered(&self, protocol: u8) -> bool {
        let copy = &self.copy;
        if protocol == protocol::TCP {
            copy.flags & FLOW_ESTABLISHED != 0
        } else {
            copy.flags & FLOW_REPLIED != 0
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

    /// Marks one side as judged. The endpoint is written last: until then the side is nobody's or
    /// holds under its old generation.
    #[inline(always)]
    pub(crate) fn set_side(&mut self, key: &Key, originator: bool, side: Side) {
        let end = if originator {
            &mut self.copy.originator
        } else {
            &mut self.copy.responder
        };
        *end = FlowEnd::new(side, end.shown(), end.expects);
        if !is(self.flow, key.check) {
            return;
        }
        // SAFETY: an element of a map, aligned; verified just now to be this flow.
        unsafe {
            let place = if originator {
                addr_of_mut!((*self.flow).originator)
            } else {
                addr_of_mut!((*self.flow).responder)
            };
            addr_of_mut!((*place).index).write_volatile(side.index as u16);
            addr_of_mut!((*place).generation).write_volatile(side.generation);
            addr_of_mut!((*place).endpoint).write_volatile(side.endpoint);
        }
    }
}

/// What the kernel returns if the key is there already.
pub(crate) const EEXIST: i32 = -17;

/// Bits of a state word for a TCP flag of either direction.
pub(crate) const fn both(flag: u8) -> u32 {
    (flag as u32) << 16 | (flag as u32) << 24
}
