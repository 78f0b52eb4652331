//! Sets of ports, and functions from ports to values, as sorted disjoint intervals.
//!
//! In: ranges of ports in host byte order. Out: [`PortSet`] and [`PortMap`]. Never: protocols,
//! rules.

use std::borrow::Cow;

/// A set of ports: sorted, disjoint, not adjacent, inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortSet(Cow<'static, [(u16, u16)]>);

impl PortSet {
    /// Returns the set of every port.
    pub(crate) fn all() -> Self {
        Self(Cow::Borrowed(&[(0, u16::MAX)]))
    }

    /// Returns the union of ranges in any order. A reversed range is empty.
    pub(crate) fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        sorted.dedup_by(|later, earlier| {
            let joined = u32::from(later.0) <= u32::from(earlier.1) + 1;
            if joined {
                earlier.1 = earlier.1.max(later.1);
            }
            joined
        });
        Self(sorted.into())
    }

    /// Returns all ports that are not in this set.
    pub(crate) fn complement(&self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0u32;
        for &(first, last) in self.ranges() {
            if next < u32::from(first) {
                rest.push((next as u16, first - 1));
            }
            next = u32::from(last) + 1;
        }
        if next <= u32::from(u16::MAX) {
            rest.push((next as u16, u16::MAX));
        }
        Self(rest.into())
    }

    /// Returns the ports of this set that are not in the other.
    pub(crate) fn without(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let outside = self.complement();
        Self::of([outside.ranges(), other.ranges()].concat()).complement()
    }

    /// Returns the ports that are in both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        if self.is_all() {
            other.clone()
        } else {
            self.without(&other.complement())
        }
    }

    /// Returns whether no port is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether every port is in it.
    pub(crate) fn is_all(&self) -> bool {
        *self.0 == [(0, u16::MAX)]
    }

    /// Returns the number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the ranges.
    pub(crate) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Returns whether the port is in it.
    pub(crate) fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= port);
        after
            .checked_sub(1)
            .and_then(|i| self.0.get(i))
            .is_some_and(|&(_, last)| port <= last)
    }

    /// Returns the first port of every interval on which membership is constant, but for port 0.
    pub(crate) fn boundaries(&self) -> impl Iterator<Item = u32> + '_ {
        self.0
            .iter()
            .flat_map(|&(first, last)| [u32::from(first), u32::from(last) + 1])
            .filter(|&b| b != 0 && b <= u32::from(u16::MAX))
    }
}

/// A total function of ports: (first port of the interval, value), sorted, the first at port 0,
/// neighbours different.
pub(crate) type PortMap<T> = Vec<(u16, T)>;

/// Joins neighbours with equal values.
pub(crate) fn merge_neighbours<T: PartialEq>(map: &mut PortMap<T>) {
    map.dedup_by(|later, earlier| later.1 == earlier.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions_merge_overlap_and_adjacency() {
        assert_eq!(
            PortSet::of([(90, 90), (80, 81), (82, 85), (84, 86), (7, 3)]).ranges(),
            [(80, 86), (90, 90)]
        );
        assert!(PortSet::of([(0, 100), (101, u16::MAX)]).is_all());
    }

    #[test]
    fn complement_and_difference_agree_with_membership() {
        let a = PortSet::of([(0, 10), (20, 30), (65535, 65535)]);
        let b = PortSet::of([(5, 25), (40, 50)]);
        let (not_a, a_without_b) = (a.complement(), a.without(&b));
        for port in 0..=u16::MAX {
            assert_eq!(not_a.contains(port), !a.contains(port));
            assert_eq!(
                a_without_b.contains(port),
                a.contains(port) && !b.contains(port),
                "{port}"
            );
        }
        assert!(PortSet::all().complement().is_empty());
    }
}
