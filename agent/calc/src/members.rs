//! Which prefixes, and which named ports, are members of which active sets.
//!
//! For each prefix the table keeps who has it (*holders*: items, and active lists of networks), not what it is a member of:
//! that is worked out from the holders when something about them changed, and compared with what was last said.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use felid_model::resolved::{Delta, NamedPortMember, SetIds};
use felid_model::{EndpointPort, Protocol, Selector, host_net};
use ipnet::IpNet;

use crate::index::{Changes, ItemId, LabelIndex, QueryId};
use crate::intern::{Interner, SetNumber};
use crate::labels::{Bearer, Inherited};
use crate::rules::{SetRule, SetRules};

/// What the active sets make of one selector.
#[derive(Debug, Default)]
struct Uses {
    /// The set of its addresses, if active.
    addresses: Option<SetNumber>,
    /// The active sets of named ports that it filters.
    ports: Vec<PortSet>,
}

#[derive(Debug)]
struct PortSet {
    number: SetNumber,
    protocol: Option<Protocol>,
    name: Arc<str>,
}

impl PortSet {
    fn holds(&self, port: &EndpointPort) -> bool {
        *self.name == *port.name && self.protocol.is_none_or(|protocol| protocol == port.protocol)
    }
}

#[derive(Debug, Default)]
struct Prefix {
    items: Vec<ItemId>,
    lists: Vec<SetNumber>,
    said: Option<Arc<SetIds>>,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Members {
    bearers: HashMap<ItemId, Bearer>,
    index: LabelIndex,
    queries: HashMap<Selector, QueryId>,
    uses: HashMap<QueryId, Uses>,
    next_query: u64,
    interner: Interner,
    /// How many active sets of named ports ask for each name.
    port_names: HashMap<Arc<str>, usize>,
    prefixes: HashMap<IpNet, Prefix>,
    /// Prefixes with something said of them.
    said_prefixes: usize,
    said_ports: HashMap<NamedPortMember, Arc<SetIds>>,
    dirty_prefixes: HashSet<IpNet>,
    dirty_ports: HashSet<NamedPortMember>,
}

impl Members {
    pub(crate) fn new() -> Self {
        Members {
            bearers: HashMap::new(),
            index: LabelIndex::new(),
            queries: HashMap::new(),
            uses: HashMap::new(),
            next_query: 0,
            interner: Interner::default(),
            port_names: HashMap::new(),
            prefixes: HashMap::new(),
            said_prefixes: 0,
            said_ports: HashMap::new(),
            dirty_prefixes: HashSet::new(),
            dirty_ports: HashSet::new(),
        }
    }

    /// Sets what an item is; `None` = gone. Its labels follow by [`Members::relabel`].
    pub(crate) fn put(&mut self, id: ItemId, bearer: Option<Bearer>) {
        let old = self.bearers.remove(&id);
        let old_prefixes = old.as_ref().map(Bearer::prefixes).unwrap_or_default();
        let new_prefixes = bearer.as_ref().map(Bearer::prefixes).unwrap_or_default();
        let same_ports = match (&old, &bearer) {
            (Some(old), Some(new)) => old.named_ports().eq(new.named_ports()),
            _ => false,
        };
        if old_prefixes != new_prefixes || !same_ports {
            for (bearer, prefixes) in [(&old, &old_prefixes), (&bearer, &new_prefixes)] {
                if let Some(bearer) = bearer {
                    mark_ports(bearer, prefixes, &mut self.dirty_ports, |port| {
                        self.port_names.contains_key(port.name.as_str())
                    });
                }
            }
        }
        for prefix in &old_prefixes {
            if new_prefixes.binary_search(prefix).is_err()
                && let Some(entry) = self.prefixes.get_mut(prefix)
            {
                entry.items.retain(|item| *item != id);
                self.dirty_prefixes.insert(*prefix);
            }
        }
        for prefix in &new_prefixes {
            if old_prefixes.binary_search(prefix).is_err() {
                self.prefixes.entry(*prefix).or_default().items.push(id);
                self.dirty_prefixes.insert(*prefix);
            }
        }
        match bearer {
            Some(bearer) => {
                self.bearers.insert(id, bearer);
            }
            None => {
                self.index.remove_item(id);
            }
        }
    }

    /// Gives an item its labels.
    pub(crate) fn relabel(&mut self, id: ItemId, labels: Inherited) {
        let Changes { begun, ended } = self.index.put_item(id, labels);
        let Some(bearer) = self.bearers.get(&id) else { return };
        let changed = || begun.iter().chain(&ended).filter_map(|query| self.uses.get(query));
        let addresses = changed().any(|uses| uses.addresses.is_some());
        let ports = changed().any(|uses| !uses.ports.is_empty());
        if addresses || ports {
            let prefixes = bearer.prefixes();
            if ports {
                mark_ports(bearer, &prefixes, &mut self.dirty_ports, |port| {
                    changed().any(|uses| uses.ports.iter().any(|set| set.holds(port)))
                });
            }
            if addresses {
                self.dirty_prefixes.extend(prefixes);
            }
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
                        self.dirty_prefixes.insert(*net);
                    }
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
        let Some(uses) = self.uses.get_mut(&query) else { return };
        match rule {
            SetRule::NamedPort { .. } => uses.ports.retain(|set| set.number != number),
            SetRule::Selector(_) | SetRule::Networks(_) => uses.addresses = None,
        }
        if uses.addresses.is_none() && uses.ports.is_empty() {
            self.uses.remove(&query);
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
                        self.dirty_prefixes.insert(*net);
                    }
                }
                SetRule::Selector(selector) => {
                    let query = self.query(selector);
                    self.uses.entry(query).or_default().addresses = Some(number);
                    self.mark_members(query, rule);
                }
                SetRule::NamedPort {
                    selector,
                    protocol,
                    name,
                } => {
                    *self.port_names.entry(name.clone()).or_default() += 1;
                    let query = self.query(selector);
                    let set = PortSet {
                        number,
                        protocol: *protocol,
                        name: name.clone(),
                    };
                    self.uses.entry(query).or_default().ports.push(set);
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
        let query = QueryId(self.next_query);
        self.next_query += 1;
        self.queries.insert(selector.clone(), query);
        self.index.add_query(query, selector.clone());
        query
    }

    /// Marks what is a member of a set over the selector `query`.
    fn mark_members(&mut self, query: QueryId, rule: &SetRule) {
        for item in self.index.items(query) {
            let Some(bearer) = self.bearers.get(item) else { continue };
            match rule {
                SetRule::Selector(_) => self.dirty_prefixes.extend(bearer.prefixes()),
                SetRule::NamedPort { protocol, name, .. } => {
                    let holds = |port: &EndpointPort| {
                        **name == *port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
                    };
                    if bearer.named_ports().any(holds) {
                        mark_ports(bearer, &bearer.prefixes(), &mut self.dirty_ports, holds);
                    }
                }
                SetRule::Networks(_) => {}
            }
        }
    }

    /// Writes what changed since the last call.
    pub(crate) fn flush(&mut self, delta: &mut Delta) {
        for prefix in std::mem::take(&mut self.dirty_prefixes) {
            let Some(entry) = self.prefixes.get(&prefix) else {
                continue;
            };
            let of_items = entry
                .items
                .iter()
                .flat_map(|item| self.index.matched(*item))
                .filter_map(|query| self.uses.get(query)?.addresses);
            let numbers = of_items.chain(entry.lists.iter().copied()).collect();
            let now = self.interner.intern(numbers);
            let Some(entry) = self.prefixes.get_mut(&prefix) else {
                continue;
            };
            if now != entry.said {
                self.said_prefixes += usize::from(entry.said.is_none());
                self.said_prefixes -= usize::from(now.is_none());
                delta.members.insert(prefix, now.clone());
                entry.said = now;
            }
            if entry.items.is_empty() && entry.lists.is_empty() {
                self.prefixes.remove(&prefix);
            }
        }
        for member in std::mem::take(&mut self.dirty_ports) {
            let numbers = self.port_sets(&member);
            let now = self.interner.intern(numbers);
            if now.as_ref() != self.said_ports.get(&member) {
                match &now {
                    Some(sets) => self.said_ports.insert(member, sets.clone()),
                    None => self.said_ports.remove(&member),
                };
                delta.named_ports.insert(member, now);
            }
        }
        self.interner.sweep();
    }

    /// The active sets that hold a named port.
    fn port_sets(&self, member: &NamedPortMember) -> Vec<SetNumber> {
        let mut numbers = Vec::new();
        let holders = self.prefixes.get(&host_net(member.address));
        for item in holders.into_iter().flat_map(|prefix| &prefix.items) {
            let Some(bearer) = self.bearers.get(item) else { continue };
            let ports = bearer
                .named_ports()
                .filter(|port| port.protocol == member.protocol && port.port == member.port);
            for port in ports {
                let uses = self
                    .index
                    .matched(*item)
                    .iter()
                    .filter_map(|query| self.uses.get(query));
                let sets = uses.flat_map(|uses| &uses.ports).filter(|set| set.holds(port));
                numbers.extend(sets.map(|set| set.number));
            }
        }
        numbers
    }

    pub(crate) fn bearer(&self, id: ItemId) -> Option<&Bearer> {
        self.bearers.get(&id)
    }

    pub(crate) fn counts(&self) -> MemberCounts {
        MemberCounts {
            selectors: self.queries.len(),
            prefixes: self.said_prefixes,
            named_ports: self.said_ports.len(),
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

/// Marks those named ports of a bearer that `which` holds for.
fn mark_ports(
    bearer: &Bearer,
    prefixes: &[IpNet],
    dirty: &mut HashSet<NamedPortMember>,
    which: impl Fn(&EndpointPort) -> bool,
) {
    for port in bearer.named_ports().filter(|port| which(port)) {
        for prefix in prefixes {
            dirty.insert(NamedPortMember {
                address: prefix.addr(),
                protocol: port.protocol,
                port: port.port,
            });
        }
    }
}
