//! From a document to a typed resource, with every error in it.
//!
//! In: a [`Document`] or a JSON value. Out: [`Decoded`]. The walk is written by hand, because the same fault has other
//! consequences in other places: an unknown field in metadata is a warning; in a rule it closes the rule (an Allow never matches,
//! a Deny matches without it, a Pass becomes a Deny); elsewhere in a spec the document is bad. Fields of Calico that this
//! version does not enforce are refused, never ignored, and a policy that is refused tells what it may select, so that those
//! endpoints are closed.

mod check;
mod endpoint;
mod entity;
mod felix;
mod felix_fields;
mod fields;
mod foreign;
mod host;
mod kubernetes;
mod kubernetes_policy;
mod metadata;
mod policy;
mod pool;
mod ports;
mod rule;
mod simple;

use std::fmt;

use serde_json::Value;
use sha2::{Digest as _, Sha224};

use crate::documents::{Document, Guess};
use crate::{BadPolicy, Kind, Resource, ResourceKey, Selector};

use fields::{Fields, Issues};
use foreign::Form;

/// What a document turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// A resource that is in force. The issues are warnings, and errors that close only a rule or concern nothing else.
    Resource {
        /// The resource.
        resource: Resource,
        /// What there is to say of it.
        issues: Vec<Issue>,
    },
    /// A document that cannot be in force.
    Bad {
        /// Its kind, if it is one that felid acts on.
        kind: Option<Kind>,
        /// Its identity, as far as known; guessed from the text if that does not parse.
        key: Option<ResourceKey>,
        /// What is wrong; at least one error.
        issues: Vec<Issue>,
        /// If it is a policy: what it may select. Its key is `key` if there is one, else made up, and never clashes with others.
        bad_policy: Option<BadPolicy>,
    },
    /// A document that is none of felid's business.
    Foreign {
        /// `apiVersion`
        api_version: String,
        /// `kind`
        kind: String,
        /// `metadata.name`, or nothing.
        name: String,
    },
    /// Nothing at all (`null`).
    Empty,
}

/// Something to tell about a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Path of the field: `spec.ingress[0].source.nets[1]`; empty for the document as a whole.
    pub field: String,
    /// Its value, shortened.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// 1-based line in the file.
    pub line: Option<usize>,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad an [`Issue`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Warning,
    /// The document is not valid.
    Error,
}

/// `field: reason (value)`.
impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        match &self.value {
            Some(value) => write!(f, " ({value})"),
            None => Ok(()),
        }
    }
}

impl Decoded {
    /// What there is to say of the document.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Decoded::Resource { issues, .. } | Decoded::Bad { issues, .. } => issues,
            Decoded::Foreign { .. } | Decoded::Empty => &[],
        }
    }

    /// Whether there is an error in it.
    pub fn has_errors(&self) -> bool {
        self.issues().iter().any(|issue| issue.severity == Severity::Error)
    }
}

/// Decodes a document; its issues name lines of the file.
pub fn decode(document: &Document) -> Decoded {
    let mut decoded = match &document.content {
        Ok(value) => decode_value(value),
        Err(error) => {
            let issue = Issue {
                field: String::new(),
                value: None,
                reason: format!("column {}: {}", error.column, error.reason),
                line: Some(error.line),
                severity: Severity::Error,
            };
            unreadable(document.guess(), issue)
        }
    };
    if let Decoded::Resource { issues, .. } | Decoded::Bad { issues, .. } = &mut decoded {
        for issue in issues {
            issue.line.get_or_insert_with(|| document.line_of(&issue.field));
        }
    }
    decoded
}

/// Decodes a value that stands in no file.
pub fn decode_value(value: &Value) -> Decoded {
    decode_with(value, Issues::default())
}

/// Decodes a value that stands in no file, and takes it as it stands: what the schema forbids although its meaning is plain (ports
/// without a protocol, networks of both families in one rule, a name of a form that no datastore would take) is told as an error,
/// but the resource is there. For policy tests, which try such records on purpose; never for records that are to be enforced.
pub fn decode_literal(value: &Value) -> Decoded {
    decode_with(value, Issues::literal())
}

fn decode_with(value: &Value, issues: Issues) -> Decoded {
    if value.is_null() {
        return Decoded::Empty;
    }
    let Value::Object(map) = value else {
        issues.error(
            String::new(),
            Some(value),
            "expected a record with apiVersion, kind, metadata and spec",
        );
        return Decoded::Bad {
            kind: None,
            key: None,
            issues: issues.take(),
            bad_policy: None,
        };
    };
    let mut root = Fields::new(map, String::new(), &issues);
    let api_version = root.text("apiVersion").unwrap_or_default();
    let kind = root.text("kind").unwrap_or_default();
    let name = || {
        let name = map
            .get("metadata")
            .and_then(|metadata| metadata.get("name"))
            .and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    match foreign::form(api_version, kind) {
        Form::Known(kind) => resource(kind, root, value),
        Form::Kubernetes(kind) => kubernetes::decode(kind, root, map),
        Form::EndpointV1 => kubernetes::endpoint_v1(value, &issues),
        Form::Refused { reason, policy } => {
            root.issue("kind", &reason);
            let policy = policy.then(|| BadPolicy {
                key: ResourceKey::new(
                    Kind::GlobalNetworkPolicy,
                    None,
                    &format!("{kind}-{}", digest(&value.to_string())),
                ),
                selector: fields::selector_in(map),
                namespace_selector: None,
                reason: String::new(),
            });
            bad(None, None, issues, policy)
        }
        Form::Foreign => Decoded::Foreign {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name(),
        },
    }
}

/// A kind that felid acts on.
fn resource(kind: Kind, root: Fields<'_>, value: &Value) -> Decoded {
    let issues = root.issues();
    let (key, decoded) = match kind {
        Kind::WorkloadEndpoint => endpoint::workload(root),
        Kind::HostEndpoint => host::decode(root),
        Kind::Profile => simple::profile(root),
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => return policy_resource(policy::decode(kind, root), issues, value),
        Kind::Tier => simple::tier(root),
        Kind::NetworkSet | Kind::GlobalNetworkSet => simple::network_set(kind, root),
        Kind::FelixConfiguration => felix::decode(root),
        Kind::IpPool => pool::decode(root),
        _ => (None, None),
    };
    finished(kind, key, decoded, issues)
}

/// The resource, unless there is an error that keeps it out of force.
fn finished(kind: Kind, key: Option<ResourceKey>, resource: Option<Resource>, issues: &Issues) -> Decoded {
    match resource {
        Some(resource) if !issues.is_fatal() => Decoded::Resource {
            resource,
            issues: issues.take(),
        },
        _ => Decoded::Bad {
            kind: Some(kind),
            key,
            issues: issues.take(),
            bad_policy: None,
        },
    }
}

fn policy_resource(parts: policy::Parts, issues: &Issues, value: &Value) -> Decoded {
    if let (Some(resource), false) = (parts.resource, issues.is_fatal()) {
        return Decoded::Resource {
            resource,
            issues: issues.take(),
        };
    }
    // Without a name it still selects; a made-up name keeps it apart from others.
    let name = || format!("unnamed-{}", digest(&value.to_string()));
    let bad_policy = BadPolicy {
        key: parts
            .key
            .clone()
            .unwrap_or_else(|| ResourceKey::new(parts.kind, parts.namespace.as_deref(), &name())),
        selector: parts.selector,
        namespace_selector: parts.namespace_selector,
        reason: String::new(),
    };
    with_reason(Decoded::Bad {
        kind: Some(parts.kind),
        key: parts.key,
        issues: issues.take(),
        bad_policy: (!parts.harmless).then_some(bad_policy),
    })
}

fn bad(kind: Option<Kind>, key: Option<ResourceKey>, issues: Issues, bad_policy: Option<BadPolicy>) -> Decoded {
    with_reason(Decoded::Bad {
        kind,
        key,
        issues: issues.take(),
        bad_policy,
    })
}

/// Gives the bad policy its first error as the reason.
fn with_reason(mut decoded: Decoded) -> Decoded {
    if let Decoded::Bad {
        issues,
        bad_policy: Some(policy),
        ..
    } = &mut decoded
        && let Some(issue) = issues.iter().find(|issue| issue.severity == Severity::Error)
    {
        policy.reason = issue.to_string();
    }
    decoded
}

/// A document whose text does not parse.
fn unreadable(guess: &Guess, issue: Issue) -> Decoded {
    let kind = guess
        .kind
        .as_deref()
        .and_then(|kind| match guess.api_version.as_deref() {
            Some(version) => Kind::from_record(version, kind),
            None => Kind::from_name(kind),
        });
    let key = kind
        .zip(guess.name.as_deref())
        .map(|(kind, name)| ResourceKey::new(kind, guess.namespace.as_deref(), name));
    let staged = kind.is_some_and(Kind::is_staged);
    let bad_policy = (guess.maybe_policy && !staged).then(|| {
        let made_up = || format!("unreadable-{}", digest(&format!("{guess:?}{issue}")));
        let kind = kind.filter(|kind| kind.is_policy());
        let key = key
            .clone()
            .filter(|key| key.kind.is_policy())
            .unwrap_or_else(|| match kind {
                // A policy of an unknown namespace may select in any.
                Some(kind) if kind.is_namespaced() && guess.namespace.is_some() => {
                    ResourceKey::new(kind, guess.namespace.as_deref(), &made_up())
                }
                _ => ResourceKey::new(Kind::GlobalNetworkPolicy, None, &made_up()),
            });
        BadPolicy {
            key,
            selector: None::<Selector>,
            namespace_selector: None,
            reason: String::new(),
        }
    });
    with_reason(Decoded::Bad {
        kind,
        key,
        issues: vec![issue],
        bad_policy,
    })
}

/// Twelve hexadecimal digits that tell texts apart.
fn digest(text: &str) -> String {
    Sha224::digest(text.as_bytes())
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
