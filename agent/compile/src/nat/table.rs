//! The kernel's table of translations as it is, and how it becomes what it shall be.
//!
//! The table is an array in which the kernel searches from [`nat_places`] on. Each translation has
//! a record under its external address. Each internal address has one more, with `NAT_OUT`, which
//! leads to the lexically smallest of its external addresses. A record that stays keeps its place
//! and id, so that flows which began with it go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_common::{NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_RUN, NAT_V6, Nat, NatSeed, nat_places, nat_probe};

use super::resolve::lexical;
use super::{Mapping, Mappings, address, words};
use crate::transaction::EndpointId;

/// Writes of whole elements of the table, to be carried out in the order of the fields. Each write
/// is reported to [`NatTable::wrote`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatChange {
    /// Records that end: their ids become zero.
    pub ended: Vec<(u32, Nat)>,
    /// Whether a grace period has to pass after these, which is reported to [`NatTable::finish`].
    pub wait: bool,
    /// The id of the next record. It is stored where a restarted agent finds it before anything
    /// below is written, since ids are never used twice.
    pub next_id: u32,
    /// Elements with new records, still without ids, and flags of elements that a search has to
    /// pass.
    pub filled: Vec<(u32, Nat)>,
    /// Elements of `nat_flows` that are set to zero.
    pub counted: Vec<u32>,
    /// The same records with their ids: from here on they are in force.
    pub begun: Vec<(u32, Nat)>,
    /// Records that new ones replace. They end last, so that one of the two is always in force.
    pub replaced: Vec<(u32, Nat)>,
    /// External addresses that have no element, since all that a search for them reaches are taken.
    pub no_room: BTreeSet<IpAddr>,
}

impl NatChange {
    /// Returns whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.filled.is_empty() && self.begun.is_empty() && self.replaced.is_empty()
    }
}

/// The content of the array `nats`, as it was written. It decides where each translation stands, so
/// that every state between two writes is safe for packets.
#[derive(Clone, Debug)]
pub struct NatTable {
    /// Elements that are not all zeros.
    elements: BTreeMap<u32, Nat>,
    seed: NatSeed,
    next_id: u32,
    /// No packet is under way that saw a record which has ended since.
    settled: bool,
}

/// What a record says, without its place and id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NatRecord {
    External(IpAddr, Mapping),
    Out {
        internal: IpAddr,
        external: IpAddr,
        endpoint: EndpointId,
        out: u32,
    },
}

impl NatRecord {
    /// `None`: the element is free.
    fn read(nat: &Nat) -> Option<Self> {
        if nat.id == 0 {
            return None;
        }
        let v6 = nat.flags & NAT_V6 != 0;
        let (found, other) = (address(nat.address, v6), address(nat.other, v6));
        let endpoint = EndpointId {
            index: nat.endpoint,
            id: nat.endpoint_id,
        };
        Some(if nat.flags & NAT_OUT == 0 {
            Self::External(
                found,
                Mapping {
                    internal: other,
                    endpoint,
                },
            )
        } else {
            Self::Out {
                internal: found,
                external: other,
                endpoint,
                out: nat.out,
            }
        })
    }

    fn write(&self) -> Nat {
        let (found, other, endpoint, flags, out) = match *self {
            Self::External(external, mapping) => (external, mapping.internal, mapping.endpoint, 0, 0),
            Self::Out {
                internal,
                external,
                endpoint,
                out,
            } => (internal, external, endpoint, NAT_OUT, out),
        };
        Nat {
            address: words(found),
            other: words(other),
            flags: flags | if found.is_ipv6() { NAT_V6 } else { 0 },
            endpoint: endpoint.index,
            endpoint_id: endpoint.id,
            out,
            ..Nat::default()
        }
    }
}

/// Places where the search for an address looks, in order.
fn probes(address: IpAddr, seed: &NatSeed) -> impl Iterator<Item = u32> + use<> {
    let places = nat_places(&words(address), seed);
    (0..NAT_PROBES).map(move |probe| nat_probe(places, probe))
}

/// Which external address each internal one is shown under.
fn shown(wanted: &Mappings) -> BTreeMap<IpAddr, (IpAddr, EndpointId)> {
    let mut shown: BTreeMap<IpAddr, (IpAddr, EndpointId)> = BTreeMap::new();
    for (&external, mapping) in wanted {
        let now = shown.entry(mapping.internal).or_insert((external, mapping.endpoint));
        if lexical(external) < lexical(now.0) {
            *now = (external, mapping.endpoint);
        }
    }
    shown
}

/// Where everything goes.
#[derive(Default)]
struct Layout {
    /// In force and to stay.
    kept: BTreeMap<IpAddr, u32>,
    kept_out: BTreeMap<IpAddr, u32>,
    /// To end first.
    leaving: BTreeSet<u32>,
    /// To end last; by internal address.
    replaced: BTreeMap<IpAddr, u32>,
    /// New ones in the order in which they begin.
    new: Vec<(u32, NatRecord)>,
    taken: BTreeSet<u32>,
}

impl NatTable {
    /// Returns the table that a previous run left: `elements` are those that are not all zeros,
    /// `seed` is the one that the programs have, and `next_id` is the stored one.
    pub fn adopt(elements: impl IntoIterator<Item = (u32, Nat)>, seed: NatSeed, next_id: u32) -> Self {
        let elements: BTreeMap<u32, Nat> = elements.into_iter().filter(|(_, nat)| *nat != Nat::default()).collect();
        let highest = elements.values().map(|nat| nat.id).max().unwrap_or(0);
        Self {
            next_id: next_id.max(highest.saturating_add(1)),
            // Nobody knows when the previous run ended a record.
            settled: elements.is_empty(),
            elements,
            seed,
        }
    }

    /// Notes that an element was written.
    pub fn wrote(&mut self, index: u32, nat: Nat) {
        let old = if nat == Nat::default() {
            self.elements.remove(&index)
        } else {
            self.elements.insert(index, nat)
        };
        if nat.id == 0 && old.is_some_and(|old| old.id != 0) {
            self.settled = false;
        }
    }

    /// Notes that a restarted agent would find this id as the next one.
    pub fn stored(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Notes that a grace period has passed since the last write: no packet is under way that read
    /// what has ended.
    pub fn finish(&mut self) {
        self.settled = true;
    }

    /// Returns whether any record is in force.
    pub fn in_use(&self) -> bool {
        self.elements.values().any(|nat| nat.id != 0)
    }

    /// Returns the translations in force: the external address, what it stands for, the index of
    /// its element, and its id.
    pub fn in_force(&self) -> impl Iterator<Item = (IpAddr, Mapping, u32, u32)> + '_ {
        self.elements
            .iter()
            .filter_map(|(&index, nat)| match NatRecord::read(nat)? {
                NatRecord::External(external, mapping) => Some((external, mapping, index, nat.id)),
                NatRecord::Out { .. } => None,
            })
    }

    /// Returns whether the element with this index is that of an external address in force.
    pub fn is_in_force(&self, index: u32) -> bool {
        self.elements
            .get(&index)
            .is_some_and(|nat| nat.id != 0 && nat.flags & NAT_OUT == 0)
    }

    /// Returns the writes that end all translations but these. It is called before something goes
    /// that those need.
    pub fn retire(&self, wanted: &Mappings) -> Vec<(u32, Nat)> {
        let layout = self.stay(wanted);
        self.end(layout.leaving.iter())
    }

    /// Returns the writes that make these translations those in force, as far as there is room.
    pub fn plan(&self, wanted: &Mappings) -> NatChange {
        let mut wanted = wanted.clone();
        let mut no_room = BTreeSet::new();
        loop {
            match self.layout(&wanted) {
                Ok(layout) => {
                    return NatChange {
                        no_room,
                        ..self.change(&layout)
                    };
                }
                Err(externals) => {
                    wanted.retain(|external, _| !externals.contains(external));
                    no_room.extend(externals);
                }
            }
        }
    }

    /// What of the records in force stays, what is replaced, what goes.
    fn stay(&self, wanted: &Mappings) -> Layout {
        let mut layout = Layout::default();
        let shown = shown(wanted);
        let records = || {
            self.elements
                .iter()
                .filter_map(|(&index, nat)| Some((index, NatRecord::read(nat)?)))
        };
        for (index, record) in records() {
            if let NatRecord::External(external, mapping) = record {
                if wanted.get(&external) == Some(&mapping)
                    && !layout.kept.contains_key(&external)
                    && self.is_found(external, index)
                {
                    layout.kept.insert(external, index);
                } else {
                    layout.leaving.insert(index);
                }
            }
        }
        for (index, record) in records() {
            let NatRecord::Out {
                internal,
                external,
                endpoint,
                out,
            } = record
            else {
                continue;
            };
            let leads = layout.kept.get(&external) == Some(&out);
            let leads = leads && self.is_found(internal, index);
            if leads && shown.get(&internal) == Some(&(external, endpoint)) && !layout.kept_out.contains_key(&internal)
            {
                layout.kept_out.insert(internal, index);
            } else if leads
                && shown.get(&internal).is_some_and(|(_, now)| *now == endpoint)
                && !layout.replaced.contains_key(&internal)
            {
                layout.replaced.insert(internal, index);
            } else {
                layout.leaving.insert(index);
            }
        }
        layout
    }

    /// A place for everything, or the external addresses that find none: all at once, for there may
    /// be thousands.
    fn layout(&self, wanted: &Mappings) -> Result<Layout, Vec<IpAddr>> {
        let mut layout = self.stay(wanted);
        let in_force = self.elements.iter().filter(|(_, nat)| nat.id != 0);
        let in_force = in_force.map(|(&index, _)| index);
        layout.taken = in_force.filter(|index| !layout.leaving.contains(index)).collect();
        let mut places = layout.kept.clone();
        let mut no_room = Vec::new();
        for (&external, &mapping) in wanted {
            if layout.kept.contains_key(&external) {
                continue;
            }
            let Some(place) = self.free(&layout, external) else {
                no_room.push(external);
                continue;
            };
            layout.take(place, NatRecord::External(external, mapping));
            places.insert(external, place);
        }
        if !no_room.is_empty() {
            return Err(no_room);
        }
        for (internal, (external, endpoint)) in shown(wanted) {
            if layout.kept_out.contains_key(&internal) {
                continue;
            }
            let Some(&out) = places.get(&external) else { continue };
            let place = match self.free(&layout, internal) {
                Some(place) => place,
                // There is none beside the record that it replaces: then in its place.
                None => match layout.replaced.remove(&internal) {
                    Some(place) => {
                        layout.leaving.insert(place);
                        place
                    }
                    None => {
                        // One at a time, since those that it leaves make room: there are no more of
                        // these than endpoints have addresses.
                        let all = wanted.iter().filter(|(_, mapping)| mapping.internal == internal);
                        return Err(all.map(|(external, _)| *external).collect());
                    }
                },
            };
            let record = NatRecord::Out {
                internal,
                external,
                endpoint,
                out,
            };
            layout.take(place, record);
        }
        // Ids are 32 bits; whoever has used all of them gets no more.
        let left = u32::MAX - self.next_id.max(1);
        if layout.new.len() > left as usize {
            return Err(wanted.keys().copied().collect());
        }
        Ok(layout)
    }

    /// Whether the search for an address comes by this place.
    fn is_found(&self, address: IpAddr, place: u32) -> bool {
        probes(address, &self.seed).any(|probe| probe == place)
    }

    /// A place for a record of an address: from the first of its two places on, so that searches
    /// are short, or from the second on while there is still room at both, so that well over half
    /// of the table can be filled.
    fn free(&self, layout: &Layout, address: IpAddr) -> Option<u32> {
        const SPARE: usize = NAT_RUN as usize / 2;
        let mut first: Vec<u32> = probes(address, &self.seed).collect();
        let mut second = first.split_off(NAT_RUN as usize);
        for run in [&mut first, &mut second] {
            run.retain(|place| !layout.taken.contains(place));
        }
        let run = if first.len() <= SPARE && first.len() < second.len() {
            second
        } else {
            first
        };
        run.first().copied()
    }

    fn end<'a>(&self, places: impl Iterator<Item = &'a u32>) -> Vec<(u32, Nat)> {
        let mut ended: Vec<(u32, Nat)> = places
            .filter_map(|place| {
                Some((
                    *place,
                    Nat {
                        id: 0,
                        ..*self.elements.get(place)?
                    },
                ))
            })
            .collect();
        // What leads to others ends before them.
        ended.sort_by_key(|(place, nat)| (nat.flags & NAT_OUT == 0, *place));
        ended
    }

    fn change(&self, layout: &Layout) -> NatChange {
        let ended = self.end(layout.leaving.iter());
        let mut before: BTreeMap<u32, Nat> = self.elements.clone();
        before.extend(ended.iter().copied());
        let (after, wait) = self.filled(&before, layout);
        let mut next_id = self.next_id.max(1);
        let mut begun = Vec::new();
        for (place, _) in &layout.new {
            if let Some(nat) = after.get(place) {
                begun.push((*place, Nat { id: next_id, ..*nat }));
                next_id = next_id.saturating_add(1);
            }
        }
        let counted = layout.new.iter().filter_map(|(place, record)| match record {
            NatRecord::External(..) => Some(*place),
            NatRecord::Out { .. } => None,
        });
        let replaced = layout.replaced.values().filter_map(|place| {
            let nat = *after.get(place)?;
            Some((*place, Nat { id: 0, ..nat }))
        });
        NatChange {
            wait,
            next_id,
            counted: counted.collect(),
            replaced: replaced.collect(),
            filled: after
                .iter()
                .filter(|(place, nat)| before.get(place) != Some(nat))
                .map(|(place, nat)| (*place, *nat))
                .collect(),
            ended,
            begun,
            no_room: BTreeSet::new(),
        }
    }

    /// The elements once the layout's new records stand there without ids, and whether packets have
    /// to be waited for before they are written.
    fn filled(&self, before: &BTreeMap<u32, Nat>, layout: &Layout) -> (BTreeMap<u32, Nat>, bool) {
        let mut after = before.clone();
        let mut wait = false;
        for (place, record) in &layout.new {
            let old = after.get(place).copied().unwrap_or_default();
            // What a packet may still be reading must not change under it.
            wait |= layout.leaving.contains(place) || !self.settled && old.address != [0; 4];
            let passed = old.flags & NAT_PASSED;
            let mut nat = record.write();
            nat.flags |= passed;
            after.insert(*place, nat);
        }
        let places = layout
            .kept
            .iter()
            .chain(&layout.kept_out)
            .map(|(address, place)| (*address, *place));
        let new = layout.new.iter().map(|(place, record)| match record {
            NatRecord::External(address, _) | NatRecord::Out { internal: address, .. } => (*address, *place),
        });
        let replaced = layout.replaced.iter().map(|(address, place)| (*address, *place));
        let mut passed = BTreeSet::new();
        for (address, place) in places.chain(new).chain(replaced) {
            passed.extend(probes(address, &self.seed).take_while(|probe| *probe != place));
        }
        for place in &passed {
            after.entry(*place).or_default().flags |= NAT_PASSED;
        }
        // Searches for what is gone need not go on.
        for (_, nat) in after.iter_mut().filter(|(place, _)| !passed.contains(*place)) {
            nat.flags &= !NAT_PASSED;
        }
        (after, wait)
    }
}

impl Layout {
    fn take(&mut self, place: u32, record: NatRecord) {
        self.taken.insert(place);
        self.new.push((place, record));
    }
}
