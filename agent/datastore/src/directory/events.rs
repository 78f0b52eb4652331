//! What an event of inotify means for the files of the tree.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use felid_model::FileKind;

use crate::core::content::SourceId;
use crate::directory::inotify::FileChange;
use crate::directory::readiness::Moment;
use crate::directory::scan::join;
use crate::directory::stamp::Stamp;
use crate::directory::watcher::DirectoryWatcher;

impl DirectoryWatcher {
    /// Notes what an event asks for. Touches no file but the one that it names.
    pub(super) fn happened(&mut self, change: FileChange, path: &Path) {
        if change == FileChange::Lost {
            tracing::warn!(target: "felid::datastore", "inotify lost events: looking at everything again");
            self.readiness.forget_writers();
            self.schedule.next = Instant::now();
            return;
        }
        let about_itself = match change {
            FileChange::Created | FileChange::Arrived | FileChange::Gone => true,
            FileChange::Touched => !self.tree.by_real.contains_key(path),
            FileChange::Written | FileChange::Closed | FileChange::Lost => false,
        };
        if about_itself && self.tree.anchors.contains(path) {
            self.schedule.needed = true;
            self.schedule.swapped |= change == FileChange::Arrived;
            if change == FileChange::Gone {
                self.watches.forget(path);
                if self.tree.root.as_ref().is_some_and(|(root, _)| root == path) {
                    self.root.is_lost();
                }
            }
            return;
        }
        if self.tree.directories.contains_key(path) {
            match change {
                FileChange::Gone => {
                    self.watches.forget(path);
                    self.schedule.needed = true;
                }
                FileChange::Touched | FileChange::Created | FileChange::Arrived => self.schedule.needed = true,
                FileChange::Written | FileChange::Closed | FileChange::Lost => {}
            }
            return;
        }
        match self.tree.by_real.get(path).cloned() {
            Some(file) => self.happened_to(change, path, file),
            None => self.happened_to_unknown(change, path),
        }
    }

    fn happened_to(&mut self, change: FileChange, real: &Path, file: SourceId) {
        let now = Instant::now();
        match change {
            FileChange::Written => self.readiness.written(real, now),
            FileChange::Closed | FileChange::Arrived => {
                self.writers.closed(&file);
                self.readiness.closed(file, real);
            }
            FileChange::Created | FileChange::Touched => self.readiness.touched(file, now),
            FileChange::Gone => {
                self.readiness.left(real);
                self.departures.went(file, now);
            }
            FileChange::Lost => {}
        }
    }

    fn happened_to_unknown(&mut self, change: FileChange, real: &Path) {
        let Some(directory) = real.parent().and_then(|parent| self.tree.directories.get(parent)) else {
            return;
        };
        let Some(name) = real.file_name().and_then(|name| name.to_str()) else {
            self.schedule.needed = true;
            return;
        };
        match FileKind::of(name) {
            FileKind::Ignored => return,
            FileKind::Other => {
                self.schedule.needed = true;
                return;
            }
            FileKind::Records => {}
        }
        let file = join(directory, name);
        match change {
            FileChange::Written => self.readiness.written(real, Instant::now()),
            FileChange::Created | FileChange::Closed | FileChange::Arrived | FileChange::Touched => {
                match real.symlink_metadata() {
                    Ok(metadata) if metadata.is_file() => {
                        self.tree.add(&file, real, Stamp::of(&metadata));
                        self.happened_to(change, real, file);
                    }
                    Ok(_) => {
                        self.schedule.needed = true;
                        self.schedule.swapped |= change == FileChange::Arrived;
                    }
                    // It is gone already, or a scan will tell.
                    Err(_) => self.readiness.left(real),
                }
            }
            // A link or something odd: regular files are known from the moment that they are
            // created.
            FileChange::Gone => self.schedule.needed = true,
            FileChange::Lost => {}
        }
    }

    /// Looks at the files that have to be left alone for a moment, when they are due.
    pub(super) fn look_at_waiting(&mut self, at: Moment) {
        for (file, before) in self.readiness.take_due(at.now) {
            let Some(found) = self.tree.files.get(&file) else {
                continue;
            };
            let Ok(metadata) = found.real.metadata() else {
                self.writers.done(&file);
                self.departures.is_away(file, at.now);
                continue;
            };
            let stamp = Stamp::of(&metadata);
            let known = self.known.get(&file).copied().flatten();
            if known.is_none_or(|known| known.stamp != stamp) {
                let real = found.real.clone();
                self.readiness.looked(Arc::clone(&file), &real, (before, stamp), at);
            } else {
                self.writers.done(&file);
            }
        }
    }
}
