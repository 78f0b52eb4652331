//! From a file's bytes to its view, and from a journalled text back to what it stood for.

use std::sync::Arc;

use felid_model::{BadPolicy, Decoded, Document, Issue, Kind, Resource, ResourceKey, Selector, decode, documents};

use crate::problem::Severity;
use crate::view::{Body, Digest, Doc, Finding, Hides, View};

/// What a file with these bytes holds.
pub(crate) fn view(bytes: &[u8]) -> View {
    match std::str::from_utf8(bytes) {
        Ok(text) => View::parsed(
            documents(text)
                .iter()
                .filter_map(|document| doc(text, document))
                .collect(),
        ),
        Err(error) => View::parsed(vec![not_text(bytes, error.valid_up_to())]),
    }
}

/// What a text from the journal stands for: a resource, or the [`Resource::BadPolicy`] that closes what it may select.
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

fn doc(text: &str, document: &Document) -> Option<Doc> {
    let (body, hides, findings) = match decode(document) {
        Decoded::Resource { resource, issues } => (Body::Good(resource), None, findings(document, issues)),
        Decoded::Bad {
            kind,
            key,
            issues,
            bad_policy,
        } => {
            let findings = findings(document, issues);
            let (body, hides) = bad(document, kind, key, bad_policy);
            (body, hides, findings)
        }
        Decoded::Foreign { .. } if !has_kind(document) => {
            let reason = "the document does not say its kind".to_owned();
            let finding = Finding {
                severity: Severity::Error,
                line: document.line,
                field: None,
                value: None,
                reason,
            };
            (Body::Unreadable { policy: None }, Some(Hides::Anything), vec![finding])
        }
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
        line: document.line,
        body,
        hides,
        findings,
        digest,
        text: keep.then_some(text),
    })
}

fn bad(
    document: &Document,
    kind: Option<Kind>,
    key: Option<ResourceKey>,
    policy: Option<BadPolicy>,
) -> (Body, Option<Hides>) {
    let policy = policy.map(Arc::new);
    if document.content.is_err() {
        // The key of a broken document is a guess: it may as well be another one, or two that ran into each other.
        let agrees = |key: &ResourceKey| policy.as_ref().is_none_or(|policy| policy.key == *key);
        let body = match key.filter(agrees) {
            Some(key) => Body::Bad { key, policy },
            None => Body::Unreadable { policy },
        };
        return (body, Some(Hides::Anything));
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
            let hides = match kind {
                Some(kind) => Some(Hides::Kind(kind)),
                None => (!has_kind(document)).then_some(Hides::Anything),
            };
            (Body::Unreadable { policy }, hides)
        }
    }
}

/// Whether the document says what it is.
fn has_kind(document: &Document) -> bool {
    let kind = document.content.as_ref().ok().and_then(|value| value.get("kind"));
    kind.and_then(|kind| kind.as_str()).is_some_and(|kind| !kind.is_empty())
}

fn findings(document: &Document, issues: Vec<Issue>) -> Vec<Finding> {
    let finding = |issue: Issue| Finding {
        severity: match issue.severity {
            felid_model::Severity::Error => Severity::Error,
            felid_model::Severity::Warning => Severity::Warning,
        },
        line: issue.line.unwrap_or(document.line),
        field: Some(issue.field).filter(|field| !field.is_empty()),
        value: issue.value,
        reason: issue.reason,
    };
    issues.into_iter().map(finding).collect()
}

/// A file that is not text. What can be read of it tells whether it may be a policy; then everything is closed, since
/// nothing else of it can be trusted.
fn not_text(bytes: &[u8], good: usize) -> Doc {
    let line = bytes.iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
    let text = String::from_utf8_lossy(bytes).replace('\0', "");
    let policy = documents(&text).iter().any(|document| {
        matches!(
            decode(document),
            Decoded::Resource {
                resource: Resource::Policy(_),
                ..
            } | Decoded::Bad {
                bad_policy: Some(_),
                ..
            }
        )
    });
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
        line,
        body: Body::Unreadable { policy },
        hides: Some(Hides::Anything),
        findings: vec![Finding {
            severity: Severity::Error,
            line,
            field: None,
            value: None,
            reason,
        }],
        digest: Digest::of(bytes),
        text: None,
    }
}
