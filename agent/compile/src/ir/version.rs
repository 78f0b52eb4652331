//! One IP version of a policy: its sections, with the rules that can match there.
//!
//! In: tiers, a direction, and the endpoint's addresses of this version. Out: [`Section`]s. Never:
//! what can be reached of them, which [`crate::ir::prune`] decides.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felid_model::Protocol;
use felid_model::resolved::{ResolvedAction, ResolvedRule, SetIds};
use ipnet::IpNet;

use crate::ir::decision::PointId;
use crate::ir::local::{PortTerms, local_matches};
use crate::ir::rule::{
    LocalTerms, PORT_PROTOCOLS, PortsOf, ProtocolTest, Rule, RuleEffect, Section, SectionEnd, SetNames, SideEffect,
};
use crate::ir::terms::{contradict, family_nets, field_terms, names_ports, peer_port_term, sides};
use crate::ir::tiers::{RuleList, Tier};
use crate::types::{Direction, LocalSide};

/// The endpoint's addresses of an IP version.
pub(crate) enum LocalAddresses<'o> {
    /// These and no others, each with the sets that it is a member of.
    Known(BTreeMap<IpAddr, &'o SetIds>),
    /// Any: what rules say of the address is left to test when a packet comes.
    Unknown,
}

/// One IP version of one endpoint.
pub(crate) struct Version<'a, 'o> {
    pub(crate) direction: Direction,
    /// Whether it is IPv4; else it is IPv6.
    pub(crate) v4: bool,
    pub(crate) addresses: LocalAddresses<'o>,
    pub(crate) local: &'o LocalSide,
    pub(crate) names: &'o mut SetNames<'a>,
}

impl<'a> Version<'a, '_> {
    /// Adds the sections of a tier, or of all profiles.
    pub(crate) fn tier(&mut self, tier: &Tier<'a>, sections: &mut Vec<Section>) {
        let first = sections.len();
        let mut open = Vec::new();
        let mut on_its_own = |open: &mut Vec<Rule>, rules: Vec<Rule>, side_effects: Vec<SideEffect>| {
            if rules.is_empty() {
                return;
            }
            if !open.is_empty() {
                sections.push(Section::judging(std::mem::take(open), SectionEnd::Next));
            }
            sections.push(Section {
                side_effects,
                ..Section::judging(rules, SectionEnd::Next)
            });
        };
        for list in &tier.lists {
            if list.staged {
                let (rules, side_effects) = self.staged(list);
                on_its_own(&mut open, rules, side_effects);
                continue;
            }
            for &(point, rule) in &list.rules {
                if rule.action != ResolvedAction::Log {
                    self.lower_rule(point, rule, &mut open);
                    continue;
                }
                let mut rules = Vec::new();
                self.lower_rule(point, rule, &mut rules);
                rules
                    .iter_mut()
                    .for_each(|rule| rule.outcome = RuleEffect::SideEffect(0));
                on_its_own(&mut open, rules, vec![SideEffect::Log(point)]);
            }
        }
        sections.push(Section::judging(open, tier.end));
        let after = sections.len();
        for section in sections.iter_mut().skip(first) {
            section.pass = after;
        }
    }

    /// Returns the rules of a staged policy and what they count: one side effect for each action.
    fn staged(&mut self, list: &RuleList<'a>) -> (Vec<Rule>, Vec<SideEffect>) {
        let (mut out, mut side_effects, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        for &(point, rule) in list.rules.iter().filter(|(_, rule)| rule.action != ResolvedAction::Log) {
            let mut rules = Vec::new();
            self.lower_rule(point, rule, &mut rules);
            if rules.is_empty() {
                continue;
            }
            let known = actions.iter().position(|action| *action == rule.action);
            let number = known.unwrap_or_else(|| {
                actions.push(rule.action);
                side_effects.push(SideEffect::Count(point));
                actions.len() - 1
            });
            rules
                .iter_mut()
                .for_each(|rule| rule.outcome = RuleEffect::SideEffect(number));
            out.append(&mut rules);
        }
        (out, side_effects)
    }

    /// Adds the rule once for each group of the endpoint's addresses that see it alike; adds
    /// nothing where it cannot match.
    fn lower_rule(&mut self, point: PointId, rule: &'a ResolvedRule, out: &mut Vec<Rule>) {
        let LocalAddresses::Known(known) = &self.addresses else {
            out.extend(self.lower_for_any_address(point, rule));
            return;
        };
        let (local, peer) = sides(self.direction, rule);
        let matches = |(address, sets): &(&IpAddr, &&SetIds)| local_matches(local, **address, sets);
        let mine: Vec<IpAddr> = known.iter().filter(matches).map(|(address, _)| *address).collect();
        let all = known.len();
        if mine.is_empty() {
            return;
        }
        let Some(mut template) = self.template(point, rule) else {
            return;
        };
        let terms = PortTerms {
            direction: self.direction,
            peer: peer_port_term(peer),
            local,
            known: &self.local.ports,
        };
        if terms.peer.named.is_empty() {
            template.named = Vec::new();
        }
        // Only named ports tell addresses apart that the rest of the rule does not.
        let mut groups: Vec<(PortsOf, Vec<IpAddr>)> = Vec::new();
        if local.named_ports.is_empty() && local.not_named_ports.is_empty() && local.service_ports.is_empty() {
            groups.push((terms.of(&template, None), mine));
        } else {
            for address in mine {
                let ports = terms.of(&template, Some(address));
                match groups.iter_mut().find(|(other, _)| *other == ports) {
                    Some((_, addresses)) => addresses.push(address),
                    None => groups.push((ports, vec![address])),
                }
            }
        }
        let mut groups = groups.into_iter().peekable();
        while let Some((ports, addresses)) = groups.next() {
            let has_ports = ports.iter().any(Option::is_some);
            if !template.matches_without_ports && !has_ports {
                continue;
            }
            // The last one takes the template, since rules are many and long.
            let mut rule = match groups.peek() {
                Some(_) => template.clone(),
                None => std::mem::take(&mut template),
            };
            if !has_ports {
                // Packets without ports are in no named-port set.
                (rule.named, rule.not_named) = (Vec::new(), Vec::new());
            }
            rule.ports = ports;
            rule.local.nets = (addresses.len() < all).then(|| addresses.into_iter().map(IpNet::from).collect());
            out.push(rule);
        }
    }

    /// Returns the rule for an address of the endpoint that is not known: what the rule says of it
    /// is left to test.
    fn lower_for_any_address(&mut self, point: PointId, rule: &'a ResolvedRule) -> Option<Rule> {
        let (local, peer) = sides(self.direction, rule);
        let mut out = self.template(point, rule)?;
        let terms = PortTerms {
            direction: self.direction,
            peer: peer_port_term(peer),
            local,
            known: &self.local.ports,
        };
        if terms.peer.named.is_empty() {
            out.named = Vec::new();
        }
        let nets = family_nets(&local.nets, self.v4)?;
        let narrow = !nets.is_empty() && nets.iter().all(|net| net.prefix_len() != 0);
        out.local = LocalTerms {
            nets: narrow.then_some(nets),
            not_nets: family_nets(&local.not_nets, self.v4)?,
            sets: Vec::new(),
            not_sets: Vec::new(),
        };
        if out.local.not_nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        out.local.sets = self.names.sorted(&local.sets);
        out.local.not_sets = self.names.sorted(&local.not_sets);
        if contradict(&out.local.sets, &out.local.not_sets) {
            return None;
        }
        out.ports = terms.of(&out, None);
        if out.ports.iter().all(Option::is_none) {
            (out.named, out.not_named) = (Vec::new(), Vec::new());
            if !out.matches_without_ports {
                return None;
            }
        }
        Some(out)
    }

    /// Returns what a rule says of the peer, with port terms still open; `None` if it cannot match.
    fn template(&mut self, point: PointId, rule: &'a ResolvedRule) -> Option<Rule> {
        if rule
            .ip_version
            .is_some_and(|version| version != if self.v4 { 4 } else { 6 })
        {
            return None;
        }
        let protocol = match (rule.protocol, rule.not_protocol) {
            (Some(is), Some(not)) if is == not => return None,
            (Some(Protocol(is)), _) => ProtocolTest::Is(is),
            (None, Some(Protocol(not))) => ProtocolTest::Not(not),
            (None, None) => ProtocolTest::Any,
        };
        let (local, peer) = sides(self.direction, rule);
        let nets = family_nets(&peer.nets, self.v4)?;
        let not_nets = family_nets(&peer.not_nets, self.v4)?;
        if not_nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        let everywhere = nets.iter().any(|net| net.prefix_len() == 0);
        let (sets, not_sets) = (self.names.sorted(&peer.sets), self.names.sorted(&peer.not_sets));
        let services = self.names.sorted(&peer.service_ports);
        let not_named = self.names.sorted(&peer.not_named_ports);
        if contradict(&sets, &not_sets) || contradict(&services, &not_named) {
            return None;
        }
        let matches_without_ports = !names_ports(local)
            && !names_ports(peer)
            && !matches!(protocol, ProtocolTest::Is(p) if PORT_PROTOCOLS.contains(&p));
        let fields = field_terms(rule, protocol, matches_without_ports)?;
        Some(Rule {
            point,
            outcome: match rule.action {
                ResolvedAction::Pass => RuleEffect::Pass,
                _ => RuleEffect::Verdict,
            },
            protocol,
            matches_without_ports,
            fields,
            nets: if everywhere { Vec::new() } else { nets },
            not_nets,
            sets,
            not_sets,
            named: self.names.sorted(&peer.named_ports),
            not_named,
            services,
            local: LocalTerms::default(),
            ports: PortsOf::default(),
        })
    }
}
