//! `Namespace` and `ServiceAccount`: the profiles by which their pods inherit labels.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::profile::NAME_LABEL;
use crate::selector::{NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX};
use crate::{Kind, namespace_profile, service_account_profile};

use super::read::{Faults, Metadata, Reader};
use super::{Conversion, Converted, resource};

/// `kns.NAME`: allows everything.
pub(super) fn namespace(root: &Map<String, Value>) -> Conversion {
    convert(root, NAMESPACE_PREFIX, |metadata| {
        let allow = json!([{"action": "Allow"}]);
        let rules = [("ingress", allow.clone()), ("egress", allow)];
        (namespace_profile(metadata.name), rules.into())
    })
}

/// `ksa.NAMESPACE.NAME`: without rules.
pub(super) fn service_account(root: &Map<String, Value>) -> Conversion {
    convert(root, SERVICE_ACCOUNT_PREFIX, |metadata| {
        let name = service_account_profile(metadata.namespace_or_default(), metadata.name);
        (name, Vec::new())
    })
}

fn convert(
    root: &Map<String, Value>,
    prefix: &str,
    named: impl Fn(&Metadata<'_>) -> (String, Vec<(&'static str, Value)>),
) -> Conversion {
    let faults = Faults::default();
    let mut root = Reader::new(root, String::new(), &faults);
    let (Some(metadata), true) = (Metadata::read(&mut root), faults.is_empty()) else {
        return Conversion::Failed(faults.take());
    };
    let (name, rules) = named(&metadata);
    let mut labels: BTreeMap<String, &str> = metadata
        .labels
        .iter()
        .map(|(label, value)| (format!("{prefix}{label}"), *value))
        .collect();
    labels.insert(format!("{prefix}{NAME_LABEL}"), metadata.name);
    let mut spec = Map::new();
    for (list, rules) in rules {
        spec.insert(list.to_owned(), rules);
    }
    spec.insert("labelsToApply".to_owned(), json!(labels));
    Conversion::Resource(Box::new(Converted {
        resource: resource(Kind::Profile, json!({"name": name}), Value::Object(spec)),
        faults: Vec::new(),
        origins: Vec::new(),
    }))
}
