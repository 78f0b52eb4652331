//! What becomes of one packet: by the reference evaluator, and by the compiled programs in a kernel
//! that nobody else sees.
//!
//! In: what the calculation has said ([`PolicyState`]), packets between parties ([`FirstPacket`]).
//! Out: verdicts, and what decided. `felid test` and `felid explain` ask.

mod frame;
mod kernel;
mod private;
mod probe;
mod reference;
mod state;

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

pub(crate) use frame::frame;
pub(crate) use kernel::ByKernel;
pub(crate) use private::run as in_private;
pub(crate) use probe::{FirstPacket, HOST_V4, HOST_V6, Party};
pub(crate) use reference::{Sender, Verdict, decided_by, describe, judge, record, refusal};
pub(crate) use state::PolicyState;

/// Runs a command, words split at spaces; a failure is an error with what it wrote.
fn command(line: &str) -> anyhow::Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
