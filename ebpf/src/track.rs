//! What a packet says of its flow: that it lives, how far its connection has come, and that it is
//! established.

use aya_ebpf::bindings::BPF_NOEXIST;
use felid_common::{
    ALIASED, Event, FLOW_CLOSING, FLOW_ESTABLISHED, FLOW_REPLIED, FLOW_REVOKED, FLOW_SLOW, Settings, TCP_AFTER_RST,
    TCP_FIN, TCP_RST, protocol,
};

use crate::conntrack::{EEXIST, Hit, Key, Word, age, both, swap_word};
use crate::packet::{count, now};
use crate::state::Private;
use crate::{shares, tcp};

/// Notes what an allowed packet says of its flow, and promotes the flow when it is established. A
/// TCP segment that the other end would not take changes nothing.
#[inline(always)]
pub(crate) fn track(hit: &mut Hit, key: &Key, private: &Private, original: bool, settings: &Settings) {
    let is_tcp = private.word as u8 == protocol::TCP;
    let old = hit.word();
    let mut state = old.state() & !u32::from(FLOW_REVOKED);
    if is_tcp {
        let Some(next) = tcp::follow(hit, key, private, original, state) else {
            return;
        };
        state = next;
    } else if original && state & u32::from(FLOW_REPLIED) != 0 {
        state |= u32::from(FLOW_ESTABLISHED);
    }
    let answered = if is_tcp {
        state & u32::from(FLOW_ESTABLISHED) != 0
    } else {
        !original
    };
    if !original {
        state |= u32::from(FLOW_REPLIED);
    }
    // What may be VXLAN stays where every packet's destination port is looked at. Another port may
    // have become VXLAN's.
    let vxlan = private.word as u8 == protocol::UDP
        && (u32::from(u16::from_be(private.src_port)) == settings.vxlan_port
            || u32::from(u16::from_be(private.dst_port)) == settings.vxlan_port);
    state &= !u32::from(FLOW_SLOW | FLOW_CLOSING);
    if vxlan || state & u32::from(ALIASED) << 16 != 0 {
        state |= u32::from(FLOW_SLOW);
    }
    if is_tcp && closing(state) {
        state |= u32::from(FLOW_CLOSING);
    }
    let now = now();
    let seen = if age(now, old.seen()) >= settings.hz {
        now
    } else {
        old.seen()
    };
    let new = Word::new(seen, state);
    if new != old {
        // A lost race loses one packet's flags; the next packet brings them again, and what matters
        // is sent until answered.
        swap_word(hit.flow, key.check, old, new);
    }
    if answered && !hit.established && !vxlan {
        promote(hit, key, new, settings);
    }
}

/// Whether a SYN may begin a new connection: both ends have said that they are done, or one has
/// reset the connection by exactly the sequence number that the other expected.
#[inline(always)]
const fn closing(state: u32) -> bool {
    const RESETS: u32 = TCP_RST as u32 | TCP_AFTER_RST as u32;
    state & both(TCP_FIN) == both(TCP_FIN)
        || state >> 16 & RESETS == TCP_RST as u32
        || state >> 24 & RESETS == TCP_RST as u32
}

#[inline(always)]
fn promote(hit: &mut Hit, key: &Key, word: Word, settings: &Settings) {
    hit.copy.last_seen = word.seen();
    hit.copy.flags = word.state() as u16;
    hit.copy.tcp_original = (word.state() >> 16) as u8;
    hit.copy.tcp_reply = (word.state() >> 24) as u8;
    let charge = hit.copy.charge();
    if !shares::take(&charge, key.family(), settings) {
        count(Event::EstablishedFull);
        return;
    }
    let entered = key.insert(true, &hit.copy, u64::from(BPF_NOEXIST));
    if entered.is_err() {
        shares::give(&charge, key.family(), settings);
    }
    match entered {
        Ok(()) => {
            count(Event::Promoted);
            key.remove_half_open();
        }
        // Another CPU was first.
        Err(EEXIST) => {
            key.remove_half_open();
        }
        Err(_) => count(Event::EstablishedFull),
    }
}
