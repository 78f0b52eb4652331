//! From the text of a source to its content, and from a text of the last good versions back to what
//! it stood for.

use std::sync::Arc;

use felid_model::{
    BadPolicy, Decoded, Document, Issue, Kind, Resource, ResourceKey, Selector, decode, decode_literal, documents,
};

use crate::core::content::{Ambiguity, Body, Digest, Doc, Finding, Position, SourceContent};
use crate::core::problem::Severity;

/// How a document becomes a resource.
pub(crate) type Decoder = fn(&Document) -> Decoded;

/// Decodes a document as it stands: see [`decode_literal`].
pub(crate) fn literally(document: &Document) -> Decoded {
    match &document.content {
        Ok(value) => decode_literal(value),
        Err(_) => decode(document),
    }
}

impl SourceContent {
    /// What a file with these bytes holds: any number of documents in YAML or JSON. Bytes that are
    /// no text are one document that cannot be read.
    pub fn file(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => SourceContent::parsed(docs(text, decode, |document| Position::Line(document.line))),
            Err(error) => SourceContent::parsed(vec![not_text(bytes, error.valid_up_to())]),
        }
    }

    /// What an object of an API with this text (YAML or JSON) holds.
    pub fn object(text: &str) -> Self {
        SourceContent::parsed(objects(text, decode))
    }
}

/// The documents of a text that describes objects; lists are taken apart.
pub(crate) fn objects(text: &str, decoder: Decoder) -> Vec<Doc> {
    docs(text, decoder, |document| Position::Object(resource_version(document)))
}

fn docs(text: &str, decoder: Decoder, position: impl Fn(&Document) -> Position) -> Vec<Doc> {
    let documents = documents(text);
    documents
        .iter()
        .filter_map(|document| doc(text, (document, decoder(document)), &position))
        .collect()
}

/// `metadata.resourceVersion` of a document.
fn resource_version(document: &Document) -> Option<Arc<str>> {
    let value = document.content.as_ref().ok()?;
    let version = value.pointer("/metadata/resourceVersion")?.as_str()?;
    (!version.is_empty()).then(|| Arc::from(version))
}

/// What a text from the journal stands for: a resource, or the [`Resource::BadPolicy`] that closes
/// what it may select.
pub(crate) fn recalled(text: &str, key: &ResourceKey) -> Option<Resource> {
    documents(text).iter().find_map(|document| match decode(document) {
        Decoded::Resource { resource, .. } => (resource.key() == key).then_some(resource),
        Decoded::Bad {
            bad_policy: Some(policy),
            ..
        } => (policy.key == *key).then(|| Resource::BadPolicy(Arc::new(policy))),
        _ => None,
    })
}

fn doc(
    text: &str,
    (document, decoded): (&Document, Decoded),
    position: &impl Fn(&Document) -> Position,
) -> Option<Doc> {
    let place = position(document);
    let at = |line: usize| match &place {
        Position::Line(_) => Position::Line(line),
        Position::Object(version) => Position::Object(version.clone()),
    };
    let (body, ambiguity, findings) = match decoded {
        Decoded::Resource { resource, issues } => (Body::Good(resource), None, findings(document, issues, at)),
        Decoded::Bad {
            kind,
            key,
            issues,
            bad_policy,
        } => {
            let findings = findings(document, issues, at);
            let (body, ambiguity) = bad(document, kind, key, bad_policy);
            (body, ambiguity, findings)
        }
        Decoded::NotARecord { reason } => no_record(document, reason, at(document.line)),
        Decoded::Foreign { api_version, kind, .. } => {
            let name = if api_version.is_empty() {
                kind
            } else {
                format!("{kind} ({api_version})")
            };
            (Body::Foreign(name), None, Vec::new())
        }
        Decoded::Empty => return None,
    };
    // Items of a list share its text: each stands in the journal by itself, as JSON.
    let text: Arc<str> = match (&document.content, document.item) {
        (Ok(value), Some(_)) => Arc::from(value.to_string()),
        _ => Arc::from(text.get(document.range.clone()).unwrap_or_default()),
    };
    let digest = Digest::of(text.as_bytes());
    let keep = matches!(body, Body::Good(_) | Body::Bad { policy: Some(_), .. });
    Some(Doc {
        position: at(document.line),
        body,
        ambiguity,
        findings,
        digest,
        text: keep.then_some(text),
    })
}

/// A document that is no record at all.
fn no_record(document: &Document, reason: String, position: Position) -> (Body, Option<Ambiguity>, Vec<Finding>) {
    // In a directory it may stand beside records; whoever sends objects sends nothing else.
    let (severity, is_file) = match &position {
        Position::Line(_) => (Severity::Warning, true),
        Position::Object(_) => (Severity::Error, false),
    };
    let ambiguity = match document.content.is_ok() && is_file {
        true => Ambiguity::NoRecord,
        false => Ambiguity::Anything,
    };
    let finding = Finding {
        severity,
        position,
        field: None,
        value: None,
        reason,
    };
    (Body::Unreadable { policy: None }, Some(ambiguity), vec![finding])
}

fn bad(
    document: &Document,
    kind: Option<Kind>,
    key: Option<ResourceKey>,
    policy: Option<BadPolicy>,
) -> (Body, Option<Ambiguity>) {
    let policy = policy.map(Arc::new);
    if document.content.is_err() {
        // The key of a broken document is a guess: it may as well be another one, or two that ran
        // into each other.
        let agrees = |key: &ResourceKey| policy.as_ref().is_none_or(|policy| policy.key == *key);
        let body = match key.filter(agrees) {
            Some(key) => Body::Bad { key, policy },
            None => Body::Unreadable { policy },
        };
        return (body, Some(Ambiguity::Anything));
    }
    match (key, policy) {
        (Some(key), policy) => (Body::Bad { key, policy }, None),
        (None, Some(policy)) if kind.is_none() && has_kind(document) => {
            // A kind of policy that has no records of its own here.
            (
                Body::Bad {
                    key: policy.key.clone(),
                    policy: Some(policy),
                },
                None,
            )
        }
        (None, policy) => {
            let ambiguity = match kind {
                Some(kind) => Some(Ambiguity::Kind(kind)),
                None => (!has_kind(document)).then_some(Ambiguity::Anything),
            };
            (Body::Unreadable { policy }, ambiguity)
        }
    }
}

/// Whether the document says what it is.
fn has_kind(document: &Document) -> bool {
    let kind = document.content.as_ref().ok().and_then(|value| value.get("kind"));
    kind.and_then(|kind| kind.as_str()).is_some_and(|kind| !kind.is_empty())
}

fn findings(document: &Document, issues: Vec<Issue>, at: impl Fn(usize) -> Position) -> Vec<Finding> {
    let finding = |issue: Issue| Finding {
        severity: issue.severity,
        position: at(issue.line.unwrap_or(document.line)),
        field: Some(issue.field).filter(|field| !field.is_empty()),
        value: issue.value,
        reason: issue.reason,
    };
    issues.into_iter().map(finding).collect()
}

/// A file that is not text. What can be read of it tells whether it may be a policy; then
/// everything is closed, since nothing else of it can be trusted.
fn not_text(bytes: &[u8], good: usize) -> Doc {
    let line = bytes.iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
    let text = String::from_utf8_lossy(bytes).replace('\0', "");
    let decoded: Vec<Decoded> = documents(&text).iter().map(decode).collect();
    let is_policy = |decoded: &Decoded| {
        matches!(
            decoded,
            Decoded::Resource {
                resource: Resource::Policy(_),
                ..
            } | Decoded::Bad {
                bad_policy: Some(_),
                ..
            }
        )
    };
    let policy = decoded.iter().any(is_policy);
    let is_other = |decoded: &Decoded| matches!(decoded, Decoded::NotARecord { .. } | Decoded::Empty);
    let severity = match decoded.iter().all(is_other) {
        true => Severity::Warning,
        false => Severity::Error,
    };
    let reason = "not UTF-8 text".to_owned();
    let policy = policy.then(|| {
        Arc::new(BadPolicy {
            key: ResourceKey {
                kind: Kind::GlobalNetworkPolicy,
                namespace: None,
                name: Arc::from("unreadable"),
            },
            selector: Some(Selector::all()),
            namespace_selector: None,
            reason: reason.clone(),
        })
    });
    Doc {
        position: Position::Line(line),
        body: Body::Unreadable { policy },
        ambiguity: Some(Ambiguity::Anything),
        findings: vec![Finding {
            severity,
            position: Position::Line(line),
            field: None,
            value: None,
            reason,
        }],
        digest: Digest::of(bytes),
        text: None,
    }
}
