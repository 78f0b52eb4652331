//! The seam between the pipeline and the kernel, so that the pipeline can be tested without one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use felid_compile::nat::Mappings;
use felid_compile::transaction::{ProgramId, Transaction};
use felid_dataplane::kernel::{
    self, Capacities, Conntrack, EndpointState, FlowCounts, FlowInfo, NatFlows, Settings, SweepStats,
};
use felid_dataplane::net::Event;
use felid_dataplane::{Dataplane as Real, DataplaneError, KernelError};
use ipnet::IpNet;

/// A wait for the end of a grace period.
pub type Grace = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Why a transaction is not in force; nothing of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyError {
    /// For people.
    pub reason: String,
    /// Programs that the kernel refused, if that was it.
    pub programs: BTreeMap<ProgramId, String>,
}

/// Totals of the kernel's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets by policy counter.
    pub policies: BTreeMap<u32, u64>,
    /// Packets dropped by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Other events.
    pub events: BTreeMap<&'static str, u64>,
}

/// The connection tables; usable from any thread, whatever the pipeline does.
pub trait FlowSource: Send + Sync {
    /// Calls `seen` with every flow.
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), String>;
    /// Ends flows that have expired.
    fn sweep(&self) -> Result<SweepStats, String>;
    /// Counts flows.
    fn counts(&self) -> Result<FlowCounts, String>;
}

/// What came of something that happened on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The host's own addresses are not what they were.
    pub host_addresses: bool,
    /// What could not be done at interfaces: they are closed.
    pub interfaces: Vec<String>,
    /// What could not be done to the host's network, beside what [`Dataplane::network_problems`] knows.
    pub network: Vec<String>,
}

/// What the pipeline asks of the kernel and of the host's network.
pub trait Dataplane: Send + 'static {
    /// Puts a transaction in force. What went wrong at single interfaces and in the host's network is returned.
    fn apply(&mut self, transaction: &Transaction) -> impl Future<Output = Result<Seen, ApplyError>>;
    /// The wait between `apply` and `complete`.
    fn grace(&self) -> Grace;
    /// Second half; to be repeated until it succeeds.
    fn complete(&mut self, transaction: &Transaction) -> Result<(), String>;
    /// The next thing that happens on the host; `None` = nothing will be told any more. May be dropped and asked again.
    fn event(&mut self) -> impl Future<Output = Option<Event>>;
    /// Acts on what happened, and on what has happened since.
    fn handle(&mut self, event: Event) -> impl Future<Output = Seen>;
    /// Looks at everything again.
    fn refresh(&mut self) -> impl Future<Output = Seen>;
    /// Addresses of the host itself.
    fn host_addresses(&self) -> BTreeSet<IpAddr>;
    /// Routes, neighbours and sysctls that cannot be set now, by interface.
    fn network_problems(&self) -> BTreeMap<String, Vec<String>>;
    /// Number of the epoch in force.
    fn epoch(&self) -> u32;
    /// Changes the programs' settings.
    fn set_settings(&mut self, settings: Settings) -> Result<(), String>;
    /// Ends translations that are not among these; before a transaction takes something away that they need.
    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), String>;
    /// Makes these translations those in force, while no transaction is under way. The external addresses for which there is no room,
    /// and what could not be done to the host's network.
    fn set_nats(&mut self, wanted: &Mappings) -> impl Future<Output = Result<(BTreeSet<IpAddr>, Seen), String>>;
    /// Whether the host answers ARP and neighbour discovery for external addresses; follows with the next call of `set_nats`.
    fn set_announcement(&mut self, wanted: bool);
    /// Networks where workloads show their own addresses.
    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), String>;
    /// Translations in force, by external address.
    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, String>;
    /// Flows that began with translations that have ended.
    fn ended_nat_flows(&self) -> u64;
    /// Changes the prefixes of workload interfaces.
    fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> impl Future<Output = Seen>;
    /// Where every endpoint stands.
    fn endpoints(&self) -> Vec<EndpointState>;
    /// Counters.
    fn counted(&self) -> Result<Counted, String>;
    /// The connection tables.
    fn flows(&self) -> Arc<dyn FlowSource>;
    /// Sizes of tables.
    fn capacities(&self) -> Capacities;
}

/// Sorts failures; those that stand in [`Dataplane::network_problems`] are left out.
fn seen(dataplane: &Real, host_addresses: bool, errors: Vec<DataplaneError>) -> Seen {
    let mut seen = Seen {
        host_addresses,
        ..Seen::default()
    };
    for error in errors {
        let text = error.to_string();
        match error {
            DataplaneError::Kernel(_) => seen.interfaces.push(text),
            DataplaneError::Net(_) if dataplane.problems().values().flatten().any(|known| *known == text) => {}
            DataplaneError::Net(_) => seen.network.push(text),
        }
    }
    seen
}

impl Dataplane for Real {
    async fn apply(&mut self, transaction: &Transaction) -> Result<Seen, ApplyError> {
        match Real::apply(self, transaction).await {
            Ok((flip, errors)) => {
                let mut seen = seen(self, false, errors);
                let closed = flip.link_errors.iter().map(ToString::to_string);
                seen.interfaces.splice(0..0, closed);
                Ok(seen)
            }
            Err(error) => {
                let programs = match &error {
                    KernelError::Programs(refused) => refused.iter().map(|one| (one.id, one.to_string())).collect(),
                    _ => BTreeMap::new(),
                };
                Err(ApplyError {
                    reason: error.to_string(),
                    programs,
                })
            }
        }
    }

    fn grace(&self) -> Grace {
        Box::pin(async { kernel::grace().await.map_err(|error| error.to_string()) })
    }

    fn complete(&mut self, transaction: &Transaction) -> Result<(), String> {
        Real::complete(self, transaction)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    async fn event(&mut self) -> Option<Event> {
        Real::event(self).await
    }

    async fn handle(&mut self, event: Event) -> Seen {
        let handled = Real::handle(self, event).await;
        seen(self, handled.host_addresses, handled.errors)
    }

    async fn refresh(&mut self) -> Seen {
        let handled = Real::refresh(self).await;
        seen(self, handled.host_addresses, handled.errors)
    }

    fn host_addresses(&self) -> BTreeSet<IpAddr> {
        Real::host_addresses(self).clone()
    }

    fn network_problems(&self) -> BTreeMap<String, Vec<String>> {
        self.problems()
            .iter()
            .map(|(interface, problems)| (interface.to_string(), problems.clone()))
            .collect()
    }

    fn epoch(&self) -> u32 {
        self.kernel().epoch()
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), String> {
        self.kernel_mut()
            .set_settings(settings)
            .map_err(|error| error.to_string())
    }

    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), String> {
        Real::retire_nats(self, wanted).map_err(|error| error.to_string())
    }

    async fn set_nats(&mut self, wanted: &Mappings) -> Result<(BTreeSet<IpAddr>, Seen), String> {
        let done = Real::set_nats(self, wanted).await;
        let (crowded, errors) = done.map_err(|error| error.to_string())?;
        Ok((crowded, seen(self, false, errors)))
    }

    fn set_announcement(&mut self, wanted: bool) {
        Real::set_announcement(self, wanted);
    }

    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), String> {
        self.kernel_mut()
            .set_cluster(prefixes)
            .map_err(|error| error.to_string())
    }

    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, String> {
        self.kernel().nat_flows().map_err(|error| error.to_string())
    }

    fn ended_nat_flows(&self) -> u64 {
        self.kernel().ended_nat_flows()
    }

    async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Seen {
        let handled = Real::set_interface_prefixes(self, prefixes).await;
        seen(self, handled.host_addresses, handled.errors)
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        self.kernel().endpoints()
    }

    fn counted(&self) -> Result<Counted, String> {
        let text = |error: KernelError| error.to_string();
        let kernel = self.kernel();
        Ok(Counted {
            policies: kernel.counters().map_err(text)?,
            drops: kernel
                .drops()
                .map_err(text)?
                .into_iter()
                .map(|(drop, total)| (drop.name(), total))
                .collect(),
            events: kernel
                .events()
                .map_err(text)?
                .into_iter()
                .map(|(event, total)| (event.name(), total))
                .collect(),
        })
    }

    fn flows(&self) -> Arc<dyn FlowSource> {
        self.kernel().conntrack()
    }

    fn capacities(&self) -> Capacities {
        self.kernel().capacities()
    }
}

impl FlowSource for Conntrack {
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), String> {
        Conntrack::flows(self, seen).map_err(|error| error.to_string())
    }

    fn sweep(&self) -> Result<SweepStats, String> {
        Conntrack::sweep(self).map_err(|error| error.to_string())
    }

    fn counts(&self) -> Result<FlowCounts, String> {
        Conntrack::counts(self).map_err(|error| error.to_string())
    }
}
