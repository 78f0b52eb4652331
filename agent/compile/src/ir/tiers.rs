//! Tiers and profiles as lists of rules, each with the decision point that it is.
//!
//! In: a resolved policy. Out: its [`Tier`]s in order, the last of which holds all profiles, and
//! their decision points. Never: what is known of the endpoint.

use std::sync::Arc;

use felid_model::resolved::{ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules};

use crate::ir::decision::{DecisionPoint, Origin, PointId};
use crate::ir::rule::SectionEnd;

/// The rules of a policy or profile.
pub(crate) struct RuleList<'a> {
    pub(crate) staged: bool,
    pub(crate) rules: Vec<(PointId, &'a ResolvedRule)>,
}

/// The policies of a tier, or all profiles.
pub(crate) struct Tier<'a> {
    pub(crate) lists: Vec<RuleList<'a>>,
    /// What follows where no rule decides.
    pub(crate) end: SectionEnd,
}

impl<'a> Tier<'a> {
    /// Returns all rules in order.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &'a ResolvedRule> + '_ {
        self.lists.iter().flat_map(|list| &list.rules).map(|(_, rule)| *rule)
    }
}

/// Lists the tiers of a policy, and its profiles behind them. All of their decision points are
/// added to `points`, in the order of the policy.
pub(crate) fn tiers<'a>(policy: &'a ResolvedPolicy, points: &mut Vec<DecisionPoint<'a>>) -> Vec<Tier<'a>> {
    let mut tiers = Vec::new();
    for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
        let lists = lists(&tier.policies, Some(&tier.name), points);
        if tier.end_pass || lists.iter().all(|list| list.staged) {
            tiers.push(Tier {
                lists,
                end: SectionEnd::Pass,
            });
        } else {
            tiers.push(Tier {
                lists,
                end: SectionEnd::Verdict(points.len()),
            });
            let words = format!("Deny: end of tier {}", tier.name);
            points.push(DecisionPoint::end(Some(&tier.name), words, "end-of-tier"));
        }
    }
    let lists = lists(&policy.profiles, None, points);
    let end = SectionEnd::Verdict(points.len());
    let words = "Deny: no tier and no profile decided".to_owned();
    points.push(DecisionPoint::end(None, words, "default-deny"));
    tiers.push(Tier { lists, end });
    tiers
}

/// `tier` is `None` for profiles.
fn lists<'a>(
    policies: &'a [ResolvedRules],
    tier: Option<&'a Arc<str>>,
    points: &mut Vec<DecisionPoint<'a>>,
) -> Vec<RuleList<'a>> {
    let counter_tier: Arc<str> = tier.cloned().unwrap_or_else(|| "profile".into());
    let mut out = Vec::new();
    for policy in policies {
        let counter_policy: Arc<str> = policy.key.to_string().into();
        let mut rules = Vec::new();
        for rule in policy.rules.iter() {
            rules.push((points.len(), rule));
            points.push(DecisionPoint {
                key: Some(&policy.key),
                tier,
                origin: Origin::Rule(rule),
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
        out.push(RuleList {
            staged: policy.staged,
            rules,
        });
    }
    out
}
