//! Partial evaluation: from a resolved policy to the rules that remain for one endpoint and one
//! direction.
//!
//! In: the policy and what is known of the endpoint's own side. Out: per IP version and tier (and
//! for all profiles together) a [`Section`] of rules that speak of the peer only, without those
//! that can never match and without those that a rule before them hides. Never: instructions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::{ResolvedPolicy, ResolvedSide, SetIds};

use crate::ir::decision::DecisionPoint;
use crate::ir::prune::prune;
use crate::ir::rule::{Lowered, RuleEffect, Section, SectionEnd, SetNames};
use crate::ir::spoofed::{gate, names_source_ports, spoofed_point};
use crate::ir::tiers::{Tier, tiers};
use crate::ir::version::{LocalAddresses, Version};
use crate::specification::describe::describe;
use crate::types::{Direction, LocalSide};

/// The endpoint's addresses of one IP version, with the sets that each is a member of.
fn addresses_of(local: &LocalSide, v4: bool) -> BTreeMap<IpAddr, &SetIds> {
    local
        .addresses
        .iter()
        .filter(|(address, _)| address.is_ipv4() == v4)
        .map(|(address, sets)| (*address, sets))
        .collect()
}

/// Evaluates a policy as far as the endpoint's own side decides it.
pub(crate) fn lower<'a>(policy: &'a ResolvedPolicy, direction: Direction, local: &LocalSide) -> Lowered<'a> {
    let spoofs = direction == Direction::Egress && !local.spoofed.is_empty();
    if let Some(reason) = &policy.closed {
        return closed(reason, spoofs.then_some(local));
    }
    // Both versions share one list of decision points, in the order of the policy.
    let mut points = Vec::new();
    let tiers = tiers(policy, &mut points);
    let no_address = points.len();
    let words = "Deny: the endpoint has no address of this IP version".to_owned();
    points.push(DecisionPoint::end(None, words, "default-deny"));

    let mut names = SetNames::default();
    let mut family = |v4: bool| {
        let addresses = addresses_of(local, v4);
        if addresses.is_empty() {
            return vec![Section::judging(Vec::new(), SectionEnd::Verdict(no_address))];
        }
        let mut version = Version {
            direction,
            v4,
            addresses: LocalAddresses::Known(addresses),
            local,
            names: &mut names,
        };
        prune(all_sections(&mut version, &tiers, Vec::new()))
    };
    let v4 = family(true);
    if !spoofs && alike(&tiers, local) {
        return Lowered {
            families: vec![v4],
            names: names.list,
            points,
            unsupported: None,
        };
    }
    let v6 = family(false);
    let mut unsupported = None;
    let spoofed = spoofs.then(|| {
        let mut rules = tiers.iter().flat_map(Tier::rules);
        unsupported = rules.find(|rule| names_source_ports(rule)).map(describe);
        let point = spoofed_point(&mut points);
        [true, false].map(|v4| {
            let mut version = Version {
                direction,
                v4,
                addresses: LocalAddresses::Unknown,
                local,
                names: &mut names,
            };
            prune(all_sections(&mut version, &tiers, vec![gate(local, v4, point)]))
        })
    });
    Lowered {
        points,
        families: families(v4, v6, spoofed),
        names: names.list,
        unsupported,
    }
}

/// Lowers a closed policy: everything is denied. `spoofs` is the endpoint's own side if it may send
/// from other addresses.
fn closed<'a>(reason: &Arc<str>, spoofs: Option<&LocalSide>) -> Lowered<'a> {
    let mut points = vec![DecisionPoint::end(None, format!("Deny: closed: {reason}"), "closed")];
    let closed = vec![Section::judging(Vec::new(), SectionEnd::Verdict(0))];
    let spoofed = spoofs.map(|local| {
        let point = spoofed_point(&mut points);
        [true, false].map(|v4| [vec![gate(local, v4, point)], closed.clone()].concat())
    });
    Lowered {
        points,
        families: families(closed.clone(), closed, spoofed),
        names: Vec::new(),
        unsupported: None,
    }
}

/// Returns the families in the order of [`Lowered::families`].
fn families(v4: Vec<Section>, v6: Vec<Section>, spoofed: Option<[Vec<Section>; 2]>) -> Vec<Vec<Section>> {
    match spoofed {
        Some(spoofed) => [v4, v6].into_iter().chain(spoofed).collect(),
        None if v4 == v6 => vec![v4],
        None => vec![v4, v6],
    }
}

/// Returns all sections of an IP version, behind those that are given.
fn all_sections<'a>(version: &mut Version<'a, '_>, tiers: &[Tier<'a>], mut sections: Vec<Section>) -> Vec<Section> {
    for tier in tiers {
        version.tier(tier, &mut sections);
    }
    // A Pass in a profile is a Deny (its decision point says so): nothing follows the profiles.
    let last = sections.len();
    for rule in sections
        .iter_mut()
        .filter(|section| section.pass == last)
        .flat_map(|section| &mut section.rules)
    {
        if rule.outcome == RuleEffect::Pass {
            rule.outcome = RuleEffect::Verdict;
        }
    }
    sections
}

/// Returns whether both IP versions come out the same, for certain: rules say nothing of versions,
/// and the endpoint's addresses are alike.
fn alike(tiers: &[Tier<'_>], local: &LocalSide) -> bool {
    let [(one, sets), (other, other_sets)] = local.addresses.as_slice() else {
        return false;
    };
    let names_nets = |side: &ResolvedSide| !(side.nets.is_empty() && side.not_nets.is_empty());
    let mut rules = tiers.iter().flat_map(Tier::rules);
    one.is_ipv4() != other.is_ipv4()
        && sets == other_sets
        && local.ports.is_empty()
        && !rules.any(|rule| rule.ip_version.is_some() || names_nets(&rule.source) || names_nets(&rule.destination))
}
