//! A pool of small numbers that are handed out, and taken back only when nothing refers to them any more.

use std::collections::BTreeSet;

/// Numbers from `first` up to `limit` (exclusive). What is taken is *staged* until it is committed or rolled back.
#[derive(Debug)]
pub(super) struct IdPool {
    first: u32,
    /// Every number from here on is free.
    next: u32,
    limit: u32,
    /// Free numbers below `next`.
    free: BTreeSet<u32>,
    staged: Vec<u32>,
    used: usize,
}

impl IdPool {
    pub(super) fn new(first: u32, limit: u32) -> Self {
        Self {
            first,
            next: first,
            limit: limit.max(first),
            free: BTreeSet::new(),
            staged: Vec::new(),
            used: 0,
        }
    }

    /// Marks a number as used before anything is handed out; whether it was free.
    pub(super) fn reserve(&mut self, id: u32) -> bool {
        if id >= self.limit {
            return false;
        }
        if id >= self.next {
            self.free.extend(self.next..id);
            self.next = id + 1;
        } else if !self.free.remove(&id) {
            return false;
        }
        self.used += 1;
        true
    }

    /// The lowest free number.
    pub(super) fn take(&mut self) -> Option<u32> {
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if self.next < self.limit => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.used += 1;
        self.staged.push(id);
        Some(id)
    }

    /// Takes a number back.
    pub(super) fn give(&mut self, id: u32) {
        if id < self.next && self.free.insert(id) {
            self.used = self.used.saturating_sub(1);
        }
    }

    /// Keeps what was taken.
    pub(super) fn commit(&mut self) {
        self.staged.clear();
    }

    /// Takes back whatever was taken since the last commit.
    pub(super) fn rollback(&mut self) {
        for id in std::mem::take(&mut self.staged) {
            self.give(id);
        }
    }

    /// How many numbers there are.
    pub(super) const fn capacity(&self) -> usize {
        (self.limit - self.first) as usize
    }

    /// How many numbers are in use, staged ones included.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// How many numbers are free.
    pub(super) fn free(&self) -> usize {
        self.free.len() + (self.limit - self.next) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_the_lowest_and_takes_back_what_was_staged() {
        let mut pool = IdPool::new(1, 5);
        assert!(pool.reserve(3) && !pool.reserve(3) && !pool.reserve(5));
        assert_eq!(
            [pool.take(), pool.take(), pool.take(), pool.take()],
            [Some(1), Some(2), Some(4), None]
        );
        assert_eq!((pool.used(), pool.free()), (4, 0));
        pool.rollback();
        assert_eq!((pool.used(), pool.free()), (1, 3));
        assert_eq!(pool.take(), Some(1));
        pool.commit();
        pool.give(3);
        pool.rollback();
        assert_eq!([pool.take(), pool.take()], [Some(2), Some(3)]);
    }
}
