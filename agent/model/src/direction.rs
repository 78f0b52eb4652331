//! Which way traffic goes, seen from the workload.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The direction of traffic that a rule or a policy judges, always seen from the workload, as in
/// Kubernetes and Calico: the same packet between two workloads of a node is egress of its sender
/// and ingress of its receiver.
///
/// It is written and serialised as `egress` or `ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the workload: the endpoint is the source and the peer is the destination.
    Egress,
    /// Towards the workload: the endpoint is the destination and the peer is the source.
    Ingress,
}

impl Direction {
    /// Both directions, in the order in which records list them.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// The name in lower case, as records name their lists of rules: `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }

    /// The name with a capital, as a policy's `types` and `policyTypes` write it.
    pub const fn policy_type(self) -> &'static str {
        match self {
            Direction::Egress => "Egress",
            Direction::Ingress => "Ingress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
