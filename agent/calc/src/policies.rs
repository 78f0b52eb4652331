//! Policies: which local endpoints each selects, where it stands, and its resolved rules while it
//! selects any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{
    BadPolicy, Direction, NAMESPACE_LABEL, NAMESPACE_PREFIX, Policy, ResourceKey, SERVICE_ACCOUNT_PREFIX, Selector,
};

use crate::active::{ActiveRules, VersionCounter};
use crate::ids::{IdAllocator, IdMap, ItemId, QueryId};
use crate::index::{Changes, LabelIndex};
use crate::labels::InheritedLabels;
use crate::sets::ActiveSets;
use crate::tiers::Order;

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PolicyContent {
    /// To be enforced.
    Good(Arc<Policy>),
    /// Closes whatever it may select.
    Bad(Arc<BadPolicy>),
}

impl PolicyContent {
    /// The local endpoints that it selects, as one selector.
    ///
    /// In a policy's own namespaceSelector `all()` and `global()` stay what they are: every
    /// workload endpoint is in a namespace, and the reference reads `global()` there as true.
    fn selector(&self) -> Selector {
        let (key, selector, namespaces, accounts) = match self {
            PolicyContent::Good(policy) => (
                &policy.key,
                policy.selector.clone(),
                &policy.namespace_selector,
                &policy.service_account_selector,
            ),
            PolicyContent::Bad(bad) => (
                &bad.key,
                bad.selector.clone().unwrap_or_else(Selector::all),
                &bad.namespace_selector,
                &None,
            ),
        };
        let confined = match &key.namespace {
            Some(namespace) => selector.and(&Selector::label_equals(NAMESPACE_LABEL, namespace)),
            None => selector,
        };
        let confined = match namespaces {
            Some(namespaces) => confined.and(&namespaces.with_label_prefix(NAMESPACE_PREFIX)),
            None => confined,
        };
        match accounts {
            Some(accounts) => confined.and(&accounts.with_label_prefix(SERVICE_ACCOUNT_PREFIX)),
            None => confined,
        }
    }

    /// Whether it is only judged, never enforced. One that cannot be read closes nothing.
    pub(crate) fn is_staged(&self) -> bool {
        match self {
            PolicyContent::Good(policy) => policy.staged,
            PolicyContent::Bad(bad) => bad.key.kind.is_staged(),
        }
    }

    /// Whether the policy judges traffic of this direction. A bad policy closes both.
    pub(crate) fn applies(&self, direction: Direction) -> bool {
        match (self, direction) {
            (PolicyContent::Good(policy), Direction::Ingress) => policy.applies_ingress,
            (PolicyContent::Good(policy), Direction::Egress) => policy.applies_egress,
            (PolicyContent::Bad(_), _) => true,
        }
    }

    /// Name of its tier, where that is known.
    pub(crate) fn tier(&self) -> Option<&str> {
        match self {
            PolicyContent::Good(policy) => Some(&policy.tier),
            PolicyContent::Bad(_) => None,
        }
    }

    fn place(&self) -> PolicyPlace {
        let (key, order) = match self {
            PolicyContent::Good(policy) => (&policy.key, policy.order),
            PolicyContent::Bad(bad) => (&bad.key, None),
        };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        // One text, as in the reference: "a-b/.." comes before "a/..".
        let text = format!("{}/{namespace}/{}", key.name, key.kind);
        PolicyPlace {
            order: Order::or_infinite(order),
            text: text.into(),
        }
    }
}

/// Where a policy stands in its tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicyPlace {
    order: Order,
    text: Arc<str>,
}

/// One policy.
#[derive(Debug)]
pub(crate) struct PolicyEntry {
    pub(crate) key: ResourceKey,
    pub(crate) content: PolicyContent,
    pub(crate) place: PolicyPlace,
    selector: Selector,
    pub(crate) rules: Option<ActiveRules>,
    /// The record has other rules than `rules`.
    stale: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct PolicyIndex {
    ids: BTreeMap<ResourceKey, QueryId>,
    entries: IdMap<QueryId, PolicyEntry>,
    /// Over local endpoints only.
    index: LabelIndex,
    /// Policies whose rules may have to be resolved or given up.
    touched: BTreeSet<QueryId>,
    by_tier: BTreeMap<String, BTreeSet<QueryId>>,
    numbers: IdAllocator<QueryId>,
}

impl PolicyIndex {
    pub(crate) fn new() -> Self {
        PolicyIndex {
            ids: BTreeMap::new(),
            entries: IdMap::new(),
            index: LabelIndex::new(),
            touched: BTreeSet::new(),
            by_tier: BTreeMap::new(),
            numbers: IdAllocator::new(),
        }
    }

    /// Sets a record; returns the local endpoints whose policy may have changed.
    pub(crate) fn put(&mut self, key: &ResourceKey, content: PolicyContent) -> BTreeSet<ItemId> {
        let id = *self.ids.entry(key.clone()).or_insert_with(|| self.numbers.take());
        let old = self.entries.remove(id);
        let mut concerned = BTreeSet::new();
        let selector = content.selector();
        let rules = match old {
            Some(old) if old.content == content => {
                self.entries.insert(id, old);
                return concerned;
            }
            Some(old) => {
                if let Some(tier) = old.content.tier() {
                    self.leave_tier(tier, id);
                }
                if old.selector == selector {
                    concerned.extend(self.index.items(id));
                } else {
                    concerned.extend(self.index.remove_query(id));
                    self.index.add_query(id, selector.clone());
                }
                old.rules
            }
            None => {
                self.index.add_query(id, selector.clone());
                None
            }
        };
        if let Some(tier) = content.tier() {
            self.by_tier.entry(tier.to_owned()).or_default().insert(id);
        }
        concerned.extend(self.index.items(id));
        let place = content.place();
        self.entries.insert(
            id,
            PolicyEntry {
                key: key.clone(),
                content,
                place,
                selector,
                rules,
                stale: true,
            },
        );
        self.touched.insert(id);
        concerned
    }

    /// Takes a policy out; returns the local endpoints that it selected.
    pub(crate) fn remove(&mut self, key: &ResourceKey, sets: &mut ActiveSets) -> BTreeSet<ItemId> {
        let Some(id) = self.ids.remove(key) else {
            return BTreeSet::new();
        };
        if let Some(entry) = self.entries.remove(id) {
            if let Some(tier) = entry.content.tier() {
                self.leave_tier(tier, id);
            }
            if let Some(rules) = entry.rules {
                rules.release(sets);
            }
        }
        self.numbers.free(id);
        self.index.remove_query(id)
    }

    fn leave_tier(&mut self, tier: &str, id: QueryId) {
        if let Some(ids) = self.by_tier.get_mut(tier) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_tier.remove(tier);
            }
        }
    }

    /// Sets the labels of a local endpoint, `None` = not local any more. Whether other policies
    /// select it now.
    pub(crate) fn place(&mut self, item: ItemId, labels: Option<InheritedLabels>) -> bool {
        let Changes { begun, ended } = match labels {
            Some(labels) => self.index.put_item(item, labels),
            None => self.index.remove_item(item),
        };
        self.touched.extend(begun.iter().chain(&ended));
        !begun.is_empty() || !ended.is_empty()
    }

    /// Resolves rules that became active or changed; gives up those of policies that select no
    /// local endpoint.
    pub(crate) fn recompute(&mut self, sets: &mut ActiveSets, versions: &mut VersionCounter) {
        for id in std::mem::take(&mut self.touched) {
            let used = !self.index.items(id).is_empty();
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            if used && entry.rules.is_some() && !entry.stale {
                continue;
            }
            entry.stale = false;
            let old = entry.rules.take();
            if let (true, PolicyContent::Good(policy)) = (used, &entry.content) {
                let ingress = if policy.applies_ingress {
                    policy.ingress.as_slice()
                } else {
                    &[]
                };
                let egress = if policy.applies_egress {
                    policy.egress.as_slice()
                } else {
                    &[]
                };
                let namespace = policy.key.namespace.as_deref();
                entry.rules = Some(ActiveRules::replace(old, [ingress, egress], namespace, sets, versions));
            } else if let Some(old) = old {
                old.release(sets);
            }
        }
    }

    /// Policies that select a local endpoint.
    pub(crate) fn of(&self, item: ItemId) -> impl Iterator<Item = &PolicyEntry> {
        self.index.matched(item).iter().filter_map(|id| self.entries.get(*id))
    }

    /// Local endpoints that a policy of this tier selects.
    pub(crate) fn in_tier(&self, tier: &str) -> BTreeSet<ItemId> {
        self.by_tier
            .get(tier)
            .into_iter()
            .flatten()
            .flat_map(|id| self.index.items(*id))
            .copied()
            .collect()
    }

    /// All policies with the number of local endpoints that each selects, by key.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&PolicyEntry, usize)> {
        self.ids
            .values()
            .filter_map(|id| Some((self.entries.get(*id)?, self.index.items(*id).len())))
    }
}
