//! A producer of a stream of records: says what a directory holds, and then what changes in it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use felid_datastore::{DirectoryStore, Store as _};
use serde_json::{Value, json};

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_millis(5);
/// So many looks in a row must miss a record before it counts as deleted: a file may be in the
/// middle of being replaced.
const MISSED: u32 = 4;

/// A thread that feeds the agent on a socket from a directory. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Feeds whoever listens on `socket`, from now on or later.
    pub(crate) fn start(records: &Path, socket: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (records, stopped) = (records.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(stream) = UnixStream::connect(&socket) {
                    // An agent that ends breaks the connection; the next one gets everything again.
                    let _ = feed(&stream, &records, &stopped);
                }
                std::thread::sleep(INTERVAL);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn feed(mut stream: &UnixStream, records: &Path, stopped: &AtomicBool) -> std::io::Result<()> {
    let store = DirectoryStore::new(records);
    let mut told: BTreeMap<String, (Value, u32)> = BTreeMap::new();
    let mut first = true;
    while !stopped.load(Ordering::Relaxed) {
        let Ok(listing) = store.list() else { continue };
        let mut lines = Vec::new();
        for record in told.values_mut() {
            record.1 += 1;
        }
        for stored in listing.resources {
            let before = told.insert(stored.key.to_string(), (stored.value.clone(), 0));
            if before.is_none_or(|(value, _)| value != stored.value) {
                lines.push(json!({"apply": stored.value}));
            }
        }
        told.retain(|_, (value, missed)| {
            if *missed >= MISSED {
                lines.push(json!({"delete": value}));
            }
            *missed < MISSED
        });
        if std::mem::take(&mut first) {
            lines.push(json!({"inSync": true}));
        }
        // What changes together comes together.
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        stream.write_all(text.as_bytes())?;
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}
