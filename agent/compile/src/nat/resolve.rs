//! From what records ask for to what is in force. The result depends on the present records alone,
//! not on their order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_model::resolved::LocalEndpoint;
use felid_model::{IpNat, ResourceKey};
use ipnet::IpNet;

use crate::transaction::EndpointId;

/// A translation that an endpoint's record asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The address by which others know the workload.
    pub external: IpAddr,
    /// The workload's own address.
    pub internal: IpAddr,
    /// The resource of the endpoint that asks for it.
    pub endpoint: ResourceKey,
}

/// What an external address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The workload's own address, to which packets for the external one go.
    pub internal: IpAddr,
    /// The endpoint of the workload.
    pub endpoint: EndpointId,
}

/// How many translations one endpoint may have, so that nobody can fill the table for everybody
/// else.
pub const MAX_PER_ENDPOINT: usize = 64;

/// Translations by their external addresses.
pub type Mappings = BTreeMap<IpAddr, Mapping>;

/// What the host needs an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostUse {
    /// The address is that of a neighbour that the host talks to.
    Neighbour,
    /// The address is the next hop of one of the host's routes.
    NextHop,
    /// The address is that of a name server that the host asks.
    Resolver,
    /// The address is that of the API server of Kubernetes.
    ApiServer,
}

impl std::fmt::Display for HostUse {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Neighbour => "a neighbour that the host talks to",
            Self::NextHop => "the next hop of a route of the host",
            Self::Resolver => "the host's resolver",
            Self::ApiServer => "the API server of Kubernetes",
        })
    }
}

/// What the host says about the addresses that endpoints want to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// The addresses on the host's own interfaces.
    pub own: BTreeSet<IpAddr>,
    /// The addresses that the host needs where they are, with what for. A workload must not have
    /// them.
    pub in_use: BTreeMap<IpAddr, HostUse>,
    /// The networks that external addresses may be in; if there is none, they may be anywhere.
    pub allowed: Vec<IpNet>,
}

/// Why a translation is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another one has the external address: the lexically smaller internal address wins.
    #[error("{external} is already {internal} of {endpoint}, which comes first by its internal address")]
    Claimed {
        /// The external address.
        external: IpAddr,
        /// The winner's internal address.
        internal: IpAddr,
        /// The winner.
        endpoint: ResourceKey,
    },
    /// The external address is a local endpoint's own.
    #[error("the external address is an address of {0}")]
    EndpointAddress(ResourceKey),
    /// The external address is the host's own, which would take the packets.
    #[error("the external address is the host's own")]
    HostAddress,
    /// The host needs the external address where it is.
    #[error("the external address is {0}, which would be cut off")]
    InUse(HostUse),
    /// The external address is in none of the networks that the configuration allows.
    #[error("the external address is in none of the networks of externalIPAllowed")]
    NotAllowed,
    /// The external address is not one that a single host can have.
    #[error("the external address is not a unicast address that routers forward")]
    NotRoutable,
    /// The internal address is not the endpoint's.
    #[error("the internal address is not the endpoint's own")]
    NotOwn,
    /// Two local endpoints have the internal address.
    #[error("the internal address belongs to {0}")]
    Shared(ResourceKey),
    /// The endpoint has more of them than one may.
    #[error("it is beyond the first {MAX_PER_ENDPOINT} of its endpoint")]
    TooMany,
    /// IPv4 on one side, IPv6 on the other.
    #[error("one address is IPv4, the other IPv6")]
    Families,
    /// The kernel's table is full where this one would have to stand.
    #[error("no room in the kernel's table of translations")]
    NoRoom,
}

/// The translations of a node's endpoints, in force or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The translations in force.
    pub mappings: Mappings,
    /// The translations that are not in force, each with the reason.
    pub conflicts: BTreeMap<Claim, Conflict>,
}

/// The order in which claims to one external address win, and in which one of several external
/// addresses is chosen: that of the text.
pub(super) fn lexical(address: IpAddr) -> String {
    address.to_string()
}

/// Decides which translations of these endpoints are in force. The result depends on the arguments
/// alone, and not on the order of the endpoints. A translation that is not in force is among the
/// conflicts of the result; nothing else fails.
pub fn resolve<'a>(
    endpoints: impl Iterator<Item = (EndpointId, &'a LocalEndpoint)> + Clone,
    host: &HostAddresses,
) -> Resolved {
    let mut resolved = Resolved::default();
    if endpoints.clone().all(|(_, endpoint)| endpoint.ip_nats.is_empty()) {
        return resolved;
    }
    // Of endpoints that share an address the least key has it.
    let mut owners: BTreeMap<IpAddr, &ResourceKey> = BTreeMap::new();
    for (_, endpoint) in endpoints.clone() {
        for &address in &endpoint.addresses {
            let owner = owners.entry(address).or_insert(&endpoint.key);
            *owner = (*owner).min(&endpoint.key);
        }
    }
    let mut claims: BTreeMap<IpAddr, BTreeMap<(String, Claim), Mapping>> = BTreeMap::new();
    for (id, endpoint) in endpoints {
        let mut asked: Vec<&IpNat> = endpoint.ip_nats.iter().collect();
        asked.sort_unstable();
        asked.dedup();
        for (count, nat) in asked.into_iter().enumerate() {
            let claim = Claim {
                external: nat.external,
                internal: nat.internal,
                endpoint: endpoint.key.clone(),
            };
            let conflict = refused(&claim, endpoint, &owners, host);
            let conflict = conflict.or((count >= MAX_PER_ENDPOINT).then_some(Conflict::TooMany));
            match conflict {
                Some(conflict) => drop(resolved.conflicts.insert(claim, conflict)),
                None => {
                    let mapping = Mapping {
                        internal: nat.internal,
                        endpoint: id,
                    };
                    let rank = (lexical(nat.internal), claim);
                    claims.entry(nat.external).or_default().insert(rank, mapping);
                }
            }
        }
    }
    for (external, mut claims) in claims {
        let Some(((_, winner), mapping)) = claims.pop_first() else {
            continue;
        };
        resolved.mappings.insert(external, mapping);
        for ((_, loser), _) in claims {
            let conflict = Conflict::Claimed {
                external,
                internal: winner.internal,
                endpoint: winner.endpoint.clone(),
            };
            resolved.conflicts.insert(loser, conflict);
        }
    }
    resolved
}

/// What is wrong with a claim, whatever others there are to its external address.
fn refused(
    claim: &Claim,
    endpoint: &LocalEndpoint,
    owners: &BTreeMap<IpAddr, &ResourceKey>,
    host: &HostAddresses,
) -> Option<Conflict> {
    if claim.external.is_ipv4() != claim.internal.is_ipv4() {
        return Some(Conflict::Families);
    }
    if let Some(owner) = owners.get(&claim.internal)
        && **owner != claim.endpoint
    {
        return Some(Conflict::Shared((*owner).clone()));
    }
    if !endpoint.addresses.contains(&claim.internal) {
        return Some(Conflict::NotOwn);
    }
    if let Some(owner) = owners.get(&claim.external) {
        return Some(Conflict::EndpointAddress((*owner).clone()));
    }
    if host.own.contains(&claim.external) {
        return Some(Conflict::HostAddress);
    }
    if !routable(claim.external) {
        return Some(Conflict::NotRoutable);
    }
    if !host.allowed.is_empty() && !host.allowed.iter().any(|net| net.contains(&claim.external)) {
        return Some(Conflict::NotAllowed);
    }
    host.in_use.get(&claim.external).copied().map(Conflict::InUse)
}

fn routable(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let special = special
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
    !special
}
