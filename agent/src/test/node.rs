//! The node of a case, and how its documents are read.

use felid_model::Issue;
use serde_json::Value;

/// The node on which all pods are.
pub(crate) const NODE: &str = "node1";

/// Joins everything that is wrong with a document into one text.
pub(super) fn reasons(issues: &[Issue]) -> String {
    let reasons: Vec<String> = issues.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

/// Returns the string at a JSON pointer, or an empty one if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
