//! Resolved policy to eBPF instructions; the reference evaluator; and the planner that assigns slots, classes and endpoint ids.
#![forbid(unsafe_code)]

pub mod program;
pub mod transaction;
