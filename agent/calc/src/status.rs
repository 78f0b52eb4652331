//! What people and metrics ask of the calculation.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;

/// Sizes of the calculation's parts, as of the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Endpoints of this node that have addresses and own their interface.
    pub local_endpoints: usize,
    /// Endpoints of all nodes that have addresses.
    pub endpoints: usize,
    /// `NetworkSet`s and `GlobalNetworkSet`s.
    pub network_sets: usize,
    /// Policies that select a local endpoint, bad and staged ones included.
    pub active_policies: usize,
    /// Staged policies that select a local endpoint.
    pub staged_policies: usize,
    /// All policies, bad and staged ones included.
    pub policies: usize,
    /// Profiles whose rules a local endpoint uses.
    pub active_profiles: usize,
    /// All profiles, implied ones included.
    pub profiles: usize,
    /// All tiers, built-in ones included.
    pub tiers: usize,
    /// Different selectors in active sets.
    pub selectors: usize,
    /// Active sets: of selectors, named ports, services and lists of networks.
    pub sets: usize,
    /// Prefixes that are a member of an active set.
    pub prefixes: usize,
    /// (address, protocol, port)s that are a member of an active set.
    pub named_ports: usize,
}

/// Something in the records that keeps a local endpoint from working as they say, or keeps a policy
/// from being enforced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inconsistency {
    /// A local endpoint names a profile that does not exist: what comes to it is denied.
    MissingProfile {
        /// The endpoint concerned.
        endpoint: ResourceKey,
        /// The name of the profile.
        profile: String,
    },
    /// A pod's service account has no record, and so its profile, the last that the endpoint names,
    /// does not exist: it would have no rules, but hand labels on.
    MissingServiceAccount {
        /// The endpoint concerned.
        endpoint: ResourceKey,
        /// The name of the profile.
        profile: String,
    },
    /// A policy's tier does not exist: the local endpoints that it selects are closed in its
    /// directions. A staged policy is not judged.
    MissingTier {
        /// The policy concerned.
        policy: ResourceKey,
        /// The name of the tier.
        tier: String,
        /// How many local endpoints the policy selects, or may select.
        endpoints: usize,
    },
    /// A policy cannot be enforced: the local endpoints that it may select are closed. A staged
    /// policy is not judged.
    BadPolicy {
        /// The policy concerned.
        policy: ResourceKey,
        /// Why the policy cannot be enforced.
        reason: String,
        /// How many local endpoints the policy may select.
        endpoints: usize,
    },
    /// A local endpoint asks to send from addresses that are not its own, and
    /// `workloadSourceSpoofing` does not allow it: such packets are dropped.
    SourceSpoofingDisabled {
        /// The endpoint concerned.
        endpoint: ResourceKey,
    },
    /// Another endpoint of this node has the same interface: this one is left out.
    InterfaceTaken {
        /// The endpoint concerned.
        endpoint: ResourceKey,
        /// The name of the interface.
        interface: Arc<str>,
        /// The endpoint that owns it.
        owner: ResourceKey,
    },
    /// Another endpoint of this node has the same address: this one is closed.
    AddressTaken {
        /// The endpoint concerned.
        endpoint: ResourceKey,
        /// The address.
        address: IpAddr,
        /// The endpoint that owns it.
        owner: ResourceKey,
    },
}

impl Inconsistency {
    /// Returns whether everything that the resources ask for in the way of policy is enforced all
    /// the same: a staged policy is only judged, the profile of a service account has no rules, and
    /// spoofed sources stay forbidden.
    pub fn is_warning(&self) -> bool {
        match self {
            Inconsistency::MissingServiceAccount { .. } => true,
            Inconsistency::MissingTier { policy, .. } | Inconsistency::BadPolicy { policy, .. } => {
                policy.kind.is_staged()
            }
            // Whoever may write the resource of one workload must not make the whole node unready.
            Inconsistency::SourceSpoofingDisabled { .. } => true,
            Inconsistency::MissingProfile { .. }
            | Inconsistency::InterfaceTaken { .. }
            | Inconsistency::AddressTaken { .. } => false,
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

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inconsistency::MissingProfile { endpoint, profile } => {
                write!(
                    f,
                    "{endpoint}: profile {profile:?} does not exist; what its policies leave undecided is denied there"
                )
            }
            Inconsistency::MissingServiceAccount { endpoint, profile } => {
                write!(
                    f,
                    "{endpoint}: profile {profile:?} does not exist; no rule finds the endpoint by the labels of its service account"
                )
            }
            Inconsistency::MissingTier {
                policy,
                tier,
                endpoints,
            } => {
                write!(f, "{policy}: tier {tier:?} does not exist; ")?;
                consequence(policy, *endpoints, f)
            }
            Inconsistency::BadPolicy {
                policy,
                reason,
                endpoints,
            } => {
                write!(f, "{policy}: {reason}; ")?;
                consequence(policy, *endpoints, f)
            }
            Inconsistency::SourceSpoofingDisabled { endpoint } => {
                write!(
                    f,
                    "{endpoint}: packets from allowSpoofedSourcePrefixes are dropped, since workloadSourceSpoofing is Disabled"
                )
            }
            Inconsistency::InterfaceTaken {
                endpoint,
                interface,
                owner,
            } => {
                write!(
                    f,
                    "{endpoint}: interface {interface} belongs to {owner}; this endpoint is left out"
                )
            }
            Inconsistency::AddressTaken {
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
