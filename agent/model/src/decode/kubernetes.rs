//! Policies of Kubernetes: not enforced yet, so what they may select is found and closed.

use serde_json::{Map, Value};

use crate::selector::ORCHESTRATOR_LABEL;
use crate::{BadPolicy, Kind, ResourceKey, Selector};

/// Which policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `NetworkPolicy`
    Network,
    /// `AdminNetworkPolicy`
    Admin,
    /// `BaselineAdminNetworkPolicy`
    BaselineAdmin,
    /// `ClusterNetworkPolicy`
    Cluster,
}

/// What the policy selects, under the name that Calico gives its like. What cannot be read selects more, never less.
pub(super) fn bad_policy(form: Form, root: &Map<String, Value>) -> BadPolicy {
    let metadata = root.get("metadata");
    let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let name = text("name").map_or_else(
        || format!("unnamed-{}", super::digest(&Value::Object(root.clone()).to_string())),
        str::to_owned,
    );
    let spec = root.get("spec");
    let pods = Selector::label_equals(ORCHESTRATOR_LABEL, "k8s");
    let (key, selector, namespace_selector) = match form {
        Form::Network => {
            let key = ResourceKey::new(Kind::NetworkPolicy, text("namespace"), &format!("knp.default.{name}"));
            let selected = label_selector(spec.and_then(|spec| spec.get("podSelector")));
            (key, selected.map(|selected| pods.and(&selected)), None)
        }
        Form::Admin | Form::BaselineAdmin | Form::Cluster => {
            let prefix = match form {
                Form::Admin => "kanp.adminnetworkpolicy",
                Form::BaselineAdmin => "kbanp.baselineadminnetworkpolicy",
                _ => "kcnp",
            };
            let key = ResourceKey::new(Kind::GlobalNetworkPolicy, None, &format!("{prefix}.{name}"));
            let subject = spec.and_then(|spec| spec.get("subject"));
            let (namespaces, selected) = match (
                subject.and_then(|subject| subject.get("namespaces")),
                subject.and_then(|subject| subject.get("pods")),
            ) {
                (Some(namespaces), None) => (label_selector(Some(namespaces)), Some(Selector::all())),
                (None, Some(both)) => (
                    label_selector(both.get("namespaceSelector")),
                    label_selector(both.get("podSelector")),
                ),
                _ => (None, None),
            };
            (key, selected.map(|selected| pods.and(&selected)), namespaces)
        }
    };
    BadPolicy {
        key,
        selector,
        namespace_selector,
        reason: String::new(),
    }
}

/// A label selector of Kubernetes; absent or empty is `all()`, `None` if it cannot be read.
fn label_selector(value: Option<&Value>) -> Option<Selector> {
    let map = match value {
        None | Some(Value::Null) => return Some(Selector::all()),
        Some(value) => value.as_object()?,
    };
    if map
        .keys()
        .any(|key| !matches!(key.as_str(), "matchLabels" | "matchExpressions"))
    {
        return None;
    }
    let mut terms = Vec::new();
    if let Some(labels) = map.get("matchLabels").filter(|labels| !labels.is_null()) {
        let mut labels: Vec<_> = labels.as_object()?.iter().collect();
        labels.sort_by_key(|(key, _)| key.as_str());
        for (key, value) in labels {
            super::check::label_key(key).ok()?;
            terms.push(format!("{key} == {}", quoted(value)?));
        }
    }
    if let Some(expressions) = map.get("matchExpressions").filter(|expressions| !expressions.is_null()) {
        for expression in expressions.as_array()? {
            let key = expression.get("key")?.as_str()?;
            super::check::label_key(key).ok()?;
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let values = values.iter().map(quoted).collect::<Option<Vec<_>>>()?.join(", ");
            terms.push(match expression.get("operator")?.as_str()? {
                "In" => format!("{key} in {{ {values} }}"),
                "NotIn" => format!("{key} not in {{ {values} }}"),
                "Exists" => format!("has({key})"),
                "DoesNotExist" => format!("! has({key})"),
                _ => return None,
            });
        }
    }
    Selector::parse(&terms.join(" && ")).ok()
}

/// A label's value in quotes. Values with quotes or other oddities are not labels.
fn quoted(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.contains(['\'', '"'])).then(|| format!("'{text}'"))
}
