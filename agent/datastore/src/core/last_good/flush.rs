//! Flushes to the disk that nobody waits for.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// Flushes the file to the disk, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Flusher {
    file: Arc<Mutex<Arc<File>>>,
    fault: Arc<Mutex<Option<String>>>,
    wake: SyncSender<()>,
}

impl Flusher {
    pub(crate) fn start(file: Arc<File>) -> io::Result<Self> {
        let file = Arc::new(Mutex::new(file));
        let fault = Arc::new(Mutex::new(None));
        let (wake, woken) = sync_channel::<()>(1);
        let (its_file, its_fault) = (Arc::clone(&file), Arc::clone(&fault));
        std::thread::Builder::new()
            .name("felid-journal".to_owned())
            .spawn(move || {
                while woken.recv().is_ok() {
                    let file = Arc::clone(&*its_file.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
                    let result = file
                        .sync_data()
                        .err()
                        .map(|error| format!("flush of the state directory: {error}"));
                    *its_fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = result;
                }
            })?;
        Ok(Self { file, fault, wake })
    }

    pub(crate) fn flush(&self) {
        // A full channel means that a flush is about to begin: it covers this write too.
        let _ = self.wake.try_send(());
    }

    pub(crate) fn replace(&self, file: Arc<File>) {
        *self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = file;
    }

    pub(crate) fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}
