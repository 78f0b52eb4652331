//! The kernel half of the dataplane against a real kernel: transactions, restarts, links, cleanup.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod flows;
mod guard;
mod host_guard;
mod links;
mod long_lists;
mod nats;
mod nats_host;
mod node;
mod plane;
mod restart;
mod settings;
mod shares;
mod sizes;
mod transactions;
