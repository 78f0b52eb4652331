//! The kernel's table of translations as it is, and how it becomes what it shall be.
//!
//! The table is an array in which the kernel searches from [`nat_slot`] on. Each translation has a record under its external address.
//! Each internal address has one more, with `NAT_OUT`, which leads to the lexically smallest of its external addresses. A record that
//! stays keeps its place and id, so that flows which began with it go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_common::{MAX_NATS, NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_V6, Nat, nat_slot};

use super::resolve::lexical;
use super::{Mapping, Mappings, address, words};
use crate::transaction::EndpointId;

/// Writes of whole elements, in this order. Report each to [`Table::wrote`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// First: records that end (their ids become 0).
    pub ended: Vec<(u32, Nat)>,
    /// Then wait for a grace period, and tell [`Table::settle`].
    pub wait: bool,
    /// Store this where a restarted agent finds it: ids are never used twice.
    pub next_id: u32,
    /// New records without their ids, and flags of elements that searches pass by.
    pub filled: Vec<(u32, Nat)>,
    /// Elements of `nat_flows` that begin at zero.
    pub counted: Vec<u32>,
    /// Ids of new records: from here on they are in force.
    pub begun: Vec<(u32, Nat)>,
    /// Records that others have replaced: they end last, so that there is always one.
    pub replaced: Vec<(u32, Nat)>,
    /// External addresses for which there is no room.
    pub crowded: BTreeSet<IpAddr>,
}

impl Change {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.filled.is_empty() && self.begun.is_empty() && self.replaced.is_empty()
    }
}

/// The table as it is in the kernel.
#[derive(Clone, Debug)]
pub struct Table {
    /// Elements that are not all zeros.
    elements: BTreeMap<u32, Nat>,
    next_id: u32,
    /// No packet is under way that saw a record which has ended since.
    settled: bool,
}

/// What a record says, without its place and id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    External(IpAddr, Mapping),
    Out {
        internal: IpAddr,
        external: IpAddr,
        endpoint: EndpointId,
        out: u32,
    },
}

impl Record {
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
fn probes(address: IpAddr) -> impl Iterator<Item = u32> {
    let first = nat_slot(&words(address));
    (0..NAT_PROBES).map(move |probe| (first + probe) & (MAX_NATS - 1))
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
    new: Vec<(u32, Record)>,
    taken: BTreeSet<u32>,
}

impl Table {
    /// What a previous run left; `next_id` as it was stored.
    pub fn adopt(elements: impl IntoIterator<Item = (u32, Nat)>, next_id: u32) -> Self {
        let elements: BTreeMap<u32, Nat> = elements.into_iter().filter(|(_, nat)| *nat != Nat::default()).collect();
        let highest = elements.values().map(|nat| nat.id).max().unwrap_or(0);
        Self {
            next_id: next_id.max(highest.saturating_add(1)),
            // Nobody knows when the previous run ended a record.
            settled: elements.is_empty(),
            elements,
        }
    }

    /// An element was written.
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

    /// The ids up to this one are used, as far as a restarted agent knows.
    pub fn stored(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// A grace period has passed since the last write.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether any record is in force.
    pub fn in_use(&self) -> bool {
        self.elements.values().any(|nat| nat.id != 0)
    }

    /// Translations in force: external address, what it stands for, element, id.
    pub fn in_force(&self) -> impl Iterator<Item = (IpAddr, Mapping, u32, u32)> + '_ {
        self.elements
            .iter()
            .filter_map(|(&index, nat)| match Record::read(nat)? {
                Record::External(external, mapping) => Some((external, mapping, index, nat.id)),
                Record::Out { .. } => None,
            })
    }

    /// Whether a translation in force has this element (that of its external address).
    pub fn is_in_force(&self, index: u32) -> bool {
        self.elements
            .get(&index)
            .is_some_and(|nat| nat.id != 0 && nat.flags & NAT_OUT == 0)
    }

    /// Ends what is not wanted; before something changes that it needs.
    pub fn retire(&self, wanted: &Mappings) -> Vec<(u32, Nat)> {
        let layout = self.stay(wanted);
        self.end(layout.leaving.iter())
    }

    /// How to make these translations those in force.
    pub fn plan(&self, wanted: &Mappings) -> Change {
        let mut wanted = wanted.clone();
        let mut crowded = BTreeSet::new();
        loop {
            match self.layout(&wanted) {
                Ok(layout) => {
                    return Change {
                        crowded,
                        ..self.change(&layout)
                    };
                }
                Err(externals) => {
                    wanted.retain(|external, _| !externals.contains(external));
                    crowded.extend(externals);
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
                .filter_map(|(&index, nat)| Some((index, Record::read(nat)?)))
        };
        for (index, record) in records() {
            if let Record::External(external, mapping) = record {
                if wanted.get(&external) == Some(&mapping) && !layout.kept.contains_key(&external) {
                    layout.kept.insert(external, index);
                } else {
                    layout.leaving.insert(index);
                }
            }
        }
        for (index, record) in records() {
            let Record::Out {
                internal,
                external,
                endpoint,
                out,
            } = record
            else {
                continue;
            };
            let leads = layout.kept.get(&external) == Some(&out);
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

    /// A place for everything, or the external addresses that find none: all at once, for there may be thousands.
    fn layout(&self, wanted: &Mappings) -> Result<Layout, Vec<IpAddr>> {
        let mut layout = self.stay(wanted);
        let in_force = self.elements.iter().filter(|(_, nat)| nat.id != 0);
        let in_force = in_force.map(|(&index, _)| index);
        layout.taken = in_force.filter(|index| !layout.leaving.contains(index)).collect();
        let mut places = layout.kept.clone();
        let mut crowded = Vec::new();
        for (&external, &mapping) in wanted {
            if layout.kept.contains_key(&external) {
                continue;
            }
            let Some(place) = layout.free(external) else {
                crowded.push(external);
                continue;
            };
            layout.take(place, Record::External(external, mapping));
            places.insert(external, place);
        }
        if !crowded.is_empty() {
            return Err(crowded);
        }
        for (internal, (external, endpoint)) in shown(wanted) {
            if layout.kept_out.contains_key(&internal) {
                continue;
            }
            let Some(&out) = places.get(&external) else { continue };
            let place = match layout.free(internal) {
                Some(place) => place,
                // There is none beside the record that it replaces: then in its place.
                None => match layout.replaced.remove(&internal) {
                    Some(place) => {
                        layout.leaving.insert(place);
                        place
                    }
                    None => {
                        // One at a time, since those that it leaves make room: there are no more of these than endpoints have addresses.
                        let all = wanted.iter().filter(|(_, mapping)| mapping.internal == internal);
                        return Err(all.map(|(external, _)| *external).collect());
                    }
                },
            };
            let record = Record::Out {
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

    fn change(&self, layout: &Layout) -> Change {
        let ended = self.end(layout.leaving.iter());
        let mut before: BTreeMap<u32, Nat> = self.elements.clone();
        before.extend(ended.iter().copied());
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
            Record::External(address, _) | Record::Out { internal: address, .. } => (*address, *place),
        });
        let replaced = layout.replaced.iter().map(|(address, place)| (*address, *place));
        for (address, place) in places.chain(new).chain(replaced) {
            for passed in probes(address).take_while(|probe| *probe != place) {
                after.entry(passed).or_default().flags |= NAT_PASSED;
            }
        }
        let mut next_id = self.next_id.max(1);
        let mut begun = Vec::new();
        for (place, _) in &layout.new {
            if let Some(nat) = after.get(place) {
                begun.push((*place, Nat { id: next_id, ..*nat }));
                next_id = next_id.saturating_add(1);
            }
        }
        let counted = layout.new.iter().filter_map(|(place, record)| match record {
            Record::External(..) => Some(*place),
            Record::Out { .. } => None,
        });
        let replaced = layout.replaced.values();
        let replaced = replaced.filter_map(|place| {
            Some((
                *place,
                Nat {
                    id: 0,
                    ..*after.get(place)?
                },
            ))
        });
        Change {
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
            crowded: BTreeSet::new(),
        }
    }
}

impl Layout {
    fn free(&self, address: IpAddr) -> Option<u32> {
        probes(address).find(|place| !self.taken.contains(place))
    }

    fn take(&mut self, place: u32, record: Record) {
        self.taken.insert(place);
        self.new.push((place, record));
    }
}
