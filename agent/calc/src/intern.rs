//! Numbers for active sets, and one shared copy of each combination of sets that prefixes are
//! members of.

use std::collections::HashMap;
use std::sync::Arc;

use felid_model::resolved::{SetId, SetIds};

/// Number of an active set; never used twice, so that combinations of retired sets cannot be
/// mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetNumber(u64);

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    numbers: HashMap<SetId, SetNumber>,
    ids: HashMap<SetNumber, SetId>,
    next: u64,
    /// Keyed by sorted numbers.
    combinations: HashMap<Vec<SetNumber>, Arc<SetIds>>,
    /// Number of combinations after the last sweep.
    swept: usize,
}

impl Interner {
    /// The number of a set, new if the set is.
    pub(crate) fn introduce(&mut self, id: &SetId) -> SetNumber {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let number = SetNumber(self.next);
        self.next += 1;
        self.numbers.insert(id.clone(), number);
        self.ids.insert(number, id.clone());
        number
    }

    /// Forgets a set.
    pub(crate) fn retire(&mut self, id: &SetId) -> Option<SetNumber> {
        let number = self.numbers.remove(id)?;
        self.ids.remove(&number);
        Some(number)
    }

    /// The combination of these sets; `None` if there are none.
    pub(crate) fn intern(&mut self, mut numbers: Vec<SetNumber>) -> Option<Arc<SetIds>> {
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            return None;
        }
        let ids = &self.ids;
        let make =
            |numbers: &Vec<SetNumber>| Arc::new(numbers.iter().filter_map(|number| ids.get(number).cloned()).collect());
        Some(self.combinations.entry(numbers).or_insert_with_key(make).clone())
    }

    /// Drops combinations that nothing uses any more, when there may be many.
    pub(crate) fn sweep(&mut self) {
        if self.combinations.len() > 2 * self.swept + 64 {
            self.combinations.retain(|_, sets| Arc::strong_count(sets) > 1);
            self.swept = self.combinations.len();
        }
    }
}
