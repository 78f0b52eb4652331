//! Classes: equal effective memberships, interned. Rows are never changed while anything refers to
//! them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::ids::IdPool;

#[derive(Debug)]
struct Class {
    /// `None` = taken over from a previous run: what its bits mean is unknown.
    row: Option<Arc<[u64]>>,
    /// Map entries in force that refer to it.
    refs: usize,
}

/// All classes in use. Class 0, the empty row, is always there and not counted.
#[derive(Debug)]
pub(super) struct Classes {
    words: usize,
    by_row: HashMap<Arc<[u64]>, u32>,
    classes: HashMap<u32, Class>,
    pool: IdPool,
    staged: Vec<u32>,
    overflow: HashSet<Box<[u64]>>,
}

impl Classes {
    pub(super) fn new(words: usize, max_classes: u32) -> Self {
        Self {
            words,
            by_row: HashMap::new(),
            classes: HashMap::new(),
            pool: IdPool::new(1, max_classes),
            staged: Vec::new(),
            overflow: HashSet::new(),
        }
    }

    /// A class that a previous run's map entry refers to.
    pub(super) fn adopt(&mut self, class: u32) {
        if class != 0 {
            self.pool.reserve(class);
            self.classes.entry(class).or_insert(Class { row: None, refs: 0 }).refs += 1;
        }
    }

    /// An empty row to fill.
    pub(super) fn blank(&self) -> Vec<u64> {
        vec![0; self.words]
    }

    /// The class of a row. Without room it is noted for [`Self::overflow`], and the result is of no
    /// use.
    pub(super) fn intern(&mut self, row: &[u64]) -> u32 {
        // Rows are as wide as the kernel's, and mostly zeros: only their beginning is kept.
        let Some(last) = row.iter().rposition(|&word| word != 0) else {
            return 0;
        };
        let row = row.get(..=last).unwrap_or_default();
        if let Some(&class) = self.by_row.get(row) {
            return class;
        }
        let Some(class) = self.pool.take() else {
            self.overflow.insert(row.into());
            return 0;
        };
        let row: Arc<[u64]> = row.into();
        self.by_row.insert(row.clone(), class);
        self.classes.insert(
            class,
            Class {
                row: Some(row),
                refs: 0,
            },
        );
        self.staged.push(class);
        class
    }

    /// A class's row without the zeros at its end; `None` = class 0 or unknown.
    pub(super) fn row(&self, class: u32) -> Option<&Arc<[u64]>> {
        self.classes.get(&class).and_then(|class| class.row.as_ref())
    }

    /// Rows that were interned since the last commit, in full width.
    pub(super) fn staged(&self) -> Vec<(u32, Arc<[u64]>)> {
        let full = |row: &[u64]| {
            row.iter()
                .copied()
                .chain(std::iter::repeat(0))
                .take(self.words)
                .collect()
        };
        self.staged
            .iter()
            .filter_map(|&class| Some((class, full(self.row(class)?))))
            .collect()
    }

    /// If there was no room: how many classes would have to be there.
    pub(super) fn overflow(&self) -> Option<usize> {
        (!self.overflow.is_empty()).then(|| self.used() + self.overflow.len())
    }

    /// A map entry refers to the class from now on.
    pub(super) fn hold(&mut self, class: u32) {
        if let Some(class) = self.classes.get_mut(&class) {
            class.refs += 1;
        }
    }

    /// A map entry does not refer to the class any more. What nothing refers to is freed by the
    /// next [`Self::commit`], so a caller lets go before it commits.
    pub(super) fn let_go(&mut self, class: u32) {
        if let Some(entry) = self.classes.get_mut(&class) {
            entry.refs = entry.refs.saturating_sub(1);
            if entry.refs == 0 {
                self.staged.push(class);
            }
        }
    }

    /// Frees the classes that nothing refers to.
    pub(super) fn commit(&mut self) {
        self.pool.commit();
        self.sweep();
    }

    /// Frees what was interned since the last commit.
    pub(super) fn rollback(&mut self) {
        self.pool.commit();
        self.sweep();
        self.overflow.clear();
    }

    fn sweep(&mut self) {
        for id in std::mem::take(&mut self.staged) {
            if self.classes.get(&id).is_some_and(|class| class.refs == 0)
                && let Some(class) = self.classes.remove(&id)
            {
                if let Some(row) = class.row {
                    self.by_row.remove(&row);
                }
                self.pool.give(id);
            }
        }
    }

    /// Classes in use, without class 0.
    pub(super) fn used(&self) -> usize {
        self.classes.len()
    }
}
