//! The places in a policy that can decide about a packet.
//!
//! In: rules, and the ends of tiers, profiles and closed policies. Out: [`DecisionPoint`]s, each
//! with its words for people and the name of its counter. Never: what a rule matches.

use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{ResolvedAction, ResolvedRule};

use crate::specification::describe::describe;
use crate::types::CounterName;

/// A place in the policy that can decide about a packet, or hand it on.
#[derive(Clone, Debug)]
pub(crate) struct DecisionPoint<'a> {
    /// The policy or profile; `None` at the end of a tier and of everything.
    pub(crate) key: Option<&'a ResourceKey>,
    /// The tier; `None` in profiles and at the end of everything.
    pub(crate) tier: Option<&'a Arc<str>>,
    pub(crate) origin: Origin<'a>,
    /// What happens to the packet here.
    pub(crate) action: ResolvedAction,
    /// Whether it stands in a staged policy.
    pub(crate) staged: bool,
    /// Its counter's [`CounterName::tier`].
    pub(crate) counter_tier: Arc<str>,
    /// Its counter's [`CounterName::policy`].
    pub(crate) counter_policy: Arc<str>,
}

/// Index of a [`DecisionPoint`] in [`crate::ir::rule::Lowered::points`].
pub(crate) type PointId = usize;

/// What a decision point comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin<'a> {
    Rule(&'a ResolvedRule),
    /// The end of a tier or of everything, in words.
    End(String),
}

impl<'a> DecisionPoint<'a> {
    /// Makes the decision point at the end of a tier, or of everything, which denies.
    pub(crate) fn end(tier: Option<&'a Arc<str>>, words: String, counter_policy: &str) -> Self {
        Self {
            key: None,
            tier,
            origin: Origin::End(words),
            action: ResolvedAction::Deny,
            staged: false,
            counter_tier: tier.cloned().unwrap_or_default(),
            counter_policy: counter_policy.into(),
        }
    }

    /// Returns the index of the rule, if it comes from one.
    pub(crate) fn index(&self) -> Option<u32> {
        match self.origin {
            Origin::Rule(rule) => Some(rule.index),
            Origin::End(_) => None,
        }
    }

    /// Returns the name of its counter.
    pub(crate) fn counter(&self) -> CounterName {
        CounterName {
            tier: self.counter_tier.clone(),
            policy: self.counter_policy.clone(),
            action: self.action,
            staged: self.staged,
        }
    }

    /// Returns whether both are counted by the same counter.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        (self.action, self.staged) == (other.action, other.staged)
            && self.counter_tier == other.counter_tier
            && self.counter_policy == other.counter_policy
    }

    /// Returns the words that people read.
    pub(crate) fn text(&self) -> String {
        match &self.origin {
            Origin::Rule(rule) if self.staged => format!("staged: {}", describe(rule)),
            Origin::Rule(rule) => describe(rule),
            Origin::End(words) => words.clone(),
        }
    }
}
