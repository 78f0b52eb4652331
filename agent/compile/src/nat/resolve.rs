//! From what records ask for to what is in force. The result depends on the present records alone, not on their order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_model::resolved::LocalEndpoint;
use felid_model::{IpNat, ResourceKey};

use crate::transaction::EndpointId;

/// A translation that an endpoint's record asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The address by which others know it.
    pub external: IpAddr,
    /// The endpoint's address.
    pub internal: IpAddr,
    /// The endpoint.
    pub endpoint: ResourceKey,
}

/// What an external address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The endpoint's address.
    pub internal: IpAddr,
    /// The endpoint.
    pub endpoint: EndpointId,
}

/// Translations that one endpoint may have: nobody may fill the table for everybody else.
pub const MAX_PER_ENDPOINT: usize = 64;

/// Translations by their external addresses.
pub type Mappings = BTreeMap<IpAddr, Mapping>;

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

/// What is in force, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In force.
    pub mappings: Mappings,
    /// Not in force.
    pub conflicts: BTreeMap<Claim, Conflict>,
}

/// The order in which claims to one external address win, and in which one of several external addresses is chosen: that of the text.
pub(super) fn lexical(address: IpAddr) -> String {
    address.to_string()
}

/// Decides which translations of these endpoints are in force.
pub fn resolve<'a>(
    endpoints: impl Iterator<Item = (EndpointId, &'a LocalEndpoint)> + Clone,
    host: &BTreeSet<IpAddr>,
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
    host: &BTreeSet<IpAddr>,
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
    if host.contains(&claim.external) {
        return Some(Conflict::HostAddress);
    }
    (!routable(claim.external)).then_some(Conflict::NotRoutable)
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
