//! A watched directory for tests: what the store has said, added up.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod barriers;
mod damage;
mod editing;
mod editors;
mod items;
mod kubernetes;
mod listing;
mod loss;
mod restart;
mod strangers;
mod unfinished;
mod watching;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use felid_model::{Kind, Resource, ResourceKey};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

use crate::{Batch, DirectoryWatcher, InForce, Options, Problems, Reading, StartError, Update, start};

/// Long enough for any machine; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Watched {
    pub(crate) home: TempDir,
    /// See [`Options::vanish`].
    pub(crate) vanish: Duration,
    store: Option<(Reading, Receiver<Batch>)>,
    runtime: Runtime,
    pub(crate) in_force: BTreeMap<ResourceKey, Resource>,
    pub(crate) problems: Arc<Problems>,
    pub(crate) in_sync: bool,
    /// Everything that was said since the start or the last [`Watched::forget`].
    pub(crate) said: Vec<Update>,
}

pub(crate) fn tier_key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::Tier,
        namespace: None,
        name: Arc::from(name),
    }
}

pub(crate) fn policy_key(namespace: &str, name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::NetworkPolicy,
        namespace: Some(Arc::from(namespace)),
        name: Arc::from(name),
    }
}

/// A good document.
pub(crate) fn tier(name: &str, order: u32) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: {name}\nspec:\n  order: {order}\n")
}

/// A document that parses but is not accepted.
pub(crate) fn bad_tier(name: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: {name}\nspec:\n  order: never\n")
}

/// A document that does not parse.
pub(crate) fn broken_tier(name: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: {name}\nspec: [\n")
}

pub(crate) fn policy(namespace: &str, name: &str, action: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  selector: role == 'db'\n  ingress:\n  - action: {action}\n"
    )
}

/// Several documents in one file.
pub(crate) fn file(documents: &[String]) -> String {
    documents.join("---\n")
}

impl Watched {
    /// An empty directory, not watched yet.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("records")).unwrap();
        Self {
            home,
            vanish: Duration::from_millis(50),
            store: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap(),
            in_force: BTreeMap::new(),
            problems: Arc::default(),
            in_sync: false,
            said: Vec::new(),
        }
    }

    /// A watched directory with these files, in which a file may be away for long: a machine under
    /// load may stop a test between the two halves of a save.
    pub(crate) fn patient(files: &[(&str, &str)]) -> Self {
        let mut watched = Self::new();
        watched.vanish = Duration::from_millis(400);
        watched.begin(files)
    }

    /// A watched directory with these files.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        Self::new().begin(files)
    }

    fn begin(self, files: &[(&str, &str)]) -> Self {
        let mut watched = self;
        for (name, content) in files {
            watched.write(name, content);
        }
        watched.start();
        watched.until("in sync", |watched| watched.in_sync);
        watched
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.home.path().join("records")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::new(self.root());
        // What inotify must tell is not found by luck.
        options.rescan = Duration::from_secs(3600);
        options.vanish = self.vanish;
        options
    }

    pub(crate) fn start(&mut self) {
        self.start_with(self.options());
    }

    pub(crate) fn start_with(&mut self, options: Options) {
        self.in_force.clear();
        self.said.clear();
        self.in_sync = false;
        self.problems = Arc::default();
        self.store = Some(self.follow(&options).unwrap());
    }

    /// Follows the directory, with the state of this test.
    pub(crate) fn follow(&self, options: &Options) -> Result<(Reading, Receiver<Batch>), StartError> {
        start(DirectoryWatcher::open(options)?, &self.home.path().join("state"))
    }

    pub(crate) fn stop(&mut self) {
        self.store = None;
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
        self.until("in sync after a restart", |watched| watched.in_sync);
    }

    pub(crate) fn rescan(&self) {
        self.store.as_ref().unwrap().0.rescan();
    }

    pub(crate) fn forget(&mut self) {
        self.said.clear();
    }

    /// Waits until the condition holds.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            let receiver = &mut self.store.as_mut().unwrap().1;
            let batch = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, receiver.recv()).await });
            match batch {
                Ok(Some(batch)) => self.take(batch),
                other => panic!(
                    "{what}: {other:?}; in force {:?}, problems {}",
                    self.in_force.keys(),
                    self.wrong()
                ),
            }
        }
    }

    /// Takes what comes within this time.
    pub(crate) fn linger(&mut self, time: Duration) {
        let end = std::time::Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let receiver = &mut self.store.as_mut().unwrap().1;
            let batch = self
                .runtime
                .block_on(async { tokio::time::timeout(left, receiver.recv()).await });
            match batch {
                Ok(Some(batch)) => self.take(batch),
                Ok(None) => panic!("the store has ended"),
                Err(_) => return,
            }
        }
    }

    /// Long enough that whatever would be deleted is.
    pub(crate) fn settle(&mut self) {
        self.linger(self.vanish + Duration::from_millis(250));
    }

    /// The same for a root that came back.
    pub(crate) fn settle_root(&mut self) {
        self.linger(self.vanish + Duration::from_millis(1250));
    }

    fn take(&mut self, batch: Batch) {
        for update in &batch.updates {
            match update {
                Update::Apply(resource) => {
                    self.in_force.insert(resource.key().clone(), resource.clone());
                }
                Update::Delete(key) => {
                    assert!(self.in_force.remove(key).is_some(), "{key} was not in force");
                }
                Update::ResyncBegins => self.in_sync = false,
                Update::Lost(_) | Update::Barrier(_) => {}
                Update::InSync => {
                    assert!(!self.in_sync, "told once");
                    self.in_sync = true;
                }
            }
        }
        let resync = |update: &Update| matches!(update, Update::ResyncBegins | Update::Lost(_));
        self.said
            .extend(batch.updates.into_iter().filter(|update| !resync(update)));
        self.problems = batch.problems;
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// As careful programs do it.
    pub(crate) fn write_whole(&self, name: &str, content: &str) {
        let temporary = self.path(".temporary");
        std::fs::write(&temporary, content).unwrap();
        std::fs::rename(temporary, self.path(name)).unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// The order of a tier in force.
    pub(crate) fn order(&self, name: &str) -> Option<u32> {
        match self.in_force.get(&tier_key(name))? {
            Resource::Tier(tier) => tier.order.map(|order| order as u32),
            _ => None,
        }
    }

    pub(crate) fn until_order(&mut self, name: &str, order: Option<u32>) {
        self.until(&format!("{name} has order {order:?}"), |watched| {
            watched.order(name) == order
        });
    }

    pub(crate) fn until_well(&mut self) {
        self.until("no problems", |watched| watched.problems.is_empty());
    }

    pub(crate) fn until_wrong(&mut self, text: &str) {
        self.until(&format!("a problem with {text:?}"), |watched| {
            watched.wrong().contains(text)
        });
    }

    pub(crate) fn wrong(&self) -> String {
        self.problems
            .list()
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect()
    }

    /// The problem of a file.
    pub(crate) fn in_force_of(&self, file: &str) -> Option<InForce> {
        let mut errors = self
            .problems
            .errors()
            .filter(|problem| problem.file().is_some_and(|(path, _)| path == file));
        errors.next().map(|problem| problem.in_force.clone())
    }

    pub(crate) fn deleted(&self) -> Vec<&ResourceKey> {
        let keys = self.said.iter().filter_map(|update| match update {
            Update::Delete(key) => Some(key),
            _ => None,
        });
        keys.collect()
    }
}
