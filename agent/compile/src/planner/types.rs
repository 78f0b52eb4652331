//! What goes into the planner besides deltas, and what it says about itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, NamedPortMember};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::transaction::{EndpointId, PeerEntry, ProgramId};
use crate::types::Direction;

/// The sizes of the pinned maps, and how many of each kind can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerOptions {
    /// How many sets loaded programs can test at one time. Rows of `classes` have a bit for each,
    /// rounded up to words of 64 bits.
    pub max_slots: u32,
    /// The number of elements of `classes`. Class 0 is the empty one.
    pub max_classes: u32,
    /// The number of elements of `endpoints`. Index 0 is never used.
    pub max_endpoints: u32,
    /// The number of elements of `counters`. Index 0 collects what finds no index of its own.
    pub max_counters: u32,
    /// How many entries `peers_v4` can hold.
    pub peers_v4: usize,
    /// How many entries `peers_v6` can hold.
    pub peers_v6: usize,
    /// How many entries `nets_v4` can hold.
    pub nets_v4: usize,
    /// How many entries `nets_v6` can hold.
    pub nets_v6: usize,
    /// How many entries `named_ports` can hold.
    pub named_ports: usize,
}

impl Default for PlannerOptions {
    fn default() -> Self {
        Self {
            max_slots: 1024,
            max_classes: 16_384,
            max_endpoints: felid_common::MAX_ENDPOINTS,
            max_counters: felid_common::MAX_COUNTERS,
            peers_v4: 131_072,
            peers_v6: 131_072,
            nets_v4: 1_048_576,
            nets_v6: 1_048_576,
            named_ports: 65_536,
        }
    }
}

impl PlannerOptions {
    /// Returns how many words of 64 bits a class row has.
    pub fn words(&self) -> usize {
        self.max_slots.div_ceil(64).max(1) as usize
    }
}

/// What a previous run left in the pinned maps. The default is what fresh maps hold: nothing.
///
/// Where the two banks differ (the agent died in a transaction), the active one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The [`crate::transaction::Transaction::next_endpoint_id`] of the last transaction.
    pub next_endpoint_id: u32,
    /// The records of endpoints in use, by their [`identity`].
    pub endpoints: BTreeMap<[u32; 4], EndpointId>,
    /// Every entry of `peers_v4` and `peers_v6`, with its class in the active bank.
    pub peers: BTreeMap<IpAddr, PeerEntry>,
    /// Every entry of `nets_v4` and `nets_v6`, with its class in the active bank.
    pub nets: BTreeMap<IpNet, u32>,
    /// Every entry of `named_ports`, with its class in the active bank.
    pub named_ports: BTreeMap<NamedPortMember, u32>,
}

/// Why there is no transaction. Nothing changes in the kernel, and a plan is tried again once
/// something has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Something does not fit. What goes away counts until its transaction is complete.
    #[error("{map} is too small: {needed} needed, room for {available}")]
    Capacity {
        /// Name of the map, or `slots`.
        map: &'static str,
        /// How many would be needed while the transaction is under way.
        needed: usize,
        /// How many there can be.
        available: usize,
    },
    /// All 32-bit endpoint ids have been used.
    #[error("endpoint ids are used up")]
    Ids,
    /// Not even a program that denies everything could be had.
    #[error("no program to close endpoints with: {0}")]
    Closed(Arc<str>),
}

/// A policy that is not in force as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {} policy not in force ({}): {reason}", match .direction { Direction::Egress => "egress", Direction::Ingress => "ingress" },
    if *.closed { "all is denied" } else { "the old one stays" })]
pub struct PolicyFailure {
    /// The endpoint whose policy it is.
    pub endpoint: ResourceKey,
    /// The direction of the traffic that the policy judges.
    pub direction: Direction,
    /// Whether everything is denied in this direction; if not, the policy before stays in force.
    pub closed: bool,
    /// Why it is not in force, for people.
    pub reason: Arc<str>,
}

/// What is in force for an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    /// Its element of the kernel's endpoint table, and its id.
    pub id: EndpointId,
    /// The endpoint as it is in force.
    pub endpoint: Arc<LocalEndpoint>,
    /// The program that judges what the workload sends.
    pub egress: ProgramId,
    /// The program that judges what the workload receives.
    pub ingress: ProgramId,
}

/// The sizes of what is planned, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many sets have a bit in class rows.
    pub slots: usize,
    /// How many classes there are, without the empty one.
    pub classes: usize,
    /// How many programs there are.
    pub programs: usize,
    /// How many directions of endpoints use them: twice the number of endpoints.
    pub program_users: usize,
    /// How many endpoints there are.
    pub endpoints: usize,
    /// How many entries `peers_v4` has.
    pub peers_v4: usize,
    /// How many entries `peers_v6` has.
    pub peers_v6: usize,
    /// How many entries `nets_v4` has.
    pub nets_v4: usize,
    /// How many entries `nets_v6` has.
    pub nets_v6: usize,
    /// How many entries `named_ports` has.
    pub named_ports: usize,
    /// How many policy counters are in use.
    pub counters: usize,
    /// Whether no counter is left, so that some policies may be counted at index 0.
    pub counters_full: bool,
}

/// Returns that by which a restarted agent recognises an endpoint's record: the first 16 bytes of
/// the SHA-256 of its key and its interface's name. It is the same in every version of felid.
pub fn identity(key: &ResourceKey, interface_name: &str) -> [u32; 4] {
    let mut hash = Sha256::new();
    let kind = key.kind.to_string();
    for part in [
        &kind,
        key.namespace.as_deref().unwrap_or_default(),
        &key.name,
        interface_name,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    words
}
