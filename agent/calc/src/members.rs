//! Which prefixes, and which named ports, are members of which active sets.
//!
//! For each prefix the table keeps who has it (*holders*: items, and active lists of networks), not
//! what it is a member of: that is worked out from the holders when something about them changed,
//! and compared with what was last said.

use std::collections::HashMap;
use std::sync::Arc;

use felid_model::resolved::{Delta, NamedPortMember, SetIds};
use felid_model::{EndpointPort, EndpointSlice, Protocol, ResourceKey, Selector, host_net};
use ipnet::IpNet;

use crate::ids::{IdAllocator, IdMap, ItemId, QueryId};
use crate::index::{Changes, LabelIndex};
use crate::intern::{Interner, SetNumber};
use crate::labels::{InheritedLabels, LabelledItem};
use crate::rules::{SetRule, SetRules};
use crate::services::{ServiceChanges, Services};

/// What the active sets make of one selector.
#[derive(Debug, Default)]
struct Uses {
    /// The set of its addresses, if active.
    addresses: Option<SetNumber>,
    /// The active sets of named ports that it filters.
    ports: Vec<NamedPortSet>,
}

#[derive(Debug)]
struct NamedPortSet {
    number: SetNumber,
    protocol: Option<Protocol>,
    name: Arc<str>,
}

impl NamedPortSet {
    fn holds(&self, port: &EndpointPort) -> bool {
        *self.name == *port.name && self.protocol.is_none_or(|protocol| protocol == port.protocol)
    }
}

#[derive(Debug, Default)]
struct Prefix {
    items: Vec<ItemId>,
    /// Sets that name it themselves: lists of networks, and services.
    lists: Vec<SetNumber>,
    published: Option<Arc<SetIds>>,
}

#[derive(Debug)]
struct MemberEntry {
    item: LabelledItem,
    /// Sorted.
    prefixes: Vec<IpNet>,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Members {
    items: IdMap<ItemId, MemberEntry>,
    index: LabelIndex,
    queries: HashMap<Selector, QueryId>,
    uses: IdMap<QueryId, Uses>,
    numbers: IdAllocator<QueryId>,
    interner: Interner,
    /// How many active sets of named ports ask for each name.
    port_names: HashMap<Arc<str>, usize>,
    prefixes: HashMap<IpNet, Prefix>,
    /// Prefixes with something said of them.
    published_prefixes: usize,
    services: Services,
    published_ports: HashMap<NamedPortMember, Arc<SetIds>>,
    /// Items all of whose prefixes are to be worked out again.
    dirty_items: Vec<ItemId>,
    dirty_prefixes: Vec<IpNet>,
    dirty_ports: Vec<NamedPortMember>,
}

impl Members {
    pub(crate) fn new() -> Self {
        Members {
            items: IdMap::new(),
            index: LabelIndex::new(),
            queries: HashMap::new(),
            uses: IdMap::new(),
            numbers: IdAllocator::new(),
            interner: Interner::default(),
            port_names: HashMap::new(),
            prefixes: HashMap::new(),
            published_prefixes: 0,
            services: Services::default(),
            published_ports: HashMap::new(),
            dirty_items: Vec::new(),
            dirty_prefixes: Vec::new(),
            dirty_ports: Vec::new(),
        }
    }

    /// Sets what an item is; `None` = gone. Its labels follow by [`Members::relabel`].
    pub(crate) fn put(&mut self, id: ItemId, item: Option<LabelledItem>) {
        let old = self.items.remove(id);
        let new = item.map(|item| MemberEntry {
            prefixes: item.prefixes(),
            item,
        });
        let ports = |item: &Option<MemberEntry>| -> Vec<EndpointPort> {
            item.iter().flat_map(|item| item.item.named_ports()).cloned().collect()
        };
        let prefixes = |item: &Option<MemberEntry>| item.as_ref().map(|item| item.prefixes.clone()).unwrap_or_default();
        let (old_prefixes, new_prefixes) = (prefixes(&old), prefixes(&new));
        if old_prefixes != new_prefixes || ports(&old) != ports(&new) {
            let asked_for = |port: &EndpointPort| self.port_names.contains_key(port.name.as_str());
            for item in [&old, &new].into_iter().flatten() {
                mark_ports(item, &mut self.dirty_ports, asked_for);
            }
        }
        for prefix in &old_prefixes {
            if new_prefixes.binary_search(prefix).is_err()
                && let Some(entry) = self.prefixes.get_mut(prefix)
            {
                entry.items.retain(|item| *item != id);
                self.dirty_prefixes.push(*prefix);
            }
        }
        for prefix in &new_prefixes {
            if old_prefixes.binary_search(prefix).is_err() {
                self.prefixes.entry(*prefix).or_default().items.push(id);
                self.dirty_prefixes.push(*prefix);
            }
        }
        match new {
            Some(item) => {
                self.items.insert(id, item);
            }
            None => {
                self.index.remove_item(id);
            }
        }
    }

    /// Gives an item its labels.
    pub(crate) fn relabel(&mut self, id: ItemId, labels: InheritedLabels) {
        let Changes { begun, ended } = self.index.put_item(id, labels);
        let Some(item) = self.items.get(id) else { return };
        let changed = || begun.iter().chain(&ended).filter_map(|query| self.uses.get(*query));
        if changed().any(|uses| !uses.ports.is_empty()) {
            mark_ports(item, &mut self.dirty_ports, |port| {
                changed().any(|uses| uses.ports.iter().any(|set| set.holds(port)))
            });
        }
        if changed().any(|uses| uses.addresses.is_some()) {
            self.dirty_items.push(id);
        }
    }

    /// Ends sets that are no longer active.
    pub(crate) fn stop(&mut self, sets: &SetRules) {
        for (id, rule) in sets {
            let Some(number) = self.interner.retire(id) else {
                continue;
            };
            match rule {
                SetRule::Networks(nets) => {
                    for net in nets {
                        if let Some(entry) = self.prefixes.get_mut(net) {
                            entry.lists.retain(|list| *list != number);
                        }
                        self.dirty_prefixes.push(*net);
                    }
                }
                SetRule::Service { service, ports } => {
                    let changes = self.services.stop(service, *ports);
                    self.take_service_changes(changes);
                }
                SetRule::Selector(selector) => self.stop_use(selector, rule, number),
                SetRule::NamedPort { selector, name, .. } => {
                    if let Some(count) = self.port_names.get_mut(name) {
                        *count -= 1;
                        if *count == 0 {
                            self.port_names.remove(name);
                        }
                    }
                    self.stop_use(selector, rule, number);
                }
            }
        }
    }

    fn stop_use(&mut self, selector: &Selector, rule: &SetRule, number: SetNumber) {
        let Some(&query) = self.queries.get(selector) else {
            return;
        };
        self.mark_members(query, rule);
        let Some(uses) = self.uses.get_mut(query) else { return };
        match rule {
            SetRule::NamedPort { .. } => uses.ports.retain(|set| set.number != number),
            SetRule::Selector(_) | SetRule::Networks(_) | SetRule::Service { .. } => uses.addresses = None,
        }
        if uses.addresses.is_none() && uses.ports.is_empty() {
            self.uses.remove(query);
            self.numbers.free(query);
            self.queries.remove(selector);
            self.index.remove_query(query);
        }
    }

    /// Begins sets that became active.
    pub(crate) fn start(&mut self, sets: &SetRules) {
        for (id, rule) in sets {
            let number = self.interner.introduce(id);
            match rule {
                SetRule::Networks(nets) => {
                    for net in nets {
                        self.prefixes.entry(*net).or_default().lists.push(number);
                        self.dirty_prefixes.push(*net);
                    }
                }
                SetRule::Service { service, ports } => {
                    let changes = self.services.start(service, *ports, number);
                    self.take_service_changes(changes);
                }
                SetRule::Selector(selector) => {
                    let query = self.query(selector);
                    self.uses.or_default(query).addresses = Some(number);
                    self.mark_members(query, rule);
                }
                SetRule::NamedPort {
                    selector,
                    protocol,
                    name,
                } => {
                    *self.port_names.entry(name.clone()).or_default() += 1;
                    let query = self.query(selector);
                    let set = NamedPortSet {
                        number,
                        protocol: *protocol,
                        name: name.clone(),
                    };
                    self.uses.or_default(query).ports.push(set);
                    self.mark_members(query, rule);
                }
            }
        }
    }

    /// The number of a selector in the index; enters it if it is new.
    fn query(&mut self, selector: &Selector) -> QueryId {
        if let Some(query) = self.queries.get(selector) {
            return *query;
        }
        let query = self.numbers.take();
        self.queries.insert(selector.clone(), query);
        self.index.add_query(query, selector.clone());
        query
    }

    /// Marks what is a member of a set over the selector `query`.
    fn mark_members(&mut self, query: QueryId, rule: &SetRule) {
        match rule {
            SetRule::Selector(_) => self.dirty_items.extend(self.index.items(query)),
            SetRule::NamedPort { protocol, name, .. } => {
                let holds = |port: &EndpointPort| {
                    **name == *port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
                };
                for item in self.index.items(query).iter().filter_map(|item| self.items.get(*item)) {
                    mark_ports(item, &mut self.dirty_ports, holds);
                }
            }
            SetRule::Networks(_) | SetRule::Service { .. } => {}
        }
    }

    /// Sets an endpoint slice; `None` = gone.
    pub(crate) fn put_slice(&mut self, key: &ResourceKey, slice: Option<Arc<EndpointSlice>>) {
        let changes = self.services.put(key, slice);
        self.take_service_changes(changes);
    }

    fn take_service_changes(&mut self, changes: ServiceChanges) {
        for (number, address) in changes.addresses_gone {
            let prefix = host_net(address);
            if let Some(entry) = self.prefixes.get_mut(&prefix) {
                entry.lists.retain(|list| *list != number);
            }
            self.dirty_prefixes.push(prefix);
        }
        for (number, address) in changes.addresses_new {
            let prefix = host_net(address);
            self.prefixes.entry(prefix).or_default().lists.push(number);
            self.dirty_prefixes.push(prefix);
        }
        self.dirty_ports.extend(changes.ports);
    }

    /// Writes what changed since the last call.
    pub(crate) fn flush(&mut self, delta: &mut Delta) {
        let mut prefixes = std::mem::take(&mut self.dirty_prefixes);
        for id in sorted(std::mem::take(&mut self.dirty_items)) {
            prefixes.extend(self.items.get(id).into_iter().flat_map(|item| &item.prefixes));
        }
        for prefix in sorted(prefixes) {
            let Some(entry) = self.prefixes.get_mut(&prefix) else {
                continue;
            };
            let queries = entry.items.iter().flat_map(|item| self.index.matched(*item));
            let numbers = queries.filter_map(|query| self.uses.get(*query)?.addresses);
            let now = self
                .interner
                .intern(numbers.chain(entry.lists.iter().copied()).collect());
            let unused = entry.items.is_empty() && entry.lists.is_empty();
            if now != entry.published {
                self.published_prefixes += usize::from(entry.published.is_none());
                self.published_prefixes -= usize::from(now.is_none());
                delta.members.insert(prefix, now.clone());
                entry.published = now;
            }
            if unused {
                self.prefixes.remove(&prefix);
            }
        }
        for member in sorted(std::mem::take(&mut self.dirty_ports)) {
            let numbers = self.port_sets(&member);
            let now = self.interner.intern(numbers);
            if now.as_ref() != self.published_ports.get(&member) {
                match &now {
                    Some(sets) => self.published_ports.insert(member, sets.clone()),
                    None => self.published_ports.remove(&member),
                };
                delta.named_ports.insert(member, now);
            }
        }
        self.interner.sweep();
    }

    /// Everything that has been said and still holds.
    pub(crate) fn snapshot(&self, delta: &mut Delta) {
        let published = |(prefix, entry): (&IpNet, &Prefix)| Some((*prefix, Some(entry.published.clone()?)));
        delta.members.extend(self.prefixes.iter().filter_map(published));
        delta.named_ports.extend(
            self.published_ports
                .iter()
                .map(|(port, sets)| (*port, Some(sets.clone()))),
        );
    }

    /// The active sets that hold a named port.
    fn port_sets(&self, member: &NamedPortMember) -> Vec<SetNumber> {
        let mut numbers = Vec::new();
        let holders = self.prefixes.get(&host_net(member.address));
        for item in holders.into_iter().flat_map(|prefix| &prefix.items) {
            let Some(MemberEntry { item: labelled, .. }) = self.items.get(*item) else {
                continue;
            };
            let ports = labelled
                .named_ports()
                .filter(|port| port.protocol == member.protocol && port.port == member.port);
            for port in ports {
                let uses = self
                    .index
                    .matched(*item)
                    .iter()
                    .filter_map(|query| self.uses.get(*query));
                let sets = uses.flat_map(|uses| &uses.ports).filter(|set| set.holds(port));
                numbers.extend(sets.map(|set| set.number));
            }
        }
        numbers.extend(self.services.sets_of(member));
        numbers
    }

    pub(crate) fn item(&self, id: ItemId) -> Option<&LabelledItem> {
        Some(&self.items.get(id)?.item)
    }

    pub(crate) fn counts(&self) -> MemberCounts {
        MemberCounts {
            selectors: self.queries.len(),
            prefixes: self.published_prefixes,
            named_ports: self.published_ports.len(),
        }
    }
}

/// Sizes, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberCounts {
    /// Different selectors in active sets.
    pub(crate) selectors: usize,
    /// Prefixes that are a member of some active set.
    pub(crate) prefixes: usize,
    /// (address, protocol, port)s that are a member of some active set.
    pub(crate) named_ports: usize,
}

/// Marks those named ports of an item that `which` holds for.
fn mark_ports(item: &MemberEntry, dirty: &mut Vec<NamedPortMember>, which: impl Fn(&EndpointPort) -> bool) {
    for port in item.item.named_ports().filter(|port| which(port)) {
        let (protocol, port) = (port.protocol, port.port);
        let members = item.prefixes.iter().map(|prefix| NamedPortMember {
            address: prefix.addr(),
            protocol,
            port,
        });
        dirty.extend(members);
    }
}

/// Each once, in order.
fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}
