//! The way in: a resolved policy of one endpoint and direction becomes a [`Program`].
//!
//! The steps, each a module of its own: *prepare* goes through them, and stops where the planner hands out slots; *lower* decides the
//! endpoint's own side and drops what cannot match; *index* takes long lists apart by what their rules can be found by, and *search*
//! writes the ways to find them; *segment* groups the rest so that protocol and port are tested once for many rules; *emit* and
//! *conditions* write the tests; *layout* packs blocks of instructions into chunks that fit the kernel's limits, and *assemble* writes
//! those out.

use std::net::IpAddr;

use felid_model::resolved::{NamedPortMember, ResolvedPolicy, SetId, SetIds};
use ipnet::IpNet;

use crate::prepare::prepare;
use crate::program::{Program, Slots};
use crate::transaction::CounterName;

/// Which way a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the workload: the endpoint is the source, the peer is the destination.
    Egress,
    /// Towards the workload: the endpoint is the destination, the peer is the source.
    Ingress,
}

impl Direction {
    /// [`felid_common::EGRESS`] or [`felid_common::INGRESS`].
    pub fn index(self) -> u32 {
        match self {
            Direction::Egress => felid_common::EGRESS,
            Direction::Ingress => felid_common::INGRESS,
        }
    }
}

/// What is known of the endpoint itself.
///
/// A compiled program relies on it: whoever runs the program guarantees that the own side's address is one of these. A packet of an
/// IP version without own addresses is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its addresses, each with all sets it is a member of, through any covering prefix.
    pub addresses: Vec<(IpAddr, SetIds)>,
    /// Its named ports, each with the named-port sets that it is in.
    pub ports: Vec<(NamedPortMember, SetIds)>,
    /// It may send from these, too. What they are members of is tested when a packet comes.
    pub spoofed: Vec<IpNet>,
}

/// Hands out counters.
pub trait Counters {
    /// Index of the counter of this name: stable, below [`felid_common::MAX_COUNTERS`]; 0 when there are no more.
    fn counter(&mut self, name: &CounterName) -> u32;
}

/// Why a policy has no program. The old one stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A set that the policy tests has no bit.
    #[error("set {} has no slot", .0.0)]
    NoSlot(SetId),
    /// A set's bit is out of reach of a load instruction.
    #[error("slot {slot} of set {} is above the limit of {limit}", .set.0)]
    SlotOutOfRange {
        /// The set.
        set: SetId,
        /// Its slot.
        slot: u32,
        /// Highest possible slot.
        limit: u32,
    },
    /// One rule alone is larger than a chunk.
    #[error(
        "rule \"{rule}\" alone needs {insns} instructions or {branches} branches; the limits are {limit} and {branch_limit}"
    )]
    RuleTooLarge {
        /// The rule.
        rule: String,
        /// Instructions it needs.
        insns: usize,
        /// Conditional jumps it needs.
        branches: usize,
        /// Instructions of a chunk.
        limit: usize,
        /// Conditional jumps of a chunk.
        branch_limit: usize,
    },
    /// The program needs more chained chunks than a packet can be led through.
    #[error("{rules} rules need {insns} instructions in {chunks} chained chunks; the limit is {limit}")]
    TooManyChunks {
        /// Rules that can match, of all IP versions.
        rules: usize,
        /// Instructions.
        insns: usize,
        /// Chunks on the longest way through the program.
        chunks: usize,
        /// Limit.
        limit: usize,
    },
    /// The program is larger than sense, though a packet could be led through it.
    #[error("{rules} rules need {insns} instructions in {chunks} chunks; the limit is {limit}")]
    TooLarge {
        /// Rules that can match, of all IP versions.
        rules: usize,
        /// Instructions.
        insns: usize,
        /// Chunks.
        chunks: usize,
        /// Limit.
        limit: usize,
    },
    /// What a rule says of the source's named port or service cannot be tested for addresses that are not the endpoint's own.
    #[error("rule \"{0}\" names ports of the source, and the endpoint has allowSpoofedSourcePrefixes")]
    SpoofedPorts(String),
    /// A jump does not fit into an instruction: a fault of the compiler.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// How many times larger than its rules a dispatch may become: fast first, small where that does not fit.
pub(crate) const EXPANSIONS: [usize; 3] = [6, 3, 1];

/// Compiles a policy: [`prepare`] and [`Prepared::compile`](crate::Prepared::compile) in one.
pub fn compile(
    policy: &ResolvedPolicy,
    direction: Direction,
    own: &Own,
    slots: &impl Slots,
    counters: &mut impl Counters,
) -> Result<Program, CompileError> {
    prepare(policy, direction, own).compile(slots, counters)
}
