//! Runs of an endpoint's programs on packets that no interface ever saw: part of the product, where
//! `felid test` needs them too.

pub use felid_dataplane::kernel::{PacketOutcome, Probe, Run};
