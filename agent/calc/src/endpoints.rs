//! The value that is said of one local endpoint: its own data and its resolved policy in both
//! directions.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use felid_model::names::host_interface;
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy, ResolvedRules, ResolvedTier};
use felid_model::{Direction, Kind, ResourceKey, WorkloadEndpoint, WorkloadSourceSpoofing};

use crate::ids::ItemId;
use crate::policies::{PolicyContent, PolicyEntry, PolicyIndex};
use crate::profiles::{Profiles, profile_key};
use crate::tiers::{TierPlace, Tiers};

/// What a resolved policy is made of; equal parts make equal policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PolicyPart {
    Tier(Arc<str>, bool),
    /// Version of a policy's rules, and whether it is staged.
    Policy(u64, bool),
    /// Version of a profile's rules.
    Profile(u64),
}

/// Policies that some endpoint has now, so that endpoints with the same policies and profiles share
/// one value.
#[derive(Debug, Default)]
pub(crate) struct SharedPolicies {
    policies: HashMap<Vec<PolicyPart>, Weak<ResolvedPolicy>>,
    swept: usize,
}

impl SharedPolicies {
    /// Forgets policies that nobody has any more, when there may be many.
    pub(crate) fn sweep(&mut self) {
        if self.policies.len() > 2 * self.swept + 64 {
            self.policies.retain(|_, policy| policy.strong_count() > 0);
            self.swept = self.policies.len();
        }
    }
}

/// What policies are resolved from.
#[derive(Clone, Copy)]
pub(crate) struct PolicySources<'a> {
    pub(crate) policies: &'a PolicyIndex,
    pub(crate) profiles: &'a Profiles,
    pub(crate) tiers: &'a Tiers,
    pub(crate) source_spoofing: WorkloadSourceSpoofing,
}

impl<'a> PolicySources<'a> {
    /// The policies of an endpoint in the order in which they hold; those without a tier that
    /// exists come last.
    pub(crate) fn in_order(self, item: ItemId) -> Vec<(Option<&'a TierPlace>, &'a PolicyEntry)> {
        let mut policies: Vec<_> = self
            .policies
            .of(item)
            .map(|entry| (entry.content.tier().and_then(|tier| self.tiers.get(tier)), entry))
            .collect();
        policies.sort_by_key(|(tier, entry)| (tier.is_none(), *tier, &entry.place));
        policies
    }

    /// Policy of an endpoint for one direction.
    fn resolve(
        self,
        policies: &[(Option<&'a TierPlace>, &'a PolicyEntry)],
        profiles: &[String],
        direction: Direction,
        shared: &mut SharedPolicies,
    ) -> Arc<ResolvedPolicy> {
        if let Some(reason) = self.closed(policies, direction) {
            return Arc::new(ResolvedPolicy {
                closed: Some(reason),
                ..ResolvedPolicy::default()
            });
        }
        let mut parts = Vec::new();
        let mut resolved = ResolvedPolicy::default();
        for (tier, entry) in policies {
            let (Some(tier), Some(rules)) = (tier, &entry.rules) else {
                continue;
            };
            if !entry.content.applies(direction) {
                continue;
            }
            if resolved.tiers.last().is_none_or(|last| last.name != tier.name) {
                parts.push(PolicyPart::Tier(tier.name.clone(), tier.end_pass));
                resolved.tiers.push(ResolvedTier {
                    name: tier.name.clone(),
                    end_pass: tier.end_pass,
                    policies: Vec::new(),
                });
            }
            let rules = rules.of(direction);
            let staged = entry.content.is_staged();
            parts.push(PolicyPart::Policy(rules.version, staged));
            if let Some(tier) = resolved.tiers.last_mut() {
                tier.policies.push(ResolvedRules {
                    key: entry.key.clone(),
                    staged,
                    rules: rules.rules.clone(),
                });
            }
        }
        for tier in &mut resolved.tiers {
            // A tier whose policies are all staged decides nothing.
            tier.end_pass |= tier.policies.iter().all(|policy| policy.staged);
        }
        resolved.profiles = self.resolve_profiles(profiles, direction, &mut parts);
        if let Some(known) = shared.policies.get(&parts).and_then(Weak::upgrade) {
            return known;
        }
        let resolved = Arc::new(resolved);
        shared.policies.insert(parts, Arc::downgrade(&resolved));
        resolved
    }

    /// Rules of an endpoint's profiles for one direction, in the endpoint's order.
    fn resolve_profiles(
        self,
        profiles: &[String],
        direction: Direction,
        parts: &mut Vec<PolicyPart>,
    ) -> Vec<ResolvedRules> {
        let mut resolved = Vec::new();
        for (position, name) in profiles.iter().enumerate() {
            // A missing profile denies what comes to it, so those after it never decide anything.
            let Some(rules) = self.profiles.get(name).and_then(|profile| profile.rules.as_ref()) else {
                break;
            };
            if profiles.iter().take(position).any(|earlier| earlier == name) {
                continue;
            }
            let rules = rules.of(direction);
            parts.push(PolicyPart::Profile(rules.version));
            resolved.push(ResolvedRules {
                key: profile_key(name),
                staged: false,
                rules: rules.rules.clone(),
            });
        }
        resolved
    }

    /// Why nothing may pass, if so.
    fn closed(self, policies: &[(Option<&TierPlace>, &PolicyEntry)], direction: Direction) -> Option<Arc<str>> {
        let mut reasons = BTreeMap::new();
        for (tier, entry) in policies.iter().filter(|(_, entry)| !entry.content.is_staged()) {
            match &entry.content {
                PolicyContent::Bad(bad) => {
                    reasons.insert(&entry.key, bad.reason.clone());
                }
                PolicyContent::Good(policy) if tier.is_none() && entry.content.applies(direction) => {
                    reasons.insert(&entry.key, format!("tier {:?} does not exist", policy.tier));
                }
                PolicyContent::Good(_) => {}
            }
        }
        let more = reasons.len().saturating_sub(1);
        let (key, reason) = reasons.pop_first()?;
        Some(
            if more == 0 {
                format!("{key}: {reason}")
            } else {
                format!("{key}: {reason} (and {more} more)")
            }
            .into(),
        )
    }

    /// The whole value. `lost`: addresses of the record that belong to another endpoint of this
    /// node.
    pub(crate) fn local_endpoint(
        self,
        item: ItemId,
        endpoint: &WorkloadEndpoint,
        lost: &BTreeMap<IpAddr, ResourceKey>,
        shared: &mut SharedPolicies,
    ) -> LocalEndpoint {
        let mut addresses = addresses(endpoint);
        addresses.retain(|address| !lost.contains_key(address));
        let (ingress, egress) = match lost.first_key_value() {
            Some((address, owner)) => {
                let reason = format!("address {address} belongs to {owner}");
                let closed = Arc::new(ResolvedPolicy {
                    closed: Some(reason.into()),
                    ..ResolvedPolicy::default()
                });
                (closed.clone(), closed)
            }
            None => {
                let policies = self.in_order(item);
                let mut resolve = |direction| self.resolve(&policies, &endpoint.profiles, direction, shared);
                (resolve(Direction::Ingress), resolve(Direction::Egress))
            }
        };
        let allow_spoofed_source_prefixes = match self.source_spoofing {
            WorkloadSourceSpoofing::Any => endpoint.allow_spoofed_source_prefixes.clone(),
            WorkloadSourceSpoofing::Disabled => Vec::new(),
        };
        LocalEndpoint {
            key: endpoint.key.clone(),
            interface_name: endpoint.interface_name.as_str().into(),
            addresses,
            allow_spoofed_source_prefixes,
            ip_nats: endpoint.ip_nats.clone(),
            aws_elastic_ips: endpoint.aws_elastic_ips.clone(),
            mac: endpoint.mac,
            ipv4_gateway: endpoint.ipv4_gateway,
            ipv6_gateway: endpoint.ipv6_gateway,
            ports: endpoint.ports.clone(),
            profiles: endpoint.profiles.clone(),
            ingress,
            egress,
        }
    }
}

/// Addresses of an endpoint, sorted, each once.
pub(crate) fn addresses(endpoint: &WorkloadEndpoint) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = endpoint.ip_networks.iter().map(|net| net.addr()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Returns a pod's endpoint with its interface named with the second prefix, if it is named with
/// the first now: a pod's record does not name it. An interface that somebody chose, and the
/// endpoints of other records, stay as they are.
pub(crate) fn with_interface(mut endpoint: Arc<WorkloadEndpoint>, from: &str, to: &str) -> Arc<WorkloadEndpoint> {
    let key = &endpoint.key;
    let name = |prefix| host_interface(prefix, key.namespace.as_deref().unwrap_or_default(), &key.name);
    if key.kind == Kind::Pod && from != to && endpoint.interface_name == name(from) {
        let name = name(to);
        Arc::make_mut(&mut endpoint).interface_name = name;
    }
    endpoint
}
