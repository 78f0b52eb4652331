//! Resolved policy becomes eBPF instructions here, and changes of policy become transactions for
//! the kernel.
//!
//! In: resolved policies ([`felid_model::resolved`]), what is known of the local endpoints, and
//! what the kernel's maps hold.
//!
//! Out: [`program::Program`]s, which are instructions with symbolic maps and the rule that each
//! instruction belongs to; [`transaction::Transaction`]s, which say what the dataplane has to write
//! in which order; and the verdicts of the reference evaluator, with the reasons for them.
//!
//! Never: file descriptors, the kernel, clocks, threads, I/O.
//!
//! # Rooms
//!
//! - `specification` says what a policy means, packet by packet (`reference`, `explain`).
//! - `ir` is the intermediate form: the rules that are left for one endpoint, direction and IP
//!   version, and what they can be found by. It uses texts of `specification`.
//! - `codegen` makes instructions of it, packed into chunks that the kernel accepts ([`stub`],
//!   [`listing`]).
//! - `compile` is the compiler's entry point: [`prepare()`], then [`Prepared::compile`].
//! - [`planner`] hands out slots, classes, ids and counters, and plans transactions.
//! - [`nat`] decides which 1:1 translations are in force and where each stands in the kernel's
//!   table. It uses nothing of the other rooms.
//!
//! Each room uses only rooms above it in this list. `specification` shares no code with the
//! compiler: the two are compared with each other by the tests.
#![forbid(unsafe_code)]

mod codegen;
mod compile;
mod ir;
mod limits;
pub mod nat;
pub mod planner;
pub mod program;
mod specification;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transaction;
mod types;

pub use codegen::{host_input, listing, stub};
pub use compile::{Prepared, compile, prepare};
pub use specification::describe::protocol_name;
pub use specification::{explain, reference};
pub use types::{CompileError, Counters, Direction, LocalSide};
