//! What the tests that need root share: the laboratory of namespaces (`felid-lab`), and fixtures for programs and agents.
#![forbid(unsafe_code)]

pub use felid_lab::{Host, Namespace, PacketSocket, Workload, WorkloadSpec, netns, packet};
