//! Reading the directory without an agent.

use std::io;
use std::path::Path;
use std::sync::Arc;

use felid_model::{Decoded, Resource, ResourceKey, decode, documents};
use serde_json::Value;

use crate::problem::Problems;
use crate::read::{Content, Job, read_all};
use crate::state::State;
use crate::view::{FilePath, View};
use crate::walk::{Tree, walk};

/// A document of the directory whose resource could be told.
#[derive(Clone, Debug)]
pub struct StoredResource {
    /// Which resource it is.
    pub key: ResourceKey,
    /// Its file, relative to the directory.
    pub file: Arc<str>,
    /// 1-based line on which it begins.
    pub line: usize,
    /// The document as written.
    pub value: Value,
    /// What felid understands of it; `None` = it is bad, and the problems say why.
    pub resource: Option<Resource>,
}

/// All documents of felid's kinds in a directory, sorted by key, then file and line, and everything that is wrong with the directory.
/// What an agent has in force may be older versions where documents are bad.
pub fn list(directory: &Path) -> io::Result<(Vec<StoredResource>, Arc<Problems>)> {
    let tree = tree(directory)?;
    let mut state = State::default();
    let mut views = Vec::new();
    let mut stored = Vec::new();
    let jobs = tree.files.iter().map(|(path, found)| Job {
        path: Arc::clone(path),
        real: &found.real,
        digest: None,
    });
    for (path, _, content) in read_all(jobs.collect()) {
        match content {
            Content::New(_, view) => views.push((path, view)),
            Content::Failed(reason) => views.push((path, View::Unreadable(reason))),
            Content::Torn => views.push((path, View::Unreadable("someone writes to it at this moment".to_owned()))),
            Content::Empty | Content::Same | Content::Gone => {}
        }
    }
    for (path, found) in &tree.files {
        if let Ok(text) = std::fs::read_to_string(&found.real) {
            stored.extend(stored_in(path, &text));
        }
    }
    stored.sort_by(|a, b| (&a.key, &a.file, a.line).cmp(&(&b.key, &b.file, b.line)));
    state.begin(views, &|_| None);
    crate::shell::report_tree(&mut state, directory, &tree);
    Ok((stored, state.problems()))
}

/// The tree of a directory that can be listed.
pub(crate) fn tree(directory: &Path) -> io::Result<Tree> {
    let tree = walk(&std::path::absolute(directory)?);
    match (&tree.root, tree.unknown.get("")) {
        (Some(_), None) => Ok(tree),
        (_, reason) => {
            let reason = reason.cloned().unwrap_or_else(|| "not there".to_owned());
            Err(io::Error::other(format!("directory {}: {reason}", directory.display())))
        }
    }
}

fn stored_in(path: &FilePath, text: &str) -> Vec<StoredResource> {
    let stored = |document: felid_model::Document| {
        let (key, resource) = match decode(&document) {
            Decoded::Resource { resource, .. } => (resource.key().clone(), Some(resource)),
            Decoded::Bad { key: Some(key), .. } => (key, None),
            _ => return None,
        };
        let value = document.content.ok()?;
        Some(StoredResource {
            key,
            file: Arc::clone(path),
            line: document.line,
            value,
            resource,
        })
    };
    documents(text).into_iter().filter_map(stored).collect()
}
