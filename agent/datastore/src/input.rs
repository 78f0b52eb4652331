//! What a command was given to do.

use felid_model::{Decoded, Document, Issue, ResourceKey, Severity, decode, documents};
use serde_json::Value;

use crate::edit::{EditError, Verb};

/// A resource of the input.
pub(crate) struct Wanted {
    pub(crate) key: ResourceKey,
    pub(crate) value: Value,
    /// The document as the user wrote it, if it stands by itself.
    pub(crate) text: Option<String>,
}

/// The documents of the input; all of them must be acceptable.
pub(crate) fn read_input(verb: Verb, input: &str, source: &str) -> Result<Vec<Wanted>, EditError> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut errors = Vec::new();
    for document in documents(input) {
        let place = format!("{source}:{}", document.line);
        let (key, issues) = match decode(&document) {
            Decoded::Resource { resource, issues } => (Some(resource.key().clone()), issues),
            Decoded::Bad { key, .. } if verb == Verb::Delete && document.content.is_ok() => (key, Vec::new()),
            Decoded::Bad { key, issues, .. } => {
                errors.extend(issue_lines(source, &document, key.as_ref(), &issues));
                continue;
            }
            Decoded::Foreign { kind, .. } => {
                errors.push(format!("{place}: {kind} is none of felid's kinds"));
                continue;
            }
            Decoded::Empty => continue,
        };
        let refused = verb != Verb::Delete && issues.iter().any(|issue| issue.severity == Severity::Error);
        if refused {
            errors.extend(issue_lines(source, &document, key.as_ref(), &issues));
            continue;
        }
        let Some(key) = key else {
            errors.push(format!("{place}: the document does not name a resource"));
            continue;
        };
        if wanted.iter().any(|other| other.key == key) {
            errors.push(format!("{place}: {key} is in the input twice"));
            continue;
        }
        let text = match document.item {
            None => input.get(document.range.clone()).map(str::to_owned),
            Some(_) => None,
        };
        wanted.push(Wanted {
            key,
            value: document.content.unwrap_or(Value::Null),
            text,
        });
    }
    if !errors.is_empty() {
        return Err(EditError::Input(errors));
    }
    if wanted.is_empty() {
        return Err(EditError::Input(vec![format!("{source}: no documents")]));
    }
    Ok(wanted)
}

fn issue_lines(source: &str, document: &Document, key: Option<&ResourceKey>, issues: &[Issue]) -> Vec<String> {
    let name = key.map(|key| format!("{key}: ")).unwrap_or_default();
    let lines = issues.iter().filter(|issue| issue.severity == Severity::Error);
    lines
        .map(|issue| format!("{source}:{}: {name}{issue}", issue.line.unwrap_or(document.line)))
        .collect()
}
