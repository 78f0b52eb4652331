//! How much a fault in a resource matters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a fault in a resource, or between resources, matters.
///
/// It is written and serialised as `error` or `warning`. Errors sort before warnings. What is not
/// said is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that the user wrote is not in force as it is written.
    #[default]
    Error,
    /// Everything that is enforced is in force as it is written, but the user should know of this.
    Warning,
}

impl Severity {
    /// The name in lower case: `error` or `warning`.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
