//! What an agent asks of a dataplane, so that an agent can be tested without a kernel.
//!
//! [`DataplaneDriver`] is four traits, one for each thing that the agent does with it: it puts
//! policy in force ([`Enforcement`]), follows what happens on the host ([`HostNetwork`]),
//! translates addresses ([`AddressTranslation`]) and tells people how things stand ([`Inspection`],
//! which changes nothing). [`Dataplane`](crate::Dataplane) is the one of a real host.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use felid_compile::nat::{HostUse, Mappings};
use felid_compile::transaction::Transaction;
use ipnet::IpNet;

use crate::error::{DataplaneError, KernelError};
use crate::kernel::{
    Capacities, Completed, Conntrack, EndpointState, FlowCounts, FlowInfo, FlowUsage, InterferenceKind, NatFlows,
    Settings, SweepStats,
};
use crate::net::Event;

/// A wait for the end of a grace period. It borrows nothing, so that other work goes on meanwhile.
pub type Grace = Pin<Box<dyn Future<Output = Result<(), KernelError>> + Send>>;

/// What a call changed on the host beside what it was asked for, and what it could not do there.
#[derive(Debug, Default)]
pub struct HostChanges {
    /// [`Inspection::host_addresses`] is not what it was.
    pub host_addresses: bool,
    /// [`Inspection::host_uses`] is not what it was.
    pub host_uses: bool,
    /// What went wrong. The rest was done; what failed is tried again by [`HostNetwork::refresh`].
    pub errors: Vec<DataplaneError>,
}

/// Totals of the kernel's packet counters since its maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketCounters {
    /// Packets judged, by the index of the policy's counter.
    pub policies: BTreeMap<u32, u64>,
    /// Packets dropped, by the reason.
    pub drops: Vec<(felid_common::DropReason, u64)>,
    /// What else the programs count, by the kind of event.
    pub events: Vec<(felid_common::Event, u64)>,
}

/// What others did to what felid needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interference {
    /// How often felid has put something right, by kind.
    pub repaired: BTreeMap<InterferenceKind, u64>,
    /// What does not stand as it shall, by the name of the interface; the empty name stands for the
    /// host as a whole.
    pub problems: BTreeMap<Arc<str>, Vec<String>>,
}

/// Puts policy and settings in force.
pub trait Enforcement {
    /// First half of a transaction: when it returns, the new state is enforced, and endpoints whose
    /// addresses or interfaces are new have their routes. What could not be done at single
    /// interfaces, which are then closed, and in the host's network is returned. After an error
    /// nothing of the transaction is in force.
    fn apply(&mut self, transaction: &Transaction) -> impl Future<Output = Result<HostChanges, KernelError>>;
    /// Returns the wait between [`Enforcement::apply`] and [`Enforcement::complete`].
    fn grace(&self) -> Grace;
    /// Second half of a transaction. After an error it has to be called again, after another grace
    /// period.
    fn complete(&mut self, transaction: &Transaction) -> Result<Completed, KernelError>;
    /// Changes the settings of the programs. After an error the old ones may hold.
    fn set_settings(&mut self, settings: Settings) -> Result<(), KernelError>;
}

/// Follows what happens on the host.
pub trait HostNetwork {
    /// Waits for the next thing that happens on the host, or that is still to be looked at. `None`
    /// says that netlink is closed and nothing will be told any more. The future may be dropped:
    /// nothing is lost.
    fn event(&mut self) -> impl Future<Output = Option<Event>>;
    /// Acts on an event, and on those that have come since.
    fn handle(&mut self, event: Event) -> impl Future<Output = HostChanges>;
    /// Looks at everything again: links, addresses, sysctls, routes and neighbours. What concerns
    /// single interfaces beside their programs follows with [`Event::Backlog`].
    fn refresh(&mut self) -> impl Future<Output = HostChanges>;
    /// Sets other prefixes of workload interfaces: interfaces that have become unknown are closed,
    /// others let go.
    fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> impl Future<Output = HostChanges>;
}

/// Translates the external addresses of endpoints.
pub trait AddressTranslation {
    /// Sets the networks where workloads show their own addresses. After an error the old ones may
    /// hold.
    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), KernelError>;
    /// Ends the translations that are not among these. It is called before a transaction takes
    /// something away that they need; their routes go with the transaction.
    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), KernelError>;
    /// Makes these translations those in force, between two transactions. Returns the external
    /// addresses for which there is no room, and what went wrong with routes.
    fn set_nats(
        &mut self,
        wanted: &Mappings,
    ) -> impl Future<Output = Result<(BTreeSet<IpAddr>, Vec<DataplaneError>), KernelError>>;
    /// Says whether the host answers ARP and neighbour discovery for external addresses from now
    /// on, in the networks of its own interfaces that they belong to. The answers follow with the
    /// next [`AddressTranslation::set_nats`].
    fn set_announcement(&mut self, wanted: bool);
}

/// Says how things stand, and changes nothing.
pub trait Inspection {
    /// Returns the names of the host's interfaces that are there; `None` if that is not known.
    fn interfaces(&self) -> Option<BTreeSet<Arc<str>>>;
    /// Returns the addresses of the host itself.
    fn host_addresses(&self) -> BTreeSet<IpAddr>;
    /// Returns the addresses that the host itself needs where they are, and what for: a workload
    /// must not get them.
    fn host_uses(&self) -> BTreeMap<IpAddr, HostUse>;
    /// Returns what cannot be set at present of routes, neighbours and sysctls, by the name of the
    /// interface.
    fn problems(&self) -> BTreeMap<Arc<str>, Vec<String>>;
    /// Returns the names of interfaces where an earlier run's programs stood and that no endpoint
    /// has claimed since: they are closed.
    fn unclaimed(&self) -> BTreeSet<Arc<str>>;
    /// Returns what others did to programs, pins and sysctls that felid needs: how often it was put
    /// right, and what does not stand now.
    fn interference(&self) -> Interference;
    /// Returns the number of the policy epoch in force.
    fn epoch(&self) -> u32;
    /// Returns where every endpoint stands.
    fn endpoints(&self) -> Vec<EndpointState>;
    /// Reads the kernel's packet counters.
    fn counters(&self) -> Result<PacketCounters, KernelError>;
    /// Returns the connection tables.
    fn flows(&self) -> Arc<dyn FlowSource>;
    /// Returns the sizes of the tables.
    fn capacities(&self) -> Capacities;
    /// Reads the translations in force, by external address.
    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, KernelError>;
    /// Returns how many flows began with translations that have ended since the agent started.
    fn ended_nat_flows(&self) -> u64;
}

/// Everything that an agent asks of a dataplane.
pub trait DataplaneDriver: Enforcement + HostNetwork + AddressTranslation + Inspection + Send + 'static {}

impl<T: Enforcement + HostNetwork + AddressTranslation + Inspection + Send + 'static> DataplaneDriver for T {}

/// The connection tables. They can be used from any thread, whatever else the dataplane does.
pub trait FlowSource: Send + Sync {
    /// Calls `seen` with every flow.
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), KernelError>;
    /// Ends the flows that have expired.
    fn sweep(&self) -> Result<SweepStats, KernelError>;
    /// Counts the flows by table, IP version and state.
    fn counts(&self) -> Result<FlowCounts, KernelError>;
    /// Returns what each endpoint has of the tables.
    fn usage(&self) -> Result<Vec<FlowUsage>, KernelError> {
        Ok(Vec::new())
    }
}

impl FlowSource for Conntrack {
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), KernelError> {
        Conntrack::flows(self, seen)
    }

    fn sweep(&self) -> Result<SweepStats, KernelError> {
        Conntrack::sweep(self)
    }

    fn counts(&self) -> Result<FlowCounts, KernelError> {
        Conntrack::counts(self)
    }

    fn usage(&self) -> Result<Vec<FlowUsage>, KernelError> {
        Conntrack::usage(self)
    }
}
