//! Why a request has no answer.

use std::fmt;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request names something that does not exist, or cannot be understood.
    Unknown(String),
    /// What is waited for will not come about as things stand.
    Unmet(String),
    /// Too many ask for the same kind of thing at one time.
    TooMany(String),
    /// The agent cannot answer.
    Failed(String),
    /// The agent did not answer within the time.
    Busy,
}

impl Refusal {
    /// Returns the refusal of an agent that cannot answer because of an error.
    pub fn failed(error: &dyn fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(reason) | Self::Unmet(reason) | Self::TooMany(reason) | Self::Failed(reason) => {
                f.write_str(reason)
            }
            Self::Busy => f.write_str("the agent is busy programming the kernel; ask again"),
        }
    }
}

impl std::error::Error for Refusal {}
