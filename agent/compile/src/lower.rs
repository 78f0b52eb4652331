//! Partial evaluation: from a resolved policy to the rules that remain for one endpoint, one direction and one IP version.
//!
//! In: the policy and what is known of the endpoint's own side. Out: per tier (and for the profiles) a [`Section`] of rules that
//! speak of the peer only, without those that can never match and without those that an unconditional match hides. Nothing here
//! knows instructions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::Protocol;
use felid_model::resolved::{ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, SetIds};
use ipnet::IpNet;

use crate::compile::{Direction, Own};
use crate::describe::describe;
use crate::prune::prune;
use crate::rule::{
    Aside, End, Lowered, Names, Outcome, PORT_PROTOCOLS, PortsOf, ProtocolTest, Rule, Section, Site, SiteId, What,
};
use crate::spoofed::{gate, names_source_ports, spoofed_site};
use crate::terms::{contradict, icmp_terms, peer_port_term};

/// Partially evaluates a policy.
pub(crate) fn lower<'a>(policy: &'a ResolvedPolicy, direction: Direction, own: &Own) -> Lowered<'a> {
    let mut sites = Vec::new();
    let spoofs = direction == Direction::Egress && !own.spoofed.is_empty();
    if let Some(reason) = &policy.closed {
        sites.push(end_site(None, format!("Deny: closed: {reason}"), "", "closed"));
        let closed = vec![Section::judging(Vec::new(), End::Verdict(0))];
        let spoofed = spoofs.then(|| {
            let site = spoofed_site(&mut sites);
            [true, false].map(|v4| [vec![gate(own, v4, site)], closed.clone()].concat())
        });
        return Lowered {
            sites,
            families: families(closed.clone(), closed, spoofed),
            names: Vec::new(),
            unsupported: None,
        };
    }
    // One list of sites for both versions, in the order of the policy.
    let mut tiers: Vec<(Vec<List<'_>>, End)> = Vec::new();
    for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
        let lists = lists(&tier.policies, Some(&tier.name), &mut sites);
        if tier.end_pass || lists.iter().all(|list| list.staged) {
            tiers.push((lists, End::Pass));
        } else {
            tiers.push((lists, End::Verdict(sites.len())));
            let text = format!("Deny: end of tier {}", tier.name);
            sites.push(end_site(Some(&tier.name), text, &tier.name, "end-of-tier"));
        }
    }
    let profiles = lists(&policy.profiles, None, &mut sites);
    tiers.push((profiles, End::Verdict(sites.len())));
    sites.push(end_site(
        None,
        "Deny: no tier and no profile decided".to_owned(),
        "",
        "default-deny",
    ));
    let no_address = sites.len();
    sites.push(end_site(
        None,
        "Deny: the endpoint has no address of this IP version".to_owned(),
        "",
        "default-deny",
    ));

    let mut names = Names::default();
    let mut family = |v4: bool| {
        let addresses: BTreeMap<IpAddr, &SetIds> = own
            .addresses
            .iter()
            .filter(|(a, _)| a.is_ipv4() == v4)
            .map(|(a, sets)| (*a, sets))
            .collect();
        if addresses.is_empty() {
            return vec![Section::judging(Vec::new(), End::Verdict(no_address))];
        }
        let mut view = View {
            direction,
            v4,
            addresses: Some(addresses),
            own,
            names: &mut names,
        };
        prune(all_sections(&mut view, &tiers, Vec::new()))
    };
    let v4 = family(true);
    if !spoofs && alike(&tiers, own) {
        return Lowered {
            families: vec![v4],
            names: names.list,
            sites,
            unsupported: None,
        };
    }
    let v6 = family(false);
    let mut unsupported = None;
    let spoofed = spoofs.then(|| {
        let rules = tiers.iter().flat_map(|(lists, _)| lists).flat_map(|list| &list.rules);
        unsupported = rules.map(|(_, rule)| *rule).find(names_source_ports).map(describe);
        let site = spoofed_site(&mut sites);
        [true, false].map(|v4| {
            let mut view = View {
                direction,
                v4,
                addresses: None,
                own,
                names: &mut names,
            };
            prune(all_sections(&mut view, &tiers, vec![gate(own, v4, site)]))
        })
    });
    Lowered {
        sites,
        families: families(v4, v6, spoofed),
        names: names.list,
        unsupported,
    }
}

/// See [`Lowered::families`].
fn families(v4: Vec<Section>, v6: Vec<Section>, spoofed: Option<[Vec<Section>; 2]>) -> Vec<Vec<Section>> {
    match spoofed {
        Some(spoofed) => [v4, v6].into_iter().chain(spoofed).collect(),
        None if v4 == v6 => vec![v4],
        None => vec![v4, v6],
    }
}

/// All sections of an IP version, behind those that are given.
fn all_sections<'a>(
    view: &mut View<'a, '_>,
    tiers: &[(Vec<List<'a>>, End)],
    mut sections: Vec<Section>,
) -> Vec<Section> {
    for (lists, end) in tiers {
        view.tier(lists, *end, &mut sections);
    }
    // A Pass in a profile is a Deny (its site says so): nothing follows the profiles.
    let last = sections.len();
    for rule in sections
        .iter_mut()
        .filter(|section| section.pass == last)
        .flat_map(|section| &mut section.rules)
    {
        if rule.outcome == Outcome::Pass {
            rule.outcome = Outcome::Verdict;
        }
    }
    sections
}

/// The rules of a policy or profile.
struct List<'a> {
    staged: bool,
    rules: Vec<(SiteId, &'a ResolvedRule)>,
}

pub(crate) fn end_site<'a>(
    tier: Option<&'a Arc<str>>,
    words: String,
    counter_tier: &str,
    counter_policy: &str,
) -> Site<'a> {
    Site {
        key: None,
        tier,
        what: What::End(words),
        action: ResolvedAction::Deny,
        staged: false,
        counter_tier: counter_tier.into(),
        counter_policy: counter_policy.into(),
    }
}

fn lists<'a>(policies: &'a [ResolvedRules], tier: Option<&'a Arc<str>>, sites: &mut Vec<Site<'a>>) -> Vec<List<'a>> {
    let counter_tier: Arc<str> = tier.cloned().unwrap_or_else(|| "profile".into());
    let mut out = Vec::new();
    for policy in policies {
        let counter_policy: Arc<str> = policy.key.to_string().into();
        let mut rules = Vec::new();
        for rule in policy.rules.iter() {
            rules.push((sites.len(), rule));
            sites.push(Site {
                key: Some(&policy.key),
                tier,
                what: What::Rule(rule),
                // Nothing follows the profiles: a Pass there is a Deny.
                action: match rule.action {
                    ResolvedAction::Pass if tier.is_none() => ResolvedAction::Deny,
                    action => action,
                },
                staged: policy.staged,
                counter_tier: counter_tier.clone(),
                counter_policy: counter_policy.clone(),
            });
        }
        out.push(List {
            staged: policy.staged,
            rules,
        });
    }
    out
}

fn sides(direction: Direction, rule: &ResolvedRule) -> (&ResolvedSide, &ResolvedSide) {
    match direction {
        Direction::Ingress => (&rule.destination, &rule.source),
        Direction::Egress => (&rule.source, &rule.destination),
    }
}

/// Whether both IP versions come out the same, for certain: rules say nothing of versions, and the own addresses are alike.
fn alike(tiers: &[(Vec<List<'_>>, End)], own: &Own) -> bool {
    let [(one, sets), (other, other_sets)] = own.addresses.as_slice() else {
        return false;
    };
    let speaks = |side: &ResolvedSide| !(side.nets.is_empty() && side.not_nets.is_empty());
    let mut rules = tiers.iter().flat_map(|(lists, _)| lists).flat_map(|list| &list.rules);
    one.is_ipv4() != other.is_ipv4()
        && sets == other_sets
        && own.ports.is_empty()
        && !rules.any(|(_, rule)| rule.ip_version.is_some() || speaks(&rule.source) || speaks(&rule.destination))
}

/// One IP version of one endpoint.
pub(crate) struct View<'a, 'o> {
    pub(crate) direction: Direction,
    v4: bool,
    /// `None`: the own address is not known.
    addresses: Option<BTreeMap<IpAddr, &'o SetIds>>,
    pub(crate) own: &'o Own,
    names: &'o mut Names<'a>,
}

impl<'a> View<'a, '_> {
    /// The sections of a tier, or of all profiles.
    fn tier(&mut self, lists: &[List<'a>], end: End, sections: &mut Vec<Section>) {
        let first = sections.len();
        let mut open = Vec::new();
        let mut aside = |open: &mut Vec<Rule>, rules: Vec<Rule>, asides: Vec<Aside>| {
            if rules.is_empty() {
                return;
            }
            if !open.is_empty() {
                sections.push(Section::judging(std::mem::take(open), End::Next));
            }
            sections.push(Section {
                asides,
                ..Section::judging(rules, End::Next)
            });
        };
        for list in lists {
            if list.staged {
                let (rules, asides) = self.staged(list);
                aside(&mut open, rules, asides);
                continue;
            }
            for &(site, rule) in &list.rules {
                if rule.action != ResolvedAction::Log {
                    self.lower_rule(site, rule, &mut open);
                    continue;
                }
                let mut rules = Vec::new();
                self.lower_rule(site, rule, &mut rules);
                rules.iter_mut().for_each(|rule| rule.outcome = Outcome::Aside(0));
                aside(&mut open, rules, vec![Aside::Log(site)]);
            }
        }
        sections.push(Section::judging(open, end));
        let after = sections.len();
        for section in sections.iter_mut().skip(first) {
            section.pass = after;
        }
    }

    /// What a staged policy counts: one aside for each action.
    fn staged(&mut self, list: &List<'a>) -> (Vec<Rule>, Vec<Aside>) {
        let (mut out, mut asides, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        for &(site, rule) in list.rules.iter().filter(|(_, rule)| rule.action != ResolvedAction::Log) {
            let mut rules = Vec::new();
            self.lower_rule(site, rule, &mut rules);
            if rules.is_empty() {
                continue;
            }
            let known = actions.iter().position(|action| *action == rule.action);
            let number = known.unwrap_or_else(|| {
                actions.push(rule.action);
                asides.push(Aside::Count(site));
                actions.len() - 1
            });
            rules.iter_mut().for_each(|rule| rule.outcome = Outcome::Aside(number));
            out.append(&mut rules);
        }
        (out, asides)
    }

    /// The rule for each group of own addresses that see it alike; nothing where it cannot match.
    fn lower_rule(&mut self, site: SiteId, rule: &'a ResolvedRule, out: &mut Vec<Rule>) {
        let Some(known) = &self.addresses else {
            out.extend(self.unknown(site, rule));
            return;
        };
        let (own, peer) = sides(self.direction, rule);
        let matches = |(address, sets): &(&IpAddr, &&SetIds)| self.own_matches(own, **address, sets);
        let mine: Vec<IpAddr> = known.iter().filter(matches).map(|(address, _)| *address).collect();
        let all = known.len();
        if mine.is_empty() {
            return;
        }
        let Some(mut template) = self.template(site, rule) else {
            return;
        };
        let peer_term = peer_port_term(peer);
        if peer_term.named.is_empty() {
            template.named = Vec::new();
        }
        // Only named ports tell own addresses apart that the rest of the rule does not.
        let mut groups: Vec<(PortsOf, Vec<IpAddr>)> = Vec::new();
        if own.named_ports.is_empty() && own.not_named_ports.is_empty() && own.service_ports.is_empty() {
            let ports = self.ports(&template, own, &peer_term, None);
            groups.push((ports, mine));
        } else {
            for address in mine {
                let ports = self.ports(&template, own, &peer_term, Some(address));
                match groups.iter_mut().find(|(other, _)| *other == ports) {
                    Some((_, addresses)) => addresses.push(address),
                    None => groups.push((ports, vec![address])),
                }
            }
        }
        let last = groups.len() - 1;
        for (index, (ports, addresses)) in groups.into_iter().enumerate() {
            if !template.portless && ports.iter().all(Option::is_none) {
                continue;
            }
            let mut rule = if index == last {
                std::mem::take(&mut template)
            } else {
                template.clone()
            };
            if ports.iter().all(Option::is_none) {
                // Packets without ports are in no named-port set.
                (rule.named, rule.not_named) = (Vec::new(), Vec::new());
            }
            rule.ports = ports;
            rule.own = (addresses.len() < all).then(|| addresses.into_iter().map(IpNet::from).collect());
            out.push(rule);
        }
    }

    /// The rule for an own address that is not known: what it says of it is left to test.
    fn unknown(&mut self, site: SiteId, rule: &'a ResolvedRule) -> Option<Rule> {
        let (own, peer) = sides(self.direction, rule);
        let mut out = self.template(site, rule)?;
        let peer_term = peer_port_term(peer);
        if peer_term.named.is_empty() {
            out.named = Vec::new();
        }
        let nets = self.family_nets(&own.nets)?;
        let narrow = !nets.is_empty() && nets.iter().all(|net| net.prefix_len() != 0);
        out.own = narrow.then_some(nets);
        out.own_not_nets = self.family_nets(&own.not_nets)?;
        if out.own_not_nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        out.own_sets = self.names.sorted(&own.sets);
        out.own_not_sets = self.names.sorted(&own.not_sets);
        if contradict(&out.own_sets, &out.own_not_sets) {
            return None;
        }
        out.ports = self.ports(&out, own, &peer_term, None);
        if out.ports.iter().all(Option::is_none) {
            (out.named, out.not_named) = (Vec::new(), Vec::new());
            if !out.portless {
                return None;
            }
        }
        Some(out)
    }

    /// The peer's side of a rule, with port terms still open.
    fn template(&mut self, site: SiteId, rule: &'a ResolvedRule) -> Option<Rule> {
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
        let (own, peer) = sides(self.direction, rule);
        let nets = self.family_nets(&peer.nets)?;
        let not_nets = self.family_nets(&peer.not_nets)?;
        if not_nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        let (sets, not_sets) = (self.names.sorted(&peer.sets), self.names.sorted(&peer.not_sets));
        let services = self.names.sorted(&peer.service_ports);
        let not_named = self.names.sorted(&peer.not_named_ports);
        if contradict(&sets, &not_sets) || contradict(&services, &not_named) {
            return None;
        }
        let positive = |side: &ResolvedSide| {
            !(side.ports.is_empty() && side.named_ports.is_empty() && side.service_ports.is_empty())
        };
        let portless = !positive(own)
            && !positive(peer)
            && !matches!(protocol, ProtocolTest::Is(p) if PORT_PROTOCOLS.contains(&p));
        let (icmp, not_icmp) = icmp_terms(rule, protocol, portless)?;
        Some(Rule {
            site,
            outcome: if rule.action == ResolvedAction::Pass {
                Outcome::Pass
            } else {
                Outcome::Verdict
            },
            protocol,
            own: None,
            own_not_nets: Vec::new(),
            own_sets: Vec::new(),
            own_not_sets: Vec::new(),
            ports: PortsOf::default(),
            portless,
            icmp,
            not_icmp,
            nets: if nets.iter().any(|net| net.prefix_len() == 0) {
                Vec::new()
            } else {
                nets
            },
            not_nets,
            sets,
            not_sets,
            named: self.names.sorted(&peer.named_ports),
            not_named,
            services,
        })
    }

    /// The networks of this IP version; `None` if there are networks, but none of this version.
    pub(crate) fn family_nets(&self, nets: &[IpNet]) -> Option<Vec<IpNet>> {
        if nets.is_empty() {
            return Some(Vec::new());
        }
        let mine = nets.iter().filter(|net| net.addr().is_ipv4() == self.v4);
        let mine: Vec<IpNet> = mine.map(IpNet::trunc).collect();
        if mine.len() < 2 {
            return (!mine.is_empty()).then_some(mine);
        }
        let mut mine = IpNet::aggregate(&mine);
        mine.sort_unstable();
        Some(mine)
    }
}
