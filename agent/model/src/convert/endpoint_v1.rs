//! `workloadEndpoint` of `apiVersion: v1`: Calico before version 3, with the identifiers in
//! `metadata`.

use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};

use crate::Kind;
use crate::names::Identifiers;
use crate::selector::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL};

use super::address::{address, network_or_address};
use super::network::known_root;
use super::read::{Faults, Reader};
use super::{Conversion, Converted, resource};

/// Label in which these records keep the namespace.
const OLD_NAMESPACE_LABEL: &str = "calico/k8s_ns";
/// How the profiles of namespaces begin in these records.
const OLD_NAMESPACE_PROFILE: &str = "k8s_ns.";

/// Converts an endpoint.
pub(super) fn convert(root: &Map<String, Value>) -> Conversion {
    let faults = Faults::default();
    let mut root = known_root(root, &faults);
    let nothing = Map::new();
    let mut part = |key| {
        root.object(key)
            .unwrap_or_else(|| Reader::new(&nothing, key.to_owned(), &faults))
    };
    let mut metadata = part("metadata");
    let mut spec = part("spec");
    let identity = Identity::read(&mut metadata);
    let labels = labels(&mut metadata, identity.as_ref());
    metadata.finish();
    let mut converted = Map::new();
    let mut origins = Vec::new();
    if let Some(identity) = &identity {
        identity.write(&mut converted);
    }
    read_spec(&mut spec, &mut converted, &mut origins);
    spec.finish();
    root.finish();
    let (Some(identity), true) = (identity, faults.is_empty()) else {
        return Conversion::Failed(faults.take());
    };
    for (to, from) in [
        ("metadata.name", "metadata"),
        ("metadata.namespace", "metadata.workload"),
        ("spec.node", "metadata.node"),
        ("spec.orchestrator", "metadata.orchestrator"),
        ("spec.workload", "metadata.workload"),
        ("spec.pod", "metadata.workload"),
        ("spec.containerID", identity.container_field),
        ("spec.endpoint", "metadata.name"),
    ] {
        origins.push((to.to_owned(), from.to_owned()));
    }
    let metadata = json!({"name": identity.name, "namespace": identity.namespace, "labels": labels});
    Conversion::Resource(Box::new(Converted {
        resource: resource(Kind::WorkloadEndpoint, metadata, Value::Object(converted)),
        faults: Vec::new(),
        origins,
    }))
}

/// Who the endpoint is.
struct Identity {
    name: String,
    namespace: String,
    ids: Identifiers,
    /// The field that the container's id comes from.
    container_field: &'static str,
}

impl Identity {
    fn read(metadata: &mut Reader<'_>) -> Option<Self> {
        let node = metadata.required_text("node");
        let orchestrator = metadata.required_text("orchestrator");
        let workload = metadata.required_text("workload");
        let endpoint = metadata.required_text("name");
        let instance = metadata.text("activeInstanceID").unwrap_or_default();
        let (node, orchestrator, workload, endpoint) = (node?, orchestrator?, workload?, endpoint?);
        let mut ids = Identifiers {
            node: normalised(node),
            orchestrator: qualified(orchestrator),
            endpoint: qualified(endpoint),
            ..Identifiers::default()
        };
        let mut namespace = "default";
        let mut container_field = "metadata.workload";
        match orchestrator {
            "k8s" => {
                let Some((before, pod)) = workload.split_once('.').filter(|(before, _)| !before.is_empty()) else {
                    metadata.fault("workload", "of orchestrator k8s is NAMESPACE.POD");
                    return None;
                };
                namespace = before;
                pod.clone_into(&mut ids.pod);
                instance.clone_into(&mut ids.container_id);
                container_field = "metadata.activeInstanceID";
            }
            "cni" => workload.clone_into(&mut ids.container_id),
            "libnetwork" => "libnetwork".clone_into(&mut ids.workload),
            _ => ids.workload = qualified(workload),
        }
        let name = match ids.name(false) {
            Ok(name) => name,
            Err(error) => {
                let field = match error.field {
                    "node" => "node",
                    "orchestrator" => "orchestrator",
                    "endpoint" => "name",
                    _ => "workload",
                };
                metadata.fault(field, error.reason);
                return None;
            }
        };
        Some(Identity {
            name,
            namespace: namespace.to_owned(),
            ids,
            container_field,
        })
    }

    fn write(&self, spec: &mut Map<String, Value>) {
        for (key, value) in [
            ("orchestrator", &self.ids.orchestrator),
            ("workload", &self.ids.workload),
            ("node", &self.ids.node),
            ("pod", &self.ids.pod),
            ("containerID", &self.ids.container_id),
            ("endpoint", &self.ids.endpoint),
        ] {
            if !value.is_empty() {
                spec.insert(key.to_owned(), json!(value));
            }
        }
    }
}

fn labels(metadata: &mut Reader<'_>, identity: Option<&Identity>) -> Map<String, Value> {
    let mut labels = metadata.string_map("labels");
    if let Some(namespace) = labels.remove(OLD_NAMESPACE_LABEL) {
        labels.insert(NAMESPACE_LABEL, namespace);
    }
    if let Some(identity) = identity {
        labels.insert(ORCHESTRATOR_LABEL, &identity.ids.orchestrator);
    }
    labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect()
}

fn read_spec(spec: &mut Reader<'_>, converted: &mut Map<String, Value>, origins: &mut Vec<(String, String)>) {
    let faults = spec.faults();
    let mut insert = |key: &str, list: Vec<Value>| {
        if !list.is_empty() {
            converted.insert(key.to_owned(), Value::Array(list));
        }
    };
    insert("ipNetworks", in_family_order("ipNetworks", networks(spec), origins));
    insert("ipNATs", in_family_order("ipNATs", translations(spec), origins));
    let profiles = spec.list("profiles");
    let profiles = profiles
        .iter()
        .filter_map(|at| at.text(faults))
        .map(|name| json!(profile(name)));
    insert("profiles", profiles.collect());
    let mut ports = Vec::new();
    for at in spec.list("ports") {
        ports.extend(at.reader(faults).and_then(port));
    }
    insert("ports", ports);
    for key in ["ipv4Gateway", "ipv6Gateway"] {
        let Some(text) = spec.text(key) else { continue };
        match address(text) {
            Some(gateway) => {
                converted.insert(key.to_owned(), json!(gateway.to_string()));
            }
            None => spec.fault(key, "expected an IP address"),
        }
    }
    if let Some(name) = spec.text("interfaceName") {
        converted.insert("interfaceName".to_owned(), json!(name));
    }
    if let Some(mac) = spec.text("mac") {
        converted.insert("mac".to_owned(), json!(hardware_address(mac)));
    }
}

/// A converted item of a list, whether it is of IPv6, and the path that it comes from.
type FamilyItem = (bool, Value, String);

/// The items of a list, IPv4 first, as Calico lists them; within a family their order stays. Notes
/// where each comes from.
fn in_family_order(key: &str, mut items: Vec<FamilyItem>, origins: &mut Vec<(String, String)>) -> Vec<Value> {
    items.sort_by_key(|(is_ipv6, ..)| *is_ipv6);
    let paths = items.iter().enumerate();
    origins.extend(paths.map(|(i, (.., path))| (format!("spec.{key}[{i}]"), path.clone())));
    items.into_iter().map(|(_, value, _)| value).collect()
}

/// `ipNetworks`: addresses and networks.
fn networks(spec: &mut Reader<'_>) -> Vec<FamilyItem> {
    let faults = spec.faults();
    let mut nets = Vec::new();
    for at in spec.list("ipNetworks") {
        match at.value.as_str().and_then(network_or_address) {
            Some(net) => nets.push((net.addr().is_ipv6(), json!(net.to_string()), at.path)),
            None => faults.push(at.path, Some(at.value), "expected an IP address"),
        }
    }
    nets
}

/// `ipNATs`: pairs of an internal and an external address.
fn translations(spec: &mut Reader<'_>) -> Vec<FamilyItem> {
    let faults = spec.faults();
    let mut nats = Vec::new();
    for at in spec.list("ipNATs") {
        let Some(mut fields) = at.reader(faults) else { continue };
        let mut side = |key| {
            let found = fields.required_text(key).map(address);
            if found == Some(None) {
                fields.fault(key, "expected an IP address");
            }
            found.flatten()
        };
        let (internal, external) = (side("internalIP"), side("externalIP"));
        fields.finish();
        if let (Some(internal), Some(external)) = (internal, external) {
            let nat = json!({"internalIP": internal.to_string(), "externalIP": external.to_string()});
            nats.push((internal.is_ipv6(), nat, at.path));
        }
    }
    nats
}

/// A MAC address in the common form. One that is none stays: its form is checked where all
/// endpoints' are.
fn hardware_address(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let Some(groups) = lower
        .contains('.')
        .then(|| lower.split('.').map(|group| group.split_at_checked(2)))
    else {
        return lower.replace('-', ":");
    };
    let octets: Option<Vec<String>> = groups
        .map(|group| group.map(|(high, low)| format!("{high}:{low}")))
        .collect();
    octets.map_or(lower.clone(), |octets| octets.join(":"))
}

fn port(mut fields: Reader<'_>) -> Option<Value> {
    let name = fields.text("name").unwrap_or_default();
    let protocol = fields.value("protocol");
    let protocol = match protocol.as_ref().map(|at| at.value) {
        Some(Value::String(text)) => ["TCP", "UDP", "SCTP"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(text))
            .map_or_else(|| json!(text), |known| json!(known)),
        Some(other) => other.clone(),
        None => {
            fields.fault("protocol", "is required");
            return None;
        }
    };
    let number = fields.integer("port", 0..=65535);
    if fields.value("port").is_none() {
        fields.fault("port", "is required");
    }
    fields.finish();
    Some(json!({"name": name, "protocol": protocol, "port": number?}))
}

/// A profile's name; those of namespaces have another prefix now.
fn profile(name: &str) -> String {
    match name.strip_prefix(OLD_NAMESPACE_PROFILE) {
        Some(namespace) => qualified(&crate::namespace_profile(namespace)),
        None => qualified(name),
    }
}

/// A name in the form that names have now: lower-case letters, digits, inner `-` and single `.`.
fn normalised(name: &str) -> String {
    let mut found = String::new();
    // What stands between two letters or digits becomes one `.` if there is one in it or a `/`;
    // else each `-` stays, and each row of other characters becomes one.
    let mut between = String::new();
    let mut in_row = false;
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                if between.contains('.') {
                    found.push('.');
                } else {
                    found.push_str(&between);
                }
                between.clear();
                found.push(c);
                in_row = false;
            }
            '-' => {
                between.push('-');
                in_row = false;
            }
            '.' | '/' => {
                between.push('.');
                in_row = false;
            }
            _ => {
                if !in_row {
                    between.push('-');
                }
                in_row = true;
            }
        }
    }
    found.trim_matches(['-', '.']).to_owned()
}

/// The same; a name that had to be changed gets eight digits that keep it apart from others.
fn qualified(name: &str) -> String {
    let normalised = normalised(name);
    if normalised == name {
        return normalised;
    }
    let digest = Sha1::digest(name);
    let digits: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{normalised}-{digits}")
}
