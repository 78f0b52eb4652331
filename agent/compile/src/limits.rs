//! The sizes that generated programs keep within.
//!
//! In: nothing. Out: constants. Each of them follows from a limit of the kernel or from a
//! measurement, which stands beside it.

/// Instructions of a chunk: jumps reach 32,767 instructions, and the verifier's work stays far
/// below its limit.
pub(crate) const MAX_CHUNK_INSNS: usize = 16_000;
/// Conditional jumps of a chunk: the verifier keeps at most 8,192 open branches.
pub(crate) const MAX_CHUNK_BRANCHES: usize = 7_500;
/// Tail calls that a packet may need within one policy program.
pub(crate) const MAX_CONTINUATIONS: usize = felid_common::MAX_CONTINUATIONS as usize;
/// Chunks of a program: about a million instructions, and half a second to load them.
pub(crate) const MAX_CHUNKS: usize = 64;
/// Instructions that the entry, the ends and the drop of a chunk need at most.
pub(crate) const FRAME_INSNS: usize = 80;
/// How many times larger than its rules a dispatch may become. The compiler tries them in this
/// order: fast programs first, small ones where those do not fit.
pub(crate) const EXPANSIONS: [usize; 3] = [6, 3, 1];
/// Number of rules from which on a list is taken apart by what its rules can be found by.
pub(crate) const LONG_LIST: usize = 32;
/// Number of rules from which on a section is taken apart even if that takes several parts, which
/// cost a packet something each.
pub(crate) const LONG_MIXED_LIST: usize = 160;
/// Estimated instructions of a block of a tree, and of a block of tests of sets.
pub(crate) const BLOCK_INSNS: usize = 2_500;
