//! Short grace periods for a moment.
//!
//! The kernel waits a grace period (about 10 ms) whenever a TCX program is attached where none was,
//! one interface after the other: five seconds for a node with 250 workloads, all of them cut off
//! or unguarded for so long. While `/sys/kernel/rcu_expedited` is 1 the wait takes microseconds, at
//! the price of interrupts on all CPUs. So it is set for such a burst, and only then.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// Attachments for which it is worth it.
const BURST: usize = 6;

/// How often the lock of the switch is tried for, and how long it waits in between.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// While it lives, grace periods are short.
pub(crate) struct Expedited {
    switch: Flock<File>,
    marker: PathBuf,
}

/// The directory that says that the switch must be put back, should the agent die meanwhile. (A
/// bpffs holds no files of text.)
fn marker(directory: &Path) -> PathBuf {
    directory.join("expedited")
}

fn lock_soon(mut file: File) -> Option<Flock<File>> {
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((unlocked, _)) => file = unlocked,
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    None
}

impl Expedited {
    /// Switches over for `attachments` attachments; `None` if they are few, if the administrator
    /// has done it anyway, or if it cannot be done (a read-only /sys): then it takes longer.
    pub(crate) fn start(directory: &Path, attachments: usize) -> Option<Self> {
        if attachments < BURST {
            return None;
        }
        let file = OpenOptions::new().read(true).write(true).open(SWITCH).ok()?;
        // Whoever else does the same is waited for, so that each finds the switch as it was; but
        // not for long, since any user of the host may lock the file.
        let mut switch = lock_soon(file)?;
        let mut before = String::new();
        switch.read_to_string(&mut before).ok()?;
        if before.trim() != "0" {
            return None;
        }
        let marker = marker(directory);
        fs::create_dir(&marker).ok()?;
        let mut expedited = Self { switch, marker };
        expedited.set("1").ok()?;
        Some(expedited)
    }

    fn set(&mut self, value: &str) -> std::io::Result<()> {
        self.switch.rewind()?;
        self.switch.write_all(value.as_bytes())
    }

    /// Puts back what an agent that died left behind.
    pub(crate) fn recover(directory: &Path) {
        let marker = marker(directory);
        if marker.exists() {
            let reset = fs::write(SWITCH, "0").and_then(|()| fs::remove_dir(&marker));
            if let Err(error) = reset {
                tracing::warn!(%error, "cannot set {SWITCH} back to 0");
            }
        }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        let reset = self.set("0").and_then(|()| fs::remove_dir(&self.marker));
        if let Err(error) = reset {
            tracing::warn!(%error, "cannot set {SWITCH} back to 0");
        }
    }
}
