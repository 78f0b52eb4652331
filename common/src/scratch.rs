//! The per-CPU scratch between tail calls, and the contract between the static programs and the
//! generated policy programs.

use crate::shared;

shared! {
/// The one element of the per-CPU array `scratch`.
///
/// A static program fills the tuple (always of the flow's *original* direction), the classes and
/// the bank, then tail-calls
/// `policies[policy_index(bank, direction, endpoint)]`. The policy program writes `verdict`, `rule`
/// and `counter`, and
/// `log_count`, `log_rules` and `log_program` if a Log rule matches, and `spoofed`; it counts in
/// `counters` what staged policies would do; then it tail-calls
/// `static_programs[POLICY_RETURN]`. It must not touch anything else, and `skb` stays as it was.
pub struct Scratch: 200 {
    /// Source address, network byte order (IPv4: first word, the others zero).
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// Class of the source in this bank.
    pub src_class: u32,
    /// Class of the destination.
    pub dst_class: u32,
    /// Source port, **host** byte order; 0 where the protocol has none.
    pub src_port: u16,
    /// Destination port, likewise.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Bank of this packet: 0 or 1, read once from `epoch`.
    pub bank: u32,

    /// Written by the policy program: [`VERDICT_ALLOW`] or [`VERDICT_DENY`]; zero before it runs.
    pub verdict: u32,
    /// Written by the policy program: index of the deciding rule in the program's rule table.
    pub rule: u32,
    /// Written by the policy program: index into `counters` (below [`crate::MAX_COUNTERS`]).
    pub counter: u32,

    /// Private to the static programs.
    pub private: [u32; 26],

    /// Counted by the policy program: Log rules that matched; zero before it runs.
    pub log_count: u32,
    /// Written by the policy program: the first of them, as indices into the program's rule table.
    pub log_rules: [u32; LOG_RULES],
    /// Written by the policy program with the first of them: which rule table that is.
    pub log_program: u32,

    /// Not 0 (the IP version): the source is none of the endpoint's own addresses. The egress
    /// policy program sets it to zero if the source is one that the endpoint may send from all the
    /// same; unless it does, the packet is spoofed, whatever the verdict.
    pub spoofed: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// What a packet's Log rules tell: a record of the ring buffer `log`.
pub struct LogRecord: 80 {
    /// Source address of the tuple that was judged, network byte order (IPv4: first word).
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// Source port, host byte order.
    pub src_port: u16,
    /// Destination port, likewise.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Id of the endpoint whose policy it is in the low bits; [`LOG_INGRESS`] if that looks towards
    /// the workload.
    pub endpoint: u32,
    /// [`VERDICT_ALLOW`] or [`VERDICT_DENY`].
    pub verdict: u32,
    /// [`Scratch::log_program`].
    pub program: u32,
    /// [`Scratch::log_count`].
    pub count: u32,
    /// [`Scratch::log_rules`]: as many as `count` says, at most all.
    pub rules: [u32; LOG_RULES],
    /// Records that were held back or lost on this CPU since the last one.
    pub missed: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// One CPU's share of the rate at which Log rules may tell: the element of the per-CPU array
/// `log_rate`.
pub struct LogRate: 16 {
    /// Records that may be written at once, in `hz`-ths of one.
    pub credit: u32,
    /// Low 32 bits of jiffies when credit was last added.
    pub at: u32,
    /// Records that were held back or lost since the last one.
    pub missed: u32,
    /// Whether credit was ever added.
    pub begun: u32,
}
}

/// The highest bit of [`LogRecord::endpoint`].
pub const LOG_INGRESS: u32 = 1 << 31;
/// Bytes of the ring buffer `log`.
pub const LOG_BYTES: u32 = 1 << 17;

/// How many of the Log rules that match in one pass are told one by one.
pub const LOG_RULES: usize = 4;

/// The policy allows the flow.
pub const VERDICT_ALLOW: u32 = 1;
/// The policy denies the flow.
pub const VERDICT_DENY: u32 = 2;
