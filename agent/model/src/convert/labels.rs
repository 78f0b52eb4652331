//! Label selectors of Kubernetes as Calico's selectors.

use serde_json::Value;

use crate::selector::ORCHESTRATOR_LABEL;

use super::read::{At, Faults, Reader};

/// What a selector selects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Pods: Calico's other endpoints are never meant.
    Pods,
    /// Namespaces, by `namespaceSelector`.
    Namespaces,
}

/// The selector of an absent or empty label selector.
pub(crate) fn everything(of: Of) -> String {
    match of {
        Of::Pods => format!("{ORCHESTRATOR_LABEL} == 'k8s'"),
        Of::Namespaces => "all()".to_owned(),
    }
}

/// The selector for a label selector; absent is as empty.
pub(crate) fn selector(of: Of, value: Option<At<'_>>, faults: &Faults) -> String {
    let Some(mut fields) = value.and_then(|at| match at.value {
        Value::Object(map) => Some(Reader::new(map, at.path, faults)),
        other => {
            faults.push(at.path, Some(other), "expected a label selector");
            None
        }
    }) else {
        return everything(of);
    };
    let mut terms = Vec::new();
    for (key, value) in fields.string_map("matchLabels") {
        let path = format!("{}.{key}", fields.at("matchLabels"));
        if let (Some(key), Some(value)) = (label(key, &path, faults), quoted(value, &path, faults)) {
            terms.push(format!("{key} == {value}"));
        }
    }
    for item in fields.list("matchExpressions") {
        let Some(expression) = item.reader(faults) else {
            continue;
        };
        terms.extend(term(expression));
    }
    fields.finish();
    match of {
        Of::Pods => terms.insert(0, everything(of)),
        Of::Namespaces if terms.is_empty() => terms.push(everything(of)),
        Of::Namespaces => {}
    }
    terms.join(" && ")
}

/// One of `matchExpressions`.
fn term(mut expression: Reader<'_>) -> Option<String> {
    let faults = expression.faults();
    let key = expression.required_text("key");
    let operator = expression.required_text("operator");
    let values = expression.list("values");
    let count = values.len();
    let set: Vec<String> = values
        .iter()
        .filter_map(|at| quoted(at.text(faults)?, &at.path, faults))
        .collect();
    let set = set.join(", ");
    let key = label(key?, &expression.at("key"), faults)?;
    let wants_values = matches!(operator, Some("In" | "NotIn"));
    let found = match operator? {
        "In" => format!("{key} in {{ {set} }}"),
        "NotIn" => format!("{key} not in {{ {set} }}"),
        "Exists" => format!("has({key})"),
        "DoesNotExist" => format!("! has({key})"),
        _ => {
            expression.fault("operator", "expected In, NotIn, Exists or DoesNotExist");
            return None;
        }
    };
    if wants_values && count == 0 {
        expression.fault("values", "In and NotIn need at least one value");
    }
    if !wants_values && count > 0 {
        expression.fault("values", "Exists and DoesNotExist take no values");
    }
    expression.finish();
    Some(found)
}

/// A label's name, if a selector can hold it.
fn label<'a>(key: &'a str, path: &str, faults: &Faults) -> Option<&'a str> {
    let good = (1..=512).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-'));
    if !good {
        faults.push(path.to_owned(), Some(&Value::from(key)), "is no name of a label");
    }
    good.then_some(key)
}

/// A label's value in quotes. Selectors have no escapes, and values of labels no quotes.
fn quoted(value: &str, path: &str, faults: &Faults) -> Option<String> {
    let good = !value.contains('\'');
    if !good {
        faults.push(path.to_owned(), Some(&Value::from(value)), "is no value of a label");
    }
    good.then(|| format!("'{value}'"))
}
