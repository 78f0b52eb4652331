//! Who is a member of what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use felid_common::protocol::{SCTP, TCP, UDP};
use felid_model::Protocol;
use felid_model::resolved::{NamedPortMember, SetId, SetIds};
use ipnet::IpNet;

use super::Rng;
use crate::program::Slots;
use crate::reference::Membership;
use crate::transaction::CounterName;
use crate::{Counters, LocalSide};

/// An endpoint, the addresses around it, and the sets that they are in.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Address sets and their members.
    pub sets: BTreeMap<SetId, Vec<IpNet>>,
    /// Named-port sets and their members.
    pub named_ports: BTreeMap<SetId, BTreeSet<NamedPortMember>>,
    /// Bits of all sets in class rows.
    pub slots: BTreeMap<SetId, u32>,
    /// The endpoint's addresses.
    pub own: Vec<IpAddr>,
    /// Where it may send from beside its own addresses.
    pub spoofed: Vec<IpNet>,
    /// Networks that rules name; sets are made of them, too.
    pub nets: Vec<IpNet>,
    /// Addresses at the edges of all networks.
    pub peers: Vec<IpAddr>,
}

/// Prefix lengths at which byte and word boundaries lie, and some between.
const V4_LENGTHS: [u8; 9] = [0, 1, 7, 8, 16, 23, 24, 31, 32];
const V6_LENGTHS: [u8; 12] = [0, 3, 8, 32, 33, 48, 63, 64, 65, 96, 127, 128];
/// ICMP types that rules and packets have: those of queries and their answers, of both versions.
pub(super) const ICMP_TYPES: [u8; 7] = [8, 0, 13, 17, 128, 129, 254];
/// Ports that named ports have.
pub(super) const PORTS: [u16; 8] = [22, 53, 80, 81, 443, 8080, 8443, 65535];

impl World {
    /// A small world: a dozen networks, up to a dozen sets and named-port sets, up to three
    /// addresses of each IP version.
    pub fn random(rng: &mut Rng) -> Self {
        let sets = rng.between(1, 12);
        let named = rng.between(1, 5);
        Self::sized(rng, sets, named)
    }

    /// A world with so many sets.
    pub fn sized(rng: &mut Rng, sets: usize, named: usize) -> Self {
        let mut world = World::default();
        for _ in 0..rng.between(4, 12) {
            world.nets.push(random_net(rng, true));
            world.nets.push(random_net(rng, false));
        }
        let (v4, v6) = match rng.below(10) {
            0 => (0, 1),
            1 => (1, 0),
            2 => (3, 2),
            3 => (2, 1),
            _ => (1, 1),
        };
        for (count, is_v4) in [(v4, true), (v6, false)] {
            for _ in 0..count {
                let net = random_net(rng, is_v4);
                let address = world
                    .nets
                    .iter()
                    .find(|n| n.addr().is_ipv4() == is_v4 && rng.percent(30))
                    .unwrap_or(&net);
                world.own.push(address_in(rng, address));
            }
        }
        if rng.percent(20) {
            world.spoofed = (0..rng.between(1, 3))
                .filter_map(|_| rng.pick(&world.nets).copied())
                .collect();
        }
        world.own.sort_unstable();
        world.own.dedup();
        world.peers = world
            .nets
            .iter()
            .flat_map(edges)
            .chain(world.own.iter().copied())
            .collect();
        let mut slot = 0;
        for index in 0..sets {
            let id = SetId(format!("s:set{index}").into());
            let members = (0..rng.between(0, 5))
                .filter_map(|_| world.random_member(rng))
                .collect();
            world.sets.insert(id.clone(), members);
            slot += rng.between(1, 9) as u32;
            world.slots.insert(id, slot);
        }
        for index in 0..named {
            let id = SetId(format!("n:port{index}").into());
            let members = (0..rng.between(1, 8)).filter_map(|_| world.random_port(rng)).collect();
            world.named_ports.insert(id.clone(), members);
            slot += rng.between(1, 9) as u32;
            world.slots.insert(id, slot);
        }
        world
    }

    fn random_member(&self, rng: &mut Rng) -> Option<IpNet> {
        if rng.percent(40) {
            return rng.pick(&self.nets).filter(|net| net.prefix_len() != 0).copied();
        }
        rng.pick(&self.peers).map(|address| IpNet::from(*address))
    }

    fn random_port(&self, rng: &mut Rng) -> Option<NamedPortMember> {
        let addresses = if rng.percent(40) { &self.own } else { &self.peers };
        let address = *rng.pick(addresses)?;
        let protocol = Protocol(*rng.pick(&[TCP, TCP, UDP, SCTP])?);
        Some(NamedPortMember {
            address,
            protocol,
            port: *rng.pick(&PORTS)?,
        })
    }

    /// All sets of an address.
    pub fn sets_of(&self, address: IpAddr) -> SetIds {
        self.sets
            .keys()
            .filter(|set| self.contains(set, address))
            .cloned()
            .collect()
    }

    /// All named-port sets of a port of an address.
    pub fn named_sets_of(&self, member: &NamedPortMember) -> SetIds {
        self.named_ports
            .iter()
            .filter(|(_, members)| members.contains(member))
            .map(|(set, _)| set.clone())
            .collect()
    }

    /// What the compiler needs to know of the endpoint.
    pub fn own(&self) -> LocalSide {
        let members: BTreeSet<NamedPortMember> = self.named_ports.values().flatten().copied().collect();
        LocalSide {
            addresses: self
                .own
                .iter()
                .map(|address| (*address, self.sets_of(*address)))
                .collect(),
            ports: members
                .into_iter()
                .filter(|member| self.own.contains(&member.address))
                .map(|member| (member, self.named_sets_of(&member)))
                .collect(),
            spoofed: self.spoofed.clone(),
        }
    }

    /// Number of words of a class row.
    pub fn row_words(&self) -> usize {
        self.slots.values().max().map_or(1, |slot| *slot as usize / 64 + 1)
    }

    /// The class row of these sets.
    pub fn class_row(&self, sets: &SetIds) -> Vec<u64> {
        let mut row = vec![0; self.row_words()];
        for slot in sets.iter().filter_map(|set| self.slots.get(set)) {
            if let Some(word) = row.get_mut(*slot as usize / 64) {
                *word |= 1 << (slot % 64);
            }
        }
        row
    }
}

impl Membership for World {
    fn contains(&self, set: &SetId, address: IpAddr) -> bool {
        self.sets
            .get(set)
            .is_some_and(|members| members.iter().any(|net| net.contains(&address)))
    }

    fn contains_port(&self, set: &SetId, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let member = NamedPortMember {
            address,
            protocol,
            port,
        };
        self.named_ports
            .get(set)
            .is_some_and(|members| members.contains(&member))
    }
}

impl Slots for World {
    fn slot(&self, set: &SetId) -> Option<u32> {
        self.slots.get(set).copied()
    }
}

/// Counters numbered from 1 in the order in which they are asked for.
#[derive(Clone, Debug, Default)]
pub struct NumberedCounters(pub BTreeMap<CounterName, u32>);

impl Counters for NumberedCounters {
    fn counter(&mut self, name: &CounterName) -> u32 {
        let next = self.0.len() as u32 + 1;
        *self.0.entry(name.clone()).or_insert(next)
    }
}

fn random_net(rng: &mut Rng, v4: bool) -> IpNet {
    let lengths: &[u8] = if v4 { &V4_LENGTHS } else { &V6_LENGTHS };
    // /0 is rare: it hides everything else.
    let length = match rng.pick(lengths).copied() {
        Some(0) if rng.percent(80) => 24,
        Some(length) => length,
        None => 24,
    };
    // Few different leading bits, so that networks overlap.
    let address: IpAddr = if v4 {
        let head = [10, 10, 192, 203].get(rng.below(4)).copied().unwrap_or(10);
        let tail = rng.bits().to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(head, tail[0] & 3, tail[1] & 1, tail[2]))
    } else {
        let bits = rng.bits();
        let head = (0xfd00u128 << 112) | (u128::from(bits & 3) << 95);
        IpAddr::V6(Ipv6Addr::from(
            head | (u128::from(bits >> 2 & 3) << 63) | u128::from(bits >> 32),
        ))
    };
    IpNet::new(address, length)
        .map(|net| net.trunc())
        .unwrap_or(IpNet::from(address))
}

/// First and last address of a network, and their neighbours outside.
pub(super) fn edges(net: &IpNet) -> Vec<IpAddr> {
    let mut addresses = vec![net.network(), net.broadcast()];
    match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            addresses.extend(u32::from(first).checked_sub(1).map(|a| IpAddr::V4(a.into())));
            addresses.extend(u32::from(last).checked_add(1).map(|a| IpAddr::V4(a.into())));
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            addresses.extend(u128::from(first).checked_sub(1).map(|a| IpAddr::V6(a.into())));
            addresses.extend(u128::from(last).checked_add(1).map(|a| IpAddr::V6(a.into())));
        }
        _ => {}
    }
    addresses
}

/// Some address of a network.
pub(super) fn address_in(rng: &mut Rng, net: &IpNet) -> IpAddr {
    match (net.network(), net.hostmask()) {
        (IpAddr::V4(network), IpAddr::V4(host)) => {
            IpAddr::V4((u32::from(network) | (rng.bits() as u32 & u32::from(host))).into())
        }
        (IpAddr::V6(network), IpAddr::V6(host)) => {
            let bits = u128::from(rng.bits()) << 64 | u128::from(rng.bits());
            IpAddr::V6((u128::from(network) | (bits & u128::from(host))).into())
        }
        (other, _) => other,
    }
}
