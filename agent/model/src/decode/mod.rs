//! From a document to a typed resource, with every error in it.
//!
//! In: a [`Document`] or a JSON value. Out: [`Decoded`]. The walk is written by hand, because the
//! same fault has other consequences in other places: an unknown field in metadata is a warning; in
//! a rule it closes the rule (an Allow never matches, a Deny matches without it, a Pass becomes a
//! Deny); elsewhere in a spec the document is bad. Fields of Calico that this version does not
//! enforce are refused, never ignored, and a policy that is refused tells what it may select, so
//! that those endpoints are closed.

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
mod rule_context;
mod simple;

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha224};

use crate::documents::{Document, Guess};
use crate::policy_scope::{PolicyScope, policy_scope};
use crate::recognition::{looks_like_policy, no_record};
use crate::{BadPolicy, Kind, Resource, ResourceKey, Selector, Severity};

pub use felix_fields::{NO_SUCH_SETTING, is_setting_of_felix_alone};
use fields::{Fields, Issues};
use foreign::Form;

/// What a document turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// The document is a resource that is in force. Its issues are warnings, and errors that close
    /// a single rule or have no other effect on what is enforced.
    Resource {
        /// The resource.
        resource: Resource,
        /// What is wrong with the document.
        issues: Vec<Issue>,
    },
    /// The document cannot be in force.
    Bad {
        /// The kind, if it is one that felid acts on.
        kind: Option<Kind>,
        /// The identity, as far as it is known. It is guessed from the text if that does not parse.
        key: Option<ResourceKey>,
        /// What is wrong; at least one error.
        issues: Vec<Issue>,
        /// If the document is a policy, what it may select. Its key is `key` if there is one; a key
        /// that had to be made up is never that of another resource.
        bad_policy: Option<BadPolicy>,
    },
    /// The document is a resource of a kind that felid has nothing to do with.
    Foreign {
        /// The field `apiVersion`.
        api_version: String,
        /// `kind`
        kind: String,
        /// The field `metadata.name`; empty if there is none.
        name: String,
    },
    /// The document is no record at all, but something that may stand beside records: values of a
    /// chart, text, a template that nobody rendered.
    NotARecord {
        /// Why it is none.
        reason: String,
    },
    /// The document is empty (`null`).
    Empty,
}

/// Something that is wrong with a document. It prints as `field: reason (value)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The path of the field, such as `spec.ingress[0].source.nets[1]`; empty for the document as a
    /// whole.
    pub field: String,
    /// The value of the field, shortened to 80 characters.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// The line in the file, from 1; `None` for a value that comes from no file.
    pub line: Option<usize>,
    /// How much it matters.
    pub severity: Severity,
}

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
    /// Returns what is wrong with the document.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Decoded::Resource { issues, .. } | Decoded::Bad { issues, .. } => issues,
            Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => &[],
        }
    }

    /// Returns whether any issue is an error.
    pub fn has_errors(&self) -> bool {
        self.issues().iter().any(|issue| issue.severity == Severity::Error)
    }
}

/// Decodes a document of a file. Its issues name lines of the file.
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
    if let Decoded::Bad { .. } = decoded
        && let Some(reason) = no_record(document)
    {
        return Decoded::NotARecord { reason };
    }
    if let Decoded::Resource { issues, .. } | Decoded::Bad { issues, .. } = &mut decoded {
        for issue in issues {
            issue.line.get_or_insert_with(|| document.line_of(&issue.field));
            // `012` is shown as it stands, not as the number that it is read as.
            if let (Some(value), Some(written)) = (&mut issue.value, document.written(&issue.field)) {
                written.clone_into(value);
            }
        }
    }
    decoded
}

/// Decodes a value that comes from no file; its issues name no lines.
pub fn decode_value(value: &Value) -> Decoded {
    decode_with(value, Issues::default())
}

///
/// Decodes a value as [`decode_value`] does, but takes it as it stands: what the schema forbids
/// although its meaning is plain is an error in the issues, and the resource is there all the same.
/// Such are ports without a protocol, networks of both families in one rule, or a name that no
/// datastore would take.
///
/// It is meant for policy tests, which try such records on purpose, and must not be used for
/// records that are to be enforced.
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
        Form::Refused { reason, closes } => {
            root.issue("kind", &reason);
            // Who forgets the kind of a policy means a policy all the same.
            let nameless = kind.is_empty() && looks_like_policy(map);
            let closes = closes.or(nameless.then_some(PolicyScope::NamespaceIfNamed));
            let policy = closes.map(|scope| refused_policy(kind, scope, map));
            bad(None, None, issues, policy)
        }
        Form::Foreign => Decoded::Foreign {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name(),
        },
    }
}

/// What a policy closes that is read in no form: the endpoints that it selects, as far as its
/// selectors and its namespace can be read.
fn refused_policy(kind: &str, scope: PolicyScope, map: &Map<String, Value>) -> BadPolicy {
    let of_kind = if kind.is_empty() { "unnamed" } else { kind };
    let name = format!("{of_kind}-{}", digest(&Value::Object(map.clone()).to_string()));
    let metadata = map.get("metadata");
    let namespace = metadata
        .and_then(|metadata| metadata.get("namespace"))
        .filter(|value| !value.is_null());
    let text = namespace.and_then(Value::as_str).filter(|text| !text.is_empty());
    let key = match (scope, namespace, text) {
        (PolicyScope::Namespace | PolicyScope::NamespaceIfNamed, _, Some(namespace)) => {
            ResourceKey::new(Kind::NetworkPolicy, Some(namespace), &name)
        }
        (PolicyScope::Namespace, None, None) => ResourceKey::new(Kind::NetworkPolicy, None, &name),
        _ => ResourceKey::new(Kind::GlobalNetworkPolicy, None, &name),
    };
    let namespaced = key.namespace.is_some();
    let pods = map.get("spec").and_then(|spec| spec.get("podSelector"));
    let pods = pods
        .filter(|_| namespaced)
        .and_then(|pods| kubernetes_policy::pods(Some(pods)));
    BadPolicy {
        key,
        selector: fields::selector_in(map, "selector").or(pods),
        namespace_selector: fields::selector_in(map, "namespaceSelector").filter(|_| !namespaced),
        reason: String::new(),
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

fn policy_resource(parts: policy::DecodedPolicy, issues: &Issues, value: &Value) -> Decoded {
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
    let staged = guess.kind.as_deref().is_some_and(|kind| kind.starts_with("Staged"));
    let bad_policy = (guess.maybe_policy && !staged).then(|| {
        let made_up = || format!("unreadable-{}", digest(&format!("{guess:?}{issue}")));
        let key = key.clone().filter(|key| key.kind.is_policy()).unwrap_or_else(|| {
            let scope = guess.kind.as_deref().and_then(policy_scope);
            match (scope, guess.namespace.as_deref()) {
                // A policy of an unknown namespace may select in any.
                (Some(PolicyScope::Namespace | PolicyScope::NamespaceIfNamed), Some(namespace)) => {
                    let kind = kind.filter(|kind| kind.is_policy()).unwrap_or(Kind::NetworkPolicy);
                    ResourceKey::new(kind, Some(namespace), &made_up())
                }
                _ => ResourceKey::new(Kind::GlobalNetworkPolicy, None, &made_up()),
            }
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
