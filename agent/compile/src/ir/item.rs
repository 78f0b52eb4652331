//! A rule in a list, and what is left to test of it there.
//!
//! In: a rule. Out: [`RuleItem`]s, which are references to rules, less what has been tested
//! already. Never: instructions.

use crate::ir::rule::{PORT_PROTOCOLS, ProtocolTest, Rule};

/// A rule within a leaf of the dispatch: what is left to test of it there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RuleItem {
    /// Index into the list of rules.
    pub(crate) rule: usize,
    /// What is left to test of the protocol.
    pub(crate) protocol: ProtocolTest,
    /// The source port is tested by the rule's term for this protocol (index into [`Rule::ports`]).
    pub(crate) source: Option<usize>,
    /// The destination port is tested by the rule's term for this protocol, if no dispatch has done
    /// so.
    pub(crate) destination: Option<usize>,
    /// The peer's named port is tested.
    pub(crate) named: bool,
    /// The rule's conditions on fields of the packet are tested.
    pub(crate) fields: bool,
    /// The peer's networks are tested.
    pub(crate) nets: bool,
}

impl RuleItem {
    /// Returns the rule where nothing has been tested yet. Its ports, if it names any, are not
    /// tested at all.
    pub(crate) fn whole(index: usize, rule: &Rule) -> Self {
        Self {
            rule: index,
            protocol: rule.protocol,
            source: None,
            destination: None,
            named: !rule.named.is_empty(),
            fields: !rule.fields.is_empty(),
            nets: true,
        }
    }

    /// Returns the rule where nothing has been tested yet, if it can be tested by itself: it must
    /// say one thing of ports, and nothing of named ports.
    pub(crate) fn plain(index: usize, rule: &Rule) -> Option<Self> {
        if !rule.named.is_empty() || !rule.not_named.is_empty() || !rule.services.is_empty() {
            return None;
        }
        let whole = Self::whole(index, rule);
        if rule.is_port_independent() {
            return Some(whole);
        }
        let ProtocolTest::Is(protocol) = rule.protocol else {
            return None;
        };
        let place = PORT_PROTOCOLS.iter().position(|known| *known == protocol)?;
        let ports = rule.ports.get(place)?.as_ref()?;
        (ports.src.named.is_empty() && ports.dst.named.is_empty()).then(|| Self {
            source: (!ports.src.is_vacuous()).then_some(place),
            destination: (!ports.dst.is_vacuous()).then_some(place),
            ..whole
        })
    }

    /// Returns the item once its destination port has been found.
    pub(crate) fn port_found(&self) -> Self {
        Self {
            protocol: ProtocolTest::Any,
            destination: None,
            ..*self
        }
    }

    /// Returns the item once the peer's address has been found.
    pub(crate) fn net_found(&self) -> Self {
        Self { nets: false, ..*self }
    }

    /// Returns whether nothing is left to test.
    pub(crate) fn is_certain(&self, rule: &Rule) -> bool {
        rule.tests_only_ports_and_nets()
            && (rule.nets.is_empty() || !self.nets)
            && self.protocol == ProtocolTest::Any
            && self.source.is_none()
            && self.destination.is_none()
            && !self.named
            && !self.fields
    }
}
