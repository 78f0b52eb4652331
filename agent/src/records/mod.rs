//! The commands on records: get, create, apply, replace, delete, validate, convert.
//!
//! They need no running agent: they read and write the datastore themselves.

mod between;
mod columns;
mod convert;
mod get;
mod input;
mod judge;
mod table;
mod validate;
mod wanted;
mod watch;
mod write;

use anyhow::bail;
use felid_datastore::{DirectoryStore, Store};
use felid_model::{Kind, ResourceKey};

use crate::cli::{GetArgs, GlobalArgs, WaitArgs};
use crate::config::{self, DatastoreUrl};
use crate::outcome::usage;

pub use convert::convert;
pub use get::get;
pub(crate) use input::read as read_files;
pub use validate::validate;
pub use write::{apply, create, delete, replace};

/// The datastore, and its name for messages.
pub(crate) fn store(global: &GlobalArgs) -> anyhow::Result<(Box<dyn Store>, String)> {
    open_store(&config::gather(global, [])?.settings().datastore)
}

/// A datastore as commands see it, and its name for messages.
pub(crate) fn open_store(url: &DatastoreUrl) -> anyhow::Result<(Box<dyn Store>, String)> {
    match url {
        DatastoreUrl::Directory(path) => Ok((Box::new(DirectoryStore::new(path)), path.display().to_string())),
        DatastoreUrl::Stream(_) => bail!(
            "{url}: a stream can only be followed by felid run; ask its producer for the records, and tell it what shall change"
        ),
    }
}

/// Reads `KIND NAME...`, `KIND/NAME NAME...` and `KIND/NAME`.
fn kind_and_names(kind: &str, names: &[String]) -> anyhow::Result<(Kind, Vec<String>)> {
    let (alias, first) = match kind.split_once('/') {
        Some((alias, name)) => (alias, Some(name.to_owned())),
        None => (kind, None),
    };
    let Some(kind) = Kind::from_alias(alias) else {
        if kind == "-" || std::path::Path::new(kind).exists() {
            return Err(usage(format!(
                "{kind:?} is a file, not a kind: files are named with -f"
            )));
        }
        let known: Vec<String> = Kind::ALL.iter().map(|kind| kind.as_str().to_lowercase()).collect();
        return Err(usage(format!(
            "resource type {alias:?} is not supported; there are {}",
            known.join(", ")
        )));
    };
    let mut all = Vec::new();
    for name in first.iter().chain(names) {
        // `felid get -o name` prints KIND/NAME, so that its output can be handed on.
        match name.split_once('/') {
            Some((alias, name)) if Kind::from_alias(alias) == Some(kind) => all.push(name.to_owned()),
            // NAMESPACE/WORKLOAD.
            Some((alias, _))
                if matches!(kind, Kind::WorkloadEndpoint | Kind::Pod) && Kind::from_alias(alias).is_none() =>
            {
                all.push(name.clone())
            }
            Some((alias, _)) => return Err(usage(format!("{name:?}: {alias:?} is another kind than {kind}"))),
            None => all.push(name.clone()),
        }
    }
    Ok((kind, all))
}

/// Returns the keys of the records that `felid wait` is asked about.
pub(crate) fn named(args: &WaitArgs) -> anyhow::Result<Vec<ResourceKey>> {
    let arguments = GetArgs {
        kind: args.kind.clone(),
        names: args.names.clone(),
        files: args.files.clone(),
        namespace: args.namespace.clone(),
        all_namespaces: false,
        watch: false,
        output: String::new(),
    };
    match wanted::wanted(&arguments)? {
        wanted::Wanted::Keys(keys) => Ok(keys),
        wanted::Wanted::All(kind, _) | wanted::Wanted::Anywhere(kind, _) => {
            Err(usage(format!("name the {kind} to wait for: KIND/NAME")))
        }
    }
}

/// A resource as calicoctl names it in messages: `NetworkPolicy(default/x)`.
pub(crate) fn describe(key: &ResourceKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{}({namespace}/{})", key.kind, key.name),
        None => format!("{}({})", key.kind, key.name),
    }
}
