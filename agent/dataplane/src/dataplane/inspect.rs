//! How things stand, for the agent's answers and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::nat::HostUse;

use super::Dataplane;
use crate::driver::{FlowSource, Inspection, Interference, PacketCounters};
use crate::error::KernelError;
use crate::kernel::{Capacities, EndpointState, NatFlows};

impl Inspection for Dataplane {
    fn interfaces(&self) -> Option<BTreeSet<Arc<str>>> {
        Some(self.host.links.values().map(|link| link.name.clone()).collect())
    }

    fn host_addresses(&self) -> BTreeSet<IpAddr> {
        self.host_addresses.clone()
    }

    fn host_uses(&self) -> BTreeMap<IpAddr, HostUse> {
        self.uses.addresses.clone()
    }

    fn problems(&self) -> BTreeMap<Arc<str>, Vec<String>> {
        self.routing.problems.clone()
    }

    fn interference(&self) -> Interference {
        self.guard.found.clone()
    }

    fn unclaimed(&self) -> BTreeSet<Arc<str>> {
        self.kernel.unclaimed()
    }

    fn epoch(&self) -> u32 {
        self.kernel.epoch()
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        self.kernel.endpoints()
    }

    fn counters(&self) -> Result<PacketCounters, KernelError> {
        Ok(PacketCounters {
            policies: self.kernel.counters()?,
            drops: self.kernel.drops()?,
            events: self.kernel.events()?,
        })
    }

    fn flows(&self) -> Arc<dyn FlowSource> {
        self.kernel.conntrack()
    }

    fn capacities(&self) -> Capacities {
        self.kernel.capacities()
    }

    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, KernelError> {
        self.kernel.nat_flows()
    }

    fn ended_nat_flows(&self) -> u64 {
        self.kernel.ended_nat_flows()
    }
}
