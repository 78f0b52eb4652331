//! The records that a command was given.

use felid_model::{Decoded, Document, Issue, ResourceKey, Severity, decode, documents};
use serde_json::Value;

use crate::store::types::StoreError;

/// A record to be written, which was checked.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which resource it is.
    pub(crate) key: ResourceKey,
    /// The document, without its resource version.
    pub(crate) value: Value,
    /// The document as the user wrote it, without its resource version, if it stands by itself.
    pub(crate) text: Option<String>,
    /// The version on which the record is based, if it names one.
    pub(crate) resource_version: Option<String>,
}

impl Record {
    /// Returns the key of the resource that the record describes.
    pub const fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// Returns the records of a text in YAML or JSON. `source` names the text in messages.
    ///
    /// # Errors
    ///
    /// A document that cannot be accepted, names a kind that felid does not have, or describes the
    /// same resource as another, or a text without any document. All such errors are named at once.
    pub fn parse(input: &str, source: &str) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = Vec::new();
        let mut errors = Vec::new();
        for document in documents(input) {
            let place = format!("{source}:{}", document.line);
            match key_of(source, &document) {
                Ok(Some(key)) if records.iter().any(|other| other.key == key) => {
                    errors.push(format!("{place}: {key} is in the input twice"));
                }
                Ok(Some(key)) => records.push(Record::new(key, input, document)),
                Ok(None) => {}
                Err(lines) => errors.extend(lines),
            }
        }
        if errors.is_empty() && records.is_empty() {
            errors.push(format!("{source}: no documents"));
        }
        if errors.is_empty() {
            Ok(records)
        } else {
            Err(StoreError::Input(errors))
        }
    }

    fn new(key: ResourceKey, input: &str, document: Document) -> Self {
        let text = match document.item {
            None => input.get(document.range.clone()).map(str::to_owned),
            Some(_) => None,
        };
        let mut value = document.content.unwrap_or(Value::Null);
        let resource_version = take_resource_version(&mut value);
        let text = match resource_version {
            None => text,
            Some(_) => text.and_then(|text| without_resource_version(&text, &value)),
        };
        Self {
            key,
            value,
            text,
            resource_version,
        }
    }
}

/// Takes `metadata.resourceVersion` out of a record.
pub(crate) fn take_resource_version(value: &mut Value) -> Option<String> {
    let metadata = value.get_mut("metadata")?.as_object_mut()?;
    match metadata.remove("resourceVersion")? {
        Value::String(version) if version.is_empty() => None,
        Value::String(version) => Some(version),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

/// The text of a record without the line that names its resource version; `None` = the line cannot
/// be told.
fn without_resource_version(text: &str, value: &Value) -> Option<String> {
    let is_version = |line: &&str| line.trim_start().starts_with("resourceVersion:");
    let lines = text.split_inclusive('\n');
    let rest: String = lines.filter(|line| !is_version(line)).collect();
    let same = matches!(documents(&rest).as_slice(), [document] if document.content.as_ref() == Ok(value));
    same.then_some(rest)
}

/// The resource of a document that can be accepted; `None` = the document is empty. Else one line
/// for each error.
fn key_of(source: &str, document: &Document) -> Result<Option<ResourceKey>, Vec<String>> {
    let (key, issues) = match decode(document) {
        Decoded::Resource { resource, issues } => (Some(resource.key().clone()), issues),
        Decoded::Bad { key, issues, .. } => return Err(issue_lines(source, document, key.as_ref(), &issues)),
        Decoded::Foreign { kind, .. } => {
            let line = document.line;
            return Err(vec![format!("{source}:{line}: {kind} is none of felid's kinds")]);
        }
        Decoded::NotARecord { reason } => return Err(vec![format!("{source}:{}: {reason}", document.line)]),
        Decoded::Empty => return Ok(None),
    };
    if issues.iter().any(|issue| issue.severity == Severity::Error) {
        return Err(issue_lines(source, document, key.as_ref(), &issues));
    }
    Ok(key)
}

fn issue_lines(source: &str, document: &Document, key: Option<&ResourceKey>, issues: &[Issue]) -> Vec<String> {
    let name = key.map(|key| format!("{key}: ")).unwrap_or_default();
    let lines = issues.iter().filter(|issue| issue.severity == Severity::Error);
    lines
        .map(|issue| format!("{source}:{}: {name}{issue}", issue.line.unwrap_or(document.line)))
        .collect()
}
