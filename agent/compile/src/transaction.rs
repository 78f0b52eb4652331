//! What the planner tells the dataplane to do: one switch of the epoch.
//!
//! The dataplane carries a transaction out in this order:
//!
//! 1. load `new_programs`. If one does not load, unload the others and tell
//!    [`Planner::abandoned`](crate::planner::Planner::abandoned). The same goes for failures of the next steps up to the flip, once
//!    everything that was written is undone;
//! 2. store `next_endpoint_id` where a restarted agent finds it, so that ids are never used twice;
//! 3. write `classes` and the records of new endpoints, zero the counters in `new_counters`;
//! 4. write every map entry with the old class in the active bank and the new one in the idle bank, in any order; set the idle
//!    bank of the program array;
//! 5. flip the epoch; wait a grace period: until it ends, packets may still use the bank that was active;
//! 6. raise the generations of the directions to be revoked;
//! 7. write every entry with the new class in both banks and delete those that are gone, in any order; set the other bank of the
//!    program array;
//! 8. free the records of endpoints that are gone, unload `old_programs`, forget `old_counters`;
//! 9. tell [`Planner::retired`](crate::planner::Planner::retired): what waited may be used again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, NamedPortMember, ResolvedAction};
use ipnet::IpNet;

use crate::program::Program;

/// Index of an element of the endpoint table, with the id that lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// Index, 1 to `MAX_ENDPOINTS - 1`.
    pub index: u32,
    /// Never reused.
    pub id: u32,
}

/// Identity of a loaded program, assigned by the planner, never reused while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub u64);

/// One switch of the epoch. Only what changes is in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transaction {
    /// New class rows: class -> words of bits (all rows have the width the planner was made with).
    pub classes: Vec<(u32, Arc<[u64]>)>,
    /// Single addresses.
    pub peers: BTreeMap<IpAddr, Change<PeerEntry>>,
    /// Prefixes.
    pub nets: BTreeMap<IpNet, Change<u32>>,
    /// Named ports.
    pub named_ports: BTreeMap<NamedPortMember, Change<u32>>,
    /// Programs to load. A program that is in no transaction before is in `new_programs` of the first that uses it.
    pub new_programs: BTreeMap<ProgramId, Arc<Program>>,
    /// Endpoints that are new, changed or gone.
    pub endpoints: BTreeMap<EndpointId, EndpointChange>,
    /// Programs that nothing uses any more once this transaction is complete: unload them then.
    pub old_programs: Vec<ProgramId>,
    /// Names of policy counters that this transaction introduces: counter index -> name. Their elements start at zero.
    pub new_counters: BTreeMap<u32, CounterName>,
    /// Counters that nothing counts with any more once this transaction is complete.
    pub old_counters: Vec<u32>,
    /// The id that the next new endpoint would get after this transaction; never goes back.
    pub next_endpoint_id: u32,
}

impl Transaction {
    /// Whether there is nothing in it to be done.
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

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterName {
    /// Tier, or `profile`, or empty at the end of everything.
    pub tier: Arc<str>,
    /// The policy or profile as `Kind/[namespace/]name`, `default-deny`, `end-of-tier`, `closed`.
    pub policy: Arc<str>,
    /// What happened to the packets that it counts: Allow or Deny; what would have happened, Pass too, where `staged` says so.
    pub action: ResolvedAction,
    /// It counts what a staged policy would have done.
    pub staged: bool,
}

/// An entry before and after; what lookups in the active bank must go on finding is in `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<T> {
    /// Value in the active bank while this transaction is under way. Where the entry did not exist: what the covering prefixes give.
    pub before: T,
    /// Value in the idle bank, and in both afterwards.
    pub after: T,
    /// Whether the entry stays once both banks are the same.
    pub keep: bool,
}

/// An entry of `peers_v4`/`peers_v6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    /// Class.
    pub class: u32,
    /// Local endpoint with this address. Not banked: `after` counts from the start.
    pub endpoint: Option<EndpointId>,
    /// The address is the host's own. Not banked.
    pub host: bool,
}

/// What happens to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointChange {
    /// New or changed.
    Set(EndpointPlan),
    /// Gone: close its interface, free its record after the grace period.
    Gone {
        /// Identity of its record; `None` if a previous run left it behind and no record names it.
        key: Option<ResourceKey>,
    },
}

/// An endpoint as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPlan {
    /// The endpoint.
    pub endpoint: Arc<LocalEndpoint>,
    /// Its egress program.
    pub egress: ProgramId,
    /// Its ingress program.
    pub ingress: ProgramId,
    /// Flows judged by the old egress policy must be judged again. Never set for an endpoint whose id is new.
    pub revoke_egress: bool,
    /// Likewise ingress.
    pub revoke_ingress: bool,
}
