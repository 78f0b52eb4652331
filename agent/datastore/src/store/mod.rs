//! The seam for asking and writing: what the commands `get`, `create`, `apply`, `replace` and
//! `delete` need of a datastore.

pub(crate) mod types;

use std::sync::Arc;

use felid_model::{Resource, ResourceKey};
use serde_json::Value;

use crate::core::problem::Problems;
use crate::record::Record;

pub(crate) use types::LOCK_TIMEOUT;
pub use types::{Action, Done, StoreError, Verb};

/// A datastore that can be asked and written, without an agent.
///
/// Every resource has a resource version, which changes whenever somebody changes the resource. A
/// record that names the version on which it is based is refused if that is no longer the latest,
/// as calicoctl does it; a record that names none replaces whatever is there.
///
/// # Examples
///
/// ```
/// use felid_datastore::{Action, DirectoryStore, Record, Store, StoreError};
///
/// let tier = |order: u32, metadata: &str| {
///     let head = "apiVersion: projectcalico.org/v3\nkind: Tier\n";
///     let text = format!("{head}metadata: {{name: net{metadata}}}\nspec: {{order: {order}}}");
///     Record::parse(&text, "example")
/// };
/// let directory = tempfile::tempdir()?;
/// let store = DirectoryStore::new(directory.path());
/// let done = store.create(tier(10, "")?)?;
/// assert_eq!(done[0].action, Action::Created);
///
/// let stored = store.get(&done[0].key)?.expect("it was created");
/// let based_on_it = format!(", resourceVersion: '{}'", stored.resource_version);
/// assert_eq!(store.replace(tier(20, &based_on_it)?)?[0].action, Action::Updated);
/// // Since then there is a later version.
/// assert!(matches!(store.replace(tier(30, &based_on_it)?), Err(StoreError::Conflict(_))));
///
/// store.delete(&[stored.key.clone()])?;
/// assert!(store.get(&stored.key)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Store {
    /// Returns everything that the datastore holds, sorted by key, and everything that is wrong
    /// with it. What an agent has in force may be older versions where documents are bad. It fails
    /// if the datastore cannot be read.
    fn list(&self) -> Result<Listing, StoreError>;

    /// Does `verb` with each of the records, and returns what was done with each. All of them are
    /// checked before the first is written; what fails while writing leaves the earlier ones
    /// written.
    fn write(&self, verb: Verb, records: Vec<Record>) -> Result<Vec<Done>, StoreError>;

    /// Deletes resources, and returns what was done. Each must exist, or nothing is deleted.
    fn delete(&self, keys: &[ResourceKey]) -> Result<Vec<Done>, StoreError>;

    /// Returns what changes after `since` was listed, as it happens: an iterator that waits, and
    /// never ends by itself.
    fn watch(&self, since: Listing) -> Result<Watch, StoreError>;

    /// The resource with this key, if there is one. Where it stands twice, the one that an agent
    /// would take at first sight.
    fn get(&self, key: &ResourceKey) -> Result<Option<StoredResource>, StoreError> {
        let listing = self.list()?;
        Ok(listing.resources.into_iter().find(|stored| stored.key == *key))
    }

    /// Creates resources; none of them may exist. Resource versions in the records mean nothing.
    fn create(&self, records: Vec<Record>) -> Result<Vec<Done>, StoreError> {
        self.write(Verb::Create, records)
    }

    /// Creates resources, or replaces those that exist.
    fn apply(&self, records: Vec<Record>) -> Result<Vec<Done>, StoreError> {
        self.write(Verb::Apply, records)
    }

    /// Replaces resources; each must exist.
    fn replace(&self, records: Vec<Record>) -> Result<Vec<Done>, StoreError> {
        self.write(Verb::Replace, records)
    }
}

/// The changes of a datastore, as they happen.
pub type Watch = Box<dyn Iterator<Item = Result<WatchEvent, StoreError>>>;

/// What a datastore holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The documents of felid's kinds, sorted by key, then by file and line.
    pub resources: Vec<StoredResource>,
    /// Everything that is wrong with the records.
    pub problems: Arc<Problems>,
}

/// A document of a datastore whose resource could be told.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResource {
    /// The key of the resource.
    pub key: ResourceKey,
    /// The file, relative to the directory.
    pub file: Arc<str>,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// The resource version, which changes whenever what the document says does.
    pub resource_version: String,
    /// The document as it is written.
    pub value: Value,
    /// The resource as felid understands it; `None` if it is bad, and then the problems say why.
    pub resource: Option<Resource>,
}

impl StoredResource {
    /// Returns the document with its resource version in `metadata.resourceVersion`.
    pub fn versioned(&self) -> Value {
        let mut value = self.value.clone();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(
                "resourceVersion".to_owned(),
                Value::String(self.resource_version.clone()),
            );
        }
        value
    }
}

/// One change of a datastore.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The resource is new.
    Added(StoredResource),
    /// The resource is another one than before.
    Modified(StoredResource),
    /// The resource is gone; this is what it was.
    Deleted(StoredResource),
}

impl WatchEvent {
    /// Returns `ADDED`, `MODIFIED` or `DELETED`, as in watches of Kubernetes.
    pub const fn name(&self) -> &'static str {
        match self {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
        }
    }

    /// Returns the resource that changed.
    pub const fn stored(&self) -> &StoredResource {
        match self {
            WatchEvent::Added(stored) | WatchEvent::Modified(stored) | WatchEvent::Deleted(stored) => stored,
        }
    }
}
