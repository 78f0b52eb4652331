//! Rules after partial evaluation: what is left to ask when a packet comes.
//!
//! In: nothing. Out: the types of the intermediate form, from a [`Rule`] to the whole [`Lowered`]
//! policy. Never: instructions.

use std::collections::HashMap;
use std::sync::Arc;

use felid_common::protocol::{SCTP, TCP, UDP};
use felid_model::FieldMatch;
use felid_model::resolved::{SetId, SetIds};
use ipnet::IpNet;

use crate::ir::decision::{DecisionPoint, PointId};
use crate::ir::ports::PortSet;

/// The protocols with ports, in the order of [`Rule::ports`].
pub(crate) const PORT_PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];

/// Index of a set in [`Lowered::names`]: what a program tests is compared and sorted often, and
/// names are long.
pub(crate) type SetIndex = u32;

/// What remains of the rule's `protocol` and `notProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProtocolTest {
    #[default]
    Any,
    Is(u8),
    Not(u8),
}

impl ProtocolTest {
    pub(crate) fn matches(self, protocol: u8) -> bool {
        match self {
            ProtocolTest::Any => true,
            ProtocolTest::Is(p) => p == protocol,
            ProtocolTest::Not(p) => p != protocol,
        }
    }
}

/// What a rule says of one port: on some it holds, on some it holds if the peer's named port is
/// right, on the rest it does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortTerm {
    pub(crate) yes: PortSet,
    pub(crate) named: PortSet,
}

impl PortTerm {
    /// Returns the term that holds on every port.
    pub(crate) fn any() -> Self {
        Self {
            yes: PortSet::all(),
            named: PortSet::default(),
        }
    }

    /// Returns whether it holds on no port.
    pub(crate) fn is_dead(&self) -> bool {
        self.yes.is_empty() && self.named.is_empty()
    }

    /// Returns whether it holds on every port.
    pub(crate) fn is_vacuous(&self) -> bool {
        self.yes.is_all()
    }
}

/// The port terms of a rule for one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) src: PortTerm,
    pub(crate) dst: PortTerm,
}

/// The port terms for each of [`PORT_PROTOCOLS`]; `None` = never matches packets of this protocol.
pub(crate) type PortsOf = [Option<Arc<Ports>>; 3];

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum RuleEffect {
    /// Allow or deny, as its point says.
    #[default]
    Verdict,
    /// Leave the tier.
    Pass,
    /// Do what the section's [`SideEffect`] of this number says, and go on with the next section.
    SideEffect(usize),
}

/// What is left to ask of the endpoint's own address, where it is not known or where a rule tells
/// the addresses apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LocalTerms {
    /// The address is in one of these; `None` if it may be any.
    pub(crate) nets: Option<Vec<IpNet>>,
    /// The address is in none of these.
    pub(crate) not_nets: Vec<IpNet>,
    /// The address is a member of all of these.
    pub(crate) sets: Vec<SetIndex>,
    /// The address is a member of none of these.
    pub(crate) not_sets: Vec<SetIndex>,
}

impl LocalTerms {
    /// Returns whether every address will do.
    pub(crate) fn is_vacuous(&self) -> bool {
        self.nets.is_none() && self.not_nets.is_empty() && self.sets.is_empty() && self.not_sets.is_empty()
    }
}

/// A rule that may match. It matches if all of its terms hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) point: PointId,
    pub(crate) outcome: RuleEffect,
    pub(crate) protocol: ProtocolTest,
    pub(crate) local: LocalTerms,
    /// What the rule says of ports.
    pub(crate) ports: PortsOf,
    /// Whether it can match packets without ports.
    pub(crate) matches_without_ports: bool,
    /// What is left to test of fields of the packet beside its addresses, protocol and ports.
    pub(crate) fields: FieldMatch,
    /// The peer is in one of these networks; if there are none, it may be anywhere.
    pub(crate) nets: Vec<IpNet>,
    /// The peer is in none of these networks.
    pub(crate) not_nets: Vec<IpNet>,
    /// The peer's address is a member of all of these sets.
    pub(crate) sets: Vec<SetIndex>,
    /// The peer's address is a member of none of these sets.
    pub(crate) not_sets: Vec<SetIndex>,
    /// The peer's port is a member of one of these named-port sets, where a [`PortTerm`] asks for
    /// that.
    pub(crate) named: Vec<SetIndex>,
    /// The peer's port is a member of none of these named-port sets.
    pub(crate) not_named: Vec<SetIndex>,
    /// The peer's port is a member of all of these sets of services' ports. Packets without ports
    /// are in none.
    pub(crate) services: Vec<SetIndex>,
}

impl Rule {
    /// Returns whether nothing but protocol and ports can keep it from matching.
    pub(crate) fn tests_only_ports(&self) -> bool {
        self.tests_only_ports_and_nets() && self.nets.is_empty()
    }

    /// Returns whether nothing but protocol, ports and the peer's networks can keep it from
    /// matching.
    pub(crate) fn tests_only_ports_and_nets(&self) -> bool {
        self.local.is_vacuous()
            && self.not_nets.is_empty()
            && self.sets.is_empty()
            && self.not_sets.is_empty()
            && self.not_named.is_empty()
            && self.services.is_empty()
    }

    /// Returns whether it says the same of every port and of having none, so that it needs no
    /// dispatch: only its protocol, and perhaps the peer's named port, is left to test. (A packet
    /// without ports is in no named-port set, so that test is right for it, too.)
    pub(crate) fn is_port_independent(&self) -> bool {
        let mut always_named = true;
        for (protocol, ports) in PORT_PROTOCOLS.iter().zip(&self.ports) {
            if !self.protocol.matches(*protocol) {
                continue;
            }
            let Some(Ports { src, dst }) = ports.as_deref() else {
                return false;
            };
            let whole = |term: &PortTerm| term.yes.is_all() || term.named.is_all();
            if !whole(src) || !whole(dst) {
                return false;
            }
            always_named &= src.named.is_all() || dst.named.is_all();
        }
        self.matches_without_ports
            || always_named
            || !self.services.is_empty()
            || matches!(self.protocol, ProtocolTest::Is(p) if PORT_PROTOCOLS.contains(&p))
    }

    /// Returns whether it matches every packet.
    pub(crate) fn is_unconditional(&self) -> bool {
        self.tests_only_ports()
            && self.fields.is_empty()
            && self.protocol == ProtocolTest::Any
            && self.matches_without_ports
            && self
                .ports
                .iter()
                .all(|p| p.as_ref().is_some_and(|p| p.src.is_vacuous() && p.dst.is_vacuous()))
    }
}

/// What happens where no rule of a section matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SectionEnd {
    Verdict(PointId),
    /// Go on with the next section.
    Next,
    /// Go on with the section that begins the next tier, as a Pass does.
    Pass,
}

/// What is done beside judging the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SideEffect {
    /// Note in the scratch that this rule logs.
    Log(PointId),
    /// Count one packet more for this decision point.
    Count(PointId),
    /// Note in the scratch that the endpoint may send from this address.
    AcceptSource,
}

/// Consecutive rules. A tier (and all profiles together) is one section, unless Log rules or staged
/// policies stand in it: each of them is a section of its own, which goes on with the next whatever
/// its rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) rules: Vec<Rule>,
    pub(crate) end: SectionEnd,
    /// The section that begins the next tier: where a Pass leads.
    pub(crate) pass: usize,
    /// What [`RuleEffect::SideEffect`] speaks of.
    pub(crate) side_effects: Vec<SideEffect>,
}

impl Section {
    /// Makes a section of rules that judge. `end` is what follows where none matches.
    pub(crate) fn judging(rules: Vec<Rule>, end: SectionEnd) -> Self {
        Self {
            rules,
            end,
            pass: 0,
            side_effects: Vec::new(),
        }
    }
}

/// A policy after partial evaluation.
pub(crate) struct Lowered<'a> {
    pub(crate) points: Vec<DecisionPoint<'a>>,
    /// One family of sections, if both IP versions have the same; else IPv4 and IPv6, and then both
    /// again for sources that are not the endpoint's own, if there may be any.
    pub(crate) families: Vec<Vec<Section>>,
    /// Every set that rules name.
    pub(crate) names: Vec<&'a SetId>,
    /// A rule that cannot be judged for sources that are not the endpoint's own.
    pub(crate) unsupported: Option<String>,
}

impl Lowered<'_> {
    /// Returns two lists with a mark for each of [`Self::names`]: whether the set is tested on an
    /// address, and whether it is tested on the peer's named port.
    pub(crate) fn tested(&self) -> [Vec<bool>; 2] {
        let mut tested = [vec![false; self.names.len()], vec![false; self.names.len()]];
        let [addresses, named] = &mut tested;
        let mark = |tested: &mut Vec<bool>, lists: [&[SetIndex]; 4]| {
            for index in lists.into_iter().flatten() {
                if let Some(tested) = tested.get_mut(*index as usize) {
                    *tested = true;
                }
            }
        };
        for rule in self.families.iter().flatten().flat_map(|section| &section.rules) {
            mark(
                addresses,
                [&rule.sets, &rule.not_sets, &rule.local.sets, &rule.local.not_sets],
            );
            mark(named, [&rule.named, &rule.not_named, &rule.services, &[]]);
        }
        tested
    }

    /// Returns the sets that are marked.
    pub(crate) fn named(&self, marked: &[bool]) -> SetIds {
        let names = self.names.iter().zip(marked).filter(|(_, marked)| **marked);
        names.map(|(name, _)| (*name).clone()).collect()
    }
}

/// Gives sets their indices.
#[derive(Default)]
pub(crate) struct SetNames<'a> {
    pub(crate) list: Vec<&'a SetId>,
    indices: HashMap<&'a SetId, SetIndex>,
}

impl<'a> SetNames<'a> {
    /// Returns the indices of these sets, each once, sorted.
    pub(crate) fn sorted(&mut self, sets: &'a [SetId]) -> Vec<SetIndex> {
        let mut sets: Vec<SetIndex> = sets.iter().map(|set| self.index(set)).collect();
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    fn index(&mut self, set: &'a SetId) -> SetIndex {
        *self.indices.entry(set).or_insert_with(|| {
            self.list.push(set);
            (self.list.len() - 1) as SetIndex
        })
    }
}
