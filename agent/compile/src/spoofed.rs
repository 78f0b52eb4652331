//! Sources that are not the endpoint's own addresses, but within its `allowSpoofedSourcePrefixes`.
//!
//! What rules say of them is tested when the packet comes, in sections of their own, which begin with a gate: only sources within the
//! prefixes pass it.

use std::sync::Arc;

use felid_model::resolved::ResolvedRule;
use ipnet::IpNet;

use crate::compile::Own;
use crate::lower::end_site;
use crate::rule::{Aside, End, Outcome, PortTerm, Ports, Rule, Section, Site, SiteId};

/// Whether it asks for more than the number of the source's port.
pub(crate) fn names_source_ports(rule: &&ResolvedRule) -> bool {
    let side = &rule.source;
    !(side.named_ports.is_empty() && side.not_named_ports.is_empty() && side.service_ports.is_empty())
}

/// Where sources end that the endpoint may not send from.
pub(crate) fn spoofed_site(sites: &mut Vec<Site<'_>>) -> SiteId {
    sites.push(end_site(
        None,
        "Deny: neither an address of its own nor in allowSpoofedSourcePrefixes".to_owned(),
        "",
        "default-deny",
    ));
    sites.len() - 1
}

/// Only sources within the prefixes go on; all others are spoofed.
pub(crate) fn gate(own: &Own, v4: bool, site: SiteId) -> Section {
    let prefixes: Vec<IpNet> = own
        .spoofed
        .iter()
        .filter(|net| net.addr().is_ipv4() == v4)
        .copied()
        .collect();
    if prefixes.is_empty() {
        return Section::judging(Vec::new(), End::Verdict(site));
    }
    let any = Ports {
        src: PortTerm::any(),
        dst: PortTerm::any(),
    };
    let any = Some(Arc::new(any));
    let rule = Rule {
        site,
        outcome: Outcome::Aside(0),
        own: prefixes.iter().all(|net| net.prefix_len() != 0).then_some(prefixes),
        ports: [any.clone(), any.clone(), any],
        portless: true,
        ..Rule::default()
    };
    Section {
        asides: vec![Aside::Own],
        ..Section::judging(vec![rule], End::Verdict(site))
    }
}
