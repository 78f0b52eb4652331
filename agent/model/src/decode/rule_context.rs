//! What the readers of a rule and of its two sides share: where the rule stands, and its unknown
//! fields.

use crate::{Direction, Protocol};

use super::fields::Fields;

/// The record that a rule belongs to, as far as it changes what the rule may say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleOwner {
    NetworkPolicy,
    GlobalNetworkPolicy,
    Profile,
}

/// The field of a rule that one of its sides is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleSide {
    Source,
    Destination,
}

/// What the sides of a rule must know of the rule itself.
#[derive(Clone, Copy)]
pub(super) struct RuleContext {
    /// The list that the rule stands in.
    pub(super) direction: Direction,
    pub(super) owner: RuleOwner,
    /// The rule's protocol, if it names a good one.
    pub(super) protocol: Option<Protocol>,
    /// Whether the rule names a protocol at all, be it good or bad.
    pub(super) protocol_given: bool,
}

/// Fields of a rule that no reader asked for, by their path from the rule.
pub(super) struct UnknownFields {
    rule: String,
    pub(super) fields: Vec<String>,
}

impl UnknownFields {
    /// No unknown field yet, for the rule that `rule` reads.
    pub(super) fn new(rule: &Fields<'_>) -> Self {
        UnknownFields {
            rule: rule.path().to_owned(),
            fields: Vec::new(),
        }
    }

    /// Adds what nobody asked for in one mapping of the rule; called when that mapping has been
    /// read.
    pub(super) fn collect(&mut self, fields: &Fields<'_>) {
        let parent = fields
            .path()
            .strip_prefix(self.rule.as_str())
            .unwrap_or_default()
            .trim_start_matches('.');
        let join = |key: &str| {
            if parent.is_empty() {
                key.to_owned()
            } else {
                format!("{parent}.{key}")
            }
        };
        self.fields.extend(fields.unknown().into_iter().map(join));
    }
}
