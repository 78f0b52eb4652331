//! Partial evaluation: from a resolved policy to the rules that remain for one endpoint, one direction and one IP version.
//!
//! In: the policy and what is known of the endpoint's own side. Out: per tier (and for the profiles) a [`Section`] of rules that
//! speak of the peer only, without those that can never match and without those that an unconditional match hides. Nothing here
//! knows instructions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::Protocol;
use felid_model::resolved::{ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, SetId, SetIds};
use ipnet::IpNet;

use crate::compile::{Direction, Own};
use crate::ports::PortSet;
use crate::rule::{
    End, Lowered, Outcome, PORT_PROTOCOLS, PortTerm, Ports, PortsOf, ProtocolTest, Rule, Section, Site, SiteId, What,
};

/// Partially evaluates a policy.
pub(crate) fn lower<'a>(policy: &'a ResolvedPolicy, direction: Direction, own: &Own) -> Lowered<'a> {
    let mut sites = Vec::new();
    if let Some(reason) = &policy.closed {
        sites.push(end_site(None, format!("Deny: closed: {reason}"), "", "closed"));
        let closed = vec![Section {
            rules: Vec::new(),
            end: End::Verdict(0),
        }];
        return Lowered {
            sites,
            v4: closed.clone(),
            v6: closed,
        };
    }
    // One list of sites for both versions, in the order of the policy.
    let mut lists: Vec<Vec<(SiteId, &ResolvedRule)>> = Vec::new();
    let mut ends = Vec::new();
    for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
        lists.push(rule_sites(&tier.policies, Some(&tier.name), &mut sites));
        if tier.end_pass {
            ends.push(End::Next);
        } else {
            ends.push(End::Verdict(sites.len()));
            let text = format!("Deny: end of tier {}", tier.name);
            sites.push(end_site(Some(&tier.name), text, &tier.name, "end-of-tier"));
        }
    }
    lists.push(rule_sites(&policy.profiles, None, &mut sites));
    ends.push(End::Verdict(sites.len()));
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

    let family = |v4: bool| {
        let addresses: BTreeMap<IpAddr, &SetIds> = own
            .addresses
            .iter()
            .filter(|(a, _)| a.is_ipv4() == v4)
            .map(|(a, sets)| (*a, sets))
            .collect();
        if addresses.is_empty() {
            return vec![Section {
                rules: Vec::new(),
                end: End::Verdict(no_address),
            }];
        }
        let view = View {
            direction,
            v4,
            addresses,
            own,
        };
        let mut sections: Vec<Section> = lists
            .iter()
            .zip(&ends)
            .map(|(list, end)| Section {
                rules: list
                    .iter()
                    .flat_map(|(site, rule)| view.lower_rule(*site, rule))
                    .collect(),
                end: *end,
            })
            .collect();
        // A Pass in a profile is a Deny (its site says so): nothing follows the profiles.
        for rule in sections.last_mut().into_iter().flat_map(|profiles| &mut profiles.rules) {
            rule.outcome = Outcome::Verdict;
        }
        prune(sections)
    };
    let (v4, v6) = (family(true), family(false));
    Lowered { sites, v4, v6 }
}

fn end_site<'a>(tier: Option<&'a Arc<str>>, words: String, counter_tier: &str, counter_policy: &str) -> Site<'a> {
    Site {
        key: None,
        tier,
        what: What::End(words),
        allowed: false,
        counter_tier: counter_tier.into(),
        counter_policy: counter_policy.into(),
    }
}

fn rule_sites<'a>(
    lists: &'a [ResolvedRules],
    tier: Option<&'a Arc<str>>,
    sites: &mut Vec<Site<'a>>,
) -> Vec<(SiteId, &'a ResolvedRule)> {
    let counter_tier: Arc<str> = tier.cloned().unwrap_or_else(|| "profile".into());
    let mut out = Vec::new();
    for list in lists {
        let counter_policy: Arc<str> = list.key.to_string().into();
        for rule in list.rules.iter() {
            out.push((sites.len(), rule));
            sites.push(Site {
                key: Some(&list.key),
                tier,
                what: What::Rule(rule),
                allowed: rule.action == ResolvedAction::Allow,
                counter_tier: counter_tier.clone(),
                counter_policy: counter_policy.clone(),
            });
        }
    }
    out
}

/// Cuts what cannot be reached, and turns an unconditional last rule into the section's end.
fn prune(sections: Vec<Section>) -> Vec<Section> {
    let mut out = Vec::with_capacity(sections.len());
    for mut section in sections {
        if let Some(position) = section.rules.iter().position(Rule::is_unconditional) {
            let last = section.rules.swap_remove(position);
            section.rules.truncate(position);
            section.end = match last.outcome {
                Outcome::Verdict => End::Verdict(last.site),
                Outcome::Pass => End::Next,
            };
        }
        if section.end == End::Next {
            while section.rules.last().is_some_and(|rule| rule.outcome == Outcome::Pass) {
                section.rules.pop();
            }
        }
        let goes_on = section.end == End::Next || section.rules.iter().any(|rule| rule.outcome == Outcome::Pass);
        out.push(section);
        if !goes_on {
            break;
        }
    }
    out
}

/// One IP version of one endpoint.
struct View<'a> {
    direction: Direction,
    v4: bool,
    addresses: BTreeMap<IpAddr, &'a SetIds>,
    own: &'a Own,
}

impl View<'_> {
    /// The rule for each group of own addresses that see it alike; nothing where it cannot match.
    fn lower_rule(&self, site: SiteId, rule: &ResolvedRule) -> Vec<Rule> {
        let (own, peer) = self.sides(rule);
        let mine: Vec<IpAddr> = self
            .addresses
            .iter()
            .filter(|(a, sets)| self.own_matches(own, **a, sets))
            .map(|(a, _)| *a)
            .collect();
        if mine.is_empty() {
            return Vec::new();
        }
        let Some(mut template) = self.template(site, rule) else {
            return Vec::new();
        };
        let peer_term = peer_port_term(peer);
        if peer_term.named.is_empty() {
            template.named = Vec::new();
        }
        // Only named ports tell own addresses apart that the rest of the rule does not.
        let groups = if own.named_ports.is_empty() && own.not_named_ports.is_empty() {
            let ports = self.ports(&template, own, &peer_term, None);
            vec![(ports, mine)]
        } else {
            let mut groups: Vec<(PortsOf, Vec<IpAddr>)> = Vec::new();
            for address in mine {
                let ports = self.ports(&template, own, &peer_term, Some(address));
                match groups.iter_mut().find(|(other, _)| *other == ports) {
                    Some((_, addresses)) => addresses.push(address),
                    None => groups.push((ports, vec![address])),
                }
            }
            groups
        };
        let all = self.addresses.len();
        let last = groups.len() - 1;
        let mut rules = Vec::with_capacity(groups.len());
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
            rules.push(rule);
        }
        rules
    }

    /// The peer's side of a rule, with port terms still open.
    fn template(&self, site: SiteId, rule: &ResolvedRule) -> Option<Rule> {
        if rule.action == ResolvedAction::Log {
            return None;
        }
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
        let (own, peer) = self.sides(rule);
        let nets = self.family_nets(&peer.nets)?;
        let not_nets = self.family_nets(&peer.not_nets)?;
        if not_nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        let (sets, not_sets) = (sorted(&peer.sets), sorted(&peer.not_sets));
        if sets.iter().any(|set| not_sets.binary_search(set).is_ok()) {
            return None;
        }
        let positive = |side: &ResolvedSide| !(side.ports.is_empty() && side.named_ports.is_empty());
        let portless = !positive(own)
            && !positive(peer)
            && !matches!(protocol, ProtocolTest::Is(p) if PORT_PROTOCOLS.contains(&p));
        Some(Rule {
            site,
            outcome: if rule.action == ResolvedAction::Pass {
                Outcome::Pass
            } else {
                Outcome::Verdict
            },
            protocol,
            own: None,
            ports: PortsOf::default(),
            portless,
            nets: if nets.iter().any(|net| net.prefix_len() == 0) {
                Vec::new()
            } else {
                nets
            },
            not_nets,
            sets,
            not_sets,
            named: sorted(&peer.named_ports),
            not_named: sorted(&peer.not_named_ports),
        })
    }

    fn sides<'r>(&self, rule: &'r ResolvedRule) -> (&'r ResolvedSide, &'r ResolvedSide) {
        match self.direction {
            Direction::Ingress => (&rule.destination, &rule.source),
            Direction::Egress => (&rule.source, &rule.destination),
        }
    }

    /// The networks of this IP version; `None` if there are networks, but none of this version.
    fn family_nets(&self, nets: &[IpNet]) -> Option<Vec<IpNet>> {
        if nets.is_empty() {
            return Some(Vec::new());
        }
        let mine: Vec<IpNet> = nets
            .iter()
            .filter(|net| net.addr().is_ipv4() == self.v4)
            .map(IpNet::trunc)
            .collect();
        if mine.is_empty() {
            return None;
        }
        let mut mine = IpNet::aggregate(&mine);
        mine.sort_unstable();
        Some(mine)
    }

    fn own_matches(&self, side: &ResolvedSide, address: IpAddr, sets: &SetIds) -> bool {
        let (Some(nets), Some(not_nets)) = (self.family_nets(&side.nets), self.family_nets(&side.not_nets)) else {
            return false;
        };
        (nets.is_empty() || nets.iter().any(|net| net.contains(&address)))
            && !not_nets.iter().any(|net| net.contains(&address))
            && side.sets.iter().all(|set| sets.contains(set))
            && !side.not_sets.iter().any(|set| sets.contains(set))
    }

    /// The port terms, as this own address sees them; without one: where they do not depend on it.
    fn ports(&self, rule: &Rule, own: &ResolvedSide, peer_term: &PortTerm, address: Option<IpAddr>) -> PortsOf {
        let mut out = PortsOf::default();
        let mut before: Option<Arc<Ports>> = None;
        for (slot, protocol) in out.iter_mut().zip(PORT_PROTOCOLS) {
            if peer_term.is_dead() || !rule.protocol.matches(protocol) {
                continue;
            }
            if address.is_none() && before.is_some() {
                slot.clone_from(&before);
                continue;
            }
            let own_term = self.own_port_term(own, address, protocol);
            if own_term.is_dead() {
                continue;
            }
            let peer_term = peer_term.clone();
            *slot = Some(Arc::new(match self.direction {
                Direction::Ingress => Ports {
                    src: peer_term,
                    dst: own_term,
                },
                Direction::Egress => Ports {
                    src: own_term,
                    dst: peer_term,
                },
            }));
            before.clone_from(slot);
        }
        out
    }

    fn own_port_term(&self, side: &ResolvedSide, address: Option<IpAddr>, protocol: u8) -> PortTerm {
        let named = |names: &[SetId]| {
            let ports = self.own.ports.iter().filter(|(member, sets)| {
                Some(member.address) == address
                    && member.protocol.0 == protocol
                    && names.iter().any(|name| sets.contains(name))
            });
            ports.map(|(member, _)| (member.port, member.port)).collect::<Vec<_>>()
        };
        let within = if side.ports.is_empty() && side.named_ports.is_empty() {
            PortSet::all()
        } else {
            PortSet::of(side.ports.iter().copied().chain(named(&side.named_ports)))
        };
        let outside = PortSet::of(side.not_ports.iter().copied().chain(named(&side.not_named_ports)));
        PortTerm {
            yes: within.without(&outside),
            named: PortSet::default(),
        }
    }
}

fn peer_port_term(side: &ResolvedSide) -> PortTerm {
    let allowed = PortSet::of(side.not_ports.iter().copied()).complement();
    if side.ports.is_empty() && side.named_ports.is_empty() {
        return PortTerm {
            yes: allowed,
            named: PortSet::default(),
        };
    }
    let numbers = PortSet::of(side.ports.iter().copied());
    let yes = allowed.without(&numbers.complement());
    let named = if side.named_ports.is_empty() {
        PortSet::default()
    } else {
        allowed.without(&numbers)
    };
    PortTerm { yes, named }
}

fn sorted(sets: &[SetId]) -> Vec<SetId> {
    let mut sets = sets.to_vec();
    sets.sort_unstable();
    sets.dedup();
    sets
}
