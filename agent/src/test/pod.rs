//! The pods of a case: each is a record, and is read as the agent would read that record.
//!
//! In: what a case says of a pod, or a `Pod` of its documents. Out: the resource for the
//! calculation, and what expectations need to know of the pod. All of it goes through the decoder
//! of records, and so through the one conversion of pods that there is.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::bail;
use felid_model::names::{DEFAULT_INTERFACE_PREFIX, host_interface};
use felid_model::{API_VERSION, Decoded, Resource, ResourceKey, WorkloadEndpoint, decode_literal};
use serde_json::{Value, json};

use super::case::PodSpec;
use super::node::{NODE, reasons, text};

/// Orchestrator of pods with profiles of their own, which policies of Kubernetes do not select.
const OTHER: &str = "test";
/// Longer names are no label values, and the reference leaves them out.
const LONGEST_LABELLED_ACCOUNT: usize = 62;

/// A pod that exists.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// What stands for it: a `Pod` of Kubernetes, or a `WorkloadEndpoint`.
    record: Value,
    /// Name of its host-side interface; empty on the host's network.
    interface: Arc<str>,
    /// Identity of its resource.
    pub(crate) key: ResourceKey,
    state: PodState,
    /// Addresses that it has; of a pod that has ended those that it had.
    addresses: Vec<IpAddr>,
    /// Its service account, if it is a pod of Kubernetes.
    account: Option<String>,
}

/// What a pod is on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PodState {
    /// It has an interface and addresses, or had none from the beginning.
    Living,
    /// Its record says that it has ended: nothing comes from it any more, and nothing reaches it.
    Ended,
    /// It has no interface: it is the host.
    OnHostNetwork,
}

impl Pod {
    /// Reads the record of a pod, which takes the place of `before`. Returns the pod and the
    /// resource that it is in force as, or what is wrong with it.
    pub(super) fn read(record: Value, before: Option<&Pod>) -> anyhow::Result<(Self, Resource)> {
        let resource = match decode_literal(&record) {
            Decoded::Resource { resource, .. } => resource,
            Decoded::Bad { issues, .. } => bail!("{}", reasons(&issues)),
            Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => {
                bail!("its record is none of a pod")
            }
        };
        let key = resource.key().clone();
        let mut had = addresses(&record);
        if had.is_empty() {
            had.extend(before.into_iter().flat_map(|before| before.addresses.iter().copied()));
        }
        let (interface, state, addresses, account) = match &resource {
            Resource::WorkloadEndpoint(endpoint) => {
                let addresses: Vec<IpAddr> = endpoint.ip_networks.iter().map(|net| net.addr()).collect();
                let account = endpoint.service_account.clone().filter(|_| is_kubernetes(endpoint));
                let (state, addresses) = if addresses.is_empty() && !had.is_empty() {
                    (PodState::Ended, had)
                } else {
                    (PodState::Living, addresses)
                };
                (endpoint.interface_name.as_str(), state, addresses, account)
            }
            // Nothing else of a pod that has a node has no endpoint.
            _ => ("", PodState::OnHostNetwork, had, None),
        };
        let pod = Self {
            record,
            interface: Arc::from(interface),
            key,
            state,
            addresses,
            account,
        };
        Ok((pod, resource))
    }

    /// The record that stands for it.
    pub(super) fn record(&self) -> &Value {
        &self.record
    }

    /// Name of the host-side interface; empty on the host's network.
    pub(crate) fn interface(&self) -> Arc<str> {
        Arc::clone(&self.interface)
    }

    /// Addresses that the pod has, or had before it ended.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Addresses that its interface has.
    pub(crate) fn living_addresses(&self) -> &[IpAddr] {
        match self.state {
            PodState::Living => &self.addresses,
            PodState::Ended | PodState::OnHostNetwork => &[],
        }
    }

    /// Whether its record says that it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == PodState::Ended
    }

    /// Whether it is on the host's network, and so is the host.
    pub(crate) fn is_on_host_network(&self) -> bool {
        self.state == PodState::OnHostNetwork
    }

    /// The service account of a pod of Kubernetes.
    pub(super) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }
}

fn is_kubernetes(endpoint: &WorkloadEndpoint) -> bool {
    endpoint.orchestrator == "k8s"
}

/// Namespace and name of a pod by its record.
pub(super) fn name(record: &Value) -> (String, String) {
    let namespace = match text(record, "/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let name = match text(record, "/spec/workload") {
        "" => text(record, "/metadata/name"),
        workload => workload,
    };
    (namespace.to_owned(), name.to_owned())
}

/// Addresses that a record names, whatever its state says.
fn addresses(record: &Value) -> Vec<IpAddr> {
    let list = |path: &str| record.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let pods = list("/status/podIPs").map(|ip| text(ip, "/ip"));
    let own = list("/spec/ipNetworks").filter_map(Value::as_str);
    let texts = pods.chain([text(record, "/status/podIP")]).chain(own);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// The record that stands for a pod of a case: a `Pod`, or a `WorkloadEndpoint` where the case
/// names its profiles.
pub(super) fn record(spec: &PodSpec) -> Value {
    match &spec.profiles {
        None => kubernetes_record(spec),
        Some(profiles) => endpoint_record(spec, profiles),
    }
}

fn kubernetes_record(spec: &PodSpec) -> Value {
    let ports = spec
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.port, "protocol": port.protocol.to_string()}));
    let ips = spec.ips.iter().map(|ip| json!({"ip": ip.to_string()}));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": spec.labels},
        "spec": {
            "nodeName": NODE,
            "serviceAccountName": spec.service_account,
            "containers": [{"name": "main", "ports": ports.collect::<Vec<_>>()}],
        },
        "status": {"podIPs": ips.collect::<Vec<_>>()},
    })
}

fn endpoint_record(spec: &PodSpec, profiles: &[String]) -> Value {
    let mut labels = spec.labels.clone();
    if let Some(account) = spec
        .service_account
        .as_ref()
        .filter(|account| account.len() <= LONGEST_LABELLED_ACCOUNT)
    {
        labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
    }
    let ports = spec.ports.iter().filter(|port| !port.name.is_empty());
    let ports = ports
        .map(|port| json!({"name": port.name, "port": port.port, "protocol": port.protocol.to_string()}))
        .collect::<Vec<_>>();
    json!({
        "apiVersion": API_VERSION,
        "kind": "WorkloadEndpoint",
        "metadata": {"namespace": spec.namespace, "labels": labels},
        "spec": {
            "node": NODE,
            "orchestrator": OTHER,
            "workload": spec.name,
            "endpoint": "eth0",
            "serviceAccountName": spec.service_account,
            "profiles": profiles,
            "ipNetworks": spec.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "interfaceName": host_interface(DEFAULT_INTERFACE_PREFIX, &spec.namespace, &spec.name),
            "ports": ports,
        },
    })
}

/// The record of a pod that a document brings in place of `before`: what the document leaves out
/// (addresses, containers, the service account) stays as it was. All pods are on one node.
pub(super) fn merged(before: Option<&Pod>, document: &Value) -> Value {
    let mut record = document.clone();
    let Some(root) = record.as_object_mut() else {
        return record;
    };
    let part = |root: &mut serde_json::Map<String, Value>, key: &str| {
        let value = root.entry(key).or_insert_with(|| json!({}));
        if value.is_null() {
            *value = json!({});
        }
    };
    part(root, "spec");
    part(root, "status");
    if let Some(Value::Object(spec)) = root.get_mut("spec") {
        spec.insert("nodeName".to_owned(), json!(NODE));
    }
    let Some(before) = before else { return record };
    if text(&before.record, "/kind") != "Pod" {
        return merged_endpoint(before, &record);
    }
    let is_absent = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if addresses(&record).is_empty() {
        for key in ["podIPs", "podIP"] {
            keep(&mut record, &before.record, "status", key);
        }
    }
    for key in ["containers", "serviceAccountName"] {
        if is_absent(record.pointer(&format!("/spec/{key}"))) {
            keep(&mut record, &before.record, "spec", key);
        }
    }
    record
}

/// Copies a field of a part of a record from the record before.
fn keep(record: &mut Value, before: &Value, part: &str, key: &str) {
    if let (Some(value), Some(Value::Object(part))) = (before.pointer(&format!("/{part}/{key}")), record.get_mut(part))
    {
        part.insert(key.to_owned(), value.clone());
    }
}

/// A workload that is no pod of Kubernetes gets the labels of a `Pod`, and ends as one would.
fn merged_endpoint(before: &Pod, document: &Value) -> Value {
    let mut record = before.record.clone();
    let labels = document
        .pointer("/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if let Some(Value::Object(metadata)) = record.get_mut("metadata") {
        metadata.insert("labels".to_owned(), labels);
    }
    let mut alone = document.clone();
    let ips = before.addresses.iter().map(|ip| json!({"ip": ip.to_string()}));
    if let Some(Value::Object(status)) = alone.get_mut("status") {
        status.insert("podIPs".to_owned(), ips.collect());
    }
    let lives = match decode_literal(&alone) {
        Decoded::Resource { resource, .. } => {
            matches!(resource, Resource::WorkloadEndpoint(endpoint) if !endpoint.ip_networks.is_empty())
        }
        _ => true,
    };
    if let (Some(Value::Object(spec)), false) = (record.get_mut("spec"), lives) {
        spec.insert("ipNetworks".to_owned(), json!([]));
    }
    record
}
