//! What a TCP segment may change: only what the end that it is sent to would take (RFC 9293, RFC
//! 5961), so that nobody who knows no more than addresses and ports resets or closes a connection
//! of others.
//!
//! An entry keeps for each end what it acknowledged last, its window, and the window's scale. A
//! RST, a FIN and a SYN-ACK are believed if they lie in the window of their receiver. A RST with
//! exactly the number that the receiver expects is final for as long as only one end goes on. One
//! elsewhere in the window makes its receiver ask whether it is meant (a challenge ACK), if it
//! lives: until that is seen it shortens the flow's life, but no SYN replaces the flow.

use felid_common::{
    FLOW_ESTABLISHED, FLOW_SCALE, Flow, FlowEnd, SCALE_UNKNOWN, TCP_ACK, TCP_AFTER_RST, TCP_FIN, TCP_RST, TCP_SYN,
};

use crate::conntrack::{self, Hit, Key, both};
use crate::packet::Packet;
use crate::state::{Private, State, launder};

/// How far an originator's first ACK may run ahead of the responder's SYN-ACK: what a server may
/// send before the handshake is complete.
const HANDSHAKE_WINDOW: u32 = 1 << 20;
/// How much data of a SYN its SYN-ACK may acknowledge (RFC 7413).
const SYN_DATA: u32 = 1 << 16;
/// The scale that a window is read with where the handshake was not seen: that of most hosts.
/// Segments of data are taken with the largest one then.
const USUAL_SCALE: u32 = 8;
const LARGEST_SCALE: u32 = 14;

/// The window scale of an end in a flow's state: [`SCALE_UNKNOWN`] if the handshake was not seen.
#[inline(always)]
const fn scale(state: u32, originator: bool) -> u32 {
    state >> if originator { FLOW_SCALE } else { FLOW_SCALE + 4 } & 15
}

#[inline(always)]
const fn with_scale(state: u32, originator: bool, scale: u32) -> u32 {
    let shift = if originator { FLOW_SCALE } else { FLOW_SCALE + 4 };
    state & !(15 << shift) | scale << shift
}

/// The window scales of a flow that begins with this segment, as they lie in its flags.
#[inline(always)]
pub(crate) fn first_scales(private: &Private) -> u16 {
    let unknown = u32::from(SCALE_UNKNOWN);
    let scales = if private.tcp & (TCP_SYN | TCP_ACK) != TCP_SYN {
        (unknown, unknown)
    } else if private.scale == SCALE_UNKNOWN {
        // Neither end scales unless both say so (RFC 7323).
        (0, 0)
    } else {
        (u32::from(private.scale), unknown)
    };
    with_scale(with_scale(0, true, scales.0), false, scales.1) as u16
}

/// What the sender and the receiver of a flow's first segment expect, and the sender's window.
#[inline(always)]
pub(crate) fn first_expectations(private: &Private) -> (u32, u32, u16) {
    let tcp = private.tcp;
    let expects = if tcp & TCP_ACK != 0 { private.acknowledged } else { 0 };
    let window = if tcp & TCP_SYN != 0 {
        unscaled(private.window, u32::from(private.scale))
    } else {
        private.window
    };
    (expects, end(private), window)
}

/// The sequence number behind a segment.
#[inline(always)]
fn end(private: &Private) -> u32 {
    let flags = u32::from(private.tcp & TCP_SYN != 0) + u32::from(private.tcp & TCP_FIN != 0);
    private
        .sequence
        .wrapping_add(u32::from(private.length))
        .wrapping_add(flags)
}

/// The window of a SYN, which is never scaled, as one to be scaled.
#[inline(always)]
const fn unscaled(window: u16, scale: u32) -> u16 {
    if window == 0 {
        return 0;
    }
    let window = if scale > LARGEST_SCALE { window } else { window >> scale };
    if window == 0 { 1 } else { window }
}

/// Both ends of a flow as a segment's sender and receiver.
struct Ends {
    sender: FlowEnd,
    receiver: FlowEnd,
    /// The receiver's window in bytes, as RST and FIN have to lie in it.
    window: u32,
    /// How far from what the receiver expects other segments may be.
    reach: u32,
    /// The receiver has not said anything yet.
    silent: bool,
}

#[inline(always)]
fn ends(copy: &Flow, original: bool, state: u32) -> Ends {
    let (sender, receiver, window, flags) = if original {
        (copy.originator, copy.responder, copy.windows[1], copy.tcp_reply)
    } else {
        (copy.responder, copy.originator, copy.windows[0], copy.tcp_original)
    };
    let scale = scale(state, !original);
    let scale = if scale > LARGEST_SCALE { USUAL_SCALE } else { scale };
    Ends {
        sender,
        receiver,
        window: u32::from(window) << scale,
        reach: reach(state, !original, window),
        silent: flags == 0,
    }
}

/// How far beyond what an end expects a segment of data may lie that it takes: its window, the
/// largest that it may be.
#[inline(always)]
pub(crate) fn reach(state: u32, originator: bool, window: u16) -> u32 {
    let scale = scale(state, originator);
    let scale = if scale > LARGEST_SCALE { LARGEST_SCALE } else { scale };
    // The window may have been larger when the segment was sent.
    u32::from(window) << scale | 0xffff
}

/// Whether a sequence number is not older than the one that an end expects (but for a keepalive,
/// which asks with the last one), and within its reach. Both the number of a segment and what it
/// acknowledges have to be.
#[inline(always)]
pub(crate) const fn near(number: u32, expects: u32, reach: u32) -> bool {
    number.wrapping_sub(expects).wrapping_add(1) <= reach.wrapping_add(1)
}

/// The state of a flow after a segment; `None` if the segment is nothing that its receiver would
/// take.
#[inline(always)]
pub(crate) fn follow(hit: &mut Hit, key: &Key, private: &Private, original: bool, state: u32) -> Option<u32> {
    let tcp = private.tcp;
    let shift = if original { 16 } else { 24 };
    let ends = ends(&hit.copy, original, state);
    if tcp & TCP_RST != 0 {
        return reset(&hit.copy, private, original, &ends, state);
    }
    if tcp & TCP_SYN != 0 {
        return synchronise(hit, key, private, original, state);
    }
    let mut state = state;
    if tcp & TCP_ACK != 0 && state & u32::from(FLOW_ESTABLISHED) == 0 {
        let complete = if original {
            // The originator has seen the responder's sequence number, so it is where it says it
            // is.
            hit.copy.tcp_reply & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
                && private.acknowledged.wrapping_sub(ends.sender.expects) < HANDSHAKE_WINDOW
        } else {
            // The responder goes on with a connection whose originator has acknowledged something:
            // a bogus one gets a RST.
            hit.copy.tcp_original & TCP_ACK != 0
        };
        if complete {
            state |= u32::from(FLOW_ESTABLISHED);
        }
    }
    let ahead = private.sequence.wrapping_sub(ends.receiver.expects);
    let in_reach = ends.silent || near(private.sequence, ends.receiver.expects, ends.reach);
    if tcp & TCP_ACK != 0 && in_reach && is_news(hit, private, original, state) {
        set(hit, key, original, private.acknowledged, private.window);
    }
    // Where the FIN itself stands; it may have been acknowledged already.
    let fin = ahead.wrapping_add(u32::from(private.length)).wrapping_add(1);
    let taken = if ends.silent || fin <= ends.window.wrapping_add(1) {
        tcp
    } else {
        tcp & !TCP_FIN
    };
    state |= u32::from(taken) << shift;
    if state & both(TCP_RST) != 0 {
        state |= u32::from(TCP_AFTER_RST) << shift;
        if state & both(TCP_AFTER_RST) == both(TCP_AFTER_RST) {
            state &= !both(TCP_AFTER_RST | TCP_RST);
        }
    }
    Some(state)
}

/// Whether a segment acknowledges no less than its sender did before, and no more than could have
/// been sent to it.
#[inline(always)]
fn is_news(hit: &Hit, private: &Private, original: bool, state: u32) -> bool {
    let (expects, window) = if original {
        (hit.copy.originator.expects, hit.copy.windows[0])
    } else {
        (hit.copy.responder.expects, hit.copy.windows[1])
    };
    private.acknowledged.wrapping_sub(expects) <= reach(state, original, window)
}

/// Writes what an end expects and its window, in the entry and in the copy of it.
#[inline(always)]
fn set(hit: &mut Hit, key: &Key, originator: bool, expects: u32, window: u16) {
    if originator {
        hit.copy.originator.expects = expects;
        hit.copy.windows[0] = window;
    } else {
        hit.copy.responder.expects = expects;
        hit.copy.windows[1] = window;
    }
    if conntrack::is(hit.flow, key.check) {
        conntrack::write_expects(hit.flow, originator, expects, window);
    }
}

/// The state after a RST.
#[inline(always)]
fn reset(copy: &Flow, private: &Private, original: bool, ends: &Ends, state: u32) -> Option<u32> {
    let shift = if original { 16 } else { 24 };
    let distance = if !original && copy.tcp_reply == 0 && copy.tcp_original & (TCP_SYN | TCP_ACK) == TCP_SYN {
        // An originator that has only sent its SYN takes what acknowledges it.
        if private.tcp & TCP_ACK == 0 || private.acknowledged.wrapping_sub(ends.sender.expects) > SYN_DATA {
            return None;
        }
        0
    } else {
        private.sequence.wrapping_sub(ends.receiver.expects)
    };
    if distance > ends.window {
        return None;
    }
    // From here on, traffic in both directions takes the reset back; the receiver's alone if it may
    // not have been exact.
    let certain = state >> shift & u32::from(TCP_RST | TCP_AFTER_RST) == u32::from(TCP_RST);
    let state = (state | u32::from(TCP_RST) << shift) & !both(TCP_AFTER_RST);
    Some(if distance == 0 || certain {
        state
    } else {
        state | u32::from(TCP_AFTER_RST) << shift
    })
}

/// The state after a SYN or a SYN-ACK. Ends that are synchronised take neither.
#[inline(always)]
fn synchronise(hit: &mut Hit, key: &Key, private: &Private, original: bool, state: u32) -> Option<u32> {
    let shift = if original { 16 } else { 24 };
    if state & u32::from(FLOW_ESTABLISHED) != 0 {
        return None;
    }
    let (sender, receiver_window) = if original {
        (hit.copy.originator, hit.copy.windows[1])
    } else {
        (hit.copy.responder, hit.copy.windows[0])
    };
    let answers = private.tcp & TCP_ACK != 0;
    let seen = if original {
        hit.copy.tcp_original
    } else {
        hit.copy.tcp_reply
    };
    if answers {
        // It has to acknowledge the other end's SYN, as far as that was seen.
        if private.acknowledged.wrapping_sub(sender.expects) > SYN_DATA {
            return None;
        }
    } else if seen & TCP_ACK != 0 || (original && hit.copy.tcp_reply & TCP_ACK != 0) {
        return None;
    }
    let state = scales(state, private, original, answers);
    let window = unscaled(private.window, scale(state, original));
    let expects = if answers { private.acknowledged } else { sender.expects };
    set(hit, key, original, expects, window);
    // Both write one end each: what the other one expects now.
    set(hit, key, !original, end(private), receiver_window);
    Some(state | u32::from(private.tcp) << shift)
}

/// The window scales after a SYN or a SYN-ACK.
#[inline(always)]
fn scales(state: u32, private: &Private, original: bool, answers: bool) -> u32 {
    let offered = u32::from(private.scale);
    if offered > LARGEST_SCALE || (answers && scale(state, !original) == 0 && scale(state, original) == 0) {
        // Neither end scales unless both say so (RFC 7323).
        with_scale(with_scale(state, true, 0), false, 0)
    } else {
        with_scale(state, original, offered)
    }
}

/// The window scale that the options of a SYN offer, which lie from `at` to `end`, or
/// [`SCALE_UNKNOWN`]. Options that contradict themselves offer nothing.
#[inline(always)]
pub(crate) fn window_scale(packet: Packet, state: &mut State, at: u32, end: u32) -> u8 {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    let place = &raw mut state.private().laundered;
    let mut at = at;
    // At most 40 bytes, each option at least one.
    for _ in 0..40 {
        at = launder(place, at);
        if at + 2 > end {
            return SCALE_UNKNOWN;
        }
        let Some([kind, length]) = packet.load::<[u8; 2]>(at) else {
            return SCALE_UNKNOWN;
        };
        match kind {
            END => return SCALE_UNKNOWN,
            NOP => at += 1,
            WINDOW_SCALE if length == 3 && at + 3 <= end => {
                let scale = packet.load::<u8>(at + 2).unwrap_or(SCALE_UNKNOWN);
                // RFC 7323: larger ones count as 14.
                return if scale > LARGEST_SCALE as u8 {
                    LARGEST_SCALE as u8
                } else {
                    scale
                };
            }
            _ if length < 2 => return SCALE_UNKNOWN,
            _ => at += u32::from(length),
        }
    }
    SCALE_UNKNOWN
}
