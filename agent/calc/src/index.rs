//! The label index: which selectors match which items, kept up to date from both sides.
//!
//! Every selector is *anchored*: entered under one condition that it needs (a label with one of a
//! few values, or with any), so that an item is evaluated against those selectors only whose anchor
//! its own labels meet. Items are entered under all their labels, so that a new selector is
//! evaluated against those items only that meet its anchor. Selectors without any condition
//! (`env != 'prod'`) are evaluated against everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use felid_model::Selector;

use crate::ids::{IdMap, ItemId, QueryId};
use crate::labels::InheritedLabels;

/// Which selectors began and ceased to match an item.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Now match.
    pub(crate) begun: Vec<QueryId>,
    /// No longer match.
    pub(crate) ended: Vec<QueryId>,
}

/// Ids under label values, and how many there are under all values of a label.
#[derive(Debug)]
struct ByLabel<T> {
    keys: HashMap<String, ByValue<T>>,
}

#[derive(Debug)]
struct ByValue<T> {
    /// Sum over `values`.
    count: usize,
    values: HashMap<String, BTreeSet<T>>,
}

impl<T: Ord> ByLabel<T> {
    fn new() -> Self {
        ByLabel { keys: HashMap::new() }
    }

    fn insert(&mut self, key: &str, value: &str, id: T) {
        if !self.keys.contains_key(key) {
            self.keys.insert(
                key.to_owned(),
                ByValue {
                    count: 0,
                    values: HashMap::new(),
                },
            );
        }
        let Some(by_value) = self.keys.get_mut(key) else { return };
        let inserted = match by_value.values.get_mut(value) {
            Some(ids) => ids.insert(id),
            None => by_value.values.insert(value.to_owned(), BTreeSet::from([id])).is_none(),
        };
        by_value.count += usize::from(inserted);
    }

    fn remove(&mut self, key: &str, value: &str, id: &T) {
        let Some(by_value) = self.keys.get_mut(key) else { return };
        if let Some(ids) = by_value.values.get_mut(value) {
            by_value.count -= usize::from(ids.remove(id));
            if ids.is_empty() {
                by_value.values.remove(value);
            }
        }
        if by_value.values.is_empty() {
            self.keys.remove(key);
        }
    }

    fn get(&self, key: &str, value: &str) -> Option<&BTreeSet<T>> {
        self.keys.get(key)?.values.get(value)
    }
}

/// Where a selector is entered.
#[derive(Debug)]
enum Anchor {
    /// Nowhere: it may match anything.
    Free,
    /// The label must be there.
    Present(String),
    /// The label must have one of these values.
    Values(String, Vec<String>),
}

impl Anchor {
    /// Whether the selector asks for nothing but this.
    fn is_all_of(&self, selector: &Selector) -> bool {
        match self {
            Anchor::Free => false,
            Anchor::Present(key) => *selector == Selector::has_label(key),
            Anchor::Values(key, values) => match values.as_slice() {
                [value] => *selector == Selector::label_equals(key, value),
                _ => false,
            },
        }
    }
}

#[derive(Debug)]
struct IndexedItem {
    labels: InheritedLabels,
    /// Sorted.
    matched: Vec<QueryId>,
}

#[derive(Debug)]
struct Query {
    selector: Selector,
    anchor: Anchor,
    /// The anchor says all that the selector says.
    exact: bool,
    items: BTreeSet<ItemId>,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct LabelIndex {
    items: IdMap<ItemId, IndexedItem>,
    items_by_label: ByLabel<ItemId>,
    queries: IdMap<QueryId, Query>,
    /// Anchored to values.
    queries_by_label: ByLabel<QueryId>,
    /// Anchored to the presence of a label.
    queries_by_presence: BTreeMap<String, BTreeSet<QueryId>>,
    /// Not anchored.
    free_queries: BTreeSet<QueryId>,
    no_items: BTreeSet<ItemId>,
}

impl LabelIndex {
    pub(crate) fn new() -> Self {
        LabelIndex {
            items: IdMap::new(),
            items_by_label: ByLabel::new(),
            queries: IdMap::new(),
            queries_by_label: ByLabel::new(),
            queries_by_presence: BTreeMap::new(),
            free_queries: BTreeSet::new(),
            no_items: BTreeSet::new(),
        }
    }

    /// Enters an item or gives it new labels.
    pub(crate) fn put_item(&mut self, id: ItemId, labels: InheritedLabels) -> Changes {
        let old = self.items.remove(id);
        if let Some(mut old) = old {
            if old.labels.same_labels(&labels) {
                old.labels = labels;
                self.items.insert(id, old);
                return Changes::default();
            }
            let matched = self.evaluate(&labels);
            self.reindex(id, Some(&old.labels), Some(&labels));
            let changes = self.record(id, &old.matched, &matched);
            self.items.insert(id, IndexedItem { labels, matched });
            changes
        } else {
            let matched = self.evaluate(&labels);
            self.reindex(id, None, Some(&labels));
            let changes = self.record(id, &[], &matched);
            self.items.insert(id, IndexedItem { labels, matched });
            changes
        }
    }

    /// Takes an item out.
    pub(crate) fn remove_item(&mut self, id: ItemId) -> Changes {
        let Some(old) = self.items.remove(id) else {
            return Changes::default();
        };
        self.reindex(id, Some(&old.labels), None);
        self.record(id, &old.matched, &[])
    }

    /// Enters a selector that is not there yet; its matches are then in [`LabelIndex::items`].
    pub(crate) fn add_query(&mut self, id: QueryId, selector: Selector) {
        let anchor = self.choose_anchor(&selector);
        match &anchor {
            Anchor::Free => {
                self.free_queries.insert(id);
            }
            Anchor::Present(key) => {
                self.queries_by_presence.entry(key.clone()).or_default().insert(id);
            }
            Anchor::Values(key, values) => {
                for value in values {
                    self.queries_by_label.insert(key, value, id);
                }
            }
        }
        let exact = anchor.is_all_of(&selector);
        let matches = |item: &ItemId| exact || self.items.get(*item).is_some_and(|item| selector.matches(&item.labels));
        let by_label = &self.items_by_label;
        let items: BTreeSet<ItemId> = match &anchor {
            Anchor::Free => self.items.keys().filter(matches).collect(),
            Anchor::Present(key) => {
                let candidates = by_label
                    .keys
                    .get(key)
                    .into_iter()
                    .flat_map(|by| by.values.values().flatten());
                candidates.copied().filter(matches).collect()
            }
            Anchor::Values(key, values) => {
                let candidates = values.iter().filter_map(|value| by_label.get(key, value)).flatten();
                candidates.copied().filter(matches).collect()
            }
        };
        for item in &items {
            if let Some(item) = self.items.get_mut(*item)
                && let Err(position) = item.matched.binary_search(&id)
            {
                item.matched.insert(position, id);
            }
        }
        self.queries.insert(
            id,
            Query {
                selector,
                anchor,
                exact,
                items,
            },
        );
    }

    /// Takes a selector out; returns the items that it matched.
    pub(crate) fn remove_query(&mut self, id: QueryId) -> BTreeSet<ItemId> {
        let Some(query) = self.queries.remove(id) else {
            return BTreeSet::new();
        };
        match &query.anchor {
            Anchor::Free => {
                self.free_queries.remove(&id);
            }
            Anchor::Present(key) => {
                if let Some(ids) = self.queries_by_presence.get_mut(key) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.queries_by_presence.remove(key);
                    }
                }
            }
            Anchor::Values(key, values) => {
                for value in values {
                    self.queries_by_label.remove(key, value, &id);
                }
            }
        }
        for item in &query.items {
            if let Some(item) = self.items.get_mut(*item)
                && let Ok(position) = item.matched.binary_search(&id)
            {
                item.matched.remove(position);
            }
        }
        query.items
    }

    /// The items that a selector matches.
    pub(crate) fn items(&self, id: QueryId) -> &BTreeSet<ItemId> {
        self.queries.get(id).map_or(&self.no_items, |query| &query.items)
    }

    /// The selectors that match an item, sorted.
    pub(crate) fn matched(&self, id: ItemId) -> &[QueryId] {
        self.items.get(id).map_or(&[], |item| item.matched.as_slice())
    }

    /// The needed condition that the fewest items meet now. Which one is chosen changes the cost
    /// only.
    fn choose_anchor(&self, selector: &Selector) -> Anchor {
        let items = |key: &str| self.items_by_label.keys.get(key);
        selector
            .requirements()
            .into_iter()
            .map(|requirement| {
                let key = requirement.key;
                match requirement.values {
                    None => (
                        items(key).map_or(0, |by| by.count),
                        true,
                        Anchor::Present(key.to_owned()),
                    ),
                    Some(values) => {
                        let having = |value: &&str| self.items_by_label.get(key, value).map_or(0, BTreeSet::len);
                        let values: Vec<&str> = values.into_iter().collect();
                        let count = values.iter().map(having).sum();
                        let values = values.into_iter().map(str::to_owned).collect();
                        (count, false, Anchor::Values(key.to_owned(), values))
                    }
                }
            })
            .min_by_key(|(count, presence, _)| (*count, *presence))
            .map_or(Anchor::Free, |(_, _, anchor)| anchor)
    }

    /// The selectors that match these labels, sorted.
    fn evaluate(&self, labels: &InheritedLabels) -> Vec<QueryId> {
        let mut matched = Vec::new();
        let mut consider = |candidates: Option<&BTreeSet<QueryId>>| {
            let matches = |id: &&QueryId| {
                self.queries
                    .get(**id)
                    .is_some_and(|query| query.exact || query.selector.matches(labels))
            };
            matched.extend(candidates.into_iter().flatten().filter(matches));
        };
        consider(Some(&self.free_queries));
        for (key, value) in labels.iter() {
            consider(self.queries_by_label.get(key, value));
            consider(self.queries_by_presence.get(key));
        }
        matched.sort_unstable();
        matched
    }

    fn reindex(&mut self, id: ItemId, old: Option<&InheritedLabels>, new: Option<&InheritedLabels>) {
        use felid_model::Labels as _;
        for (key, value) in old.iter().flat_map(|old| old.iter()) {
            if new.and_then(|new| new.get(key)) != Some(value) {
                self.items_by_label.remove(key, value, &id);
            }
        }
        for (key, value) in new.iter().flat_map(|new| new.iter()) {
            if old.and_then(|old| old.get(key)) != Some(value) {
                self.items_by_label.insert(key, value, id);
            }
        }
    }

    /// Writes the difference of two sorted lists of matches into the selectors' own lists.
    fn record(&mut self, id: ItemId, old: &[QueryId], new: &[QueryId]) -> Changes {
        let missing_in = |list: &[QueryId], other: &[QueryId]| -> Vec<QueryId> {
            list.iter()
                .filter(|query| other.binary_search(query).is_err())
                .copied()
                .collect()
        };
        let changes = Changes {
            begun: missing_in(new, old),
            ended: missing_in(old, new),
        };
        for query in &changes.begun {
            if let Some(query) = self.queries.get_mut(*query) {
                query.items.insert(id);
            }
        }
        for query in &changes.ended {
            if let Some(query) = self.queries.get_mut(*query) {
                query.items.remove(&id);
            }
        }
        changes
    }
}
