//! calicoctl's columns for each kind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use felid_model::convert::{Conversion, convert};
use felid_model::{API_VERSION, Kind, ResourceKey};
use serde_json::Value;

/// Nets beyond this many characters are cut off in tables.
const MAX_NETS: usize = 80;

/// Headings of a kind's table.
pub(super) fn headings(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::WorkloadEndpoint, false) => &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        (Kind::WorkloadEndpoint, true) => &[
            "NAME",
            "WORKLOAD",
            "NODE",
            "NETWORKS",
            "INTERFACE",
            "PROFILES",
            "NATS",
            // What calicoctl does not show: what others translate.
            "ELASTICIPS",
            "HOSTPORTS",
        ],
        (Kind::Pod, false) => &["NAME", "NODE", "NETWORKS", "INTERFACE"],
        (Kind::Pod, true) => &["NAME", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS", "HOSTPORTS"],
        (kind, false) if kind.is_policy() => &["NAME", "TIER"],
        (kind, true) if kind.is_policy() => &["NAME", "TIER", "ORDER", "SELECTOR"],
        (Kind::Profile, true) => &["NAME", "LABELS"],
        (Kind::Tier, _) => &["NAME", "ORDER"],
        (Kind::NetworkSet | Kind::GlobalNetworkSet, true) => &["NAME", "NETS"],
        (Kind::HostEndpoint, false) => &["NAME", "NODE"],
        (Kind::HostEndpoint, true) => &["NAME", "NODE", "INTERFACE", "IPS", "PROFILES"],
        (Kind::IpPool, _) => &["NAME", "CIDR"],
        _ => &["NAME"],
    }
}

/// Every column that a kind has, for custom-columns.
pub(super) fn all(kind: Kind) -> Vec<&'static str> {
    let mut columns = headings(kind, true).to_vec();
    if kind == Kind::WorkloadEndpoint {
        columns.push("ORCHESTRATOR");
    }
    if kind.is_namespaced() {
        columns.push("NAMESPACE");
    }
    columns
}

/// A record as columns are read from it: those of Kubernetes and of Calico's v1 form as what they
/// stand for.
pub(super) fn as_calico(record: &Value) -> Cow<'_, Value> {
    if record.get("apiVersion").and_then(Value::as_str) == Some(API_VERSION) {
        return Cow::Borrowed(record);
    }
    match convert(record) {
        Conversion::Resource(converted) => Cow::Owned(converted.resource),
        Conversion::Nothing(_) | Conversion::Failed(_) => Cow::Borrowed(record),
    }
}

/// One cell of a record's row.
pub(super) fn cell(heading: &str, key: &ResourceKey, record: &Value) -> String {
    let spec = |name: &str| record.pointer(&format!("/spec/{name}"));
    match heading {
        "NAME" => key.name.to_string(),
        "NAMESPACE" => key.namespace.as_deref().unwrap_or_default().to_owned(),
        "WORKLOAD" => match text(spec("workload")) {
            workload if workload.is_empty() => text(spec("pod")),
            workload => workload,
        },
        "NODE" => text(spec("node")),
        "ORCHESTRATOR" => text(spec("orchestrator")),
        "INTERFACE" => text(spec("interfaceName")),
        "NETWORKS" => list(spec("ipNetworks")),
        "PROFILES" => list(spec("profiles")),
        "NATS" => nats(spec("ipNATs")),
        "ELASTICIPS" => marked(&list(spec("awsElasticIPs")), "AWS"),
        "HOSTPORTS" => marked(&host_ports(spec("ports")), "portmap"),
        "TIER" => match text(spec("tier")) {
            tier if tier.is_empty() => "default".to_owned(),
            tier => tier,
        },
        // As Go prints an absent number, which is what scripts look for.
        "ORDER" => match spec("order") {
            None | Some(Value::Null) => "<nil>".to_owned(),
            order => text(order),
        },
        "SELECTOR" => text(spec("selector")),
        "LABELS" => labels(spec("labelsToApply")),
        "IPS" => list(spec("expectedIPs")),
        "CIDR" => text(spec("cidr")),
        "NETS" => shorten(list(spec("nets"))),
        // Columns are checked before cells are asked for.
        _ => String::new(),
    }
}

/// Number of a policy or tier for sorting: no order is last.
pub(super) fn order(record: &Value) -> f64 {
    record
        .pointer("/spec/order")
        .and_then(Value::as_f64)
        .unwrap_or(f64::INFINITY)
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            // 100.0 in a record reads as 100.
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

fn list(value: Option<&Value>) -> String {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| text(Some(item))).collect::<Vec<_>>().join(",")
}

/// `{internal external}`, as calicoctl prints them.
fn nats(value: Option<&Value>) -> String {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let pair = |item: &Value| format!("{{{} {}}}", text(item.get("internalIP")), text(item.get("externalIP")));
    items.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// `[address:]port->port/protocol` of each port of the host that leads to the endpoint.
fn host_ports(value: Option<&Value>) -> String {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let one = |item: &Value| {
        let port = text(item.get("hostPort"));
        if port.is_empty() || port == "0" {
            return None;
        }
        let address = match text(item.get("hostIP")) {
            address if address.is_empty() => String::new(),
            address if address.contains(':') => format!("[{address}]:"),
            address => format!("{address}:"),
        };
        Some(format!(
            "{address}{port}->{}/{}",
            text(item.get("port")),
            text(item.get("protocol"))
        ))
    };
    items.iter().filter_map(one).collect::<Vec<_>>().join(",")
}

/// A list, and who translates it.
fn marked(list: &str, by: &str) -> String {
    if list.is_empty() {
        String::new()
    } else {
        format!("{list} (by {by})")
    }
}

fn labels(value: Option<&Value>) -> String {
    let Some(Value::Object(map)) = value else {
        return String::new();
    };
    let sorted: BTreeMap<&String, String> = map.iter().map(|(name, value)| (name, text(Some(value)))).collect();
    sorted
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn shorten(text: String) -> String {
    if text.chars().count() <= MAX_NETS {
        return text;
    }
    text.chars().take(MAX_NETS - 3).chain("...".chars()).collect()
}
