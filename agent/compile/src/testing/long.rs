//! Long lists of rules, of every kind that the compiler finds rules by, and of those that make that
//! hard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use felid_common::protocol::{SCTP, TCP, UDP};
use felid_model::resolved::{
    ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
};
use felid_model::{Kind, Protocol, ResourceKey};
use ipnet::IpNet;

use super::{Rng, World};

/// Kinds of lists.
const KINDS: usize = 16;

impl World {
    /// A world with so many sets that long lists can tell rules apart by them. Every other one has
    /// its slots side by side, as the planner gives them out; in the others they are anywhere.
    pub fn wide(rng: &mut Rng) -> Self {
        let sets = rng.between(40, 400);
        let mut world = Self::sized(rng, sets, 4);
        let count = world.slots.len();
        let mut slots: Vec<u32> = (0..count as u32).collect();
        if rng.percent(50) {
            for last in (1..count).rev() {
                slots.swap(last, rng.below(last + 1));
            }
        }
        // Names of sets do not sort as their numbers do.
        let mut names: Vec<SetId> = world.slots.keys().cloned().collect();
        names.sort_by_key(|id| (id.0.len(), id.clone()));
        world.slots = names.into_iter().zip(slots).collect();
        world
    }

    /// A policy with one or two lists of up to so many rules, each list of one kind or of two in
    /// turn.
    pub fn long_policy(&self, rng: &mut Rng, most: usize) -> ResolvedPolicy {
        let tiers = (0..rng.between(1, 2))
            .map(|index| ResolvedTier {
                name: format!("tier{index}").into(),
                end_pass: rng.percent(40),
                policies: (0..rng.between(1, 2))
                    .map(|policy| self.long_list(rng, index * 10 + policy, most))
                    .collect(),
            })
            .collect();
        ResolvedPolicy {
            tiers,
            ..ResolvedPolicy::default()
        }
    }

    fn long_list(&self, rng: &mut Rng, name: usize, most: usize) -> ResolvedRules {
        let kinds = [rng.below(KINDS), rng.below(KINDS)];
        let mixed = rng.percent(40);
        let rare = rng.percent(40);
        let base = rng.bits() as u16;
        let rules = (0..rng.between(30, most))
            .map(|index| {
                let kind = kinds[if mixed { index % 2 } else { 0 }];
                let mut rule = self.long_rule(rng, index, kind, base);
                if rare && rng.percent(1) {
                    rule.action = ResolvedAction::Log;
                }
                // What no structure fits, here and there.
                if rare && rng.percent(3) {
                    rule = self.any_rule(rng, index as u32);
                }
                rule
            })
            .collect();
        ResolvedRules {
            staged: rng.percent(12),
            key: ResourceKey {
                kind: Kind::GlobalNetworkPolicy,
                namespace: None,
                name: format!("policy{name}").into(),
            },
            rules: Arc::new(rules),
        }
    }

    fn nth_set(&self, index: usize) -> Vec<SetId> {
        let count = self.sets.len().max(1);
        let id = SetId(format!("s:set{}", index % count).into());
        self.sets.contains_key(&id).then_some(id).into_iter().collect()
    }

    fn long_rule(&self, rng: &mut Rng, index: usize, kind: usize, base: u16) -> ResolvedRule {
        let action = match rng.below(10) {
            0..=5 => ResolvedAction::Allow,
            6..=8 => ResolvedAction::Deny,
            _ => ResolvedAction::Pass,
        };
        let mut rule = ResolvedRule::new(index as u32, action);
        rule.protocol = Some(Protocol(
            *rng.pick(&[TCP, TCP, TCP, TCP, TCP, UDP, SCTP]).unwrap_or(&TCP),
        ));
        let number = base.wrapping_add(index as u16);
        let port = |rule: &mut ResolvedRule, first: u16, last: u16| {
            rule.destination.ports = vec![(first.min(last), first.max(last))];
        };
        // The peer is one of both sides, by the direction.
        let both = |rule: &mut ResolvedRule, change: &mut dyn FnMut(&mut ResolvedSide)| {
            if index % 5 < 3 || kind < 8 {
                change(&mut rule.source);
            } else {
                change(&mut rule.destination);
            }
        };
        let net = |rng: &mut Rng| long_net(rng, index);
        match kind {
            // A selector each, perhaps without a protocol.
            0 => {
                rule.source.sets = self.nth_set(index);
                rule.protocol = None;
            }
            1 => both(&mut rule, &mut |side| side.sets = self.some_sets(rng, 2)),
            // A port each.
            2 => port(&mut rule, number, number),
            3 => {
                port(&mut rule, number, number.saturating_add(rng.below(40) as u16));
                rule.source.sets = self.nth_set(index);
            }
            // Wide ranges, one in the other.
            4 => {
                port(&mut rule, index as u16, u16::MAX - index as u16);
                rule.source.sets = self.nth_set(index * 7);
            }
            5 => port(&mut rule, index as u16 * 3, u16::MAX - index as u16 * 5),
            // A network each.
            6 => rule.source.nets = vec![net(rng)],
            7 => {
                rule.source.nets = (0..rng.between(1, 4)).map(|_| net(rng)).collect();
                rule.source.not_nets = self
                    .nets
                    .iter()
                    .filter(|net| net.prefix_len() > 24)
                    .take(1)
                    .copied()
                    .collect();
            }
            8 => both(&mut rule, &mut |side| side.nets = vec![net(rng)]),
            // All of it.
            9 => {
                port(&mut rule, number, number);
                rule.source.sets = self.nth_set(index);
                rule.source.nets = vec![net(rng), long_net(rng, index + 1)];
            }
            // Few ports, many selectors; and the other way round.
            10 => {
                let few = base.saturating_add(rng.below(4) as u16);
                port(&mut rule, few, few);
                rule.source.sets = self.nth_set(index);
            }
            11 => {
                port(&mut rule, number, number);
                rule.source.sets = self.nth_set(index % 3);
            }
            // Negative conditions only.
            12 => {
                rule.source.not_sets = self.some_sets(rng, 2);
                rule.destination.not_ports = vec![(0, number)];
            }
            // One port, a selector and a network each.
            13 => {
                port(&mut rule, base, base);
                rule.source.sets = self.nth_set(index);
                rule.source.nets = vec![net(rng)];
            }
            // Source ports.
            14 => {
                rule.source.ports = vec![(number, number.saturating_add(3))];
                rule.source.sets = self.some_sets(rng, 1);
                port(&mut rule, base, base.saturating_add(9));
            }
            // The same network over and over, as a short prefix.
            _ => {
                let short = [
                    IpNet::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0))),
                    IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                ];
                rule.source.nets = short
                    .iter()
                    .filter_map(|net| IpNet::new(net.addr(), 7 + index as u8 % 20).ok())
                    .map(|net| net.trunc())
                    .collect();
                rule.source.sets = self.some_sets(rng, 1);
            }
        }
        if rule.protocol == Some(Protocol(TCP)) && rng.percent(2) {
            rule.destination.nets = vec![net(rng)];
        }
        rule
    }
}

/// Networks in which the world's addresses are, most of them small.
fn long_net(rng: &mut Rng, index: usize) -> IpNet {
    let length = *rng.pick(&[32, 32, 31, 30, 28, 24, 24, 23, 16, 9, 2, 1]).unwrap_or(&24);
    let address: IpAddr = if rng.percent(60) {
        let head = *rng.pick(&[10, 192, 203]).unwrap_or(&10);
        Ipv4Addr::new(head, rng.below(4) as u8, rng.below(2) as u8, index as u8).into()
    } else {
        let head = (0xfd00_u128 << 112) | ((rng.below(4) as u128) << 95) | ((rng.below(4) as u128) << 63);
        let tail = if rng.percent(50) { index as u128 } else { 0 };
        Ipv6Addr::from(head | tail).into()
    };
    let length = match (address, length) {
        (IpAddr::V4(_), length) => length,
        (IpAddr::V6(_), 32) => 128,
        (IpAddr::V6(_), length) => 33 + length * 3,
    };
    IpNet::new(address, length).map_or(IpNet::from(address), |net| net.trunc())
}
