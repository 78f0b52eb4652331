//! What people and metrics ask of the calculation.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;

/// Sizes, as of the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Endpoints of this node, as far as they have addresses and own their interface.
    pub local_endpoints: usize,
    /// Endpoints of all nodes that have addresses.
    pub endpoints: usize,
    /// `NetworkSet`s and `GlobalNetworkSet`s.
    pub network_sets: usize,
    /// Policies, good and bad ones, that select a local endpoint.
    pub active_policies: usize,
    /// Staged policies among them.
    pub staged_policies: usize,
    /// Policies, good and bad ones.
    pub policies: usize,
    /// Profiles whose rules a local endpoint uses.
    pub active_profiles: usize,
    /// Profiles.
    pub profiles: usize,
    /// Tiers, the built-in ones included.
    pub tiers: usize,
    /// Different selectors in active sets.
    pub selectors: usize,
    /// Active sets: of selectors, named ports, lists of networks.
    pub sets: usize,
    /// Prefixes that are a member of some active set.
    pub prefixes: usize,
    /// (address, protocol, port)s that are a member of some active set.
    pub named_ports: usize,
}

/// Something in the records that keeps a local endpoint from working as they say, or keeps a policy from being enforced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// A local endpoint names a profile that does not exist: what comes to it is denied.
    MissingProfile {
        /// Endpoint.
        endpoint: ResourceKey,
        /// Name of the profile.
        profile: String,
    },
    /// A policy's tier does not exist: the local endpoints that it selects are closed in its directions. A staged policy is not judged.
    MissingTier {
        /// Policy.
        policy: ResourceKey,
        /// Name of the tier.
        tier: String,
        /// Number of local endpoints that it selects.
        endpoints: usize,
    },
    /// A policy cannot be enforced: the local endpoints that it may select are closed. A staged policy is not judged.
    BadPolicy {
        /// Policy.
        policy: ResourceKey,
        /// Why.
        reason: String,
        /// Number of local endpoints that it may select.
        endpoints: usize,
    },
    /// Another endpoint of this node has the same interface: this one is left out.
    InterfaceTaken {
        /// Endpoint.
        endpoint: ResourceKey,
        /// Interface.
        interface: Arc<str>,
        /// Endpoint that has it.
        owner: ResourceKey,
    },
    /// Another endpoint of this node has the same address: this one is closed.
    AddressTaken {
        /// Endpoint.
        endpoint: ResourceKey,
        /// Address.
        address: IpAddr,
        /// Endpoint that has it.
        owner: ResourceKey,
    },
}

impl Problem {
    /// Whether everything is enforced all the same: a staged policy is only judged.
    pub fn is_warning(&self) -> bool {
        match self {
            Problem::MissingTier { policy, .. } | Problem::BadPolicy { policy, .. } => policy.kind.is_staged(),
            Problem::MissingProfile { .. } | Problem::InterfaceTaken { .. } | Problem::AddressTaken { .. } => false,
        }
    }
}

/// What becomes of a policy that cannot be enforced or judged.
fn consequence(policy: &ResourceKey, endpoints: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if policy.kind.is_staged() {
        write!(f, "it is not judged for {endpoints} local endpoints")
    } else {
        write!(f, "{endpoints} local endpoints are closed")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::MissingProfile { endpoint, profile } => {
                write!(
                    f,
                    "{endpoint}: profile {profile:?} does not exist; what its policies leave undecided is denied there"
                )
            }
            Problem::MissingTier {
                policy,
                tier,
                endpoints,
            } => {
                write!(f, "{policy}: tier {tier:?} does not exist; ")?;
                consequence(policy, *endpoints, f)
            }
            Problem::BadPolicy {
                policy,
                reason,
                endpoints,
            } => {
                write!(f, "{policy}: {reason}; ")?;
                consequence(policy, *endpoints, f)
            }
            Problem::InterfaceTaken {
                endpoint,
                interface,
                owner,
            } => {
                write!(
                    f,
                    "{endpoint}: interface {interface} belongs to {owner}; this endpoint is left out"
                )
            }
            Problem::AddressTaken {
                endpoint,
                address,
                owner,
            } => {
                write!(
                    f,
                    "{endpoint}: address {address} belongs to {owner}; this endpoint is closed"
                )
            }
        }
    }
}
