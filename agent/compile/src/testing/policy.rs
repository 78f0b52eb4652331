//! Random policies.

use std::sync::Arc;

use felid_common::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};
use felid_model::resolved::{
    ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
};
use felid_model::{IcmpMatch, Kind, Protocol, ResourceKey};

use super::world::{ICMP_TYPES, PORTS};
use super::{Rng, World};

/// How large policies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Up to three tiers of a few rules each.
    Small,
    /// Hundreds of rules, so that they are cut into segments.
    Large,
    /// So many rules that they do not fit into one chunk.
    Huge,
}

impl World {
    /// A policy over this world's sets. Once in a while it is closed.
    pub fn policy(&self, rng: &mut Rng, shape: Shape) -> ResolvedPolicy {
        let closed = rng.percent(1).then(|| Arc::from("a bad policy may hold for it"));
        let (tiers, rules) = match shape {
            Shape::Small => (rng.between(0, 3), 6),
            Shape::Large => (rng.between(1, 3), 200),
            Shape::Huge => (rng.between(1, 4), 1500),
        };
        let tiers = (0..tiers).map(|index| self.tier(rng, index, rules)).collect();
        let profiles = (0..rng.between(0, 2))
            .map(|index| self.rules(rng, Kind::Profile, index, 3))
            .collect();
        ResolvedPolicy {
            tiers,
            profiles,
            closed,
        }
    }

    fn tier(&self, rng: &mut Rng, index: usize, rules: usize) -> ResolvedTier {
        let policies = (0..rng.between(1, 3))
            .map(|policy| self.rules(rng, Kind::GlobalNetworkPolicy, index * 10 + policy, rules))
            .collect();
        ResolvedTier {
            name: format!("tier{index}").into(),
            end_pass: rng.percent(30),
            policies,
        }
    }

    fn rules(&self, rng: &mut Rng, kind: Kind, name: usize, most: usize) -> ResolvedRules {
        // A habit per list: rules of one policy are of one kind in real life, and that is where
        // structures pay or fail.
        let habit = rng.below(5);
        let rules = (0..rng.between(0, most))
            .map(|index| self.rule(rng, index as u32, habit, most))
            .collect();
        let key = ResourceKey {
            kind,
            namespace: None,
            name: format!("policy{name}").into(),
        };
        ResolvedRules {
            // Profiles cannot be staged.
            staged: kind != Kind::Profile && rng.percent(12),
            key,
            rules: Arc::new(rules),
        }
    }

    fn rule(&self, rng: &mut Rng, index: u32, habit: usize, most: usize) -> ResolvedRule {
        // Each Log rule cuts a long list in two.
        let logs = if most > 100 { 1 } else { 8 };
        let action = match rng.below(20) {
            _ if rng.percent(logs) => ResolvedAction::Log,
            0..=10 => ResolvedAction::Allow,
            11..=16 => ResolvedAction::Deny,
            _ => ResolvedAction::Pass,
        };
        let mut rule = ResolvedRule::new(index, action);
        rule.ip_version = rng.percent(8).then(|| if rng.percent(50) { 4 } else { 6 });
        let protocols = [TCP, TCP, TCP, UDP, UDP, SCTP, ICMP, ICMPV6, UDPLITE, 4, 255];
        let pick_protocol = |rng: &mut Rng| rng.pick(&protocols).copied().map(Protocol);
        match habit {
            // A port each, as in large generated policies.
            0 => {
                rule.protocol = Some(Protocol(TCP));
                let port = (index as u16).wrapping_mul(7).wrapping_add(80);
                let width = if rng.percent(10) { rng.below(300) as u16 } else { 0 };
                rule.destination.ports = vec![(port, port.saturating_add(width))];
                if rng.percent(70) {
                    rule.source.sets = self.some_sets(rng, 1);
                }
                // Not every rule may decide for all: later ones would never be reached.
                if rule.source.sets.is_empty() {
                    rule.destination.sets = self.some_sets(rng, 1);
                }
            }
            // Selectors only.
            1 => {
                let side = if rng.percent(50) {
                    &mut rule.source
                } else {
                    &mut rule.destination
                };
                side.sets = self.some_sets(rng, 2);
                if side.sets.is_empty() || rng.percent(20) {
                    side.not_sets = self.some_sets(rng, 2);
                }
            }
            _ => {
                if rng.percent(65) {
                    rule.protocol = pick_protocol(rng);
                }
                if rng.percent(10) {
                    rule.not_protocol = pick_protocol(rng);
                }
                let is_icmp = matches!(rule.protocol, Some(Protocol(ICMP | ICMPV6)));
                if rng.percent(if is_icmp { 50 } else { 2 }) {
                    rule.fields.icmp = Some(random_icmp(rng));
                }
                if rng.percent(if is_icmp { 25 } else { 8 }) {
                    rule.fields.not_icmp = Some(random_icmp(rng));
                }
                let with_ports = matches!(rule.protocol, Some(Protocol(TCP | UDP | SCTP)));
                // Records judged raw may name ports without a protocol that has them.
                let ports = if with_ports { 60 } else { 6 };
                let busy = if most > 100 { 55 } else { 35 };
                rule.source = self.side(rng, ports / 2, busy);
                rule.destination = self.side(rng, ports, busy);
            }
        }
        if most > 100 && rng.percent(98) {
            self.narrow(rng, &mut rule);
        }
        if !self.spoofed.is_empty() {
            // Such rules are refused for endpoints that may send from elsewhere.
            rule.source.named_ports.clear();
            rule.source.not_named_ports.clear();
            rule.source.service_ports.clear();
        }
        rule
    }

    /// Long lists need rules that match little, or the first few hide the rest.
    fn narrow(&self, rng: &mut Rng, rule: &mut ResolvedRule) {
        let says = |side: &ResolvedSide| {
            usize::from(!side.sets.is_empty())
                + usize::from(side.nets.iter().any(|net| net.prefix_len() > 16))
                + usize::from(!side.ports.is_empty() && side.ports.iter().all(|(first, last)| last - first < 100))
                + usize::from(!side.named_ports.is_empty())
        };
        while says(&rule.source) + says(&rule.destination) < 2 {
            let side = if rng.percent(50) {
                &mut rule.source
            } else {
                &mut rule.destination
            };
            if rng.percent(60) {
                rule.protocol = Some(Protocol(TCP));
                rule.not_protocol = None;
                rule.fields.icmp = None;
                let port = rng.bits() as u16;
                side.ports = vec![(port, port)];
            } else {
                side.sets = self.some_sets(rng, 2);
                side.nets.clear();
            }
        }
    }

    fn side(&self, rng: &mut Rng, ports: usize, busy: usize) -> ResolvedSide {
        let mut side = ResolvedSide::default();
        let nets = |rng: &mut Rng, most| -> Vec<_> {
            (0..rng.between(1, most))
                .filter_map(|_| rng.pick(&self.nets).copied())
                .collect()
        };
        if rng.percent(busy / 2) {
            side.nets = nets(rng, 5);
        }
        if rng.percent(busy / 4) {
            side.not_nets = nets(rng, 3);
            if rng.percent(90) {
                side.not_nets.retain(|net| net.prefix_len() != 0);
            }
        }
        if rng.percent(busy) {
            side.sets = self.some_sets(rng, 2);
        }
        if rng.percent(busy / 2) {
            side.not_sets = self.some_sets(rng, 2);
        }
        if rng.percent(ports) {
            side.ports = random_ranges(rng);
        }
        if rng.percent(15) {
            side.named_ports = self.some_named(rng);
        }
        if rng.percent(ports / 4) {
            side.not_ports = random_ranges(rng);
        }
        if rng.percent(6) {
            side.not_named_ports = self.some_named(rng);
        }
        if rng.percent(6) {
            side.service_ports = self.some_named(rng);
        }
        side
    }

    /// A rule of any kind.
    pub(super) fn any_rule(&self, rng: &mut Rng, index: u32) -> ResolvedRule {
        self.rule(rng, index, 4, 200)
    }

    pub(super) fn some_sets(&self, rng: &mut Rng, most: usize) -> Vec<SetId> {
        let all: Vec<_> = self.sets.keys().collect();
        (0..rng.between(1, most))
            .filter_map(|_| rng.pick(&all).map(|set| (*set).clone()))
            .collect()
    }

    fn some_named(&self, rng: &mut Rng) -> Vec<SetId> {
        let all: Vec<_> = self.named_ports.keys().collect();
        (0..rng.between(1, 2))
            .filter_map(|_| rng.pick(&all).map(|set| (*set).clone()))
            .collect()
    }
}

fn random_icmp(rng: &mut Rng) -> IcmpMatch {
    let icmp_type = (!rng.percent(5)).then(|| rng.pick(&ICMP_TYPES).copied().unwrap_or(8));
    IcmpMatch {
        icmp_type,
        code: rng
            .percent(40)
            .then(|| rng.below(3) as u8)
            .filter(|_| icmp_type.is_some()),
    }
}

fn random_ranges(rng: &mut Rng) -> Vec<(u16, u16)> {
    (0..rng.between(1, 3))
        .map(|_| {
            let first = match rng.below(4) {
                0 => rng.bits() as u16,
                1 => rng.below(100) as u16,
                _ => rng.pick(&PORTS).copied().unwrap_or(80),
            };
            let last = match rng.below(6) {
                0 => u16::MAX,
                1 => first.saturating_add(rng.below(20) as u16),
                2 => first.saturating_add(1),
                _ => first,
            };
            if rng.percent(4) { (0, last) } else { (first, last) }
        })
        .collect()
}
