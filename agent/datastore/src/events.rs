//! What an event means for the files of the tree.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::names::ignored;
use crate::shell::Shell;
use crate::view::FilePath;
use crate::walk::{Stamp, join};
use crate::watch::Change;

impl Shell {
    /// Notes what an event asks for. Touches no file but the one that it names.
    pub(crate) fn happened(&mut self, change: Change, path: &Path) {
        if change == Change::Lost {
            tracing::warn!(target: "felid::datastore", "inotify lost events: looking at everything again");
            self.writing.clear();
            self.next_rescan = Instant::now();
            return;
        }
        let about_itself = match change {
            Change::Created | Change::Arrived | Change::Gone => true,
            Change::Touched => !self.tree.by_real.contains_key(path),
            Change::Written | Change::Closed | Change::Lost => false,
        };
        if about_itself && self.tree.anchors.contains(path) {
            self.walk_needed = true;
            self.swapped |= change == Change::Arrived;
            if change == Change::Gone {
                self.watch.forget(path);
                self.root_lost |= self.tree.root.as_ref().is_some_and(|(root, _)| root == path);
            }
            return;
        }
        if self.tree.directories.contains_key(path) {
            match change {
                Change::Gone => {
                    self.watch.forget(path);
                    self.walk_needed = true;
                }
                Change::Touched | Change::Created | Change::Arrived => self.walk_needed = true,
                Change::Written | Change::Closed | Change::Lost => {}
            }
            return;
        }
        match self.tree.by_real.get(path).cloned() {
            Some(file) => self.happened_to(change, path, file),
            None => self.happened_to_unknown(change, path),
        }
    }

    fn happened_to(&mut self, change: Change, real: &Path, file: FilePath) {
        let now = Instant::now();
        match change {
            Change::Written => {
                self.writing.insert(real.to_owned(), now);
            }
            Change::Closed | Change::Arrived => {
                self.writing.remove(real);
                self.reads.insert(file);
            }
            Change::Created | Change::Touched => self.look_later(file),
            Change::Gone => {
                self.writing.remove(real);
                self.last_gone = now;
                self.vanishing.entry(file).or_insert(now);
            }
            Change::Lost => {}
        }
    }

    fn happened_to_unknown(&mut self, change: Change, real: &Path) {
        let Some(directory) = real.parent().and_then(|parent| self.tree.directories.get(parent)) else {
            return;
        };
        let Some(name) = real.file_name().and_then(|name| name.to_str()) else {
            self.walk_needed = true;
            return;
        };
        if ignored(name) {
            return;
        }
        let file = join(directory, name);
        match change {
            Change::Written => {
                self.writing.insert(real.to_owned(), Instant::now());
            }
            Change::Created | Change::Closed | Change::Arrived | Change::Touched => match real.symlink_metadata() {
                Ok(metadata) if metadata.is_file() => {
                    self.tree.add(&file, real, Stamp::of(&metadata));
                    self.happened_to(change, real, file);
                }
                Ok(_) => {
                    self.walk_needed = true;
                    self.swapped |= change == Change::Arrived;
                }
                // It is gone already, or a walk will tell.
                Err(_) => {
                    self.writing.remove(real);
                }
            },
            // A link or something odd: regular files are known from the moment that they are created.
            Change::Gone => self.walk_needed = true,
            Change::Lost => {}
        }
    }

    /// Reads the file when nobody has touched it for a moment.
    pub(crate) fn look_later(&mut self, file: FilePath) {
        let due = Instant::now() + crate::shell::SETTLE;
        self.unsettled.entry(file).or_insert((None, due));
    }

    /// Moves what has settled to what is to be read.
    pub(crate) fn settle(&mut self, now: Instant) {
        let due: Vec<FilePath> = self
            .unsettled
            .iter()
            .filter(|(_, (_, due))| *due <= now)
            .map(|(file, _)| Arc::clone(file))
            .collect();
        let clock = std::time::SystemTime::now();
        for file in due {
            let Some((seen, _)) = self.unsettled.remove(&file) else {
                continue;
            };
            let Some(found) = self.tree.files.get(&file) else {
                continue;
            };
            let Ok(metadata) = found.real.metadata() else {
                self.vanishing.entry(file).or_insert(now);
                continue;
            };
            let stamp = Stamp::of(&metadata);
            if self
                .known
                .get(&file)
                .copied()
                .flatten()
                .is_some_and(|known| known.stamp == stamp)
            {
                continue;
            }
            let kept_open = self
                .writing
                .get(&found.real)
                .is_some_and(|last| now.duration_since(*last) < crate::shell::KEPT_OPEN);
            if !kept_open && (seen == Some(stamp) || stamp.older_than(crate::shell::SETTLE, clock)) {
                self.writing.remove(&found.real);
                self.reads.insert(file);
            } else {
                self.unsettled.insert(file, (Some(stamp), now + crate::shell::SETTLE));
            }
        }
    }
}
