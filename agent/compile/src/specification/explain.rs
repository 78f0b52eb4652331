//! The reference evaluator's walk, told: every tier, policy and rule, which of them matched, and
//! why the others did not.
//!
//! In: what [`reference::evaluate`] takes. Out: a [`Trace`]. It is for people who ask why a packet
//! passes or not.

use std::fmt;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, SetId};

use crate::specification::describe::describe;
use crate::specification::reference::{self, Decision, Membership, Mismatch, Packet, Term};

/// The whole walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it came to.
    pub decision: Decision,
    /// The tiers in order, then the profiles (without a name). Empty where the endpoint is closed.
    pub tiers: Vec<TierTrace>,
}

/// A tier, or the profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierTrace {
    /// Its name; `None` = the profiles.
    pub name: Option<Arc<str>>,
    /// Its policies, or the profiles, in order.
    pub policies: Vec<PolicyTrace>,
    /// How the walk left it.
    pub end: TierEnd,
}

/// How the walk left a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierEnd {
    /// It had been decided before.
    NotReached,
    /// A rule allowed the packet.
    Allowed,
    /// A rule denied it; in profiles also one that passes.
    Denied,
    /// A rule passed it on.
    Passed,
    /// No rule matched, and the tier hands on what it does not decide.
    EndPass,
    /// No rule matched: denied.
    EndDeny,
}

/// A policy or profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrace {
    /// Which.
    pub key: ResourceKey,
    /// It is judged, but does nothing.
    pub staged: bool,
    /// Its rules in order.
    pub rules: Vec<RuleTrace>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTrace {
    /// Its index in the record.
    pub index: u32,
    /// What it does.
    pub action: ResolvedAction,
    /// The rule in words.
    pub text: String,
    /// What came of it.
    pub found: RuleResult,
}

/// What came of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleResult {
    /// It matched: it decided, passed the packet on, or logged it; in a staged policy it would
    /// have.
    Matched,
    /// It did not match, for this reason.
    Mismatch {
        /// The first term that does not hold.
        reason: Mismatch,
        /// The set that the term speaks of, if it is one.
        set: Option<SetId>,
    },
    /// Something before it had decided.
    NotReached,
}

/// Judges a packet and says how. The decision is that of [`reference::evaluate`].
pub fn explain(policy: &ResolvedPolicy, packet: &Packet, members: &impl Membership) -> Trace {
    let decision = reference::evaluate(policy, packet, members);
    let mut tiers = Vec::new();
    if policy.closed.is_none() {
        let mut decided = false;
        for tier in policy.tiers.iter().filter(|tier| !tier.policies.is_empty()) {
            let (policies, matched) = walk(&tier.policies, packet, members, decided);
            let end = match matched {
                _ if decided => TierEnd::NotReached,
                Some(ResolvedAction::Allow) => TierEnd::Allowed,
                Some(ResolvedAction::Deny) => TierEnd::Denied,
                Some(_) => TierEnd::Passed,
                None if reference::ends_as_pass(tier) => TierEnd::EndPass,
                None => TierEnd::EndDeny,
            };
            decided |= matches!(end, TierEnd::Allowed | TierEnd::Denied | TierEnd::EndDeny);
            tiers.push(TierTrace {
                name: Some(tier.name.clone()),
                policies,
                end,
            });
        }
        let (policies, matched) = walk(&policy.profiles, packet, members, decided);
        let end = match matched {
            _ if decided => TierEnd::NotReached,
            Some(ResolvedAction::Allow) => TierEnd::Allowed,
            Some(_) => TierEnd::Denied,
            None => TierEnd::EndDeny,
        };
        tiers.push(TierTrace {
            name: None,
            policies,
            end,
        });
    }
    Trace { decision, tiers }
}

/// The policies of a tier, and the action of the rule that ended the walk there.
fn walk(
    lists: &[ResolvedRules],
    packet: &Packet,
    members: &impl Membership,
    decided: bool,
) -> (Vec<PolicyTrace>, Option<ResolvedAction>) {
    let mut ended = None;
    let mut policies = Vec::new();
    for list in lists {
        let mut over = decided || ended.is_some();
        let mut rules = Vec::new();
        for rule in list.rules.iter() {
            let found = if over {
                RuleResult::NotReached
            } else {
                found(rule, packet, members)
            };
            if found == RuleResult::Matched && rule.action != ResolvedAction::Log {
                over = true;
                if !list.staged {
                    ended = Some(rule.action);
                }
            }
            rules.push(RuleTrace {
                index: rule.index,
                action: rule.action,
                text: describe(rule),
                found,
            });
        }
        policies.push(PolicyTrace {
            key: list.key.clone(),
            staged: list.staged,
            rules,
        });
    }
    (policies, ended)
}

fn found(rule: &ResolvedRule, packet: &Packet, members: &impl Membership) -> RuleResult {
    let Some(reason) = reference::mismatch(rule, packet, members) else {
        return RuleResult::Matched;
    };
    let set = |side: &ResolvedSide, term: Term| match term {
        Term::Set(index) => side.sets.get(index).cloned(),
        Term::NotSet(index) => side.not_sets.get(index).cloned(),
        Term::Service(index) => side.service_ports.get(index).cloned(),
        _ => None,
    };
    let set = match reason {
        Mismatch::Source(term) => set(&rule.source, term),
        Mismatch::Destination(term) => set(&rule.destination, term),
        _ => None,
    };
    RuleResult::Mismatch { reason, set }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, term) = match self {
            Mismatch::IpVersion => return f.write_str("it is for the other IP version"),
            Mismatch::Protocol => return f.write_str("it is for another protocol"),
            Mismatch::NotProtocol => return f.write_str("it is not for this protocol"),
            Mismatch::Field { reason, .. } => return f.write_str(reason),
            Mismatch::Source(term) => ("source", term),
            Mismatch::Destination(term) => ("destination", term),
        };
        let words = match term {
            Term::OtherVersion => "networks are all of the other IP version",
            Term::Nets => "address is in none of the networks",
            Term::NotNets => "address is in a network that is excluded",
            Term::Set(_) => "is not selected",
            Term::NotSet(_) => "is selected, which is excluded",
            Term::Ports => "port is another",
            Term::NotPorts => "port is excluded",
            Term::Service(_) => "is not a port behind the service",
        };
        write!(f, "the {side} {words}")
    }
}
