//! The stamp of a file, which tells whether it has changed without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::directory) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(in crate::directory) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the same file (not a new one that took its name) has this stamp.
    pub(in crate::directory) fn same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether nobody has touched the file for this long, as far as the clock can be trusted.
    pub(in crate::directory) fn older_than(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else {
            return true;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0));
        now.duration_since(changed).is_ok_and(|passed| passed >= age)
    }
}

#[cfg(test)]
impl Stamp {
    /// A stamp of a file that was changed last at this time.
    pub(in crate::directory) fn at(changed: SystemTime) -> Self {
        let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = (since.as_secs().cast_signed(), i64::from(since.subsec_nanos()));
        Self {
            device: 1,
            inode: 1,
            size: 1,
            modified: time,
            changed: time,
        }
    }
}
