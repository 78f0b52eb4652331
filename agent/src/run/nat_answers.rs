//! What the servers are told of translations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felid_compile::nat::Claim;
use felid_dataplane::kernel::NatFlows;
use felid_model::resolved::LocalEndpoint;

use crate::api::{self, Nat};

use super::dataplane::Dataplane;
use super::flows::{ShownAddresses, protocol_name};
use super::handle::{Refusal, Reply};
use super::pipeline::Pipeline;

/// A socket address, whose port is written behind the address.
fn with_port(address: Option<IpAddr>, port: u16) -> String {
    match address {
        None => format!("*:{port}"),
        Some(IpAddr::V4(address)) => format!("{address}:{port}"),
        Some(IpAddr::V6(address)) => format!("[{address}]:{port}"),
    }
}

impl<D: Dataplane> Pipeline<D> {
    /// Those in force; none if they cannot be read, which is logged.
    fn nats_in_force(&self) -> BTreeMap<IpAddr, NatFlows> {
        self.dataplane.nats().unwrap_or_else(|error| {
            tracing::warn!("translations cannot be read: {error}");
            BTreeMap::new()
        })
    }

    pub(super) fn nat_counts(&self) -> api::NatCounts {
        api::NatCounts {
            in_force: self.nats_in_force().len(),
            conflicts: self.nats.conflicts.len(),
        }
    }

    /// What flows refer to.
    pub(super) fn shown_addresses(&self) -> ShownAddresses {
        let nats = self.nats_in_force();
        nats.into_iter()
            .map(|(external, nat)| ((nat.index, nat.id), external))
            .collect()
    }

    /// Brings the metrics up to date.
    pub(super) fn sample_nats(&mut self) {
        let nats = self.nats_in_force();
        let now = nats.values().map(|nat| nat.flows).sum::<u64>() + self.dataplane.ended_nat_flows();
        let gained = now.saturating_sub(self.nats.counted);
        self.nats.counted = now.max(self.nats.counted);
        self.metrics.set_nat(nats.len(), self.nats.conflicts.len(), gained);
        self.metrics
            .set_table("nats", nats.len(), felid_common::MAX_NATS as usize);
    }

    /// Lists translations; flows are counted on a thread of their own: a full table takes a while.
    pub(super) fn list_nats(&self, reply: Reply<Vec<Nat>>) {
        let in_force = self.nats_in_force();
        let mut list: Vec<(Option<(u32, u32)>, Nat)> = Vec::new();
        for endpoint in self.calc.endpoints() {
            self.nats_of(endpoint, &in_force, &mut list);
        }
        list.sort_by(|(_, a), (_, b)| {
            let rank = |nat: &Nat| {
                (
                    nat.external.parse::<IpAddr>().ok(),
                    nat.external.clone(),
                    nat.internal.clone(),
                )
            };
            (&a.by != "felid", rank(a), &a.endpoint).cmp(&(&b.by != "felid", rank(b), &b.endpoint))
        });
        let source = self.dataplane.flows();
        tokio::task::spawn_blocking(move || {
            let mut live: BTreeMap<(u32, u32), u64> = list.iter().filter_map(|(key, _)| Some(((*key)?, 0))).collect();
            let counted = if live.is_empty() {
                Ok(())
            } else {
                source.flows(&mut |flow| {
                    let ends = [flow.original_nat, flow.reply_nat].map(|shown| (shown.index, shown.id));
                    for (place, end) in ends.iter().enumerate() {
                        // A workload that talks to itself has one address at both ends.
                        if place == 1 && ends.first() == Some(end) {
                            continue;
                        }
                        if let Some(count) = live.get_mut(end) {
                            *count += 1;
                        }
                    }
                })
            };
            let answer = counted.map_err(Refusal::Failed).map(|()| {
                let nats = list.into_iter().map(|(key, nat)| Nat {
                    flows: key.and_then(|key| live.get(&key).copied()),
                    ..nat
                });
                nats.collect()
            });
            drop(reply.send(answer));
        });
    }

    fn nats_of(
        &self,
        endpoint: &LocalEndpoint,
        in_force: &BTreeMap<IpAddr, NatFlows>,
        list: &mut Vec<(Option<(u32, u32)>, Nat)>,
    ) {
        let id = self.planner.endpoint(&endpoint.key).map(|status| status.id);
        let nat = |external: String, internal: String, field: &str, by: &str| Nat {
            external,
            internal,
            namespace: endpoint.key.namespace.as_deref().unwrap_or_default().to_owned(),
            endpoint: endpoint.key.name.to_string(),
            interface: endpoint.interface_name.to_string(),
            field: field.to_owned(),
            by: by.to_owned(),
            state: "not felid's".to_owned(),
            ..Nat::default()
        };
        let mut asked = endpoint.ip_nats.clone();
        asked.sort();
        asked.dedup();
        for asked in asked {
            let claim = Claim {
                external: asked.external,
                internal: asked.internal,
                endpoint: endpoint.key.clone(),
            };
            let found = in_force.get(&asked.external);
            let found = found.filter(|nat| nat.mapping.internal == asked.internal && Some(nat.mapping.endpoint) == id);
            let conflict = self.nats.conflicts.get(&claim);
            let (state, reason) = match (found, conflict) {
                (Some(_), _) => ("in force", None),
                (None, Some(conflict)) => ("conflict", Some(conflict.to_string())),
                (None, None) if !self.settings.floating_ips => ("disabled", Some("floatingIPs is Disabled".to_owned())),
                (None, None) => ("pending", None),
            };
            let one = Nat {
                state: state.to_owned(),
                reason,
                flows_total: found.map(|nat| nat.flows),
                ..nat(
                    asked.external.to_string(),
                    asked.internal.to_string(),
                    "ipNATs",
                    "felid",
                )
            };
            list.push((found.map(|nat| (nat.index, nat.id)), one));
        }
        for elastic in self.nats.elastic.get(&endpoint.key).into_iter().flatten() {
            let own = endpoint.addresses.iter().find(|own| own.is_ipv4() == elastic.is_ipv4());
            let internal = own.map_or_else(|| "-".to_owned(), ToString::to_string);
            list.push((None, nat(elastic.to_string(), internal, "awsElasticIPs", "AWS")));
        }
        for port in &endpoint.ports {
            let Some(host_port) = port.host_port else { continue };
            let is_v6 = port.host_ip.is_some_and(|address| address.is_ipv6());
            let own = endpoint.addresses.iter().find(|own| own.is_ipv6() == is_v6);
            let internal = with_port(own.or(endpoint.addresses.first()).copied(), port.port);
            let one = Nat {
                protocol: Some(protocol_name(port.protocol)),
                ..nat(with_port(port.host_ip, host_port), internal, "ports", "portmap")
            };
            list.push((None, one));
        }
    }
}
