//! The translations of local endpoints: felid's, and those that others make.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felid_compile::nat::Claim;
use felid_dataplane::kernel::NatFlows;
use felid_dataplane::{FlowSource, Inspection, KernelError};
use felid_model::resolved::LocalEndpoint;
use felid_model::{EndpointPort, IpNat};

use crate::api::{self, Nat, NatField, NatState, Refusal, Translator};
use crate::run::handle::Reply;

use super::View;
use super::flows::ExternalAddresses;

/// Element of the kernel's table and id of a translation, by which flows refer to it.
type NatKey = (u32, u32);

impl<D: Inspection> View<'_, D> {
    /// Returns the translations in force; none if they cannot be read, which is logged.
    pub(super) fn nats_in_force(&self) -> BTreeMap<IpAddr, NatFlows> {
        self.dataplane.nats().unwrap_or_else(|error| {
            tracing::warn!("translations cannot be read: {error}");
            BTreeMap::new()
        })
    }

    pub(super) fn nat_counts(&self) -> api::NatCounts {
        api::NatCounts {
            in_force: self.nats_in_force().len(),
            conflicts: self.translations.conflicts().len(),
        }
    }

    /// Returns what flows refer to.
    pub(super) fn external_addresses(&self) -> ExternalAddresses {
        let nats = self.nats_in_force().into_iter();
        nats.map(|(external, nat)| ((nat.index, nat.id), external)).collect()
    }

    /// Lists translations. Flows are counted on a thread of its own: a full table takes a while.
    pub(super) fn list_nats(&self, reply: Reply<Vec<Nat>>) {
        let in_force = self.nats_in_force();
        let of_endpoint = |endpoint| self.nats_of(endpoint, &in_force);
        let endpoints = self.calc.endpoints();
        let mut list: Vec<(Option<NatKey>, Nat)> = endpoints.flat_map(|endpoint| of_endpoint(endpoint)).collect();
        list.sort_by(|(_, a), (_, b)| rank(a).cmp(&rank(b)));
        let source = self.dataplane.flows();
        tokio::task::spawn_blocking(move || {
            let keys = list.iter().filter_map(|(key, _)| *key);
            let answer = count_flows(keys, &*source).map(|flows| {
                let nats = list.into_iter().map(|(key, nat)| Nat {
                    flows: key.and_then(|key| flows.get(&key).copied()),
                    ..nat
                });
                nats.collect()
            });
            drop(reply.send(answer.map_err(|error| Refusal::failed(&error))));
        });
    }

    /// Returns the translations of one endpoint; those in force with the key by which flows refer
    /// to them.
    fn nats_of(&self, endpoint: &LocalEndpoint, in_force: &BTreeMap<IpAddr, NatFlows>) -> Vec<(Option<NatKey>, Nat)> {
        let mut asked = endpoint.ip_nats.clone();
        asked.sort();
        asked.dedup();
        let translated = asked.iter().map(|nat| self.translated(endpoint, nat, in_force));
        let elastic = endpoint
            .aws_elastic_ips
            .iter()
            .map(|external| elastic(endpoint, *external));
        let host_ports = endpoint.ports.iter().filter_map(|port| host_port(endpoint, port));
        let others = elastic.chain(host_ports).map(|nat| (None, nat));
        translated.chain(others).collect()
    }

    /// Returns a translation of felid's, and where it stands.
    fn translated(
        &self,
        endpoint: &LocalEndpoint,
        asked: &IpNat,
        in_force: &BTreeMap<IpAddr, NatFlows>,
    ) -> (Option<NatKey>, Nat) {
        let id = self.planner.endpoint(&endpoint.key).map(|status| status.id);
        let found = in_force.get(&asked.external);
        let found = found.filter(|nat| nat.mapping.internal == asked.internal && Some(nat.mapping.endpoint) == id);
        let claim = Claim {
            external: asked.external,
            internal: asked.internal,
            endpoint: endpoint.key.clone(),
        };
        let enabled = self.configuration.settings().floating_ips;
        let (state, reason) = match (found, self.translations.conflicts().get(&claim)) {
            (Some(_), _) => (NatState::InForce, None),
            (None, Some(conflict)) => (NatState::Conflict, Some(conflict.to_string())),
            (None, None) if !enabled => (NatState::Disabled, Some("floatingIPs is Disabled".to_owned())),
            (None, None) => (NatState::Pending, None),
        };
        let nat = Nat {
            external: asked.external.to_string(),
            internal: asked.internal.to_string(),
            field: NatField::IpNats,
            by: Translator::Felid,
            state,
            reason,
            flows_total: found.map(|nat| nat.flows),
            ..of(endpoint)
        };
        (found.map(|nat| (nat.index, nat.id)), nat)
    }
}

/// Felid's translations come first, then by external address.
fn rank(nat: &Nat) -> (bool, Option<IpAddr>, &str, &str, &str) {
    (
        nat.by != Translator::Felid,
        nat.external.parse().ok(),
        &nat.external,
        &nat.internal,
        &nat.endpoint,
    )
}

/// What every translation says of its endpoint.
fn of(endpoint: &LocalEndpoint) -> Nat {
    Nat {
        namespace: endpoint.key.namespace.as_deref().unwrap_or_default().to_owned(),
        endpoint: endpoint.key.name.to_string(),
        interface: endpoint.interface_name.to_string(),
        state: NatState::NotFelids,
        ..Nat::default()
    }
}

fn elastic(endpoint: &LocalEndpoint, external: IpAddr) -> Nat {
    let mut addresses = endpoint.addresses.iter();
    let internal = addresses.find(|address| address.is_ipv4() == external.is_ipv4());
    Nat {
        external: external.to_string(),
        internal: internal.map_or_else(|| "-".to_owned(), ToString::to_string),
        field: NatField::AwsElasticIps,
        by: Translator::Aws,
        ..of(endpoint)
    }
}

fn host_port(endpoint: &LocalEndpoint, port: &EndpointPort) -> Option<Nat> {
    let is_v6 = port.host_ip.is_some_and(|address| address.is_ipv6());
    let mut addresses = endpoint.addresses.iter();
    let internal = addresses.find(|address| address.is_ipv6() == is_v6);
    Some(Nat {
        external: with_port(port.host_ip, port.host_port?),
        internal: with_port(internal.or(endpoint.addresses.first()).copied(), port.port),
        protocol: Some(port.protocol.to_string()),
        field: NatField::Ports,
        by: Translator::Portmap,
        ..of(endpoint)
    })
}

/// Returns a socket address, whose port is written behind the address.
fn with_port(address: Option<IpAddr>, port: u16) -> String {
    match address {
        None => format!("*:{port}"),
        Some(IpAddr::V4(address)) => format!("{address}:{port}"),
        Some(IpAddr::V6(address)) => format!("[{address}]:{port}"),
    }
}

/// Counts the flows of each translation.
fn count_flows(
    keys: impl Iterator<Item = NatKey>,
    source: &dyn FlowSource,
) -> Result<BTreeMap<NatKey, u64>, KernelError> {
    let mut counts: BTreeMap<NatKey, u64> = keys.map(|key| (key, 0)).collect();
    if counts.is_empty() {
        return Ok(counts);
    }
    source.flows(&mut |flow| {
        let [original, reply] = [flow.original_nat, flow.reply_nat].map(|shown| (shown.index, shown.id));
        // A workload that talks to itself has one address at both ends.
        let second = (original != reply).then_some(reply);
        for end in std::iter::once(original).chain(second) {
            if let Some(count) = counts.get_mut(&end) {
                *count += 1;
            }
        }
    })?;
    Ok(counts)
}
