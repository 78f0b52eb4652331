//! The seam to the compiler, so that the planner can be tried with another one.

use felid_model::resolved::{ResolvedPolicy, SetId};

use crate::compile::{self, CompileError, Counters, Direction, Own};
use crate::program::{Program, Slots};

/// What the planner wants of a compiler.
///
/// Output may depend on `own` only through what the policy says of the own side: the planner passes the unspecified address where
/// a policy cannot tell the own addresses of an IP version apart.
pub trait Compiler {
    /// Sets that the program of this policy will test on the peer, of its address and of its named port, each once, in the order in
    /// which their slots should be.
    fn sets_tested(&self, policy: &ResolvedPolicy, direction: Direction, own: &Own) -> Vec<SetId>;

    /// Compiles.
    fn compile(
        &self,
        policy: &ResolvedPolicy,
        direction: Direction,
        own: &Own,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError>;
}

/// The compiler of this crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ebpf;

impl Compiler for Ebpf {
    fn sets_tested(&self, policy: &ResolvedPolicy, direction: Direction, own: &Own) -> Vec<SetId> {
        compile::sets_tested(policy, direction, own)
    }

    fn compile(
        &self,
        policy: &ResolvedPolicy,
        direction: Direction,
        own: &Own,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError> {
        compile::compile(policy, direction, own, slots, counters)
    }
}
