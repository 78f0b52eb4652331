//! What everything that needs root shares: network namespaces, virtual Ethernet pairs, a bpffs of
//! one's own, raw packets.
//!
//! In: names and addresses. Out: a [`Host`] with [`Workload`]s, as on a node, all of it gone when
//! the value is dropped. Nothing here touches the namespace that the caller runs in.
#![forbid(unsafe_code)]

mod agent;
pub mod frames;
pub mod netns;
pub mod packet;
pub mod records;

pub use agent::{Agent, port_of};
pub use netns::{Host, Namespace, Workload, WorkloadSpec};
pub use packet::PacketSocket;
