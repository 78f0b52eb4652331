//! Tiers: their order, and what happens at their end.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use felid_model::Tier;

/// Tiers that exist without a record: name, order, whether their end passes.
pub(crate) const BUILT_IN: [(&str, f64, bool); 3] = [
    ("kube-admin", 1000.0, true),
    ("default", 1_000_000.0, false),
    ("kube-baseline", 10_000_000.0, true),
];

/// An order number as a key: `None` comes last, zeros of both signs are one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    absent: bool,
    value: f64,
}

impl Order {
    /// `None` is a place of its own, after every number.
    pub(crate) fn new(order: Option<f64>) -> Self {
        // Adding zero turns -0.0 into 0.0.
        Order {
            absent: order.is_none(),
            value: order.unwrap_or(0.0) + 0.0,
        }
    }

    /// `None` is the same as infinity.
    pub(crate) fn or_infinite(order: Option<f64>) -> Self {
        Order::new(Some(order.unwrap_or(f64::INFINITY)))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        self.absent
            .cmp(&other.absent)
            .then_with(|| self.value.total_cmp(&other.value))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Order {}

/// Where a tier stands, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TierPlace {
    pub(crate) order: Order,
    pub(crate) name: Arc<str>,
    pub(crate) end_pass: bool,
}

/// The tiers that exist.
#[derive(Debug)]
pub(crate) struct Tiers {
    places: BTreeMap<Arc<str>, TierPlace>,
}

impl Tiers {
    pub(crate) fn new() -> Self {
        let built_in = BUILT_IN.iter().map(|(name, ..)| Arc::<str>::from(*name));
        Tiers {
            places: built_in
                .filter_map(|name| Some((name.clone(), built_in_place(&name)?)))
                .collect(),
        }
    }

    /// Sets a tier's record, `None` = gone. Whether anything changed.
    pub(crate) fn put(&mut self, name: &Arc<str>, record: Option<&Tier>) -> bool {
        let place = match record {
            Some(tier) => Some(TierPlace {
                order: Order::new(tier.order),
                name: name.clone(),
                end_pass: tier.default_pass,
            }),
            None => built_in_place(name),
        };
        if self.places.get(name) == place.as_ref() {
            return false;
        }
        match place {
            Some(place) => self.places.insert(name.clone(), place),
            None => self.places.remove(name),
        };
        true
    }

    /// A tier, if it exists.
    pub(crate) fn get(&self, name: &str) -> Option<&TierPlace> {
        self.places.get(name)
    }

    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }
}

fn built_in_place(name: &Arc<str>) -> Option<TierPlace> {
    let (_, order, end_pass) = BUILT_IN.iter().find(|(built_in, ..)| *built_in == &**name)?;
    Some(TierPlace {
        order: Order::new(Some(*order)),
        name: name.clone(),
        end_pass: *end_pass,
    })
}
