//! The seam to the compiler, so that the planner can be tried with another one.

use crate::compile::{CompileError, Counters};
use crate::prepare::Prepared;
use crate::program::{Program, Slots};

/// What the planner wants of a compiler.
///
/// Output may depend on `own` only through what the policy says of the own side: the planner passes the unspecified address where
/// a policy cannot tell the own addresses of an IP version apart.
pub trait Compiler {
    /// Compiles a policy that was taken apart ([`crate::prepare()`]), once its sets have slots.
    fn compile(
        &self,
        prepared: Prepared<'_>,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError>;
}

/// The compiler of this crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ebpf;

impl Compiler for Ebpf {
    fn compile(
        &self,
        prepared: Prepared<'_>,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError> {
        prepared.compile(slots, counters)
    }
}
