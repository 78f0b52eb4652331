//! The state that a case builds up: from its namespaces, pods and documents to the records that are in force.
//!
//! In: cases. Out: updates for the calculation (or a whole agent), and who is meant by the names in expectations. Records are judged as
//! they stand, whether a schema would accept them or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use felid_datastore::Update;
use felid_model::{
    Decoded, EndpointPort, Kind, LabelMap, Profile, Protocol, Resource, ResourceKey, WorkloadEndpoint, decode_literal,
    host_net, list_items, names::Identifiers, namespace_profile, service_account_profile,
};
use serde_json::Value;

use super::case::{Case, NamespaceSpec, PodSpec, Step};

/// The node on which all pods are.
pub(crate) const NODE: &str = "node1";
/// How the names of their interfaces begin; what follows is the number of the pod's place.
pub(crate) const INTERFACE_PREFIX: &str = "calit";
/// Orchestrator of pods with profiles of their own, which policies of Kubernetes do not select.
const OTHER: &str = "test";

/// A pod that exists.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// What the case says of it.
    spec: PodSpec,
    /// Lowest number that no other pod has; the interface is named after it.
    place: usize,
    /// Its endpoint.
    pub(crate) key: ResourceKey,
}

impl Pod {
    pub(crate) fn interface(&self) -> Arc<str> {
        interface(self.place).into()
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.spec.ips
    }
}

/// Name of the interface at a place.
fn interface(place: usize) -> String {
    format!("{INTERFACE_PREFIX}{place}")
}

/// Namespace and name.
type Name = (String, String);

/// Everything that exists.
#[derive(Debug, Default)]
pub(crate) struct World {
    pods: BTreeMap<Name, Pod>,
    /// Service accounts that pods name or documents describe, with their labels.
    accounts: BTreeMap<Name, LabelMap>,
    external: BTreeMap<String, Vec<IpAddr>>,
    /// Keys in force.
    keys: BTreeSet<ResourceKey>,
    updates: Vec<Update>,
    /// What people should know of the documents.
    notes: Vec<String>,
}

impl World {
    /// The state before the first step.
    pub(crate) fn begin(&mut self, case: &Case) -> anyhow::Result<()> {
        for namespace in &case.namespaces {
            self.apply_namespace(namespace.clone());
        }
        for external in &case.external {
            self.external.insert(external.name.clone(), external.ips.clone());
        }
        for pod in &case.pods {
            self.put_pod(pod.clone())?;
        }
        for (n, document) in case.resources.iter().enumerate() {
            self.apply_all(document).with_context(|| format!("resources[{n}]"))?;
        }
        Ok(())
    }

    /// Carries a step out.
    pub(crate) fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        for (n, document) in step.delete.iter().enumerate() {
            for item in list_items(document.clone()) {
                self.delete(&item).with_context(|| format!("delete[{n}]"))?;
            }
        }
        for (n, document) in step.apply.iter().enumerate() {
            self.apply_all(document).with_context(|| format!("apply[{n}]"))?;
        }
        Ok(())
    }

    /// What has changed since the last call.
    pub(crate) fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    /// What there is to tell of the documents since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Everything in force goes away.
    pub(crate) fn clear(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.keys).into_iter().map(Update::Delete).collect()
    }

    /// The pods, in order of their names.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pod `NAMESPACE/NAME`.
    pub(crate) fn pod(&self, name: &str) -> Option<&Pod> {
        let (namespace, name) = name.split_once('/')?;
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Addresses of something outside.
    pub(crate) fn external(&self, name: &str) -> Option<&[IpAddr]> {
        self.external.get(name).map(Vec::as_slice)
    }

    /// All addresses outside.
    pub(crate) fn outside(&self) -> impl Iterator<Item = IpAddr> {
        self.external.values().flatten().copied()
    }

    fn put(&mut self, resource: Resource) {
        self.keys.insert(resource.key().clone());
        self.updates.push(Update::Apply(resource));
    }

    fn remove(&mut self, key: &ResourceKey) -> bool {
        let there = self.keys.remove(key);
        if there {
            self.updates.push(Update::Delete(key.clone()));
        }
        there
    }

    fn apply_namespace(&mut self, namespace: NamespaceSpec) {
        let key = ResourceKey::new(Kind::Namespace, None, &namespace.name);
        self.put(Resource::Profile(Arc::new(Profile::implied(key, &namespace.labels))));
    }

    /// A service account with labels. One that only pods name has none.
    fn put_account(&mut self, name: Name, labels: &LabelMap) {
        let (namespace, account) = &name;
        let key = ResourceKey::new(Kind::ServiceAccount, Some(namespace), account);
        self.put(Resource::Profile(Arc::new(Profile::implied(key, labels))));
        self.accounts.insert(name, labels.clone());
    }

    fn put_pod(&mut self, spec: PodSpec) -> anyhow::Result<()> {
        let name = (spec.namespace.clone(), spec.name.clone());
        let place = match self.pods.get(&name) {
            Some(pod) => pod.place,
            None => {
                let taken: BTreeSet<usize> = self.pods.values().map(|pod| pod.place).collect();
                (1..).find(|place| !taken.contains(place)).unwrap_or_default()
            }
        };
        let endpoint = endpoint(&spec, place)?;
        if let Some(account) = spec.service_account.as_ref().filter(|_| spec.profiles.is_none()) {
            let account = (spec.namespace.clone(), account.clone());
            if !self.accounts.contains_key(&account) {
                self.put_account(account, &LabelMap::new());
            }
        }
        let key = endpoint.key.clone();
        self.put(Resource::WorkloadEndpoint(Arc::new(endpoint)));
        self.pods.insert(name, Pod { spec, place, key });
        Ok(())
    }

    /// A document, or all that a list holds.
    fn apply_all(&mut self, document: &Value) -> anyhow::Result<()> {
        list_items(document.clone())
            .iter()
            .try_for_each(|item| self.apply(item))
    }

    /// `Pod` and `Namespace` replace labels, a pod that does not exist is new; every other record comes into force as it stands.
    fn apply(&mut self, document: &Value) -> anyhow::Result<()> {
        let (kind, name) = (text(document, "/kind"), text(document, "/metadata/name"));
        let namespace = Some(text(document, "/metadata/namespace"))
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or("default");
        if text(document, "/apiVersion") == "v1" {
            let labels = labels(document);
            match kind {
                "Namespace" => {
                    let name = name.to_owned();
                    self.apply_namespace(NamespaceSpec { name, labels });
                    return Ok(());
                }
                "ServiceAccount" => {
                    self.put_account((namespace.to_owned(), name.to_owned()), &labels);
                    return Ok(());
                }
                "Pod" => {
                    let spec = match self.pods.get(&(namespace.to_owned(), name.to_owned())) {
                        Some(pod) => {
                            let mut spec = pod.spec.clone();
                            spec.labels = labels;
                            spec
                        }
                        None => new_pod(document, namespace, name, labels)?,
                    };
                    return self.put_pod(spec);
                }
                _ => {}
            }
        }
        match decode_literal(document) {
            Decoded::Resource { resource, .. } => self.put(resource),
            Decoded::Bad { issues, bad_policy, .. } => {
                let reasons: Vec<String> = issues.iter().map(ToString::to_string).collect();
                let reasons = reasons.join("; ");
                let consequence = if bad_policy.is_some() {
                    "closes what it may select"
                } else {
                    "is not in force"
                };
                self.notes
                    .push(format!("{kind}/{name} cannot be read, and {consequence}: {reasons}"));
                if let Some(policy) = bad_policy {
                    self.put(Resource::BadPolicy(Arc::new(policy)));
                }
            }
            Decoded::Foreign { .. } => self
                .notes
                .push(format!("{kind}/{name} has no effect: the kind is none of felid's")),
            Decoded::Empty => {}
        }
        Ok(())
    }

    fn delete(&mut self, document: &Value) -> anyhow::Result<()> {
        let (kind, name) = (text(document, "/kind"), text(document, "/metadata/name"));
        let known = Kind::from_record(text(document, "/apiVersion"), kind).or_else(|| Kind::from_name(kind));
        let Some(known) = known else {
            bail!("unknown kind {kind:?}")
        };
        let namespace = Some(text(document, "/metadata/namespace")).filter(|namespace| !namespace.is_empty());
        let key = ResourceKey::new(known, namespace, name);
        let full = (key.namespace.as_deref().unwrap_or_default().to_owned(), name.to_owned());
        let there = match known {
            Kind::Pod => {
                let pod = self.pods.remove(&full);
                pod.is_some_and(|pod| self.remove(&pod.key))
            }
            Kind::Namespace => {
                let inside: Vec<ResourceKey> = self
                    .keys
                    .iter()
                    .filter(|key| key.namespace.as_deref() == Some(name))
                    .cloned()
                    .collect();
                self.pods.retain(|(namespace, _), _| namespace != name);
                self.accounts.retain(|(namespace, _), _| namespace != name);
                let mut there = self.remove(&key);
                for key in inside {
                    there |= self.remove(&key);
                }
                there
            }
            Kind::ServiceAccount => {
                self.accounts.remove(&full);
                self.remove(&key)
            }
            _ => self.remove(&key),
        };
        if !there {
            self.notes.push(format!("{key} is to be deleted, but does not exist"));
        }
        Ok(())
    }
}

/// The endpoint of a pod: a Kubernetes pod, or a workload of another orchestrator where the case names profiles.
fn endpoint(spec: &PodSpec, place: usize) -> anyhow::Result<WorkloadEndpoint> {
    let kubernetes = spec.profiles.is_none();
    let ids = Identifiers {
        node: NODE.to_owned(),
        orchestrator: if kubernetes { "k8s" } else { OTHER }.to_owned(),
        endpoint: "eth0".to_owned(),
        workload: if kubernetes { String::new() } else { spec.name.clone() },
        pod: if kubernetes { spec.name.clone() } else { String::new() },
        container_id: String::new(),
    };
    let name = ids
        .name(false)
        .with_context(|| format!("pod {}/{}", spec.namespace, spec.name))?;
    let mut labels = spec.labels.clone();
    labels.retain(|key, _| !key.starts_with("pcns.") && !key.starts_with("pcsa."));
    labels.insert("projectcalico.org/namespace".to_owned(), spec.namespace.clone());
    labels.insert("projectcalico.org/orchestrator".to_owned(), ids.orchestrator.clone());
    let mut profiles = match &spec.profiles {
        Some(profiles) => profiles.clone(),
        None => vec![namespace_profile(&spec.namespace)],
    };
    if let Some(account) = &spec.service_account {
        // Longer names are no label values, and the reference leaves them out.
        if account.len() < 63 {
            labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
        }
        if kubernetes {
            profiles.push(service_account_profile(&spec.namespace, account));
        }
    }
    let ports = spec.ports.iter().filter(|port| !port.name.is_empty());
    Ok(WorkloadEndpoint {
        key: ResourceKey::new(Kind::WorkloadEndpoint, Some(&spec.namespace), &name),
        labels,
        workload: Some(ids.workload).filter(|workload| !workload.is_empty()),
        orchestrator: ids.orchestrator,
        node: ids.node,
        container_id: None,
        pod: Some(ids.pod).filter(|pod| !pod.is_empty()),
        endpoint: ids.endpoint,
        service_account: spec.service_account.clone(),
        ip_networks: spec.ips.iter().copied().map(host_net).collect(),
        ip_nats: Vec::new(),
        aws_elastic_ips: Vec::new(),
        allow_spoofed_source_prefixes: Vec::new(),
        qos_controls: false,
        ipv4_gateway: None,
        ipv6_gateway: None,
        profiles,
        interface_name: interface(place),
        mac: None,
        ports: ports
            .map(|port| EndpointPort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
                host_port: None,
                host_ip: None,
            })
            .collect(),
    })
}

/// A pod that a step creates.
fn new_pod(document: &Value, namespace: &str, name: &str, labels: LabelMap) -> anyhow::Result<PodSpec> {
    let list = |path: &str| {
        document
            .pointer(path)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut ips = Vec::new();
    let first = text(document, "/status/podIP").to_owned();
    let all = list("/status/podIPs");
    for text in all
        .iter()
        .map(|ip| text(ip, "/ip"))
        .chain([first.as_str()])
        .filter(|text| !text.is_empty())
    {
        let ip: IpAddr = text
            .parse()
            .with_context(|| format!("Pod/{namespace}/{name}: address {text:?}"))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let mut ports = Vec::new();
    for container in list("/spec/containers").iter().chain(&list("/spec/initContainers")) {
        let listed = container
            .get("ports")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for port in listed {
            let number = port
                .get("containerPort")
                .and_then(Value::as_u64)
                .and_then(|port| u16::try_from(port).ok());
            let protocol = Some(text(&port, "/protocol"))
                .filter(|text| !text.is_empty())
                .unwrap_or("TCP");
            if let (Some(port_number), Ok(protocol)) = (number.filter(|port| *port > 0), protocol.parse::<Protocol>()) {
                let name = text(&port, "/name");
                ports.push(serde_json::json!({"name": name, "port": port_number, "protocol": protocol.to_string()}));
            }
        }
    }
    let account = Some(text(document, "/spec/serviceAccountName")).filter(|account| !account.is_empty());
    let spec = serde_json::json!({
        "namespace": namespace, "name": name, "labels": labels, "ips": ips, "ports": ports, "serviceAccount": account,
    });
    Ok(serde_json::from_value(spec)?)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn labels(document: &Value) -> LabelMap {
    let labels = document.pointer("/metadata/labels").and_then(Value::as_object);
    let entries = labels.into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
