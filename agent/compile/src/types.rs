//! The small types that every room of this crate speaks of.
//!
//! In: nothing. Out: the direction of a policy, what is known of the endpoint itself, names of
//! counters and endpoints, and the errors of the compiler. Never: anything that depends on another
//! module of this crate.

use std::net::IpAddr;
use std::sync::Arc;

pub use felid_model::Direction;
use felid_model::resolved::{NamedPortMember, ResolvedAction, SetId, SetIds};
use ipnet::IpNet;

/// What is known of the endpoint's own side of a flow when its policy is compiled.
///
/// A compiled program relies on it: whoever runs the program guarantees that the local side's
/// address is one of these. A packet of an IP version without local addresses is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSide {
    /// The endpoint's addresses, each with every set that it is a member of, through any covering
    /// prefix.
    pub addresses: Vec<(IpAddr, SetIds)>,
    /// The endpoint's named ports, each with the named-port sets that it is in.
    pub ports: Vec<(NamedPortMember, SetIds)>,
    /// Networks from which the endpoint may send although no address of its own is in them
    /// (`allowSpoofedSourcePrefixes`). Their memberships are tested when a packet comes.
    pub spoofed: Vec<IpNet>,
}

/// An element of the kernel's endpoint table, with the id of the endpoint that lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The index of the element, from 1 to `MAX_ENDPOINTS - 1`.
    pub index: u32,
    /// The id of the endpoint. Ids are never used again.
    pub id: u32,
}

/// The name of a policy counter: what it counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterName {
    /// The tier, or `profile`; empty for what is decided after all profiles.
    pub tier: Arc<str>,
    /// The policy or profile as `Kind/[namespace/]name`, or one of `default-deny`, `end-of-tier`,
    /// `closed`.
    pub policy: Arc<str>,
    /// What happened to the packets that it counts: Allow or Deny. Where `staged` is set it is what
    /// would have happened, and may be Pass, too.
    pub action: ResolvedAction,
    /// Whether it counts what a staged policy would have done.
    pub staged: bool,
}

/// Hands out counters to the compiler.
pub trait Counters {
    /// Returns the index of the counter of this name. It is stable and below
    /// [`felid_common::MAX_COUNTERS`]; it is 0 when there are no more counters.
    fn counter(&mut self, name: &CounterName) -> u32;
}

/// Says where the bit of a set is in class rows.
pub trait Slots {
    /// Returns the bit position of the set, or `None` if it has none.
    fn slot(&self, set: &SetId) -> Option<u32>;
}

/// Why a policy has no program. The program that was in force before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A set that the policy tests has no bit.
    #[error("set {} has no slot", .0.0)]
    NoSlot(SetId),
    /// The bit of a set is out of reach of a load instruction.
    #[error("slot {slot} of set {} is above the limit of {limit}", .set.0)]
    SlotOutOfRange {
        /// The set.
        set: SetId,
        /// Its slot.
        slot: u32,
        /// The highest possible slot.
        limit: u32,
    },
    /// One rule alone is larger than a chunk.
    #[error(
        "rule \"{rule}\" alone needs {insns} instructions or {branches} branches; the limits are {limit} and {branch_limit}"
    )]
    RuleTooLarge {
        /// The rule in words.
        rule: String,
        /// Number of instructions that it needs.
        insns: usize,
        /// Number of conditional jumps that it needs.
        branches: usize,
        /// Number of instructions that a chunk may have.
        limit: usize,
        /// Number of conditional jumps that a chunk may have.
        branch_limit: usize,
    },
    /// The program needs more chained chunks than a packet can be led through.
    #[error("{rules} rules need {insns} instructions in {chunks} chained chunks; the limit is {limit}")]
    TooManyChunks {
        /// Number of rules that can match, of all IP versions.
        rules: usize,
        /// Number of instructions.
        insns: usize,
        /// Number of chunks on the longest path through the program.
        chunks: usize,
        /// Largest possible number of chunks on a path.
        limit: usize,
    },
    /// The program is unreasonably large, though a packet could be led through it.
    #[error("{rules} rules need {insns} instructions in {chunks} chunks; the limit is {limit}")]
    TooLarge {
        /// Number of rules that can match, of all IP versions.
        rules: usize,
        /// Number of instructions.
        insns: usize,
        /// Number of chunks.
        chunks: usize,
        /// Largest possible number of chunks.
        limit: usize,
    },
    /// A rule asks for the source's named port or service, which cannot be tested for addresses
    /// that are not the endpoint's own.
    #[error("rule \"{0}\" names ports of the source, and the endpoint has allowSpoofedSourcePrefixes")]
    SpoofedPorts(String),
    /// A jump does not fit into an instruction, or something of the kind: a fault of the compiler.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl CompileError {
    /// Returns whether a smaller program for the same policy may be possible.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::TooManyChunks { .. } | Self::TooLarge { .. })
    }
}
