//! Random histories: what the records say, how they change, and what must be in force after a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::planner::Compiler;
use felid_compile::program::{Program, Slots};
use felid_compile::reference::{Packet, evaluate};
use felid_compile::testing::{Rng, Shape, World};
use felid_compile::{CompileError, Counters, Direction, Prepared};
use felid_model::resolved::{Delta, LocalEndpoint, NamedPortMember, ResolvedPolicy, ResolvedSide, SetId, SetIds};
use felid_model::{Kind, Protocol, ResourceKey};
use ipnet::IpNet;

pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The real compiler, but for policies with a tier of this name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picky;

const BROKEN: &str = "broken";

pub(crate) fn is_broken(policy: &ResolvedPolicy) -> bool {
    policy.tiers.iter().any(|tier| &*tier.name == BROKEN)
}

impl Compiler for Picky {
    fn compile(
        &self,
        prepared: Prepared<'_>,
        slots: &impl Slots,
        counters: &mut impl Counters,
    ) -> Result<Program, CompileError> {
        if is_broken(prepared.policy()) {
            return Err(CompileError::Internal("broken"));
        }
        prepared.compile(slots, counters)
    }
}

/// Every set that a policy names.
pub(crate) fn sets_of(policy: &ResolvedPolicy) -> SetIds {
    let side = |side: &ResolvedSide| -> Vec<SetId> {
        let ports = [&side.named_ports, &side.not_named_ports, &side.service_ports];
        [&side.sets, &side.not_sets]
            .into_iter()
            .chain(ports)
            .flatten()
            .cloned()
            .collect()
    };
    let lists = policy
        .tiers
        .iter()
        .flat_map(|tier| &tier.policies)
        .chain(&policy.profiles);
    lists
        .flat_map(|list| list.rules.iter())
        .flat_map(|rule| side(&rule.source).into_iter().chain(side(&rule.destination)))
        .collect()
}

/// What the records say.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pub(crate) world: World,
    pub(crate) endpoints: BTreeMap<ResourceKey, Arc<LocalEndpoint>>,
    pub(crate) hosts: BTreeSet<IpAddr>,
    /// Addresses that endpoints may have.
    pool: Vec<IpAddr>,
    policies: Vec<Arc<ResolvedPolicy>>,
}

/// What must be in force: the records of a plan, and the policy of each endpoint and direction.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) records: Records,
    pub(crate) policies: BTreeMap<(ResourceKey, Direction), Arc<ResolvedPolicy>>,
}

fn key(number: usize) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: Some("default".into()),
        name: format!("ep{number}").into(),
    }
}

impl Records {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut world = World::sized(rng, 6, 3);
        world.own.clear();
        world.spoofed.clear();
        let mut pool: Vec<IpAddr> = (0..12).filter_map(|_| rng.pick(&world.peers).copied()).collect();
        pool.sort_unstable();
        pool.dedup();
        let policies = (0..4).map(|_| Arc::new(world.policy(rng, Shape::Small))).collect();
        Self {
            world,
            endpoints: BTreeMap::new(),
            hosts: BTreeSet::new(),
            pool,
            policies,
        }
    }

    /// One random change.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        match rng.below(12) {
            0..=2 => self.change_endpoint(rng),
            3 => {
                if let Some(key) = rng.pick(&self.endpoints.keys().cloned().collect::<Vec<_>>()) {
                    self.endpoints.remove(key);
                }
            }
            4 | 5 => self.change_policy(rng),
            6..=8 => self.change_set(rng),
            9 | 10 => self.change_named_port(rng),
            _ => {
                let address = *rng.pick(&self.world.peers).unwrap();
                if !self.hosts.remove(&address) && !self.pool.contains(&address) {
                    self.hosts.insert(address);
                }
            }
        }
    }

    fn change_endpoint(&mut self, rng: &mut Rng) {
        let key = key(rng.below(6));
        let old = self.endpoints.remove(&key);
        // As in the calculation, an address has one owner.
        let taken: BTreeSet<IpAddr> = self.endpoints.values().flat_map(|e| e.addresses.clone()).collect();
        let mut addresses: Vec<IpAddr> = match &old {
            Some(old) if rng.percent(60) => old.addresses.clone(),
            _ => (0..rng.between(1, 3)).map(|_| *rng.pick(&self.pool).unwrap()).collect(),
        };
        addresses.retain(|address| !taken.contains(address));
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return;
        }
        let interface = match &old {
            Some(old) if rng.percent(80) => old.interface_name.clone(),
            _ => format!("cali{}{}", key.name, rng.below(2)).into(),
        };
        let policy = |rng: &mut Rng, old: Option<&Arc<ResolvedPolicy>>| match old {
            Some(old) if rng.percent(50) => old.clone(),
            _ => rng.pick(&self.policies).unwrap().clone(),
        };
        let ingress = policy(rng, old.as_ref().map(|old| &old.ingress));
        let egress = policy(rng, old.as_ref().map(|old| &old.egress));
        let endpoint = LocalEndpoint {
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            aws_elastic_ips: Vec::new(),
            key: key.clone(),
            interface_name: interface,
            addresses,
            mac: rng.percent(20).then(|| [2, 0, 0, 0, 0, rng.below(3) as u8]),
            ipv4_gateway: None,
            ipv6_gateway: None,
            ports: Vec::new(),
            profiles: Vec::new(),
            ingress,
            egress,
        };
        self.endpoints.insert(key, Arc::new(endpoint));
    }

    /// A record of a policy is edited: all endpoints that have it get the new one.
    fn change_policy(&mut self, rng: &mut Rng) {
        let index = rng.below(self.policies.len());
        let mut new = self.world.policy(rng, Shape::Small);
        if rng.percent(15)
            && let Some(tier) = new.tiers.first_mut()
        {
            tier.name = BROKEN.into();
        }
        let (old, new) = (self.policies[index].clone(), Arc::new(new));
        for endpoint in self.endpoints.values_mut() {
            let mut changed = LocalEndpoint::clone(endpoint);
            for policy in [&mut changed.ingress, &mut changed.egress] {
                if *policy == old {
                    *policy = new.clone();
                }
            }
            *endpoint = Arc::new(changed);
        }
        self.policies[index] = new;
    }

    fn change_set(&mut self, rng: &mut Rng) {
        let ids: Vec<SetId> = self.world.sets.keys().cloned().collect();
        let members = self.world.sets.get_mut(rng.pick(&ids).unwrap()).unwrap();
        if rng.percent(50) && !members.is_empty() {
            members.remove(rng.below(members.len()));
        } else if rng.percent(40) {
            members.extend(rng.pick(&self.world.nets).filter(|net| net.prefix_len() != 0));
        } else {
            let own = rng.percent(30);
            members.extend(
                rng.pick(if own { &self.pool } else { &self.world.peers })
                    .map(|a| IpNet::from(*a)),
            );
        }
    }

    fn change_named_port(&mut self, rng: &mut Rng) {
        let ids: Vec<SetId> = self.world.named_ports.keys().cloned().collect();
        let members = self.world.named_ports.get_mut(rng.pick(&ids).unwrap()).unwrap();
        let known: Vec<NamedPortMember> = members.iter().copied().collect();
        if rng.percent(50)
            && let Some(member) = rng.pick(&known)
        {
            members.remove(member);
        } else {
            let own = rng.percent(50);
            let address = *rng.pick(if own { &self.pool } else { &self.world.peers }).unwrap();
            let port = *rng.pick(&[22, 53, 80, 443, 8080]).unwrap();
            members.insert(NamedPortMember {
                address,
                protocol: Protocol(*rng.pick(&[6, 17]).unwrap()),
                port,
            });
        }
    }

    /// Sets that some endpoint's policy names. The calculation says nothing of others.
    pub(crate) fn named(&self) -> SetIds {
        self.endpoints
            .values()
            .flat_map(|e| [sets_of(&e.ingress), sets_of(&e.egress)])
            .flatten()
            .collect()
    }

    /// Everything that the calculation says of these records.
    pub(crate) fn calculated(&self) -> Delta {
        let named = self.named();
        let mut members: BTreeMap<IpNet, SetIds> = BTreeMap::new();
        for (id, nets) in self.world.sets.iter().filter(|(id, _)| named.contains(id)) {
            nets.iter().for_each(|net| {
                members.entry(*net).or_default().insert(id.clone());
            });
        }
        let mut ports: BTreeMap<NamedPortMember, SetIds> = BTreeMap::new();
        for (id, list) in self.world.named_ports.iter().filter(|(id, _)| named.contains(id)) {
            list.iter().for_each(|member| {
                ports.entry(*member).or_default().insert(id.clone());
            });
        }
        Delta {
            endpoints: self
                .endpoints
                .iter()
                .map(|(key, endpoint)| (key.clone(), Some(endpoint.clone())))
                .collect(),
            members: members
                .into_iter()
                .map(|(net, sets)| (net, Some(Arc::new(sets))))
                .collect(),
            named_ports: ports
                .into_iter()
                .map(|(member, sets)| (member, Some(Arc::new(sets))))
                .collect(),
        }
    }
}

/// What changed from one complete state to another.
pub(crate) fn difference(old: &Delta, new: &Delta) -> Delta {
    fn of<K: Ord + Clone, V: PartialEq + Clone>(
        old: &BTreeMap<K, Option<V>>,
        new: &BTreeMap<K, Option<V>>,
    ) -> BTreeMap<K, Option<V>> {
        let gone = old
            .keys()
            .filter(|key| !new.contains_key(key))
            .map(|key| (key.clone(), None));
        let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
        gone.chain(changed.map(|(key, value)| (key.clone(), value.clone())))
            .collect()
    }
    Delta {
        endpoints: of(&old.endpoints, &new.endpoints),
        members: of(&old.members, &new.members),
        named_ports: of(&old.named_ports, &new.named_ports),
    }
}

impl Truth {
    /// What must be in force once these records are, given what was before (nothing after a
    /// restart), and the policies that do not fit into the tables, each with whether all is denied
    /// instead.
    pub(crate) fn after(
        records: &Records,
        before: Option<&Truth>,
        unfit: &BTreeMap<(ResourceKey, Direction), bool>,
    ) -> Self {
        let named = records.named();
        let mut policies = BTreeMap::new();
        for (key, endpoint) in &records.endpoints {
            for (direction, policy) in DIRECTIONS.into_iter().zip([&endpoint.egress, &endpoint.ingress]) {
                let place = (key.clone(), direction);
                let old = before.and_then(|before| before.policies.get(&place));
                let policy = match old {
                    _ if !is_broken(policy) && !unfit.contains_key(&place) => policy.clone(),
                    Some(old) if unfit.get(&place) == Some(&false) => old.clone(),
                    Some(old) if !unfit.contains_key(&place) && sets_of(old).is_subset(&named) => old.clone(),
                    _ => Arc::new(ResolvedPolicy {
                        closed: Some("closed".into()),
                        ..ResolvedPolicy::default()
                    }),
                };
                policies.insert(place, policy);
            }
        }
        Self {
            records: records.clone(),
            policies,
        }
    }

    /// A packet to or from an endpoint that is likely to be interesting.
    pub(crate) fn packet(&self, rng: &mut Rng, key: &ResourceKey, direction: Direction) -> Packet {
        let mut world = self.records.world.clone();
        world.own = self.records.endpoints[key].addresses.clone();
        world.packet(rng, &self.policies[&(key.clone(), direction)], direction)
    }

    pub(crate) fn allows(&self, key: &ResourceKey, direction: Direction, packet: &Packet) -> bool {
        evaluate(&self.policies[&(key.clone(), direction)], packet, &self.records.world).allowed
    }
}
