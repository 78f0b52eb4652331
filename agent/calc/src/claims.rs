//! Who claims what only one can have: an interface of this node, an address on it.
//!
//! In: claims, each with whether the claimant's interface is there. Out: who has what. A claimant
//! whose interface is there wins over one whose interface is not, and among equals the lexically
//! smallest key wins. Never: what is claimed.

use std::collections::{BTreeMap, BTreeSet};

use felid_model::ResourceKey;

/// A claim, in the order in which claims win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    is_absent: bool,
    key: ResourceKey,
}

/// Claims, and the things whose claims changed since [`Claims::take_touched`] was called last.
#[derive(Debug)]
pub(crate) struct Claims<T> {
    claims: BTreeMap<T, BTreeSet<Claim>>,
    touched: BTreeSet<T>,
}

impl<T: Ord + Clone> Claims<T> {
    pub(crate) fn new() -> Self {
        Claims {
            claims: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Notes a claim, or that the claimant's interface has come or gone.
    pub(crate) fn claim(&mut self, thing: &T, key: &ResourceKey, is_absent: bool) {
        let claim = |is_absent| Claim {
            is_absent,
            key: key.clone(),
        };
        let claims = self.claims.entry(thing.clone()).or_default();
        claims.remove(&claim(!is_absent));
        if claims.insert(claim(is_absent)) {
            self.touched.insert(thing.clone());
        }
    }

    /// Takes a claim back.
    pub(crate) fn release(&mut self, thing: &T, key: &ResourceKey) {
        let Some(claims) = self.claims.get_mut(thing) else {
            return;
        };
        let before = claims.len();
        claims.retain(|claim| claim.key != *key);
        if claims.len() < before {
            self.touched.insert(thing.clone());
        }
        if claims.is_empty() {
            self.claims.remove(thing);
        }
    }

    /// Returns who has a thing.
    pub(crate) fn winner(&self, thing: &T) -> Option<&ResourceKey> {
        self.claims.get(thing)?.first().map(|claim| &claim.key)
    }

    /// Returns everybody who claims a thing.
    pub(crate) fn claimants(&self, thing: &T) -> impl Iterator<Item = &ResourceKey> {
        self.claims.get(thing).into_iter().flatten().map(|claim| &claim.key)
    }

    /// Returns the claimants of everything that was touched since the last call.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<ResourceKey> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .iter()
            .flat_map(|thing| self.claimants(thing))
            .cloned()
            .collect()
    }
}
