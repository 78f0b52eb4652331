//! The maps that banked lookups read: what stands in them, and what a plan changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use felid_model::resolved::NamedPortMember;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::addresses::AddressTable;
use super::classes::Classes;
use super::sets::Sets;
use super::types::{Adopted, PlanError, PlannerOptions, Stats};
use crate::transaction::{Change, EndpointId, PeerEntry, Transaction};

/// Whether a prefix is one address.
pub(super) fn is_host(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// What stands in the maps while no transaction is under way (and, while one is, in the bank that
/// it leaves).
#[derive(Debug, Default)]
pub(super) struct Entries {
    peers: HashMap<IpAddr, PeerEntry>,
    nets: JointPrefixMap<IpNet, u32>,
    named_ports: BTreeMap<NamedPortMember, u32>,
    counts: EntryCounts,
}

/// Entries of each map.
#[derive(Clone, Copy, Debug, Default)]
struct EntryCounts {
    peers_v4: usize,
    peers_v6: usize,
    nets_v4: usize,
    nets_v6: usize,
}

impl EntryCounts {
    fn peers(&mut self, address: &IpAddr) -> &mut usize {
        if address.is_ipv4() {
            &mut self.peers_v4
        } else {
            &mut self.peers_v6
        }
    }

    fn nets(&mut self, prefix: &IpNet) -> &mut usize {
        if prefix.addr().is_ipv4() {
            &mut self.nets_v4
        } else {
            &mut self.nets_v6
        }
    }
}

/// What becomes of the entries that a transaction changes, once it is complete: `None` = gone.
#[derive(Debug, Default)]
pub(super) struct EntriesAfter {
    peers: Vec<(IpAddr, Option<PeerEntry>)>,
    nets: Vec<(IpNet, Option<u32>)>,
    named_ports: Vec<(NamedPortMember, Option<u32>)>,
}

impl EntriesAfter {
    pub(super) fn of(transaction: &Transaction) -> Self {
        fn kept<K: Copy, T: Copy>(changes: &BTreeMap<K, Change<T>>) -> Vec<(K, Option<T>)> {
            changes
                .iter()
                .map(|(key, change)| (*key, change.keep.then_some(change.after)))
                .collect()
        }
        Self {
            peers: kept(&transaction.peers),
            nets: kept(&transaction.nets),
            named_ports: kept(&transaction.named_ports),
        }
    }
}

/// Bits that changed under some address or named port.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) lost: Vec<u64>,
    pub(super) gained: Vec<u64>,
    scratch: Vec<u64>,
}

impl Moved {
    pub(super) fn new(classes: &Classes) -> Self {
        Self {
            lost: classes.blank(),
            gained: classes.blank(),
            scratch: classes.blank(),
        }
    }

    fn add(&mut self, classes: &Classes, before: u32) {
        if let Some(row) = classes.row(before) {
            let before = || row.iter().copied().chain(std::iter::repeat(0));
            for ((lost, before), &after) in self.lost.iter_mut().zip(before()).zip(&self.scratch) {
                *lost |= before & !after;
            }
            for ((gained, before), &after) in self.gained.iter_mut().zip(before()).zip(&self.scratch) {
                *gained |= after & !before;
            }
        } else {
            self.gained
                .iter_mut()
                .zip(&self.scratch)
                .for_each(|(gained, after)| *gained |= after);
        }
    }

    /// Whether anything changed.
    pub(super) fn any(&self) -> bool {
        self.lost.iter().chain(&self.gained).any(|&word| word != 0)
    }
}

/// What the entries of a planned state follow from.
pub(super) struct Sources<'a> {
    pub(super) addresses: &'a AddressTable,
    pub(super) sets: &'a Sets,
    pub(super) classes: &'a mut Classes,
    /// Every entry is written, whatever the maps hold.
    pub(super) fresh: bool,
}

impl Entries {
    /// Takes over what a previous run left.
    pub(super) fn adopt(adopted: &Adopted, classes: &mut Classes) -> Self {
        let mut entries = Self::default();
        for (&address, &entry) in &adopted.peers {
            classes.adopt(entry.class);
            entries.put_peer(address, Some(entry));
        }
        for (&prefix, &class) in &adopted.nets {
            classes.adopt(class);
            entries.put_net(prefix.trunc(), Some(class));
        }
        for (&member, &class) in &adopted.named_ports {
            classes.adopt(class);
            entries.named_ports.insert(member, class);
        }
        entries
    }

    /// Everything there is, to be planned anew.
    pub(super) fn all(&self) -> (Vec<IpNet>, Vec<NamedPortMember>) {
        let peers = self.peers.keys().map(|&address| IpNet::from(address));
        (
            peers.chain(self.nets.keys()).collect(),
            self.named_ports.keys().copied().collect(),
        )
    }

    fn put_peer(&mut self, address: IpAddr, entry: Option<PeerEntry>) -> Option<u32> {
        let old = match entry {
            Some(entry) => self.peers.insert(address, entry),
            None => self.peers.remove(&address),
        };
        let count = self.counts.peers(&address);
        *count = (*count + usize::from(entry.is_some())).saturating_sub(usize::from(old.is_some()));
        old.map(|entry| entry.class)
    }

    fn put_net(&mut self, prefix: IpNet, class: Option<u32>) -> Option<u32> {
        let old = match class {
            Some(class) => self.nets.insert(prefix, class),
            None => self.nets.remove(&prefix),
        };
        let count = self.counts.nets(&prefix);
        *count = (*count + usize::from(class.is_some())).saturating_sub(usize::from(old.is_some()));
        old
    }

    /// What a lookup of a prefix without an entry of its own finds.
    fn covering(&self, prefix: &IpNet) -> u32 {
        self.nets.get_lpm(prefix).map_or(0, |(_, &class)| class)
    }

    /// Plans the entry of a single address. Returns the entry before, if it was there, and the new
    /// one.
    pub(super) fn plan_peer(
        &self,
        address: IpAddr,
        sources: &mut Sources<'_>,
        endpoint_of: impl Fn(&felid_model::ResourceKey) -> Option<EndpointId>,
        moved: &mut Moved,
    ) -> Option<(Option<PeerEntry>, Change<PeerEntry>)> {
        let prefix = IpNet::from(address);
        let info = sources.addresses.look(prefix, sources.sets, &mut moved.scratch);
        let endpoint = info.owner.and_then(endpoint_of);
        let keep = info.member || endpoint.is_some() || info.host;
        let old = self.peers.get(&address).copied();
        if old.is_none() && !keep {
            return None;
        }
        let before = old.unwrap_or_else(|| PeerEntry {
            class: self.covering(&prefix),
            ..PeerEntry::default()
        });
        let after = PeerEntry {
            class: sources.classes.intern(&moved.scratch),
            endpoint,
            host: info.host,
        };
        if before.class != after.class {
            moved.add(sources.classes, before.class);
        }
        (sources.fresh || old != keep.then_some(after)).then_some((old, Change { before, after, keep }))
    }

    /// Plans the entry of a prefix.
    pub(super) fn plan_net(&self, prefix: IpNet, sources: &mut Sources<'_>, moved: &mut Moved) -> Option<Change<u32>> {
        let keep = sources.addresses.look(prefix, sources.sets, &mut moved.scratch).member;
        let old = self.nets.get(&prefix).copied();
        if old.is_none() && !keep {
            return None;
        }
        let before = old.unwrap_or_else(|| self.covering(&prefix));
        let after = sources.classes.intern(&moved.scratch);
        if before != after {
            moved.add(sources.classes, before);
        }
        (sources.fresh || old != keep.then_some(after)).then_some(Change { before, after, keep })
    }

    /// Plans the entry of a named port.
    pub(super) fn plan_named_port(
        &self,
        member: NamedPortMember,
        sources: &mut Sources<'_>,
        moved: &mut Moved,
    ) -> Option<Change<u32>> {
        let keep = sources
            .addresses
            .look_named_port(&member, sources.sets, &mut moved.scratch);
        let old = self.named_ports.get(&member).copied();
        if old.is_none() && !keep {
            return None;
        }
        let before = old.unwrap_or(0);
        let after = sources.classes.intern(&moved.scratch);
        if before != after {
            moved.add(sources.classes, before);
        }
        (sources.fresh || old != keep.then_some(after)).then_some(Change { before, after, keep })
    }

    /// Checks that the maps have room for what is there and what a transaction adds.
    pub(super) fn check(&self, transaction: &Transaction, options: &PlannerOptions) -> Result<(), PlanError> {
        let mut counts = self.counts;
        for address in transaction
            .peers
            .keys()
            .filter(|address| !self.peers.contains_key(address))
        {
            *counts.peers(address) += 1;
        }
        for prefix in transaction.nets.keys().filter(|prefix| !self.nets.contains_key(prefix)) {
            *counts.nets(prefix) += 1;
        }
        let new_ports = transaction
            .named_ports
            .keys()
            .filter(|member| !self.named_ports.contains_key(member))
            .count();
        let limits = [
            ("peers_v4", counts.peers_v4, options.peers_v4),
            ("peers_v6", counts.peers_v6, options.peers_v6),
            ("nets_v4", counts.nets_v4, options.nets_v4),
            ("nets_v6", counts.nets_v6, options.nets_v6),
            ("named_ports", self.named_ports.len() + new_ports, options.named_ports),
        ];
        match limits.into_iter().find(|(_, needed, available)| needed > available) {
            Some((map, needed, available)) => Err(PlanError::Capacity { map, needed, available }),
            None => Ok(()),
        }
    }

    /// Returns the number of entries of a map; 0 if there is no map of this name.
    pub(super) fn used(&self, map: &str) -> usize {
        match map {
            "peers_v4" => self.counts.peers_v4,
            "peers_v6" => self.counts.peers_v6,
            "nets_v4" => self.counts.nets_v4,
            "nets_v6" => self.counts.nets_v6,
            "named_ports" => self.named_ports.len(),
            _ => 0,
        }
    }

    /// The transaction is complete.
    pub(super) fn commit(&mut self, after: EntriesAfter, classes: &mut Classes) {
        let mut moves = Vec::with_capacity(after.peers.len() + after.nets.len() + after.named_ports.len());
        for (address, entry) in after.peers {
            moves.push((self.put_peer(address, entry), entry.map(|entry| entry.class)));
        }
        for (prefix, class) in after.nets {
            moves.push((self.put_net(prefix, class), class));
        }
        for (member, class) in after.named_ports {
            let old = match class {
                Some(class) => self.named_ports.insert(member, class),
                None => self.named_ports.remove(&member),
            };
            moves.push((old, class));
        }
        for (_, new) in &moves {
            new.iter().for_each(|&class| classes.hold(class));
        }
        for (old, _) in &moves {
            old.iter().for_each(|&class| classes.let_go(class));
        }
    }

    /// Writes the numbers of entries into the statistics.
    pub(super) fn fill(&self, stats: &mut Stats) {
        stats.peers_v4 = self.counts.peers_v4;
        stats.peers_v6 = self.counts.peers_v6;
        stats.nets_v4 = self.counts.nets_v4;
        stats.nets_v6 = self.counts.nets_v6;
        stats.named_ports = self.named_ports.len();
    }
}

/// Adds to a set of prefixes all known ones that they cover: what a prefix is in, all below it are
/// in.
pub(super) fn with_all_below(keys: &mut HashSet<IpNet>, addresses: &AddressTable) {
    let mut nets: Vec<IpNet> = keys.iter().filter(|prefix| !is_host(prefix)).copied().collect();
    nets.sort_unstable();
    let mut last: Option<IpNet> = None;
    for net in nets {
        if last.is_none_or(|last| !last.contains(&net)) {
            keys.extend(addresses.below(net));
            last = Some(net);
        }
    }
}
