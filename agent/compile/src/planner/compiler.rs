//! The seam to the compiler, so that the planner can be tried with another one.

use crate::compile::Prepared;
use crate::program::{Program, Slots};
use crate::types::{CompileError, Counters};

/// Makes programs for a planner. The output may depend on the endpoint's own addresses only through
/// what the policy says of its own side: where a policy cannot tell the addresses of an IP version
/// apart, the planner passes the unspecified address.
pub trait Compiler {
    /// Compiles a policy that [`crate::prepare()`] took apart, once its sets have slots. An error
    /// says why the policy has no program; the planner then leaves the old one in force.
    fn compile(
        &self,
        prepared: Prepared<'_>,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError>;
}

/// The compiler of this crate, which makes eBPF instructions.
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
