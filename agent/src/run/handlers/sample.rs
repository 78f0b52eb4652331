//! Brings the metrics up to date: what changes with every packet is read only when somebody looks.

use felid_dataplane::{Inspection, PacketCounters};
use felid_model::resolved::ResolvedAction;

use crate::api::{EndpointState, Refusal};
use crate::metrics::{KernelSample, PolicySample};
use crate::text;

use super::View;
use super::status::count;

/// What counts packets of policies that have no counter of their own.
const UNCOUNTED: &str = "uncounted";

impl<D: Inspection> View<'_, D> {
    pub(super) fn sample(&self) -> Result<(), Refusal> {
        self.sample_records();
        self.sample_tables();
        let metrics = self.reporting.metrics();
        let endpoints = self.endpoints();
        for &state in EndpointState::ALL {
            metrics.condition.set_endpoints(state, count(&endpoints, state));
        }
        let nats = self.nats_in_force();
        let flows = nats.values().map(|nat| nat.flows).sum::<u64>() + self.dataplane.ended_nat_flows();
        metrics
            .condition
            .set_nat(nats.len(), self.translations.conflicts().len(), flows);
        metrics
            .condition
            .set_table("nats", nats.len(), felid_common::MAX_NATS as usize);
        let counters = self.dataplane.counters();
        let counters = counters.map_err(|error| Refusal::failed(&error))?;
        metrics.packets.sample(&KernelSample {
            drops: counters
                .drops
                .iter()
                .map(|(drop, total)| (drop.name(), *total))
                .collect(),
            events: counters
                .events
                .iter()
                .map(|(event, total)| (event.name(), *total))
                .collect(),
            policies: self.policy_samples(&counters),
        });
        Ok(())
    }

    fn sample_records(&self) {
        let calc = self.calc.stats();
        let metrics = self.reporting.metrics();
        metrics.records.active_local_endpoints.set(calc.local_endpoints as i64);
        metrics.records.active_local_policies.set(calc.active_policies as i64);
        metrics.records.active_local_selectors.set(calc.selectors as i64);
        metrics.records.cluster_workload_endpoints.set(calc.endpoints as i64);
        metrics.records.cluster_policies.set(calc.policies as i64);
        metrics.records.cluster_profiles.set(calc.profiles as i64);
        metrics.records.cluster_tiers.set(calc.tiers as i64);
    }

    fn sample_tables(&self) {
        let planner = self.planner.stats();
        let metrics = self.reporting.metrics();
        metrics.programming.programs.set(planner.programs as i64);
        metrics.programming.program_users.set(planner.program_users as i64);
        metrics.programming.epoch.set(self.dataplane.epoch().into());
        let capacities = self.dataplane.capacities();
        for (table, used, capacity) in [
            ("peers_v4", planner.peers_v4, capacities.peers),
            ("peers_v6", planner.peers_v6, capacities.peers),
            ("nets_v4", planner.nets_v4, capacities.nets),
            ("nets_v6", planner.nets_v6, capacities.nets),
            ("named_ports", planner.named_ports, capacities.named_ports),
            ("classes", planner.classes, capacities.classes),
            ("sets", planner.slots, capacities.class_bits),
            ("endpoints", planner.endpoints, felid_common::MAX_ENDPOINTS),
        ] {
            metrics.condition.set_table(table, used, capacity as usize);
        }
    }

    fn policy_samples(&self, counters: &PacketCounters) -> Vec<PolicySample> {
        let named = self.planner.counters().map(|(index, name)| PolicySample {
            index,
            tier: text::shown(&name.tier).into(),
            policy: text::shown(&name.policy).into(),
            action: name.action,
            staged: name.staged,
            total: counters.policies.get(&index).copied().unwrap_or(0),
        });
        let uncounted = counters.policies.get(&0).map(|total| PolicySample {
            index: 0,
            tier: "".into(),
            policy: UNCOUNTED.into(),
            action: ResolvedAction::Deny,
            staged: false,
            total: *total,
        });
        named.chain(uncounted).collect()
    }
}
