//! Rules along one axis: destination ports, or the peer's addresses.
//!
//! In: the intervals that each rule covers. Out: which rules an index along this axis is good for,
//! and how many others each of them would be tested with. Never: what the intervals mean.

/// Intervals that a rule may cover; the first for which all together stay within the bounds.
const COVERS: [usize; 5] = [64, 16, 4, 2, 1];

/// The first and last value of an interval.
pub(crate) type Range = (u128, u128);

/// Rules along one axis.
#[derive(Default)]
pub(crate) struct Axis {
    members: Vec<Member>,
    /// The ranges of all members, one after the other.
    ranges: Vec<Range>,
}

struct Member {
    index: usize,
    /// Number of its ranges.
    ranges: usize,
    /// It always matches where it is found.
    certain: bool,
}

/// The intervals of an axis between any two neighbouring ends of ranges.
struct Grid {
    /// Number of intervals.
    intervals: usize,
    /// For each range: its first interval, and the one after its last.
    places: Vec<(usize, usize)>,
}

impl Axis {
    /// Adds a rule by its index. `certain`: nothing is left to test of it where it is found.
    pub(crate) fn add(&mut self, index: usize, ranges: impl Iterator<Item = Range>, certain: bool) {
        let before = self.ranges.len();
        self.ranges.extend(ranges);
        let ranges = self.ranges.len() - before;
        self.members.push(Member { index, ranges, certain });
    }

    /// Writes for each rule that this axis is good for how many rules it is tested with at most.
    /// `expansion`: how many times longer than the rules all lists together may be.
    pub(crate) fn measure(&self, expansion: usize, out: &mut [Option<usize>]) {
        let grid = self.grid();
        let mut rest = grid.places.as_slice();
        let mut places: Vec<&[(usize, usize)]> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let (own, others) = rest.split_at_checked(member.ranges).unwrap_or_default();
            places.push(own);
            rest = others;
        }
        let covers: Vec<usize> = places
            .iter()
            .map(|places| places.iter().map(|(first, end)| end - first).sum())
            .collect();
        let most = self.most(&covers, expansion);
        let counted = self.members.iter().zip(&covers).zip(&places);
        let counted = counted.filter(|((member, covers), _)| !member.certain && **covers <= most);
        let active = active(grid.intervals, counted.flat_map(|(_, places)| places.iter().copied()));
        for ((member, covers), places) in self.members.iter().zip(&covers).zip(&places) {
            let tested_with = if *covers <= most {
                let among = |(first, end): &(usize, usize)| active.get(*first..*end)?.iter().max().copied();
                places.iter().filter_map(among).max().unwrap_or(0)
            } else if member.certain {
                1
            } else {
                continue;
            };
            if let Some(out) = out.get_mut(member.index) {
                *out = Some(tested_with);
            }
        }
    }

    fn grid(&self) -> Grid {
        let ends = |(first, last): &Range| [Some(*first), last.checked_add(1)];
        let mut bounds: Vec<u128> = self.ranges.iter().flat_map(ends).flatten().collect();
        bounds.sort_unstable();
        bounds.dedup();
        // Most lists are in order: then the next bound is the one to be found.
        let mut next = 0;
        let mut place = |bound: u128| {
            if bounds.get(next) != Some(&bound) {
                next = bounds.partition_point(|known| *known < bound);
            }
            next += 1;
            next - 1
        };
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in &self.ranges {
            let first = place(*first);
            let end = last.checked_add(1).map_or(bounds.len(), &mut place);
            places.push((first, end));
        }
        Grid {
            intervals: bounds.len(),
            places,
        }
    }

    /// Returns how many intervals a rule may cover, so that all lists together stay within the
    /// bounds.
    fn most(&self, covers: &[usize], expansion: usize) -> usize {
        let uncertain = |most: usize| {
            let all = self.members.iter().zip(covers);
            all.filter(move |(member, covers)| !member.certain && **covers <= most)
        };
        let fits = |most: &&usize| {
            let lists: usize = uncertain(**most).map(|(_, covers)| covers).sum();
            lists <= expansion * uncertain(**most).count()
        };
        COVERS.iter().find(fits).copied().unwrap_or(1)
    }
}

/// Returns how many of the ranges cover each interval.
fn active(intervals: usize, places: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut change = vec![0_isize; intervals + 1];
    for (first, end) in places {
        for (at, by) in [(first, 1), (end, -1)] {
            if let Some(change) = change.get_mut(at) {
                *change += by;
            }
        }
    }
    let mut active = 0;
    let running_sum = |change: &isize| {
        active += change;
        active.max(0) as usize
    };
    change.iter().map(running_sum).collect()
}
