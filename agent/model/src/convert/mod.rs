//! From records of Kubernetes, and of Calico before version 3, to Calico v3 resources.
//!
//! In: one record as JSON. Out: the Calico v3 resource that means the same, as JSON, or what is
//! wrong with the record. A rule that cannot be converted is dropped if it would allow, and becomes
//! a rule that denies everything if not; the rest of its policy stays. Never: checks of forms that
//! change nothing about the conversion (names, label syntax), which decoding does.

mod address;
mod cluster;
mod endpoint_v1;
mod labels;
mod network;
mod pod;
mod ports;
mod profile;
mod qos;
mod quantity;
mod read;
mod rules;

use serde_json::{Map, Value, json};

use crate::{API_VERSION, Kind};

pub(crate) use labels::{Of, selector};
pub use read::Fault;
pub(crate) use read::{At, Faults, Reader};

/// What a record was converted to.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// A resource of Calico.
    Resource(Box<Converted>),
    /// The record has no counterpart among Calico's resources, for this reason.
    Nothing(&'static str),
    /// The record cannot be converted; there is at least one fault.
    Failed(Vec<Fault>),
}

/// A record that was converted.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The resource in the form `projectcalico.org/v3`.
    pub resource: Value,
    /// What is wrong with the record: rules that were dropped or replaced, and fields that are not
    /// known.
    pub faults: Vec<Fault>,
    /// Where the parts of the resource come from: paths in the resource, each with its path in the
    /// record.
    pub(crate) origins: Vec<(String, String)>,
}

impl Converted {
    /// Returns the path in the record that a path in the resource comes from. Where nothing is
    /// known of the path itself, that of the nearest field around it is returned.
    pub(crate) fn origin(&self, path: &str) -> String {
        let found = self
            .origins
            .iter()
            .filter(|(to, _)| {
                path.strip_prefix(to.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
            .max_by_key(|(to, _)| to.len());
        found.map_or_else(|| path.to_owned(), |(_, from)| from.clone())
    }
}

/// Converts a record of Kubernetes, or of Calico's v1 form. Resources in Calico's v3 form stay as
/// they are.
pub fn convert(record: &Value) -> Conversion {
    let Value::Object(root) = record else {
        return failed(
            "",
            Some(record),
            "expected a record with apiVersion, kind, metadata and spec",
        );
    };
    let text = |key| root.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    match (api_version, kind) {
        (_, "") => failed("kind", root.get("kind"), "is required"),
        (API_VERSION, _) => Conversion::Resource(Box::new(Converted {
            resource: record.clone(),
            faults: Vec::new(),
            origins: Vec::new(),
        })),
        ("v1", "workloadEndpoint") => endpoint_v1::convert(root),
        _ => match source_kind(api_version, kind) {
            Some(kind) => convert_kind(kind, root),
            None => other(api_version, kind),
        },
    }
}

/// The kind of a record that is converted.
pub(crate) fn source_kind(api_version: &str, kind: &str) -> Option<Kind> {
    match (api_version, kind) {
        (API_VERSION, _) => None,
        // The same under its older name.
        ("extensions/v1beta1", "NetworkPolicy") => Some(Kind::KubernetesNetworkPolicy),
        _ => Kind::from_record(api_version, kind),
    }
}

/// Converts a record of Kubernetes.
pub(crate) fn convert_kind(kind: Kind, root: &Map<String, Value>) -> Conversion {
    match kind {
        Kind::Pod => pod::convert(root),
        Kind::Namespace => profile::namespace(root),
        Kind::ServiceAccount => profile::service_account(root),
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => network::convert(kind, root),
        Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
            cluster::convert(kind, root)
        }
        _ => Conversion::Nothing("it is looked up where rules name services"),
    }
}

/// Kinds that are not converted. What may be meant as policy is never passed over.
fn other(api_version: &str, kind: &str) -> Conversion {
    let calico = [
        "workloadEndpoint",
        "hostEndpoint",
        "policy",
        "profile",
        "ipPool",
        "bgpPeer",
        "node",
    ];
    let reason = if api_version.is_empty() {
        match Kind::from_name(kind).map(Kind::api_version) {
            Some(version) => format!("apiVersion is missing: write apiVersion: {version}"),
            None => "apiVersion is missing".to_owned(),
        }
    } else if api_version.ends_with("projectcalico.org/v1") {
        format!("apiVersion {api_version} is not read: write apiVersion: {API_VERSION}")
    } else if kind.to_ascii_lowercase().ends_with("policy") || (api_version == "v1" && calico.contains(&kind)) {
        format!("{kind} of {api_version} is not converted")
    } else {
        return Conversion::Nothing("it says nothing about policy");
    };
    failed("kind", Some(&json!(kind)), &reason)
}

fn failed(field: &str, value: Option<&Value>, reason: &str) -> Conversion {
    Conversion::Failed(vec![Fault {
        field: field.to_owned(),
        value: value.cloned(),
        reason: reason.to_owned(),
        in_rule: false,
    }])
}

/// A Calico v3 resource.
fn resource(kind: Kind, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": metadata, "spec": spec})
}
