//! The commands on records: get, create, apply, replace, delete, validate, convert.
//!
//! They need no running agent: they read and write the datastore themselves.

mod columns;
mod convert;
mod get;
mod input;
mod judge;
mod validate;
mod write;

use std::path::PathBuf;

use felid_model::{Kind, ResourceKey};

use crate::cli::Places;
use crate::config::{self, DatastoreUrl};
use crate::entry::usage;

pub use convert::convert;
pub use get::get;
pub(crate) use input::{Names, read as read_files};
pub use validate::validate;
pub use write::{apply, create, delete, replace};

/// The directory that the datastore is.
fn directory(places: &Places) -> anyhow::Result<PathBuf> {
    let DatastoreUrl::Directory(path) = config::gather(places, [])?.settings().datastore;
    Ok(path)
}

/// Reads `KIND NAME...`, `KIND/NAME NAME...` and `KIND/NAME`.
fn kind_and_names(kind: &str, names: &[String]) -> anyhow::Result<(Kind, Vec<String>)> {
    let (alias, first) = match kind.split_once('/') {
        Some((alias, name)) => (alias, Some(name.to_owned())),
        None => (kind, None),
    };
    let Some(kind) = Kind::from_alias(alias) else {
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
            Some((alias, _)) => return Err(usage(format!("{name:?}: {alias:?} is another kind than {kind}"))),
            None => all.push(name.clone()),
        }
    }
    Ok((kind, all))
}

/// A resource as calicoctl names it in messages: `NetworkPolicy(default/x)`.
fn describe(key: &ResourceKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{}({namespace}/{})", key.kind, key.name),
        None => format!("{}({})", key.kind, key.name),
    }
}
