//! What a start reads of the file, and what it makes of damaged lines.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

use felid_model::ResourceKey;

use super::line::{LogLine, checked};
use super::{DAMAGED, FILE, FORMAT, LastGoodLog, LogStorage, NO_DIGEST, Slot};
use crate::core::state::Entry;

/// What was found in the log at the start.
struct Replayed {
    /// Up to the end of the last whole line.
    size: u64,
    /// Lines that were damaged.
    damaged: usize,
    known_format: bool,
}

impl LastGoodLog {
    pub(super) fn replay(&mut self) -> io::Result<BTreeMap<ResourceKey, Entry>> {
        let mut entries = BTreeMap::new();
        let Replayed {
            size,
            damaged,
            known_format,
        } = self.replay_lines(&mut entries)?;
        if size > 0 && !known_format {
            // Written by another version, or something else altogether: kept for people, not for
            // felid.
            let aside = self.directory.join("in-force.unreadable");
            if let LogStorage::Directory { .. } = self.place {
                std::fs::rename(self.directory.join(FILE), &aside)?;
            }
            let reason = "the record of last good versions is not one of this version of felid";
            self.damage = Some(format!("{reason}: moved to {}", aside.display()));
            self.slots.clear();
            self.suspect.clear();
            self.incomplete = true;
            return self.rewrite().map(|()| BTreeMap::new());
        }
        if damaged > 0 {
            let (path, aside) = (self.directory.join(FILE), self.directory.join(DAMAGED));
            if let LogStorage::Directory { .. } = self.place {
                std::fs::copy(&path, &aside)?;
            }
            let lines = if damaged == 1 { "line" } else { "lines" };
            self.damage = Some(format!(
                "{damaged} {lines} of {} were damaged; they are kept in {}",
                path.display(),
                aside.display()
            ));
            self.incomplete = true;
        }
        self.suspect.retain(|key| entries.contains_key(key));
        for key in &self.suspect {
            if let Some(entry) = entries.get_mut(key) {
                entry.digest = NO_DIGEST;
            }
        }
        self.file.set_len(size)?;
        self.size = size;
        let live: u64 = self.slots.values().map(|slot| slot.length as u64).sum();
        if size == 0 || damaged > 0 || size / 2 > live {
            self.rewrite()?;
        }
        Ok(entries)
    }

    fn replay_lines(&mut self, entries: &mut BTreeMap<ResourceKey, Entry>) -> io::Result<Replayed> {
        let file = Arc::clone(&self.file);
        let mut reader = BufReader::new(&*file);
        let mut line = Vec::new();
        let mut damaged = 0;
        let mut known_format = false;
        let mut after_damage = false;
        let mut size = 0;
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            let offset = size;
            size += length as u64;
            match checked(&line) {
                Some(LogLine::Format(format)) => known_format = format == FORMAT,
                Some(line) if known_format => self.replay_line(entries, line, (offset, length)),
                _ => {
                    if !after_damage {
                        self.suspect.extend(entries.keys().cloned());
                    }
                    damaged += 1;
                    after_damage = true;
                    continue;
                }
            }
            after_damage = false;
        }
        Ok(Replayed {
            size,
            damaged,
            known_format,
        })
    }

    fn replay_line(
        &mut self,
        entries: &mut BTreeMap<ResourceKey, Entry>,
        line: LogLine,
        (offset, length): (u64, usize),
    ) {
        match line {
            LogLine::Put {
                key,
                path,
                digest,
                good,
                suspect,
                ..
            } => {
                let Some(key) = key.resource() else { return };
                if suspect {
                    self.suspect.insert(key.clone());
                } else {
                    self.suspect.remove(&key);
                }
                self.slots.insert(
                    key.clone(),
                    Slot {
                        offset,
                        length,
                        moved: None,
                    },
                );
                entries.insert(
                    key,
                    Entry {
                        path,
                        digest,
                        good,
                        resource: None,
                    },
                );
            }
            LogLine::Move { key, path } => {
                let Some(key) = key.resource() else { return };
                if let (Some(slot), Some(entry)) = (self.slots.get_mut(&key), entries.get_mut(&key)) {
                    slot.moved = Some(Arc::clone(&path));
                    entry.path = path;
                }
            }
            LogLine::Drop { key } => {
                let Some(key) = key.resource() else { return };
                self.suspect.remove(&key);
                self.slots.remove(&key);
                entries.remove(&key);
            }
            LogLine::Bookmark(bookmark) => self.bookmark = Some(bookmark),
            LogLine::Incomplete => self.incomplete = true,
            LogLine::Format(_) => {}
        }
    }
}
