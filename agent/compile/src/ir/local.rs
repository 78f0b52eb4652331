//! What a rule says of the endpoint's own side, decided as far as that side is known.
//!
//! In: a side of a rule, an address of the endpoint, its named ports. Out: whether the address
//! matches, and port terms as that address sees them. Never: the peer's address.

use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::{NamedPortMember, ResolvedSide, SetId, SetIds};

use crate::ir::ports::PortSet;
use crate::ir::rule::{PORT_PROTOCOLS, PortTerm, Ports, PortsOf, Rule};
use crate::ir::terms::family_nets;
use crate::types::Direction;

/// Returns whether an address of the endpoint is what the rule says, its ports aside.
pub(crate) fn local_matches(side: &ResolvedSide, address: IpAddr, sets: &SetIds) -> bool {
    let v4 = address.is_ipv4();
    let (Some(nets), Some(not_nets)) = (family_nets(&side.nets, v4), family_nets(&side.not_nets, v4)) else {
        return false;
    };
    (nets.is_empty() || nets.iter().any(|net| net.contains(&address)))
        && !not_nets.iter().any(|net| net.contains(&address))
        && side.sets.iter().all(|set| sets.contains(set))
        && !side.not_sets.iter().any(|set| sets.contains(set))
}

/// What the port terms of a rule follow from.
pub(crate) struct PortTerms<'r> {
    pub(crate) direction: Direction,
    /// What the rule says of the peer's port.
    pub(crate) peer: PortTerm,
    /// The endpoint's own side of the rule.
    pub(crate) local: &'r ResolvedSide,
    /// The endpoint's named ports.
    pub(crate) known: &'r [(NamedPortMember, SetIds)],
}

impl PortTerms<'_> {
    /// Returns the port terms of the rule, as this address of the endpoint sees them. Without an
    /// address, only what does not depend on it.
    pub(crate) fn of(&self, rule: &Rule, address: Option<IpAddr>) -> PortsOf {
        let mut out = PortsOf::default();
        let mut before: Option<Arc<Ports>> = None;
        for (slot, protocol) in out.iter_mut().zip(PORT_PROTOCOLS) {
            if self.peer.is_dead() || !rule.protocol.matches(protocol) || rule.fields.icmp.is_some() {
                continue;
            }
            if address.is_none() && before.is_some() {
                slot.clone_from(&before);
                continue;
            }
            let local = self.local_term(address, protocol);
            if local.is_dead() {
                continue;
            }
            let peer = self.peer.clone();
            *slot = Some(Arc::new(match self.direction {
                Direction::Ingress => Ports { src: peer, dst: local },
                Direction::Egress => Ports { src: local, dst: peer },
            }));
            before.clone_from(slot);
        }
        out
    }

    fn local_term(&self, address: Option<IpAddr>, protocol: u8) -> PortTerm {
        let side = self.local;
        let named = |names: &[SetId]| {
            let ports = self.known.iter().filter(|(member, sets)| {
                Some(member.address) == address
                    && member.protocol.0 == protocol
                    && names.iter().any(|name| sets.contains(name))
            });
            ports.map(|(member, _)| (member.port, member.port)).collect::<Vec<_>>()
        };
        let within = if side.ports.is_empty() && side.named_ports.is_empty() {
            PortSet::all()
        } else {
            PortSet::of(side.ports.iter().copied().chain(named(&side.named_ports)))
        };
        let outside = PortSet::of(side.not_ports.iter().copied().chain(named(&side.not_named_ports)));
        let services = side
            .service_ports
            .iter()
            .map(|set| PortSet::of(named(std::slice::from_ref(set))));
        PortTerm {
            yes: services.fold(within.without(&outside), |ports, service| ports.intersection(&service)),
            named: PortSet::default(),
        }
    }
}
