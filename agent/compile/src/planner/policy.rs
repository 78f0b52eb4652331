//! What a policy says of sets: which ones matter on the endpoint's own side, and which changes on
//! the peer's side can take something away from flows that were allowed.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Weak};

use felid_model::Protocol;
use felid_model::resolved::{LocalEndpoint, NamedPortMember, ResolvedAction, ResolvedPolicy, ResolvedRule, SetIds};
use ipnet::IpNet;

use super::addresses::AddressTable;
use super::sets::Sets;
use crate::types::{Direction, LocalSide};

/// A policy in one direction, with what the planner wants to know of it. Equal policies share one.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) direction: Direction,
    pub(super) resolved: Arc<ResolvedPolicy>,
    /// Sets that rules name on the endpoint's own side.
    own_sets: SetIds,
    own_named_ports: SetIds,
    /// Some rule has networks on the endpoint's own side.
    own_nets: bool,
    /// Sets of the peer (named-port sets too): members that leave can lose what was allowed.
    pub(super) matters_leaving: SetIds,
    /// Sets of the peer: members that join can lose what was allowed.
    pub(super) matters_joining: SetIds,
    /// Sets of the peer that only Log rules and staged policies name.
    others: SetIds,
}

impl Policy {
    fn new(direction: Direction, resolved: Arc<ResolvedPolicy>) -> Self {
        let mut policy = Self {
            direction,
            resolved: resolved.clone(),
            own_sets: SetIds::new(),
            own_named_ports: SetIds::new(),
            own_nets: false,
            matters_leaving: SetIds::new(),
            matters_joining: SetIds::new(),
            others: SetIds::new(),
        };
        let tiers = resolved.tiers.iter().flat_map(|tier| &tier.policies);
        for list in tiers.chain(&resolved.profiles) {
            for rule in list.rules.iter() {
                policy.add(rule, list.staged || rule.action == ResolvedAction::Log);
            }
        }
        policy
    }

    /// `harmless`: it has no part in the verdict.
    fn add(&mut self, rule: &ResolvedRule, harmless: bool) {
        let (own, peer) = match self.direction {
            Direction::Egress => (&rule.source, &rule.destination),
            Direction::Ingress => (&rule.destination, &rule.source),
        };
        self.own_sets.extend(own.sets.iter().chain(&own.not_sets).cloned());
        self.own_named_ports.extend(
            own.named_ports
                .iter()
                .chain(&own.not_named_ports)
                .chain(&own.service_ports)
                .cloned(),
        );
        self.own_nets |= !own.nets.is_empty() || !own.not_nets.is_empty();
        // What makes a rule match more is bad under Deny, what makes it match less is bad under
        // Allow. A Pass leads to other rules, which may be better or worse than what follows it in
        // its tier.
        let more = peer.sets.iter().chain(&peer.named_ports).chain(&peer.service_ports);
        let less = peer.not_sets.iter().chain(&peer.not_named_ports);
        if self.direction == Direction::Egress {
            // Sources within allowSpoofedSourcePrefixes come and go in these, too.
            let own = own.sets.iter().chain(&own.not_sets);
            self.matters_leaving.extend(own.clone().cloned());
            self.matters_joining.extend(own.cloned());
        }
        if harmless {
            self.others.extend(more.chain(less).cloned());
            return;
        }
        if rule.action != ResolvedAction::Deny {
            self.matters_leaving.extend(more.clone().cloned());
            self.matters_joining.extend(less.clone().cloned());
        }
        if rule.action != ResolvedAction::Allow {
            self.matters_joining.extend(more.cloned());
            self.matters_leaving.extend(less.cloned());
        }
    }

    /// Every set that the policy names.
    pub(super) fn sets(&self) -> impl Iterator<Item = &felid_model::resolved::SetId> {
        self.own_sets
            .iter()
            .chain(&self.own_named_ports)
            .chain(&self.matters_leaving)
            .chain(&self.matters_joining)
            .chain(&self.others)
    }

    /// What the compiler needs to know of an endpoint's own side, and no more, so that endpoints
    /// share programs: sets that no rule names there are left out, and addresses that the policy
    /// cannot tell apart become one, the unspecified address.
    pub(super) fn own(&self, endpoint: &LocalEndpoint, table: &AddressTable, sets: &Sets) -> OwnSide {
        let addresses = &endpoint.addresses;
        let mut own = OwnSide::default();
        if self.direction == Direction::Egress {
            own.1 = IpNet::aggregate(&endpoint.allow_spoofed_source_prefixes);
            own.1.sort_unstable();
        }
        for v4 in [true, false] {
            let mut known: Vec<OwnAddress> = addresses
                .iter()
                .filter(|address| address.is_ipv4() == v4)
                .map(|&address| OwnAddress {
                    address,
                    sets: table.memberships(address, &self.own_sets, sets),
                    ports: table
                        .named_ports_of(address, &self.own_named_ports, sets)
                        .into_iter()
                        .map(|(member, sets)| (member.protocol, member.port, sets))
                        .collect(),
                })
                .collect();
            known.sort();
            known.dedup();
            let alike = known.iter().all(|k| {
                known
                    .first()
                    .is_some_and(|f| (&k.sets, &k.ports) == (&f.sets, &f.ports))
            });
            if alike && !self.own_nets {
                known.truncate(1);
                for only in &mut known {
                    only.address = if v4 {
                        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                    } else {
                        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    };
                }
            }
            own.0.append(&mut known);
        }
        own
    }
}

/// An address of the endpoint itself, as far as a policy can tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct OwnAddress {
    address: IpAddr,
    sets: SetIds,
    ports: Vec<(Protocol, u16, SetIds)>,
}

/// The endpoint's own side, as far as a policy can tell endpoints apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OwnSide(Vec<OwnAddress>, Vec<IpNet>);

impl OwnSide {
    /// In the compiler's form.
    pub(super) fn for_compiler(&self) -> LocalSide {
        let mut own = LocalSide {
            spoofed: self.1.clone(),
            ..LocalSide::default()
        };
        for known in &self.0 {
            own.addresses.push((known.address, known.sets.clone()));
            own.ports.extend(known.ports.iter().map(|(protocol, port, sets)| {
                (
                    NamedPortMember {
                        address: known.address,
                        protocol: *protocol,
                        port: *port,
                    },
                    sets.clone(),
                )
            }));
        }
        own
    }
}

/// Everything that a program is compiled from. Equal inputs have one program.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) policy: Arc<Policy>,
    pub(super) own: OwnSide,
}

/// Equal policies are one object.
impl PartialEq for Input {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy) && self.own == other.own
    }
}

impl Eq for Input {}

impl Hash for Input {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.policy).hash(state);
        self.own.hash(state);
    }
}

/// PolicyKey by which equal policies find each other. Hashes only what is cheap: most rule lists
/// are shared, and compare by address.
#[derive(Debug)]
struct PolicyKey {
    direction: Direction,
    resolved: Arc<ResolvedPolicy>,
}

impl PartialEq for PolicyKey {
    fn eq(&self, other: &Self) -> bool {
        self.direction == other.direction && self.resolved == other.resolved
    }
}

impl Eq for PolicyKey {}

impl Hash for PolicyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.direction.hash(state);
        let tiers = self.resolved.tiers.iter().flat_map(|tier| &tier.policies);
        for rules in tiers.chain(&self.resolved.profiles) {
            rules.key.name.hash(state);
            rules.rules.len().hash(state);
        }
    }
}

/// All policies that anything refers to.
#[derive(Debug, Default)]
pub(super) struct PolicyInterner {
    known: HashMap<PolicyKey, Weak<Policy>>,
    /// Number of entries at which those are thrown out that nothing refers to.
    sweep_at: usize,
}

impl PolicyInterner {
    /// The policy, shared with whoever has an equal one.
    pub(super) fn intern(&mut self, direction: Direction, resolved: &Arc<ResolvedPolicy>) -> Arc<Policy> {
        let key = PolicyKey {
            direction,
            resolved: resolved.clone(),
        };
        if let Some(policy) = self.known.get(&key).and_then(Weak::upgrade) {
            return policy;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, policy| policy.strong_count() > 0);
            self.sweep_at = 2 * self.known.len() + 64;
        }
        let policy = Arc::new(Policy::new(direction, resolved.clone()));
        self.known.insert(key, Arc::downgrade(&policy));
        policy
    }

    /// The inputs of an endpoint's two programs, egress first.
    pub(super) fn inputs(&mut self, endpoint: &LocalEndpoint, addresses: &AddressTable, sets: &Sets) -> [Input; 2] {
        [
            (Direction::Egress, &endpoint.egress),
            (Direction::Ingress, &endpoint.ingress),
        ]
        .map(|(direction, resolved)| {
            let policy = self.intern(direction, resolved);
            let own = policy.own(endpoint, addresses, sets);
            Input { policy, own }
        })
    }
}
