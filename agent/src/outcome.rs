//! How a command ends: what its exit code says.

/// How a command ended that did not fail with an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Some of it failed; the reasons are on standard error already.
    Failed,
}

/// Arguments that cannot be followed, whatever there is in files, in the datastore or in the
/// kernel.
#[derive(Debug)]
pub(crate) struct Usage {
    reason: String,
    /// Lines that show the place, to be printed below the error.
    pub(crate) below: Vec<String>,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Usage {}

/// Returns an error for wrong usage, which ends the process with an exit code of its own.
pub(crate) fn usage(reason: impl std::fmt::Display) -> anyhow::Error {
    usage_shown(reason, Vec::new())
}

/// Does the same, with lines that show the place.
pub(crate) fn usage_shown(reason: impl std::fmt::Display, below: Vec<String>) -> anyhow::Error {
    Usage {
        reason: reason.to_string(),
        below,
    }
    .into()
}
