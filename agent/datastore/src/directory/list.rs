//! Reading the directory without an agent.

use std::io;
use std::path::Path;
use std::sync::Arc;

use felid_model::{Decoded, Document, decode, documents};
use serde_json::Value;

use crate::core::content::{Digest, SourceContent, SourceId};
use crate::core::state::Versions;
use crate::directory::read::{Job, ReadOutcome, read_all};
use crate::directory::scan::{FileTree, problems_of, scan};
use crate::record::take_resource_version;
use crate::store::{Listing, StoredResource};

/// All documents of felid's kinds in a directory, sorted by key, then file and line, and everything
/// that is wrong with the directory. What an agent has in force may be older versions where
/// documents are bad.
pub(super) fn list(directory: &Path) -> io::Result<Listing> {
    let tree = tree(directory)?;
    let mut state = Versions::default();
    let mut views = Vec::new();
    let mut stored = Vec::new();
    let jobs = tree.files.iter().map(|(path, found)| Job {
        path: Arc::clone(path),
        real: &found.real,
        digest: None,
        as_it_is: true,
    });
    for (path, _, content) in read_all(jobs.collect(), None) {
        match content {
            ReadOutcome::New(_, view) | ReadOutcome::Unfinished(view) => views.push((path, view)),
            ReadOutcome::Failed(reason) => views.push((path, SourceContent::Unreadable(reason))),
            ReadOutcome::Torn | ReadOutcome::Open => views.push((
                path,
                SourceContent::Unreadable("someone writes to it at this moment".to_owned()),
            )),
            ReadOutcome::Empty | ReadOutcome::Same | ReadOutcome::Gone => {}
        }
    }
    for (path, found) in &tree.files {
        if let Ok(text) = std::fs::read_to_string(&found.real) {
            stored.extend(stored_in(path, &text));
        }
    }
    stored.sort_by(|a, b| (&a.key, &a.file, a.line).cmp(&(&b.key, &b.file, b.line)));
    state.begin(views, &|_| None);
    for (place, problem) in problems_of(directory, &tree) {
        state.set_place(&place, Some(problem));
    }
    Ok(Listing {
        resources: stored,
        problems: state.problems(),
    })
}

/// The tree of a directory that can be listed.
pub(crate) fn tree(directory: &Path) -> io::Result<FileTree> {
    let tree = scan(&std::path::absolute(directory)?);
    match (&tree.root, tree.unknown.get("")) {
        (Some(_), None) => Ok(tree),
        (_, reason) => {
            let reason = reason.cloned().unwrap_or_else(|| "not there".to_owned());
            Err(io::Error::other(format!("directory {}: {reason}", directory.display())))
        }
    }
}

fn stored_in(path: &SourceId, text: &str) -> Vec<StoredResource> {
    let stored = |document: Document| {
        let (key, resource) = match decode(&document) {
            Decoded::Resource { resource, .. } => (resource.key().clone(), Some(resource)),
            Decoded::Bad { key: Some(key), .. } => (key, None),
            _ => return None,
        };
        let value = document.content.ok()?;
        let resource_version = resource_version(&value);
        Some(StoredResource {
            key,
            file: Arc::clone(path),
            line: document.line,
            resource_version,
            value,
            resource,
        })
    };
    documents(text).into_iter().filter_map(stored).collect()
}

/// The resource version of a document in a file: a digest of what it says. Comments and the way in
/// which it is written do not count, so that a copy has the same version.
pub(super) fn resource_version(value: &Value) -> String {
    let mut value = value.clone();
    take_resource_version(&mut value);
    let digest = Digest::of(value.to_string().as_bytes());
    format!("{:016x}", digest.0 >> 64)
}
