//! What the planner tells the dataplane to do: one switch of the epoch.
//!
//! The dataplane carries a transaction out in this order:
//!
//! 1. load `new_programs`. If one does not load, unload the others and tell
//!    [`Planner::aborted`](crate::planner::Planner::aborted). The same goes for failures of the
//!    next steps up to the flip, once everything that was written is undone;
//! 2. store `next_endpoint_id` where a restarted agent finds it, so that ids are never used twice;
//! 3. write `classes`, then every map entry with the old class in the active bank and the new one
//!    in the idle bank, in any order;
//! 4. write the records of new endpoints, set the idle bank of the program array, zero the counters
//!    in `new_counters` (no program of the active bank uses any of these);
//! 5. flip the epoch; wait a grace period: until it ends, packets may still use the bank that was
//!    active;
//! 6. raise the generations of the directions to be revoked;
//! 7. write every entry with the new class in both banks and delete those that are gone, in any
//!    order; set the other bank of the program array;
//! 8. free the records of endpoints that are gone, unload `old_programs`, forget `old_counters`;
//! 9. tell [`Planner::committed`](crate::planner::Planner::committed): what waited may be used
//!    again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, NamedPortMember};
use ipnet::IpNet;

use crate::program::Program;
pub use crate::types::{CounterName, EndpointId};

/// The identity of a loaded program. The planner assigns it, and never uses it again while the
/// agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u64);

/// Everything that one switch of the epoch changes in the kernel. What stays as it is, is not in
/// it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    /// New class rows: the class, and its words of bits. All rows have the width that the planner
    /// was made with.
    pub classes: Vec<(u32, Arc<[u64]>)>,
    /// The entries of single addresses.
    pub peers: BTreeMap<IpAddr, Change<PeerEntry>>,
    /// The entries of prefixes.
    pub nets: BTreeMap<IpNet, Change<u32>>,
    /// The entries of named ports.
    pub named_ports: BTreeMap<NamedPortMember, Change<u32>>,
    /// Programs to load, each in the first transaction that uses it.
    pub new_programs: BTreeMap<ProgramId, Arc<Program>>,
    /// The endpoints that are new, changed or gone.
    pub endpoints: BTreeMap<EndpointId, EndpointChange>,
    /// Programs that nothing uses any more once this transaction is complete. They are unloaded
    /// then.
    pub old_programs: Vec<ProgramId>,
    /// The names of policy counters that this transaction introduces, by index. Their elements
    /// start at zero.
    pub new_counters: BTreeMap<u32, CounterName>,
    /// The indexes of counters that nothing counts with any more once this transaction is complete.
    pub old_counters: Vec<u32>,
    /// The id that the next new endpoint would get after this transaction. It never goes back.
    pub next_endpoint_id: u32,
}

impl Transaction {
    /// Returns whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
            && self.peers.is_empty()
            && self.nets.is_empty()
            && self.named_ports.is_empty()
            && self.new_programs.is_empty()
            && self.endpoints.is_empty()
            && self.old_programs.is_empty()
            && self.new_counters.is_empty()
            && self.old_counters.is_empty()
    }
}

/// An entry before and after a transaction. What lookups in the active bank must go on finding is
/// in `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// The value in the active bank while the transaction is under way. Where the entry did not
    /// exist, it is what the covering prefixes give.
    pub before: T,
    /// The value in the idle bank, and in both banks afterwards.
    pub after: T,
    /// Whether the entry stays once both banks are the same.
    pub keep: bool,
}

/// An entry of `peers_v4` or `peers_v6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    /// The class of the address.
    pub class: u32,
    /// The local endpoint that has this address. It is not banked: that of `after` counts from the
    /// start.
    pub endpoint: Option<EndpointId>,
    /// Whether the address is the host's own. It is not banked either.
    pub host: bool,
}

/// What a transaction does to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointChange {
    /// The endpoint is new, or has changed.
    Set(EndpointPlan),
    /// The endpoint is gone: its interface is closed, and its record is freed after the grace
    /// period.
    Gone {
        /// Identity of its record; `None` if a previous run left it behind and no record names it.
        key: Option<ResourceKey>,
    },
}

/// An endpoint as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPlan {
    /// The endpoint as the calculation says it.
    pub endpoint: Arc<LocalEndpoint>,
    /// The program that judges what the workload sends.
    pub egress: ProgramId,
    /// The program that judges what the workload receives.
    pub ingress: ProgramId,
    /// Whether flows that the old egress policy judged must be judged again. It is never set for an
    /// endpoint whose id is new.
    pub revoke_egress: bool,
    /// Whether flows that the old ingress policy judged must be judged again. It is never set for
    /// an endpoint whose id is new.
    pub revoke_ingress: bool,
}
