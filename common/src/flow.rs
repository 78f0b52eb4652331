//! Conntrack: keys, values and states.

mod key;

pub use key::{FlowKeyV4, FlowKeyV6, ImageV4, ImageV6, QUERIER_LOW, join, join_address, join_ports, split_address};

use crate::{Settings, protocol, shared};

shared! {
/// One end of a flow, as far as it is a local endpoint.
pub struct Side: 12 {
    /// The endpoint's id; 0 = this end is not a local endpoint (or not judged yet).
    pub endpoint: u32,
    /// Index of its [`crate::Endpoint`] record; valid only while that record still has this id.
    pub index: u32,
    /// Generation under which this side's policy allowed the flow; [`GENERATION_NONE`] = never
    /// judged, [`GENERATION_EXEMPT`] = not subject to policy (the host reaching its own workload).
    pub generation: u32,
}

/// Under which external address one end of a flow is known to the other.
pub struct NatHandle: 8 {
    /// Index into `nats`.
    pub index: u32,
    /// [`crate::Nat::id`] of that element when the flow began; 0 = this end is known by its own
    /// address. Once the element has another id, the translation is gone, and the flow with it.
    pub id: u32,
}

/// What an entry keeps of one end of its flow.
pub struct FlowEnd: 20 {
    /// As in [`Side`].
    pub endpoint: u32,
    /// As in [`Side`].
    pub generation: u32,
    /// [`NatHandle::id`].
    pub nat_id: u32,
    /// TCP: the next sequence number that this end expects of the other one, as far as it has said:
    /// what it acknowledged last, or before that what follows the other end's SYN. Other protocols:
    /// zero.
    pub expects: u32,
    /// [`Side::index`].
    pub index: u16,
    /// [`NatHandle::index`].
    pub nat_index: u16,
}

/// What is known of one flow. "Original" is the direction of its first packet, which the originator
/// sent.
pub struct Flow: 64 {
    /// [`FlowKeyV4::check`] or [`FlowKeyV6::check`] of the key. The kernel may reuse a deleted
    /// element at once, so a pointer that was looked up may have become another flow: verified
    /// after reading and before writing.
    pub check: u64,
    /// Low 32 bits of jiffies when a packet was last seen, at most a second old; compare with
    /// wrapping arithmetic. Written by compare-and-swap only, so that packets and the sweeper agree
    /// on who wins.
    pub last_seen: u32,
    /// `FLOW_*` bits, and from [`FLOW_SCALE`] on the window scale of the originator and of the
    /// responder, four bits each.
    pub flags: u16,
    /// TCP flags seen from the originator (FIN 1, SYN 2, RST 4, ACK 16).
    pub tcp_original: u8,
    /// TCP flags seen from the responder.
    pub tcp_reply: u8,
    /// Who sent the first packet: judged by its egress policy.
    pub originator: FlowEnd,
    /// Who it was sent to: judged by its ingress policy.
    pub responder: FlowEnd,
    /// Low 32 bits of jiffies when the flow was created.
    pub created: u32,
    /// TCP: how many bytes the originator and the responder said last that they can take, to be
    /// shifted by their window scale; zero = has said nothing yet, or none.
    pub windows: [u16; 2],
}
}

const _: () = assert!(crate::MAX_ENDPOINTS <= 1 << 16 && crate::MAX_NATS <= 1 << 16);

/// The original source is the key's low side.
pub const FLOW_ORIGINAL_LOW: u16 = 1;
/// Created by `from_workload` for a local destination: both directions redirect past the host
/// stack.
pub const FLOW_REDIRECT: u16 = 2;
/// A packet of the reply direction has been seen.
pub const FLOW_REPLIED: u16 = 4;
/// The sweeper has claimed this entry: a miss for everyone else. (It also sets `last_seen` to half
/// the number circle ago, in one compare-and-swap, so that the claim and a packet's update exclude
/// each other.)
pub const FLOW_DEAD: u16 = 8;
/// TCP: a RST, or a FIN of both ends, has been seen, see `tcp_original` and `tcp_reply`: a SYN
/// begins a new flow.
pub const FLOW_CLOSING: u16 = 16;
/// Policy has stopped allowing the flow. The entry stays for as long as either end goes on, so that
/// what they send is judged by the original tuple and not taken for a new flow of the other
/// direction.
pub const FLOW_REVOKED: u16 = 32;
/// Not for the fast programs: one of its ports is VXLAN's, so that every packet's destination port
/// is looked at.
pub const FLOW_SLOW: u16 = 64;
/// TCP: the handshake is complete. Other protocols: the originator has gone on after an answer.
/// Which table the entry is in says nothing of that: where the established one is full, it stays in
/// the other.
pub const FLOW_ESTABLISHED: u16 = 128;
/// The lowest bit of the window scales in [`Flow::flags`]: the originator's; the responder's are
/// four bits higher.
pub const FLOW_SCALE: u32 = 8;
/// The window scale of an end whose handshake was not seen, or not yet.
pub const SCALE_UNKNOWN: u8 = 15;

/// The generation of a side that was not judged.
pub const GENERATION_NONE: u32 = 0;
/// The generation of a side that is never judged and always valid.
pub const GENERATION_EXEMPT: u32 = u32::MAX;

/// The FIN bit in the flags byte of the TCP header (RFC 9293).
pub const TCP_FIN: u8 = 1;
/// The SYN bit in the flags byte of the TCP header.
pub const TCP_SYN: u8 = 2;
/// The RST bit in the flags byte of the TCP header.
pub const TCP_RST: u8 = 4;
/// In `tcp_original`, `tcp_reply` only: that direction went on after a RST, or sent one whose
/// sequence number was not exactly the one that its receiver expected. Once both have, the RST was
/// not taken and is forgotten.
pub const TCP_AFTER_RST: u8 = 8;
/// The ACK bit in the flags byte of the TCP header.
pub const TCP_ACK: u8 = 16;
/// In `tcp_original` only, of any protocol with ports: the originator's port in the key is
/// [`PORT_ALIAS`] apart from its own, since a redirected flow had the same addresses and ports. The
/// responder sees that port.
pub const ALIASED: u8 = 32;
/// What is exchanged in the port of an aliased originator, host byte order.
pub const PORT_ALIAS: u16 = 0x8000;

impl FlowEnd {
    /// Returns an end that is judged as `side`, is known to the other end as `shown`, and expects
    /// this sequence number.
    #[inline(always)]
    pub const fn new(side: Side, shown: NatHandle, expects: u32) -> Self {
        Self {
            endpoint: side.endpoint,
            generation: side.generation,
            nat_id: shown.id,
            expects,
            index: side.index as u16,
            nat_index: shown.index as u16,
        }
    }

    /// Returns which endpoint the end is, and under which generation its policy allowed the flow.
    #[inline(always)]
    pub const fn side(&self) -> Side {
        Side {
            endpoint: self.endpoint,
            index: self.index as u32,
            generation: self.generation,
        }
    }

    /// Returns under which translation the end is known to the other one.
    #[inline(always)]
    pub const fn shown(&self) -> NatHandle {
        NatHandle {
            index: self.nat_index as u32,
            id: self.nat_id,
        }
    }
}

/// Whose share of the tables a flow takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Charge {
    /// Index of the element of `flow_counts`: the endpoint's; 0 = the host's.
    pub index: u32,
    /// Id of the endpoint; 0 = the host.
    pub id: u32,
    /// 1 = others began the flow; 0 = the endpoint did.
    pub received: u32,
}

impl Charge {
    /// Returns whose share a flow between these ends takes: that of its originator, if that is a
    /// local endpoint; else the host's, if the host began it (which is exempt from policy), so that
    /// its probes get through whatever the workload does; else that of the responder.
    #[inline(always)]
    pub const fn of(originator: &FlowEnd, responder: &FlowEnd) -> Self {
        // Without branches, since the kernel's verifier follows each on its own: all bits where a
        // number is zero, else none.
        const fn zero(number: u32) -> u32 {
            ((number as u64).wrapping_sub(1) as i64 >> 63) as u32
        }
        let theirs = zero(originator.endpoint);
        let received = theirs & !zero(!responder.generation);
        const _: () = assert!(GENERATION_EXEMPT == u32::MAX);
        Self {
            index: originator.index as u32 & !theirs | responder.index as u32 & received,
            id: originator.endpoint | responder.endpoint & received,
            received: received & 1,
        }
    }
}

impl Flow {
    /// Returns whose share of the tables the flow takes.
    #[inline(always)]
    pub const fn charge(&self) -> Charge {
        Charge::of(&self.originator, &self.responder)
    }

    /// Returns whether a newer half-open flow of the same endpoint may take the place of one with
    /// these flags: nobody has answered it, or it is over.
    #[inline(always)]
    pub const fn is_replaceable(flags: u16) -> bool {
        // Without a branch: the verifier follows each on its own.
        let unanswered = (flags & FLOW_REPLIED == 0) as u16;
        let over = (flags & (FLOW_CLOSING | FLOW_REVOKED) == FLOW_CLOSING) as u16;
        unanswered | over != 0
    }

    /// Returns how long a flow may be silent, in jiffies, by its protocol and state. The table that
    /// it is in has no part in it.
    #[inline(always)]
    pub const fn timeout(flags: u16, tcp_original: u8, tcp_reply: u8, protocol: u8, settings: &Settings) -> u32 {
        match protocol {
            protocol::TCP => {
                if (tcp_original | tcp_reply) & TCP_RST != 0 {
                    settings.tcp_rst
                } else if tcp_original & tcp_reply & TCP_FIN != 0 {
                    settings.tcp_fin
                } else if flags & FLOW_ESTABLISHED != 0 {
                    settings.tcp_established
                } else {
                    settings.tcp_syn
                }
            }
            protocol::UDP | protocol::UDPLITE => {
                if flags & (FLOW_REPLIED | FLOW_ESTABLISHED) == FLOW_REPLIED {
                    settings.udp_answered
                } else {
                    settings.udp
                }
            }
            protocol::ICMP | protocol::ICMPV6 => settings.icmp,
            _ => settings.other,
        }
    }
}
