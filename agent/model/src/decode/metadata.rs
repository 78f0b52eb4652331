//! `metadata`: names, namespaces, labels, annotations. Unknown fields in it are warnings.

use crate::selector::{NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX};
use crate::{Kind, LabelMap, ResourceKey};

use super::check;
use super::fields::{Fields, Issues};

/// Most bytes of all annotations of a record together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What was read.
pub(super) struct Metadata {
    /// Name, if there is a good one.
    pub(super) name: Option<String>,
    /// Namespace, if the kind has one and it is good; `default` if absent.
    pub(super) namespace: Option<String>,
    /// Labels that are good.
    pub(super) labels: LabelMap,
    /// Whether the record names itself at all.
    pub(super) named: bool,
}

impl Metadata {
    /// Reads `metadata`. An absent name is the caller's to judge.
    pub(super) fn read(
        root: &mut Fields<'_>,
        namespaced: bool,
        name_check: impl Fn(&str) -> Result<(), String>,
    ) -> Self {
        let mut fields = root.object_or_empty("metadata");
        let named = fields.text("name").is_some();
        let name = fields.checked("name", name_check).map(str::to_owned);
        let namespace = fields.text("namespace");
        let namespace = match (namespaced, namespace) {
            (true, None) => Some("default".to_owned()),
            (true, Some(_)) => fields.checked("namespace", check::subdomain).map(str::to_owned),
            (false, None) => None,
            (false, Some(_)) => {
                let reason = "resources of this kind have no namespace; ignored";
                fields.issues().warning(fields.at("namespace"), None, reason);
                None
            }
        };
        let labels = labels(&mut fields, "labels");
        annotations(&mut fields);
        // What the API server writes.
        for key in [
            "generateName",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "finalizers",
            "ownerReferences",
            "managedFields",
        ] {
            fields.get(key);
        }
        fields.finish_with_warnings();
        Metadata {
            name,
            namespace,
            labels,
            named,
        }
    }

    /// Says so if there is no name at all.
    pub(super) fn require_name(&self, issues: &Issues) {
        if !self.named {
            issues.error("metadata.name".to_owned(), None, "is required");
        }
    }

    /// The labels without those that endpoints can only inherit; each that is left out is a
    /// warning.
    pub(super) fn inherited_left_out(&self, issues: &Issues) -> LabelMap {
        let mut labels = self.labels.clone();
        labels.retain(|label, _| {
            let inherited = [NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX]
                .iter()
                .any(|prefix| label.starts_with(prefix));
            if inherited {
                let reason = "only profiles may give labels with this prefix; left out";
                issues.warning(format!("metadata.labels.{label}"), None, reason);
            }
            !inherited
        });
        labels
    }

    /// The resource's identity, if known.
    pub(super) fn key(&self, kind: Kind) -> Option<ResourceKey> {
        if kind.is_namespaced() && self.namespace.is_none() {
            return None;
        }
        self.name
            .as_deref()
            .map(|name| ResourceKey::new(kind, self.namespace.as_deref(), name))
    }
}

/// Labels: Kubernetes' forms of keys and values. Bad ones are errors and left out.
pub(super) fn labels(fields: &mut Fields<'_>, key: &'static str) -> LabelMap {
    let issues = fields.issues();
    let mut labels = LabelMap::new();
    for (label, at, value) in fields.string_map(key) {
        let reason = check::label_key(label).and_then(|()| check::label_value(value));
        if let Err(reason) = &reason {
            issues.forbidden(at.path.clone(), Some(at.value), reason);
        }
        if reason.is_ok() || issues.is_literal() {
            labels.insert(label.to_owned(), value.to_owned());
        }
    }
    labels
}

/// Annotations: their keys are qualified names.
pub(super) fn annotations(fields: &mut Fields<'_>) {
    let issues = fields.issues();
    let mut size = 0_usize;
    for (key, at, value) in fields.string_map("annotations") {
        if let Err(reason) = check::annotation_key(key) {
            issues.forbidden(at.path.clone(), None, &reason.replace("a label", "an annotation"));
        }
        size = size.saturating_add(key.len()).saturating_add(value.len());
    }
    if size > MAX_ANNOTATIONS {
        issues.forbidden(fields.at("annotations"), None, "more than 256 KiB of annotations");
    }
}

/// `status` is written by controllers and says nothing to felid; what else stands beside `spec` is
/// unknown.
pub(super) fn finish_root(mut root: Fields<'_>) {
    root.get("status");
    root.finish();
}
