//! Instructions for the intermediate form.
//!
//! In: sections of rules, the slots of sets, and names of counters. Out: chunks of eBPF
//! instructions that the kernel's verifier accepts, with a table of rules ([`layout`]); the stubs
//! at each interface ([`stub`]) and the program at netfilter's hook ([`host_input`]); annotated
//! texts of programs ([`listing`]). Never: file descriptors, maps that are not symbolic, the
//! planner.
//!
//! From the bottom up: [`isa`] knows the instruction set, [`block`] collects instructions with
//! symbolic targets, [`frame`] says how registers and the stack are used, [`matching`] and
//! [`conditions`] write the tests of one rule, [`emit`] writes segments, [`plan`] and [`search`]
//! find and write the ways through long lists, [`layout`] and [`pack`] put blocks into chunks, and
//! [`assemble`] resolves the jumps of a chunk.

mod assemble;
mod block;
mod by_key;
mod by_set;
mod candidates;
mod conditions;
mod emit;
pub(crate) mod emitter;
mod forward;
mod frame;
pub mod host_input;
mod isa;
pub(crate) mod layout;
pub mod listing;
mod matching;
mod named_ports;
mod pack;
pub(crate) mod placed;
pub(crate) mod plan;
mod rule_table;
pub(crate) mod search;
mod section;
mod side_effect;
pub mod stub;
mod tree;
