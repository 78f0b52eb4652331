//! Rules after partial evaluation: what is left to ask of the peer.

use std::collections::HashMap;
use std::sync::Arc;

use felid_common::protocol::{SCTP, TCP, UDP};
use felid_model::IcmpMatch;
use felid_model::ResourceKey;
use felid_model::resolved::{ResolvedAction, ResolvedRule, SetId, SetIds};
use ipnet::IpNet;

use crate::describe::describe;
use crate::ports::PortSet;
use crate::transaction::CounterName;

/// The protocols with ports, in the order of [`Rule::ports`].
pub(crate) const PORT_PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];

/// A place in the policy that can decide, or hand on.
#[derive(Clone, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) key: Option<&'a ResourceKey>,
    pub(crate) tier: Option<&'a Arc<str>>,
    pub(crate) what: What<'a>,
    /// What happens there.
    pub(crate) action: ResolvedAction,
    /// It stands in a staged policy.
    pub(crate) staged: bool,
    /// Names of its counter.
    pub(crate) counter_tier: Arc<str>,
    pub(crate) counter_policy: Arc<str>,
}

/// What is at a site.
#[derive(Clone, Debug)]
pub(crate) enum What<'a> {
    Rule(&'a ResolvedRule),
    /// The end of something, in words.
    End(String),
}

impl Site<'_> {
    /// Index of the rule.
    pub(crate) fn index(&self) -> Option<u32> {
        match self.what {
            What::Rule(rule) => Some(rule.index),
            What::End(_) => None,
        }
    }

    /// Its counter.
    pub(crate) fn counter(&self) -> CounterName {
        CounterName {
            tier: self.counter_tier.clone(),
            policy: self.counter_policy.clone(),
            action: self.action,
            staged: self.staged,
        }
    }

    /// Whether both are counted by the same counter.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        (self.action, self.staged) == (other.action, other.staged)
            && self.counter_tier == other.counter_tier
            && self.counter_policy == other.counter_policy
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        match &self.what {
            What::Rule(rule) if self.staged => format!("staged: {}", describe(rule)),
            What::Rule(rule) => describe(rule),
            What::End(words) => words.clone(),
        }
    }
}

/// Index of a [`Site`].
pub(crate) type SiteId = usize;

/// Index of a set in [`Lowered::names`]: what a program tests is compared and sorted often, and names are long.
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

/// What a rule says of one port: on some it holds, on some it holds if the peer's named port is right, on the rest it does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortTerm {
    pub(crate) yes: PortSet,
    pub(crate) named: PortSet,
}

impl PortTerm {
    /// Every port.
    pub(crate) fn any() -> Self {
        Self {
            yes: PortSet::all(),
            named: PortSet::default(),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.yes.is_empty() && self.named.is_empty()
    }

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
pub(crate) enum Outcome {
    /// Allow or deny, as its site says.
    #[default]
    Verdict,
    /// Leave the tier.
    Pass,
    /// Do what the section's [`Aside`] of this number says, and go on with the next section.
    Aside(usize),
}

/// A rule that may match. Everything must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) site: SiteId,
    pub(crate) outcome: Outcome,
    pub(crate) protocol: ProtocolTest,
    /// The own address is one of these; `None` = always true.
    pub(crate) own: Option<Vec<IpNet>>,
    /// It is none of these.
    pub(crate) own_not_nets: Vec<IpNet>,
    /// Sets of the own address, where it is not known.
    pub(crate) own_sets: Vec<SetIndex>,
    pub(crate) own_not_sets: Vec<SetIndex>,
    /// What it says of ports.
    pub(crate) ports: PortsOf,
    /// Whether it can match packets without ports.
    pub(crate) portless: bool,
    /// It must be an ICMP message of this kind, and none of that kind.
    pub(crate) icmp: Option<IcmpMatch>,
    pub(crate) not_icmp: Option<IcmpMatch>,
    /// The peer is in one of these, if not empty, and in none of those.
    pub(crate) nets: Vec<IpNet>,
    pub(crate) not_nets: Vec<IpNet>,
    /// Sets of the peer's address.
    pub(crate) sets: Vec<SetIndex>,
    pub(crate) not_sets: Vec<SetIndex>,
    /// Sets of the peer's named port: in one of these, where a [`PortTerm`] asks; always in none of those.
    pub(crate) named: Vec<SetIndex>,
    pub(crate) not_named: Vec<SetIndex>,
    /// Sets of the peer's port: in all of these. Packets without ports are in none.
    pub(crate) services: Vec<SetIndex>,
}

impl Rule {
    /// Whether nothing but protocol and ports can keep it from matching.
    pub(crate) fn tests_only_ports(&self) -> bool {
        self.tests_only_ports_and_nets() && self.nets.is_empty()
    }

    /// Whether nothing but protocol, ports and the peer's networks can keep it from matching.
    pub(crate) fn tests_only_ports_and_nets(&self) -> bool {
        self.own.is_none()
            && self.own_not_nets.is_empty()
            && self.own_sets.is_empty()
            && self.own_not_sets.is_empty()
            && self.not_nets.is_empty()
            && self.sets.is_empty()
            && self.not_sets.is_empty()
            && self.not_named.is_empty()
            && self.services.is_empty()
    }

    /// Whether it tests ICMP types.
    pub(crate) fn tests_icmp(&self) -> bool {
        self.icmp.is_some() || self.not_icmp.is_some()
    }

    /// Whether it says the same of every port and of having none, so that it needs no dispatch: only its protocol, and perhaps
    /// the peer's named port, is left to test. (A packet without ports is in no named-port set, so that test is right for it, too.)
    pub(crate) fn ignores_numbers(&self) -> bool {
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
        self.portless
            || always_named
            || !self.services.is_empty()
            || matches!(self.protocol, ProtocolTest::Is(p) if PORT_PROTOCOLS.contains(&p))
    }

    pub(crate) fn is_unconditional(&self) -> bool {
        self.tests_only_ports()
            && !self.tests_icmp()
            && self.protocol == ProtocolTest::Any
            && self.portless
            && self
                .ports
                .iter()
                .all(|p| p.as_ref().is_some_and(|p| p.src.is_vacuous() && p.dst.is_vacuous()))
    }
}

/// What happens where no rule of a section matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Verdict(SiteId),
    /// Go on with the next section.
    Next,
    /// Go on where a Pass leads.
    Pass,
}

/// What is done beside judging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Aside {
    /// Note in the scratch that this rule logs.
    Log(SiteId),
    /// Count for this site.
    Count(SiteId),
    /// The endpoint may send from this address.
    Own,
}

/// Consecutive rules. A tier (and all profiles together) is one section, unless Log rules or staged policies stand in it: each of them
/// is a section of its own, which goes on with the next whatever its rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) rules: Vec<Rule>,
    pub(crate) end: End,
    /// The section that begins the next tier: where a Pass leads.
    pub(crate) pass: usize,
    /// What [`Outcome::Aside`] speaks of.
    pub(crate) asides: Vec<Aside>,
}

impl Section {
    /// Rules that judge, and what follows where none matches.
    pub(crate) fn judging(rules: Vec<Rule>, end: End) -> Self {
        Self {
            rules,
            end,
            pass: 0,
            asides: Vec::new(),
        }
    }
}

/// A policy after partial evaluation.
pub(crate) struct Lowered<'a> {
    pub(crate) sites: Vec<Site<'a>>,
    /// One family of sections, if both IP versions have the same; else IPv4 and IPv6, and then both again for sources that are not the
    /// endpoint's own, if there may be any.
    pub(crate) families: Vec<Vec<Section>>,
    /// Every set that rules name.
    pub(crate) names: Vec<&'a SetId>,
    /// A rule that cannot be judged for sources that are not the endpoint's own.
    pub(crate) unsupported: Option<String>,
}

impl Lowered<'_> {
    /// Of each of [`Self::names`], whether it is tested on the peer: of its address, and of its named port.
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
                [&rule.sets, &rule.not_sets, &rule.own_sets, &rule.own_not_sets],
            );
            mark(named, [&rule.named, &rule.not_named, &rule.services, &[]]);
        }
        tested
    }

    /// The names of sets that are marked.
    pub(crate) fn named(&self, marked: &[bool]) -> SetIds {
        let names = self.names.iter().zip(marked).filter(|(_, marked)| **marked);
        names.map(|(name, _)| (*name).clone()).collect()
    }
}

/// Gives sets their indices.
#[derive(Default)]
pub(crate) struct Names<'a> {
    pub(crate) list: Vec<&'a SetId>,
    indices: HashMap<&'a SetId, SetIndex>,
}

impl<'a> Names<'a> {
    /// Each set once, in order.
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
