//! Translation of addresses (`ipNATs`): who is known by which address, and what that means for a
//! packet and its flow.
//!
//! Each end of a flow has its own address, and may be *shown* to the other end under an external
//! one. Flows are found, and policy is asked, by the ends' own addresses. A packet's sender writes
//! (own, shown); on the host it is (shown, shown); its receiver reads (shown, own). `table` is the
//! table of translations, `names` says which of them a packet uses, `rewrite` writes addresses into
//! it.

mod names;
mod rewrite;
mod table;

pub(crate) use names::{arrive, arrived_v4, arrived_v6, check_names, choose_source, own_addresses};
pub(crate) use rewrite::{changed, correct, difference, run};
pub(crate) use table::{Number, count, holds, number, shown};
