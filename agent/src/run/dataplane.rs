//! The seam between the pipeline and the kernel, so that the pipeline can be tested without one.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use felid_compile::transaction::{ProgramId, Transaction};
use felid_dataplane::kernel::{self, Conntrack, EndpointState, FlowCounts, FlowInfo, Settings, SweepStats};
use felid_dataplane::{Kernel, KernelError, LinkState};

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

/// What the pipeline asks of the kernel. Calls block for as long as system calls take.
pub trait Dataplane: Send + 'static {
    /// Puts a transaction in force. What went wrong at single interfaces is returned: they are closed.
    fn apply(&mut self, transaction: &Transaction) -> Result<Vec<String>, ApplyError>;
    /// The wait between `apply` and `complete`.
    fn grace(&self) -> Grace;
    /// Second half; to be repeated until it succeeds.
    fn complete(&mut self, transaction: &Transaction) -> Result<(), String>;
    /// Number of the epoch in force.
    fn epoch(&self) -> u32;
    /// Changes the programs' settings.
    fn set_settings(&mut self, settings: Settings) -> Result<(), String>;
    /// Changes the prefixes of workload interfaces.
    fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Vec<String>;
    /// All interfaces of the host. What went wrong is returned.
    fn set_links(&mut self, links: Vec<LinkState>) -> Vec<String>;
    /// One interface that is new or changed.
    fn set_link(&mut self, link: LinkState) -> Vec<String>;
    /// One interface that is gone.
    fn link_gone(&mut self, ifindex: u32) -> Vec<String>;
    /// Where every endpoint stands.
    fn endpoints(&self) -> Vec<EndpointState>;
    /// Counters.
    fn counted(&self) -> Result<Counted, String>;
    /// The connection tables.
    fn flows(&self) -> Arc<dyn FlowSource>;
    /// Sizes of tables, for metrics.
    fn capacities(&self) -> kernel::Capacities;
}

fn texts(errors: Vec<KernelError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

impl Dataplane for Kernel {
    fn apply(&mut self, transaction: &Transaction) -> Result<Vec<String>, ApplyError> {
        match Kernel::apply(self, transaction) {
            Ok(flip) => Ok(texts(flip.link_errors)),
            Err(error) => {
                let programs = match &error {
                    KernelError::Programs(refused) => refused
                        .iter()
                        .map(|refusal| (refusal.id, refusal.to_string()))
                        .collect(),
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
        Kernel::complete(self, transaction)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    fn epoch(&self) -> u32 {
        Kernel::epoch(self)
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), String> {
        Kernel::set_settings(self, settings).map_err(|error| error.to_string())
    }

    fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Vec<String> {
        vec![format!(
            "prefixes {prefixes:?} of workload interfaces hold after the next start of the agent"
        )]
    }

    fn set_links(&mut self, links: Vec<LinkState>) -> Vec<String> {
        texts(Kernel::set_links(self, links))
    }

    fn set_link(&mut self, link: LinkState) -> Vec<String> {
        texts(Kernel::set_link(self, link))
    }

    fn link_gone(&mut self, ifindex: u32) -> Vec<String> {
        texts(Kernel::link_gone(self, ifindex))
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        Kernel::endpoints(self)
    }

    fn counted(&self) -> Result<Counted, String> {
        let text = |error: KernelError| error.to_string();
        Ok(Counted {
            policies: self.counters().map_err(text)?,
            drops: self
                .drops()
                .map_err(text)?
                .into_iter()
                .map(|(drop, total)| (drop.name(), total))
                .collect(),
            events: self
                .events()
                .map_err(text)?
                .into_iter()
                .map(|(event, total)| (event.name(), total))
                .collect(),
        })
    }

    fn flows(&self) -> Arc<dyn FlowSource> {
        self.conntrack()
    }

    fn capacities(&self) -> kernel::Capacities {
        Kernel::capacities(self)
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
