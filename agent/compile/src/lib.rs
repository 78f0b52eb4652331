//! Resolved policy to eBPF instructions; the reference evaluator; and the planner that assigns slots, classes and endpoint ids.
//!
//! In: resolved policies ([`felid_model::resolved`]) and what is known of the endpoint itself. Out: [`program::Program`]s, that is
//! instructions with symbolic maps and the rule that each belongs to. Never: file descriptors, the kernel, clocks, threads, I/O.
#![forbid(unsafe_code)]

mod aside;
mod assemble;
mod block;
mod compile;
mod conditions;
mod describe;
mod emit;
pub mod explain;
mod frame;
mod index;
mod isa;
mod layout;
pub mod listing;
mod lower;
mod matching;
mod member;
pub mod nat;
mod own;
pub mod planner;
mod ports;
mod prepare;
pub mod program;
mod prune;
pub mod reference;
mod rule;
mod search;
mod segment;
mod spoofed;
pub mod stub;
mod terms;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transaction;

pub use compile::{CompileError, Counters, Direction, Own, compile};
pub use describe::protocol_name;
pub use prepare::{Prepared, prepare};
