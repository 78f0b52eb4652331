//! Whether the root of the directory is the one that is known: a root that vanished deletes
//! nothing, and one that comes back deletes what it lacks only when it has been filled.
//!
//! In: which directory a look at the root found, and when. Out: whether what is missing may be
//! deleted. Never: a clock, a file system.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A root that came back is complete when nothing has changed for this long.
const RETURN: Duration = Duration::from_secs(1);

/// What tells one directory from another at the same path: device, inode, and time of birth where
/// the file system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Nanoseconds since 1970, or 0.
    pub(crate) born: u64,
}

/// The root as it was last seen.
#[derive(Debug, Default)]
pub(super) struct Root {
    lost: bool,
    /// When the last change was seen in a root that came back.
    returned: Option<Instant>,
}

impl Root {
    /// The root was moved, removed or replaced.
    pub(super) const fn is_lost(&mut self) {
        self.lost = true;
    }

    /// A look at the root: the directory that is there, and the one that was known. `holds` = files
    /// were read there.
    pub(super) fn looked(&mut self, found: Option<DirectoryId>, known: Option<DirectoryId>, holds: bool, now: Instant) {
        let Some(found) = found else {
            self.lost = true;
            return;
        };
        let replaced = known.is_some_and(|known| known != found);
        if (self.lost || replaced) && self.returned.is_none() && holds {
            self.returned = Some(now);
        }
        self.lost = false;
    }

    /// The root is one that has to be filled before it deletes anything.
    pub(super) const fn begins_to_return(&mut self, now: Instant) {
        self.returned = Some(now);
    }

    /// Whether a root that came back is being filled: what is missing is not deleted.
    pub(super) const fn is_returning(&self) -> bool {
        self.returned.is_some()
    }

    /// Something was read in a root that came back.
    pub(super) fn filled(&mut self, now: Instant) {
        if let Some(returned) = &mut self.returned {
            *returned = now;
        }
    }

    /// Whether the root is the one to remember: it has not been away, or is complete. It is
    /// complete when nothing is missing or nothing has changed for a while; never as long as it is
    /// empty.
    pub(super) fn is_complete(&mut self, empty: bool, missing: bool, now: Instant) -> bool {
        if let Some(since) = self.returned {
            let quiet = now.duration_since(since) >= RETURN;
            if !empty && (quiet || !missing) {
                self.returned = None;
            }
        }
        self.returned.is_none()
    }

    /// When a root that came back is complete, if nothing changes; `None` = it is not on its way.
    pub(super) fn deadline(&self, empty: bool) -> Option<Instant> {
        self.returned.filter(|_| !empty).map(|since| since + RETURN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn directory(inode: u64) -> Option<DirectoryId> {
        Some(DirectoryId {
            device: 1,
            inode,
            born: 0,
        })
    }

    #[test]
    fn a_root_that_stays_is_complete_at_once() {
        let (mut root, now) = (Root::default(), Instant::now());
        root.looked(directory(1), directory(1), true, now);
        assert!(!root.is_returning() && root.is_complete(false, true, now));
        assert_eq!(root.deadline(false), None);
    }

    #[test]
    fn a_root_that_was_away_waits_until_it_is_filled() {
        let (mut root, start) = (Root::default(), Instant::now());
        root.looked(None, directory(1), true, start);
        assert!(!root.is_returning());
        root.looked(directory(1), directory(1), true, start);
        assert!(root.is_returning());
        // Empty: never.
        assert_eq!(root.deadline(true), None);
        assert!(!root.is_complete(true, true, start + 10 * RETURN));
        // Something arrives, and more of it.
        root.filled(start + RETURN);
        assert_eq!(root.deadline(false), Some(start + 2 * RETURN));
        assert!(!root.is_complete(false, true, start + RETURN + RETURN / 2));
        assert!(root.is_complete(false, true, start + 2 * RETURN));
        assert!(!root.is_returning());
    }

    #[test]
    fn nothing_missing_ends_the_wait() {
        let (mut root, start) = (Root::default(), Instant::now());
        root.is_lost();
        root.looked(directory(1), directory(1), true, start);
        assert!(root.is_complete(false, false, start));
    }

    #[test]
    fn another_directory_in_its_place_waits_too() {
        let (mut root, start) = (Root::default(), Instant::now());
        root.looked(directory(2), directory(1), true, start);
        assert!(root.is_returning());
        // A later look does not begin the time anew.
        root.looked(directory(2), directory(1), true, start + RETURN / 2);
        assert!(root.is_complete(false, true, start + RETURN));
    }

    #[test]
    fn without_files_there_is_nothing_to_lose() {
        let (mut root, now) = (Root::default(), Instant::now());
        root.looked(directory(2), directory(1), false, now);
        assert!(!root.is_returning());
    }
}
