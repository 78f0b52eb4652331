//! `Pod`: the endpoint of its first interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::names::{DEFAULT_INTERFACE_PREFIX, Identifiers, host_interface};
use crate::selector::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL};
use crate::{Kind, namespace_profile, service_account_profile};

use super::address::{network, network_or_address};
use super::read::{At, Faults, Metadata, Reader};
use super::{Conversion, Converted, qos, resource};

const ORCHESTRATOR: &str = "k8s";
const ENDPOINT: &str = "eth0";
const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// Longer names do not fit into a label's value as Calico has it.
const LONGEST_LABELLED_ACCOUNT: usize = 62;

const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
const AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
const SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// Fields of the endpoint that come from the same field of every pod.
const FIXED_ORIGINS: [(&str, &str); 5] = [
    ("spec.node", "spec.nodeName"),
    ("spec.pod", "metadata.name"),
    ("spec.profiles", "metadata.namespace"),
    ("spec.profiles[1]", "spec.serviceAccountName"),
    ("spec.interfaceName", "metadata.name"),
];

/// Converts a pod.
pub(super) fn convert(root: &Map<String, Value>) -> Conversion {
    let faults = Faults::default();
    let mut root = Reader::new(root, String::new(), &faults);
    let metadata = Metadata::read(&mut root);
    let nothing = Map::new();
    let mut part = |key| {
        root.object(key)
            .unwrap_or_else(|| Reader::new(&nothing, key.to_owned(), &faults))
    };
    let mut spec = part("spec");
    let mut status = part("status");
    let host_network = spec.boolean("hostNetwork");
    let node = spec.text("nodeName");
    let Some(metadata) = metadata.filter(|_| faults.is_empty()) else {
        return Conversion::Failed(faults.take());
    };
    if host_network {
        return Conversion::Nothing("the pod is on the host's network");
    }
    let Some(node) = node else {
        return Conversion::Nothing("the pod is not scheduled yet");
    };
    let mut pod = PodReader {
        metadata,
        node,
        account: spec.text("serviceAccountName"),
        origins: Vec::new(),
        faults: &faults,
    };
    let name = pod.name();
    let mut nets = pod.addresses(&mut status);
    if is_finished(&pod.metadata, &mut status) {
        nets.clear();
    }
    let nats = pod.floating_addresses(&nets);
    let sources = pod.source_prefixes();
    let ports = pod.ports(&mut spec);
    let (Some(name), true) = (name, faults.is_empty()) else {
        return Conversion::Failed(faults.take());
    };
    let resource = resource(
        Kind::WorkloadEndpoint,
        pod.v3_metadata(&name),
        pod.v3_spec(&nets, nats, sources, ports),
    );
    let mut origins = pod.origins;
    for (to, from) in FIXED_ORIGINS {
        origins.push((to.to_owned(), from.to_owned()));
    }
    Conversion::Resource(Box::new(Converted {
        resource,
        faults: Vec::new(),
        origins,
    }))
}

/// A pod that has ended, or whose network was taken away, has no addresses any more, whatever its
/// status says.
fn is_finished(metadata: &Metadata<'_>, status: &mut Reader<'_>) -> bool {
    let blank = |annotation: &str| metadata.annotations.get(annotation) == Some(&"");
    matches!(status.text("phase"), Some("Succeeded" | "Failed" | "Completed"))
        || (metadata.is_being_deleted && (blank(POD_IP) || blank(AWS_POD_IPS)))
}

struct PodReader<'a> {
    metadata: Metadata<'a>,
    node: &'a str,
    account: Option<&'a str>,
    origins: Vec<(String, String)>,
    faults: &'a Faults,
}

impl PodReader<'_> {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).copied()
    }

    fn annotation_fault(&self, key: &str, reason: &str) {
        let value = self.annotation(key).map(Value::from);
        self.faults
            .push(format!("metadata.annotations.{key}"), value.as_ref(), reason);
    }

    /// Name of the endpoint.
    fn name(&self) -> Option<String> {
        let ids = Identifiers {
            node: self.node.to_owned(),
            orchestrator: ORCHESTRATOR.to_owned(),
            endpoint: ENDPOINT.to_owned(),
            pod: self.metadata.name.to_owned(),
            ..Identifiers::default()
        };
        match ids.name(false) {
            Ok(name) => Some(name),
            Err(error) => {
                let field = match error.field {
                    "node" => "spec.nodeName",
                    _ => "metadata.name",
                };
                self.faults.push(field.to_owned(), None, error.reason);
                None
            }
        }
    }

    /// Addresses, from the first place that has any.
    fn addresses(&mut self, status: &mut Reader<'_>) -> Vec<IpNet> {
        let mut texts: Vec<(String, String)> = Vec::new();
        for at in status.list("podIPs") {
            let Some(mut item) = at.reader(self.faults) else {
                continue;
            };
            let text = item.text("ip").unwrap_or_default().to_owned();
            texts.push((item.at("ip"), text));
        }
        let one = status.text("podIP");
        if texts.is_empty()
            && let Some(text) = one
        {
            texts.push(("status.podIP".to_owned(), text.to_owned()));
        }
        for (key, is_list) in [(POD_IPS, true), (POD_IP, false), (AWS_POD_IPS, true)] {
            let Some(text) = self.annotation(key).filter(|text| !text.is_empty() && texts.is_empty()) else {
                continue;
            };
            let path = format!("metadata.annotations.{key}");
            let parts: Vec<&str> = if is_list { text.split(',').collect() } else { vec![text] };
            texts = parts.into_iter().map(|part| (path.clone(), part.to_owned())).collect();
        }
        let mut nets = Vec::new();
        for (path, text) in texts {
            match network_or_address(&text) {
                Some(net) => {
                    self.origins.push((format!("spec.ipNetworks[{}]", nets.len()), path));
                    nets.push(net);
                }
                None => self.faults.push(path, Some(&json!(text)), "expected an IP address"),
            }
        }
        nets
    }

    /// `ipNATs`: each to the pod's address of its family.
    fn floating_addresses(&mut self, nets: &[IpNet]) -> Vec<Value> {
        let Some(text) = self.annotation(FLOATING_IPS).filter(|_| !nets.is_empty()) else {
            return Vec::new();
        };
        let Some(floating) = strings(text) else {
            self.annotation_fault(FLOATING_IPS, "expected a JSON list of addresses");
            return Vec::new();
        };
        if nets.iter().any(|net| net.prefix_len() != net.max_prefix_len()) {
            self.annotation_fault(FLOATING_IPS, "the pod's own address is none, but a network");
            return Vec::new();
        }
        let own = |family: fn(&IpAddr) -> bool| nets.iter().map(IpNet::addr).rfind(family);
        let (v4, v6) = (own(IpAddr::is_ipv4), own(IpAddr::is_ipv6));
        let nats = floating.iter().filter_map(|external| {
            let internal = if external.contains(':') { v6 } else { v4 }?;
            Some(json!({"internalIP": internal.to_string(), "externalIP": external}))
        });
        let nats = nats.collect();
        self.origins
            .push(("spec.ipNATs".to_owned(), format!("metadata.annotations.{FLOATING_IPS}")));
        nats
    }

    /// `allowSpoofedSourcePrefixes`.
    fn source_prefixes(&mut self) -> Vec<String> {
        let Some(text) = self.annotation(SOURCE_PREFIXES).filter(|text| !text.is_empty()) else {
            return Vec::new();
        };
        let nets = strings(text).and_then(|texts| {
            texts
                .iter()
                .map(|text| Some(network(text)?.to_string()))
                .collect::<Option<Vec<_>>>()
        });
        if nets.is_none() {
            self.annotation_fault(SOURCE_PREFIXES, "expected a JSON list of networks with their masks");
        }
        self.origins.push((
            "spec.allowSpoofedSourcePrefixes".to_owned(),
            format!("metadata.annotations.{SOURCE_PREFIXES}"),
        ));
        nets.unwrap_or_default()
    }

    /// Ports of all containers that have a name or a port of the host.
    fn ports(&mut self, spec: &mut Reader<'_>) -> Vec<Value> {
        let mut ports = Vec::new();
        for list in ["containers", "initContainers"] {
            for at in spec.list(list) {
                let Some(mut container) = at.reader(self.faults) else {
                    continue;
                };
                for at in container.list("ports") {
                    if let Some(port) = self.port(&at) {
                        self.origins.push((format!("spec.ports[{}]", ports.len()), at.path));
                        ports.push(port);
                    }
                }
            }
        }
        ports
    }

    fn port(&self, at: &At<'_>) -> Option<Value> {
        let mut fields = at.reader(self.faults)?;
        let name = fields.text("name");
        let port = fields.integer("containerPort", 0..=65535)?;
        let host_port = fields.integer("hostPort", 0..=65535).unwrap_or(0);
        let host_ip = fields.text("hostIP");
        let protocol = fields.text("protocol").unwrap_or("TCP");
        if port == 0 || (name.is_none() && host_port == 0) || !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            return None;
        }
        let mut converted = Map::new();
        if let Some(name) = name {
            converted.insert("name".to_owned(), json!(name));
        }
        converted.insert("protocol".to_owned(), json!(protocol));
        converted.insert("port".to_owned(), json!(port));
        if host_port != 0 {
            converted.insert("hostPort".to_owned(), json!(host_port));
        }
        if let Some(host_ip) = host_ip {
            converted.insert("hostIP".to_owned(), json!(host_ip));
        }
        Some(Value::Object(converted))
    }

    fn v3_metadata(&self, name: &str) -> Value {
        let namespace = self.metadata.namespace_or_default();
        let mut labels: BTreeMap<&str, &str> = self.metadata.labels.clone();
        labels.insert(NAMESPACE_LABEL, namespace);
        labels.insert(ORCHESTRATOR_LABEL, ORCHESTRATOR);
        if let Some(account) = self.account.filter(|name| name.len() <= LONGEST_LABELLED_ACCOUNT) {
            labels.insert(SERVICE_ACCOUNT_LABEL, account);
        }
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(name));
        metadata.insert("namespace".to_owned(), json!(namespace));
        if !self.metadata.generate_name.is_empty() {
            metadata.insert("generateName".to_owned(), json!(self.metadata.generate_name));
        }
        metadata.insert("labels".to_owned(), json!(labels));
        if let Some(status) = self.annotation(NETWORK_STATUS) {
            metadata.insert("annotations".to_owned(), json!({NETWORK_STATUS: status}));
        }
        Value::Object(metadata)
    }

    fn v3_spec(&self, nets: &[IpNet], nats: Vec<Value>, sources: Vec<String>, ports: Vec<Value>) -> Value {
        let namespace = self.metadata.namespace_or_default();
        let mut profiles = vec![namespace_profile(namespace)];
        profiles.extend(self.account.map(|account| service_account_profile(namespace, account)));
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        let fields = [
            ("orchestrator", json!(ORCHESTRATOR)),
            ("node", json!(self.node)),
            ("containerID", json!(self.annotation(CONTAINER_ID).unwrap_or_default())),
            ("pod", json!(self.metadata.name)),
            ("endpoint", json!(ENDPOINT)),
            ("serviceAccountName", json!(self.account.unwrap_or_default())),
            ("ipNetworks", json!(nets)),
            ("ipNATs", Value::Array(nats)),
            ("profiles", json!(profiles)),
            (
                "interfaceName",
                json!(host_interface(DEFAULT_INTERFACE_PREFIX, namespace, self.metadata.name)),
            ),
            ("ports", Value::Array(ports)),
            ("allowSpoofedSourcePrefixes", json!(sources)),
            ("qosControls", json!(qos::controls(&self.metadata.annotations))),
        ];
        let is_there = |value: &Value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        let fields = fields.into_iter().filter(|(_, value)| is_there(value));
        Value::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// A JSON list of texts; `null` is an empty one.
fn strings(text: &str) -> Option<Vec<String>> {
    serde_json::from_str::<Option<Vec<String>>>(text)
        .ok()
        .map(Option::unwrap_or_default)
}
