//! Where records come from.
//!
//! In: a datastore that is followed ([`Source`]): a directory of YAML and JSON files
//! ([`DirectoryWatcher`]) or a stream of JSON lines ([`StreamSource`]). Out: [`Batch`]es of
//! [`Update`]s, the resources in force, and the list of everything that is wrong ([`Problems`]).
//! Also what commands ask and write without an agent ([`Store`]). Never: what the resources mean.
//!
//! The modules: `core` is what all datastores have in common (which version is in force, the
//! versions kept for a restart, problems and their [`Origin`]); `directory` and `stream` are
//! datastores; `store` and `record` are the commands' side. Who adds a datastore implements
//! [`Source`], for the commands [`Store`], and nothing else.
//!
//! # The directory
//!
//! Every file in the tree is read, whatever its name, except hidden files, backups and the like
//! (`.foo.swp`, `foo~`). Links are followed; a file or directory that is reached in several ways is
//! read once, so that a mounted ConfigMap gives each record once. A file may hold many documents.
//!
//! # What is in force
//!
//! - A good document is in force as soon as its file is written and closed, or renamed into place.
//! - A bad document of a resource that was good before leaves the last good version in force. The
//!   versions in force are kept in the state directory, so a restart sees the same. A document so
//!   broken that its name is in doubt keeps *everything* that its file used to hold in force.
//! - A policy that is bad from the start closes the endpoints that it may select. If not even its
//!   name can be read, it is closed under a name made of the file's (`unreadable:FILE#NUMBER`). A
//!   document that shows no sign of being a policy closes nothing: the directory may hold any file,
//!   and an outage of the node for a stray README would help nobody, while a policy always names
//!   its kind; readiness says that the document is not understood. Where a broken document does
//!   show the kind of a policy but not what it selects, everything in its namespace is closed, or
//!   everything at all if that cannot be read: a policy that was meant to keep something shut must
//!   not leave it open.
//! - The same resource twice: the version in force stays, an error names both; at first sight of
//!   both, the path that sorts first. When the one in force goes, the other takes its place.
//! - What is gone, for longer than a moment, from a directory that can be read is deleted. What
//!   cannot be read (no permission, an I/O error, a link that leads nowhere, a root that vanished,
//!   a file system that was unmounted, an empty file where records were) deletes nothing, and
//!   readiness says so. A root that comes back deletes what it lacks when nothing has changed in it
//!   for a second, and nothing as long as it is empty.
//!
//! So what is in force depends on the files and on the versions that were in force before, and on
//! nothing else.
#![forbid(unsafe_code)]

mod core;
mod directory;
mod record;
mod store;
mod stream;
#[cfg(test)]
mod tests;

pub use crate::core::content::{Docs, SourceContent, SourceId};
pub use crate::core::engine::{Reading, StartError, start};
pub use crate::core::last_good::LastGoodError;
pub use crate::core::problem::{InForce, Origin, Problem, Problems, Severity};
pub use crate::core::source::{Control, Event, Known, Next, Source};
pub use crate::core::update::{Batch, Update};
pub use directory::{DirectoryStore, DirectoryWatcher, Options, WriterCheck};
pub use record::Record;
pub use store::{Action, Done, Listing, Store, StoreError, StoredResource, Verb, Watch, WatchEvent};
pub use stream::{StreamAddress, StreamSource};
