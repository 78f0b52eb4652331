//! From the text of a file to its documents.
//!
//! In: a YAML stream, or JSON (one value, several in a row, or one a line). Out: one [`Document`]
//! for each resource, with its place in the file, or what is wrong with it. Lists (`kind: List`,
//! `kind: XList`, arrays) are expanded to their items. A document that does not parse hides no
//! other: YAML is cut at lines that begin with `---`, and JSON is taken up again at the next line
//! that begins with a brace. JSON lines may begin with lines that are no resources. Nothing here
//! recurses or grows without bound, whatever the text.

mod collect;
mod document;
mod guess;
mod json;
mod plain;
mod sections;
mod tree;
mod words;
mod yaml;

use serde_json::Value;

use collect::DocumentCollector;
pub use document::{Document, SyntaxError};
pub(crate) use guess::Guess;
use sections::{chunks, first_content, looks_like_json_lines};
use tree::{ValueTree, expand};

/// Deepest nesting of mappings and lists that is read. Records need ten; the YAML library takes 40
/// KiB of stack a level in debug builds.
const MAX_DEPTH: usize = 32;

/// Splits the text of a file into documents. Documents without content (blank, or comments alone)
/// are left out. One that does not parse hides no other: its `content` is the error.
///
/// # Examples
///
/// ```
/// use felid_model::documents;
///
/// let text = "kind: Tier\n---\nkind: [\n---\nkind: List\nitems:\n- kind: Profile\n";
/// let found = documents(text);
/// assert_eq!(found.len(), 3);
/// assert_eq!(found[0].content.as_ref().unwrap()["kind"], "Tier");
/// assert!(found[1].content.is_err(), "a list that is never closed");
/// assert_eq!((found[2].line, found[2].item), (7, Some(0)), "an item of the list");
/// ```
pub fn documents(text: &str) -> Vec<Document> {
    let mut found = Vec::new();
    let json_lines = looks_like_json_lines(text);
    for chunk in chunks(text) {
        let body = text.get(chunk.body.clone()).unwrap_or_default();
        let Some(first) = first_content(body) else { continue };
        let mut out = DocumentCollector {
            found: &mut found,
            text,
        };
        if body.get(first..).is_some_and(|rest| rest.starts_with(['{', '['])) {
            out.json_or_yaml(&chunk, chunk.body.start + first, false);
        } else if json_lines {
            out.json_or_yaml(&chunk, chunk.body.start + first, true);
        } else {
            out.yaml(&chunk, chunk.body.start + first);
        }
    }
    found
}

/// Returns the resources that a value stands for: the items of a list, or the value itself.
pub fn list_items(value: Value) -> Vec<Value> {
    let mut items = Vec::new();
    expand(ValueTree::scalar(value, 0), &mut items);
    items.into_iter().map(|tree| tree.value).collect()
}
