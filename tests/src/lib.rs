//! What the tests that need root share: the laboratory of namespaces (`felid-lab`), a node with the
//! real agent ([`Cluster`]), crafted frames, sockets.
#![forbid(unsafe_code)]

pub mod bench_nat;
pub mod bench_rules;
pub mod bpf_fixture;
mod cluster;
pub mod equivalence;
mod feeder;
pub mod figures;
pub mod inventory;
pub mod nat_flows;
pub mod nat_world;
pub mod packet_craft;
pub mod polprog;
pub mod probe;
pub mod seen;
pub mod sockets;
pub mod sums;
pub mod transfer;
pub mod translation;

pub use cluster::{Cluster, felid};
pub use felid_lab::{Host, Namespace, PacketSocket, Workload, WorkloadSpec, frames, netns, packet, records};
