//! The records of endpoints: what the programs read of each, and its generations.

use std::net::Ipv4Addr;

use felid_common::{
    EGRESS, ENDPOINT_CHECK_MAC, ENDPOINT_DHCP, ENDPOINT_REDIRECTABLE, ENDPOINT_SPOOFS, Endpoint, INGRESS, MAX_ENDPOINTS,
};
use felid_compile::planner::identity;
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, Transaction};

use super::Endpoints;
use crate::error::{KernelError, Result};
use crate::kernel::tables::words;

/// Gateway of IPv4 workloads whose record names none.
const DEFAULT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

impl Endpoints {
    /// An error if a record would lie outside the table or replace another one's.
    pub(crate) fn check(&self, transaction: &Transaction) -> Result<()> {
        for id in transaction.endpoints.keys() {
            if id.index == 0 || id.index >= MAX_ENDPOINTS || id.id == 0 {
                return Err(KernelError::Inconsistent(format!("endpoint {} at {}", id.id, id.index)));
            }
            match self.records.get(&id.index) {
                Some(record) if record.id != 0 && record.id != id.id => {
                    let (index, old) = (id.index, record.id);
                    return Err(KernelError::Inconsistent(format!(
                        "record {index} still belongs to endpoint {old}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the records of new and changed endpoints, generations as they are. A new one becomes
    /// valid last.
    pub(crate) fn stage(&mut self, transaction: &Transaction) -> Result<()> {
        let mut new = Vec::new();
        for (&id, change) in &transaction.endpoints {
            let EndpointChange::Set(plan) = change else { continue };
            let old = self.records.get(&id.index).copied().filter(|record| record.id == id.id);
            let record = self.record(id, plan, old.as_ref());
            if old.is_none() {
                self.records.want(id.index, Some(Endpoint { id: 0, ..record }));
                new.push((id.index, record));
            } else {
                self.records.want(id.index, Some(record));
            }
        }
        self.records.flush()?;
        for (index, record) in new {
            self.records.want(index, Some(record));
        }
        self.records.flush()
    }

    /// After the grace period: generations rise, records that are gone become free.
    pub(crate) fn finish(&mut self, transaction: &Transaction) {
        for (id, change) in &transaction.endpoints {
            let Some(record) = self.records.get(&id.index).copied().filter(|record| record.id == id.id) else {
                continue;
            };
            match change {
                EndpointChange::Set(plan) => {
                    let mut raised = record;
                    if plan.revoke_egress {
                        raised.egress_generation = next_generation(record.egress_generation);
                    }
                    if plan.revoke_ingress {
                        raised.ingress_generation = next_generation(record.ingress_generation);
                    }
                    self.records.want(id.index, Some(raised));
                }
                EndpointChange::Gone { .. } => self.records.want(id.index, Some(Endpoint::default())),
            }
        }
    }

    /// Raises generations of all endpoints, in the directions whose bits are set.
    pub(crate) fn raise(&mut self, directions: u32) {
        let records: Vec<(u32, Endpoint)> = self.records().map(|(index, record)| (index, *record)).collect();
        for (index, _) in records {
            let Some(mut record) = self.records.get(&index).copied() else {
                continue;
            };
            if directions & 1 << EGRESS != 0 {
                record.egress_generation = next_generation(record.egress_generation);
            }
            if directions & 1 << INGRESS != 0 {
                record.ingress_generation = next_generation(record.ingress_generation);
            }
            self.records.want(index, Some(record));
        }
    }

    /// The record of an endpoint, from its plan and its interface.
    fn record(&self, id: EndpointId, plan: &EndpointPlan, old: Option<&Endpoint>) -> Endpoint {
        let endpoint = &plan.endpoint;
        let state = self.interface_of(id, plan);
        let mut flags = 0;
        let mac = endpoint.mac.or_else(|| state.and_then(|state| state.peer?.mac));
        if endpoint.mac.is_some() {
            flags |= ENDPOINT_CHECK_MAC;
        }
        if !endpoint.allow_spoofed_source_prefixes.is_empty() {
            flags |= ENDPOINT_SPOOFS;
        }
        if self.is_virtual_machine(&endpoint.interface_name) {
            flags |= ENDPOINT_DHCP;
        }
        if let (Some(state), Some(_)) = (state, mac)
            && state.peer.is_some()
            && self.foreign.get(&state.ifindex).is_some_and(|foreign| !foreign.any())
        {
            flags |= ENDPOINT_REDIRECTABLE;
        }
        let gateway = endpoint.ipv4_gateway.unwrap_or(DEFAULT_GATEWAY);
        Endpoint {
            id: id.id,
            ifindex: state.map_or(0, |state| state.ifindex),
            flags,
            mtu: state.map_or(0, |state| state.mtu),
            egress_generation: old.map_or(1, |old| old.egress_generation),
            ingress_generation: old.map_or(1, |old| old.ingress_generation),
            mac: mac.unwrap_or_default(),
            host_mac: state.and_then(|state| state.mac).unwrap_or_default(),
            gateway_v4: u32::from_ne_bytes(gateway.octets()),
            gateway_v6: endpoint.ipv6_gateway.map_or([0; 4], |gateway| words(gateway.octets())),
            identity: match old {
                Some(old) => old.identity,
                None => identity(&endpoint.key, &endpoint.interface_name),
            },
            next_endpoint_id: 0,
            next_nat_id: 0,
        }
    }

    /// Writes what interfaces changed about the records.
    pub(super) fn refresh_records(&mut self) -> Result<()> {
        let ids: Vec<EndpointId> = self.live.keys().copied().collect();
        for id in ids {
            self.refresh_record(id);
        }
        self.records.flush()
    }

    pub(super) fn refresh_record(&mut self, id: EndpointId) {
        let old = self.records.get(&id.index).copied().filter(|record| record.id == id.id);
        if let (Some(plan), Some(old)) = (self.live.get(&id), old) {
            let record = self.record(id, plan, Some(&old));
            if record != old {
                self.records.want(id.index, Some(record));
            }
        }
    }
}

/// The generation after this one. 0 and the maximum have meanings of their own; four thousand
/// million changes of one endpoint's policy are not to be expected, but must not end in "always
/// valid".
const fn next_generation(generation: u32) -> u32 {
    if generation >= u32::MAX - 1 { 1 } else { generation + 1 }
}

#[cfg(test)]
mod tests {
    use super::next_generation;

    #[test]
    fn generations_skip_the_reserved_ones() {
        assert_eq!(next_generation(1), 2);
        assert_eq!(next_generation(u32::MAX - 2), u32::MAX - 1);
        assert_eq!(next_generation(u32::MAX - 1), 1);
    }
}
