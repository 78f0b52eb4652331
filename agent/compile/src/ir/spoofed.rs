//! Sources that are not the endpoint's own addresses, but within its `allowSpoofedSourcePrefixes`.
//!
//! In: the prefixes. Out: the section that comes before all others for such sources. Only sources
//! within the prefixes pass it. Never: what the rules behind it say, which is tested when the
//! packet comes.

use std::sync::Arc;

use felid_model::resolved::ResolvedRule;
use ipnet::IpNet;

use crate::ir::decision::{DecisionPoint, PointId};
use crate::ir::rule::{LocalTerms, PortTerm, Ports, Rule, RuleEffect, Section, SectionEnd, SideEffect};
use crate::types::LocalSide;

/// Returns whether a rule asks for more than the number of the source's port.
pub(crate) fn names_source_ports(rule: &ResolvedRule) -> bool {
    let side = &rule.source;
    !(side.named_ports.is_empty() && side.not_named_ports.is_empty() && side.service_ports.is_empty())
}

/// Adds the decision point for sources that the endpoint may not send from.
pub(crate) fn spoofed_point(points: &mut Vec<DecisionPoint<'_>>) -> PointId {
    let words = "Deny: neither an address of its own nor in allowSpoofedSourcePrefixes".to_owned();
    points.push(DecisionPoint::end(None, words, "default-deny"));
    points.len() - 1
}

/// Makes the section that lets only sources within the prefixes go on; all others are spoofed.
pub(crate) fn gate(local: &LocalSide, v4: bool, point: PointId) -> Section {
    let prefixes: Vec<IpNet> = local
        .spoofed
        .iter()
        .filter(|net| net.addr().is_ipv4() == v4)
        .copied()
        .collect();
    if prefixes.is_empty() {
        return Section::judging(Vec::new(), SectionEnd::Verdict(point));
    }
    let any = Ports {
        src: PortTerm::any(),
        dst: PortTerm::any(),
    };
    let any = Some(Arc::new(any));
    let rule = Rule {
        point,
        outcome: RuleEffect::SideEffect(0),
        local: LocalTerms {
            nets: prefixes.iter().all(|net| net.prefix_len() != 0).then_some(prefixes),
            ..LocalTerms::default()
        },
        ports: [any.clone(), any.clone(), any],
        matches_without_ports: true,
        ..Rule::default()
    };
    Section {
        side_effects: vec![SideEffect::AcceptSource],
        ..Section::judging(vec![rule], SectionEnd::Verdict(point))
    }
}
