//! What commands ask of a datastore, and what comes of it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use felid_model::ResourceKey;

/// How long commands wait for another command that edits the same datastore.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a command does with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Each record is created, or replaces the resource that exists.
    Apply,
    /// Each record is created; the resource must not exist.
    Create,
    /// Each record replaces a resource, which must exist.
    Replace,
}

/// What was done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The resource is new.
    Created,
    /// The resource was replaced.
    Updated,
    /// The resource said the same already.
    Unchanged,
    /// The resource is gone.
    Deleted,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Created => "created",
            Action::Updated => "updated",
            Action::Unchanged => "unchanged",
            Action::Deleted => "deleted",
        })
    }
}

/// What was done with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The key of the resource.
    pub key: ResourceKey,
    /// The file, relative to the directory.
    pub file: Arc<str>,
    /// What was done with it.
    pub action: Action,
}

/// `Kind/namespace/name created (file)`.
impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.key, self.action, self.file)
    }
}

/// Why nothing was done, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The input has documents that are not accepted.
    #[error("{}", .0.join("\n"))]
    Input(Vec<String>),
    /// What was asked does not fit what is there. There is one line for each resource.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// At least one record is based on a version that is no longer the latest; otherwise this is as
    /// `Refused`.
    #[error("{}", .0.join("\n"))]
    Conflict(Vec<String>),
    /// Another command holds the lock.
    #[error("{0} is locked: another command has been editing the directory for more than {LOCK_TIMEOUT:?}")]
    Locked(PathBuf),
    /// A file or the directory cannot be read or written. What was done before stands.
    #[error("{path}: {source}{}", done_before(.done))]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What was done before it failed.
        done: Vec<Done>,
    },
    /// Changes cannot be watched.
    #[error("{0}")]
    Watch(String),
}

fn done_before(done: &[Done]) -> String {
    done.iter().map(|done| format!("\nbefore that: {done}")).collect()
}
