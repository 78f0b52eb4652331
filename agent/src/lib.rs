//! The agent and its command line.
//!
//! In: arguments, environment, a configuration file, and through the datastore crate the records.
//! Out: for `felid run`, a kernel that enforces them (calculation, planner and dataplane are crates
//! of their own; here they are only wired), metrics, health and a root-only socket; for the other
//! commands, listings and changes of records. Never: policy semantics, eBPF, netlink.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | arguments of every command |
//! | [`config`] | settings: flags, environment, file, record, defaults |
//! | [`records`] | get, create, apply, replace, delete, validate |
//! | [`tools`] | selector, name: what needs neither records nor an agent |
//! | [`run`] | the running agent |
//! | [`api`] | the protocol of the running agent's socket: requests and answers as types and JSON |
//! | [`client`] | the commands that ask the running agent, and its client |
//! | [`explain`] | why one packet passes or not |
//! | `verdict` | what becomes of one packet: by the reference, and in a kernel of one's own |
//! | [`mod@test`] | policy tests, by the reference, in the kernel, or live |
//! | [`output`] | tables, YAML, JSON |
//! | [`metrics`] | everything that is counted |
#![forbid(unsafe_code)]

pub mod api;
pub mod cleanup;
pub mod cli;
pub mod client;
pub mod config;
pub mod endpoint_names;
pub mod explain;
pub mod metrics;
pub mod output;
pub mod records;
pub mod run;
pub mod test;
pub mod tools;
mod verdict;

mod entry;
mod outcome;
mod text;
pub use entry::main;
pub use outcome::Outcome;
