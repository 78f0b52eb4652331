//! What can go wrong between the agent and the kernel.

use std::io;
use std::path::{Path, PathBuf};

use felid_compile::transaction::ProgramId;

use crate::net::NetError;

/// Why the kernel half could not do something. Whatever it is, the kernel goes on enforcing what it
/// enforced before.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The running kernel lacks something that felid needs.
    #[error("this kernel ({release}) cannot run felid: {missing}")]
    Unsupported {
        /// `uname -r`.
        release: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Another agent has the directory of pins.
    #[error("{path} is in use by another felid agent", path = .0.display())]
    InUse(PathBuf),
    /// The bpffs would end with the agent, and all policy with it.
    #[error(
        "the bpffs at {path} belongs to the agent's own mount namespace and would end with the agent, and all policy with it. Mount one on \
         the host (`mount -t bpf bpffs /sys/fs/bpf`) where the agent sees it: not within `ip netns exec`, `unshare --mount` or a container \
         without the host's /sys/fs/bpf. For a test, start it with --bpffs-private",
        path = .0.display()
    )]
    PrivateBpffs(PathBuf),
    /// An operation on a file or directory failed.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Call {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A map could not be created or opened.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A pinned map does not have the shape that this version expects.
    #[error(
        "the pinned map {path} has keys of {found_key} and values of {found_value} bytes where this version wants {key} and {value}; \
         `felid cleanup` removes it, and with it all enforcement",
        path = .path.display()
    )]
    Shape {
        /// Its pin.
        path: PathBuf,
        /// Bytes of its keys.
        found_key: usize,
        /// Bytes of its values.
        found_value: usize,
        /// Bytes wanted.
        key: usize,
        /// Bytes wanted.
        value: usize,
    },
    /// The embedded programs could not be loaded.
    #[error("cannot load the program {name}: {reason}")]
    Fixed {
        /// Its name.
        name: String,
        /// Why, with what the verifier said.
        reason: String,
    },
    /// The kernel refused generated programs. Nothing was written.
    #[error("the kernel refuses {}", list(.0))]
    Programs(Vec<RefusedProgram>),
    /// A table has too few entries for the transaction. Nothing was written.
    #[error("{table} would hold {wanted} entries, but it has room for {capacity}: nothing of this change is in force")]
    Full {
        /// The table.
        table: &'static str,
        /// Entries that would be there.
        wanted: usize,
        /// Its size.
        capacity: usize,
    },
    /// The transaction contradicts itself or the sizes of the tables. Nothing was written.
    #[error("inconsistent transaction: {0}")]
    Inconsistent(String),
    /// An interface did not get its endpoint's programs, and is closed.
    #[error("interface {ifindex} is closed, since its endpoint's programs cannot be put there: {source}")]
    Closed {
        /// Its index.
        ifindex: u32,
        /// Why.
        source: Box<KernelError>,
    },
    /// An interface did not get its endpoint's programs, and cannot be closed as a whole either.
    #[error(
        "interface {ifindex} is not guarded: its endpoint's programs cannot be put there ({source}), and neither can those that close \
         both directions ({also}); what could be closed is"
    )]
    HalfOpen {
        /// Its index.
        ifindex: u32,
        /// Why.
        source: Box<KernelError>,
        /// Why not even that.
        also: Box<KernelError>,
    },
    /// The transaction before this one has not been completed.
    #[error("the previous change is not complete yet")]
    Unfinished,
}

/// A failure of either half of the dataplane: the kernel's objects, or the host's network
/// configuration.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A map, a program or a link could not be read, made or changed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Routes, neighbours, addresses or sysctls could not be read or changed.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// A generated program that the kernel refused to load.
#[derive(Debug, thiserror::Error)]
#[error("chunk {chunk} of policy program {id}: {source}{}", on_new_lines(log), id = id.0)]
pub struct RefusedProgram {
    /// The planner's id of the program.
    pub id: ProgramId,
    /// The number of the chunk that was refused, from 0.
    pub chunk: usize,
    /// The error that the kernel gave.
    pub source: io::Error,
    /// The last lines of the verifier's log; empty if it said nothing.
    pub log: String,
}

fn list(refusals: &[RefusedProgram]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn on_new_lines(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!("\n{log}")
    }
}

/// The result of a call of this crate's kernel half.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

impl KernelError {
    /// Whether it only says that an interface is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.raw_os_error() == Some(libc::ENODEV))
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn call(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Call { action, source }
    }
}
