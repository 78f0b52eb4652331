//! What a rule says of the endpoint's own side, decided as far as that side is known.

use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::{ResolvedSide, SetId, SetIds};

use crate::compile::Direction;
use crate::lower::View;
use crate::ports::PortSet;
use crate::rule::{PORT_PROTOCOLS, PortTerm, Ports, PortsOf, Rule};

impl View<'_, '_> {
    /// Whether an own address is what the rule says, its ports aside.
    pub(crate) fn own_matches(&self, side: &ResolvedSide, address: IpAddr, sets: &SetIds) -> bool {
        let (Some(nets), Some(not_nets)) = (self.family_nets(&side.nets), self.family_nets(&side.not_nets)) else {
            return false;
        };
        (nets.is_empty() || nets.iter().any(|net| net.contains(&address)))
            && !not_nets.iter().any(|net| net.contains(&address))
            && side.sets.iter().all(|set| sets.contains(set))
            && !side.not_sets.iter().any(|set| sets.contains(set))
    }

    /// The port terms, as this own address sees them; without one: where they do not depend on it.
    pub(crate) fn ports(
        &self,
        rule: &Rule,
        own: &ResolvedSide,
        peer_term: &PortTerm,
        address: Option<IpAddr>,
    ) -> PortsOf {
        let mut out = PortsOf::default();
        let mut before: Option<Arc<Ports>> = None;
        for (slot, protocol) in out.iter_mut().zip(PORT_PROTOCOLS) {
            if peer_term.is_dead() || !rule.protocol.matches(protocol) || rule.icmp.is_some() {
                continue;
            }
            if address.is_none() && before.is_some() {
                slot.clone_from(&before);
                continue;
            }
            let own_term = self.own_port_term(own, address, protocol);
            if own_term.is_dead() {
                continue;
            }
            let peer_term = peer_term.clone();
            *slot = Some(Arc::new(match self.direction {
                Direction::Ingress => Ports {
                    src: peer_term,
                    dst: own_term,
                },
                Direction::Egress => Ports {
                    src: own_term,
                    dst: peer_term,
                },
            }));
            before.clone_from(slot);
        }
        out
    }

    fn own_port_term(&self, side: &ResolvedSide, address: Option<IpAddr>, protocol: u8) -> PortTerm {
        let named = |names: &[SetId]| {
            let ports = self.own.ports.iter().filter(|(member, sets)| {
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
