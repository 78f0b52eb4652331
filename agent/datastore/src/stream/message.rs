//! What one line of a stream says.

use std::sync::Arc;

use felid_model::{BadPolicy, Resource, list_items};
use serde_json::{Map, Value};

use crate::core::content::{Ambiguity, Body, Digest, Doc, Finding, Position, SourceContent, SourceId};
use crate::core::parse::{Decoder, objects};
use crate::core::problem::Severity;
use crate::stream::lines::{MAX_LINE, StreamLine};

/// What a line says.
#[derive(Debug)]
pub(super) enum Message {
    /// These objects are so now, each by the name of its source.
    Apply(Vec<(SourceId, Doc)>),
    /// These objects are gone.
    Delete(Vec<SourceId>),
    /// Everything that there is has been told since the last resync began.
    InSync,
    /// Everything is told again from here on.
    Resync,
    /// It cannot be told what the line is about; what it may be.
    Unreadable(Vec<Doc>),
}

/// Reads a line, whose records are decoded so.
pub(super) fn read(line: &StreamLine, decoder: Decoder) -> Message {
    match line {
        StreamLine::Whole(number, bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => read_text(*number, text, decoder),
            Err(_) => unreadable(*number, SourceContent::file(bytes).docs().to_vec(), None),
        },
        StreamLine::TooLong(number, head) => {
            let text = String::from_utf8_lossy(head);
            let reason = format!("the line is longer than {} MiB", MAX_LINE >> 20);
            broken(*number, &text, Some(&reason), decoder)
        }
    }
}

fn read_text(number: usize, text: &str, decoder: Decoder) -> Message {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(text) else {
        return broken(number, text, None, decoder);
    };
    let wrong = |reason: &str| unreadable(number, vec![nothing(number, text)], Some(reason));
    match single(&fields) {
        Some(("apply", record @ (Value::Object(_) | Value::Array(_)))) => apply(number, record, decoder),
        Some(("delete", record @ (Value::Object(_) | Value::Array(_)))) => {
            let named: Option<Vec<SourceId>> = objects_of(record, decoder)
                .into_iter()
                .map(|(source, _)| source)
                .collect();
            match named {
                Some(named) if !named.is_empty() => Message::Delete(named),
                _ => wrong("delete does not name a resource by apiVersion, kind and metadata: nothing is deleted"),
            }
        }
        Some(("inSync", Value::Bool(true))) => Message::InSync,
        Some(("resync", Value::Bool(true))) => Message::Resync,
        _ => {
            let reason = "expected {\"apply\": RECORD}, {\"delete\": RECORD}, {\"inSync\": true} or {\"resync\": true}";
            unreadable(number, meant(&fields, text, decoder), Some(reason))
        }
    }
}

/// What a line may be meant to say: a record by itself, or more than one thing at once. A policy
/// must not be taken for nothing.
fn meant(fields: &Map<String, Value>, text: &str, decoder: Decoder) -> Vec<Doc> {
    let values = fields
        .iter()
        .filter(|(name, value)| *name != "delete" && (value.is_object() || value.is_array()));
    let mut docs: Vec<Doc> = values
        .flat_map(|(_, value)| objects(&value.to_string(), decoder))
        .collect();
    docs.extend(objects(text, decoder));
    docs.sort_by_key(|doc| {
        !matches!(&doc.body, Body::Good(resource) if resource.key().kind.is_policy()) && !is_closing(doc)
    });
    docs.truncate(1);
    docs
}

/// Whether the document is recognisably a policy that cannot be accepted.
const fn is_closing(doc: &Doc) -> bool {
    matches!(
        doc.body,
        Body::Bad { policy: Some(_), .. } | Body::Unreadable { policy: Some(_) }
    )
}

/// The only field of an object.
fn single(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut fields = fields.iter();
    let (name, value) = fields.next()?;
    fields.next().is_none().then_some((name.as_str(), value))
}

fn apply(number: usize, record: &Value, decoder: Decoder) -> Message {
    let mut named = Vec::new();
    for (source, docs) in objects_of(record, decoder) {
        let Some(source) = source else {
            // One record of a list that cannot be told apart spoils the line: the others of it may
            // be meant by it.
            let unnamed = docs.iter().all(|doc| doc.findings.is_empty());
            let reason = unnamed.then_some("the record does not say what it is: apiVersion, kind and metadata.name");
            return unreadable(number, docs, reason);
        };
        named.extend(docs.into_iter().map(|doc| (Arc::clone(&source), doc)));
    }
    Message::Apply(named)
}

/// The objects that a record (a list of records, a `List`) describes, each with the name of its
/// source, if it says it.
fn objects_of(record: &Value, decoder: Decoder) -> Vec<(Option<SourceId>, Vec<Doc>)> {
    let items = list_items(record.clone());
    items
        .iter()
        .map(|item| {
            let docs = objects(&item.to_string(), decoder);
            let source = match docs.as_slice() {
                [doc] => {
                    // Without apiVersion, the key is a guess: good enough to close what a policy
                    // may select, not to delete.
                    let says = |field: &str| {
                        item.get(field)
                            .and_then(Value::as_str)
                            .is_some_and(|text| !text.is_empty())
                    };
                    let key = doc.key().filter(|key| says("apiVersion") && !key.name.is_empty());
                    let source = key.map(|key| SourceId::from(key.to_string()));
                    source.or_else(|| foreign(doc, item))
                }
                _ => None,
            };
            (source, docs)
        })
        .collect()
}

/// The name of an object of a kind that is none of felid's business.
fn foreign(doc: &Doc, record: &Value) -> Option<SourceId> {
    let Body::Foreign(kind) = &doc.body else { return None };
    let name = record.pointer("/metadata/name")?.as_str()?;
    let namespace = record.pointer("/metadata/namespace").and_then(Value::as_str);
    Some(SourceId::from(format!(
        "{kind}/{}/{name}",
        namespace.unwrap_or_default()
    )))
}

/// A line that is not JSON, or only the beginning of a line: what can be read of it tells whether
/// it may be a policy.
fn broken(number: usize, text: &str, reason: Option<&str>, decoder: Decoder) -> Message {
    let record = ["\"apply\"", "\"delete\""].iter().find_map(|verb| {
        let (_, rest) = text.split_once(verb)?;
        Some((*verb, rest.trim_start().strip_prefix(':')?))
    });
    match record {
        Some(("\"delete\"", _)) => {
            let reason = reason.map_or("the line is not JSON: nothing is deleted".to_owned(), str::to_owned);
            unreadable(number, vec![nothing(number, text)], Some(&reason))
        }
        Some((_, record)) => match objects(record, decoder).as_slice() {
            // Most of it can be read: then it is about this resource, of which the last good
            // version stays.
            [doc] if doc.key().is_some() => Message::Apply(vec![(
                SourceId::from(doc.key().map(ToString::to_string).unwrap_or_default()),
                explained(doc.clone(), None, reason),
            )]),
            docs => unreadable(number, docs.to_vec(), reason),
        },
        None => unreadable(number, objects(text, decoder), reason),
    }
}

/// Documents of a line of which nobody knows for certain what it is about.
fn unreadable(number: usize, docs: Vec<Doc>, reason: Option<&str>) -> Message {
    let docs = docs.into_iter().map(|doc| {
        let policy = match &doc.body {
            Body::Bad { policy, .. } | Body::Unreadable { policy } => policy.clone(),
            Body::Good(resource) => closed(resource),
            Body::Foreign(_) => None,
        };
        let doc = Doc {
            body: Body::Unreadable { policy },
            text: None,
            ..doc
        };
        explained(doc, Some(number), reason)
    });
    let mut docs: Vec<Doc> = docs.collect();
    if docs.is_empty() {
        docs.push(explained(nothing(number, ""), Some(number), reason));
    }
    Message::Unreadable(docs)
}

/// What closes the endpoints that a policy selects, of which it is not certain that it is meant.
fn closed(resource: &Resource) -> Option<Arc<BadPolicy>> {
    let key = resource.key();
    key.kind.is_policy().then(|| {
        Arc::new(BadPolicy {
            key: key.clone(),
            selector: None,
            namespace_selector: None,
            reason: "the line is not understood".to_owned(),
        })
    })
}

/// The document, at this line and with this reason if there are any.
fn explained(mut doc: Doc, line: Option<usize>, reason: Option<&str>) -> Doc {
    if let Some(line) = line {
        doc.position = Position::Line(line);
    }
    if let Some(reason) = reason {
        doc.findings = vec![Finding {
            severity: Severity::Error,
            position: doc.position.clone(),
            field: None,
            value: None,
            reason: reason.to_owned(),
        }];
    }
    for finding in &mut doc.findings {
        finding.position = doc.position.clone();
    }
    doc
}

/// A document that names nothing and closes nothing.
fn nothing(number: usize, text: &str) -> Doc {
    let position = Position::Line(number);
    Doc {
        position: position.clone(),
        body: Body::Unreadable { policy: None },
        ambiguity: None,
        findings: vec![Finding {
            severity: Severity::Error,
            position,
            field: None,
            value: None,
            reason: "the line says nothing that felid understands".to_owned(),
        }],
        digest: Digest::of(text.as_bytes()),
        text: None,
    }
}

/// Whether nobody knows which resource the document may be.
pub(super) fn may_be_any(doc: &Doc) -> bool {
    doc.ambiguity.is_some_and(|ambiguity| ambiguity == Ambiguity::Anything)
        || matches!(doc.body, Body::Unreadable { policy: Some(_) })
}
