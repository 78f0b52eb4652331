//! A pool of small numbers that are handed out, and taken back only when nothing refers to them any
//! more.

use std::collections::BTreeSet;

/// Numbers from `first` up to `limit` (exclusive). What is taken is *staged* until it is committed
/// or rolled back.
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
    /// The next to be handed out, if free.
    preferred: Option<u32>,
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
            preferred: None,
        }
    }

    /// From here on numbers are handed out from the first place where so many are free side by
    /// side; if there is none, from the lowest.
    pub(super) fn prefer(&mut self, count: usize) {
        let mut run: Option<(u32, u32)> = None;
        for &id in &self.free {
            run = match run {
                Some((first, last)) if last + 1 == id => Some((first, id)),
                _ => Some((id, id)),
            };
            if run.is_some_and(|(first, last)| (last - first) as usize + 1 >= count) {
                break;
            }
        }
        // The last run goes on in what was never handed out.
        self.preferred = match run {
            Some((first, last)) if (last - first) as usize + 1 >= count || last + 1 == self.next => Some(first),
            _ => Some(self.next),
        };
        if self
            .preferred
            .is_some_and(|first| first >= self.next && ((self.limit - self.next) as usize) < count)
        {
            self.preferred = None;
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

    /// The preferred number, else the lowest free one.
    pub(super) fn take(&mut self) -> Option<u32> {
        let preferred = self.preferred.take();
        let wanted = preferred.filter(|&id| self.free.remove(&id));
        let fresh = preferred == Some(self.next) && self.next < self.limit;
        let id = match wanted.or_else(|| if fresh { None } else { self.free.pop_first() }) {
            Some(id) => id,
            None if self.next < self.limit => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        if preferred == Some(id) {
            self.preferred = id.checked_add(1);
        }
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
        self.preferred = None;
        self.staged.clear();
    }

    /// Takes back whatever was taken since the last commit.
    pub(super) fn rollback(&mut self) {
        self.preferred = None;
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

    #[test]
    fn prefers_numbers_side_by_side() {
        let mut pool = IdPool::new(0, 20);
        (0..12).for_each(|_| _ = pool.take());
        [1, 2, 4, 5, 6, 11].into_iter().for_each(|id| pool.give(id));
        pool.prefer(3);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(4), Some(5), Some(6)]);
        // The last free number and what was never handed out go together.
        pool.prefer(4);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(11), Some(12), Some(13)]);
        pool.prefer(9);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(1), Some(2), Some(14)]);
        pool.commit();
        assert_eq!(pool.take(), Some(15));
    }
}
