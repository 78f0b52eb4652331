//! `WorkloadEndpoint`, and the checks of `HostEndpoint`, which shares its ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::names::Identifiers;
use crate::selector::{NAMESPACE_LABEL, NAMESPACE_PREFIX, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_PREFIX};
use crate::{EndpointPort, Kind, LabelMap, Resource, ResourceKey, WorkloadEndpoint};

use super::check;
use super::fields::{Fields, object};
use super::metadata::{self, Metadata};
use super::rule;
use super::simple::Read;

/// `WorkloadEndpoint`.
pub(super) fn workload(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, true, check::subdomain);
    let mut spec = root.object_or_empty("spec");
    let mut name = |key| spec.checked(key, check::subdomain).unwrap_or_default().to_owned();
    let mut ids = Identifiers {
        node: name("node"),
        orchestrator: name("orchestrator"),
        endpoint: name("endpoint"),
        workload: name("workload"),
        pod: name("pod"),
        container_id: String::new(),
    };
    let service_account = spec.checked("serviceAccountName", check::subdomain).map(str::to_owned);
    let container_id = spec.checked("containerID", check::container_id).map(str::to_owned);
    ids.container_id = container_id.clone().unwrap_or_default();
    let key = key(&root, &metadata, &ids);
    let ip_networks = ip_networks(&mut spec);
    ip_nats(&mut spec, &ip_networks);
    let ipv4_gateway = gateway(&mut spec, "ipv4Gateway", IpAddr::is_ipv4);
    let ipv6_gateway = gateway(&mut spec, "ipv6Gateway", IpAddr::is_ipv6);
    let profiles = rule::checked_strings(&mut spec, "profiles", check::subdomain);
    let interface_name = interface(&mut spec).map(str::to_owned);
    if spec.text("interfaceName").is_none() {
        spec.issue("interfaceName", "is required");
    }
    let mac = mac(&mut spec);
    let ports = ports(&mut spec, true);
    spoofed_sources(&mut spec);
    qos(&mut spec);
    // The cloud translates these; the host has nothing to do.
    rule::checked_strings(&mut spec, "awsElasticIPs", |text| check::address(text).map(|_| ()));
    spec.finish();
    let labels = labels(&root, &metadata, &ids.orchestrator);
    metadata::finish_root(root);
    let none_if_empty = |text: String| if text.is_empty() { None } else { Some(text) };
    let resource = key.clone().zip(interface_name).map(|(key, interface_name)| {
        let endpoint = WorkloadEndpoint {
            key,
            labels,
            workload: none_if_empty(ids.workload),
            orchestrator: ids.orchestrator,
            node: ids.node,
            container_id,
            pod: none_if_empty(ids.pod),
            endpoint: ids.endpoint,
            service_account,
            ip_networks,
            ip_nats: Vec::new(),
            aws_elastic_ips: Vec::new(),
            allow_spoofed_source_prefixes: Vec::new(),
            qos_controls: false,
            ipv4_gateway: ipv4_gateway.and_then(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            ipv6_gateway: ipv6_gateway.and_then(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
            profiles,
            interface_name,
            mac,
            ports,
        };
        Resource::WorkloadEndpoint(endpoint.into())
    });
    (key, resource)
}

/// The name is built from the identifiers; one that is written must be the same.
fn key(root: &Fields<'_>, metadata: &Metadata, ids: &Identifiers) -> Option<ResourceKey> {
    let issues = root.issues();
    let built = match ids.name(false) {
        Ok(built) => built,
        Err(error) => {
            issues.error(format!("spec.{}", error.field), None, &error.reason);
            return metadata.key(Kind::WorkloadEndpoint);
        }
    };
    match &metadata.name {
        Some(name) => {
            if *name != built {
                let value = Value::String(name.clone());
                let reason =
                    format!("does not fit the endpoint: its node, orchestrator, workload and endpoint give {built}");
                issues.error("metadata.name".to_owned(), Some(&value), &reason);
            }
            metadata.key(Kind::WorkloadEndpoint)
        }
        None if metadata.named => None,
        None => {
            if let Err(reason) = check::subdomain(&built) {
                let value = Value::String(built.clone());
                issues.error(
                    "metadata.name".to_owned(),
                    Some(&value),
                    &format!("as built from the endpoint: {reason}"),
                );
            }
            let namespace = metadata.namespace.as_deref();
            namespace.map(|namespace| ResourceKey::new(Kind::WorkloadEndpoint, Some(namespace), &built))
        }
    }
}

/// Labels that only felid gives are taken away and given.
fn labels(root: &Fields<'_>, metadata: &Metadata, orchestrator: &str) -> LabelMap {
    let mut labels = metadata.labels.clone();
    labels.retain(|label, _| {
        let inherited = [NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX]
            .iter()
            .any(|prefix| label.starts_with(prefix));
        if inherited {
            let reason = "only profiles may give labels with this prefix; left out";
            root.issues().warning(format!("metadata.labels.{label}"), None, reason);
        }
        !inherited
    });
    if let Some(namespace) = &metadata.namespace {
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
    }
    labels.insert(ORCHESTRATOR_LABEL.to_owned(), orchestrator.to_owned());
    labels
}

fn ip_networks(spec: &mut Fields<'_>) -> Vec<IpNet> {
    let issues = spec.issues();
    let (mut nets, mut seen) = (Vec::new(), BTreeSet::new());
    for (at, text) in spec.strings("ipNetworks") {
        match check::network_or_address(text) {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => {
                if seen.insert(net) {
                    nets.push(net);
                }
            }
            Ok(_) => issues.error(
                at.path,
                Some(at.value),
                "holds more than one address: expected /32 or /128",
            ),
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    nets
}

/// `ipNATs`: checked, but not enforced yet.
fn ip_nats(spec: &mut Fields<'_>, ip_networks: &[IpNet]) {
    let issues = spec.issues();
    let items = spec.list("ipNATs");
    for item in &items {
        let Some(mut nat) = object(item, issues) else { continue };
        let mut side = |key| {
            let Some(text) = nat.text(key) else {
                nat.issue(key, "is required");
                return None;
            };
            match check::address(text) {
                Ok(address) => Some(address),
                Err(reason) => {
                    nat.issue(key, &reason);
                    None
                }
            }
        };
        let (internal, external) = (side("internalIP"), side("externalIP"));
        if internal.is_some_and(|address| !ip_networks.contains(&IpNet::from(address))) {
            nat.issue("internalIP", "is not one of ipNetworks");
        }
        if let (Some(internal), Some(external)) = (internal, external)
            && internal.is_ipv4() != external.is_ipv4()
        {
            nat.issue("externalIP", "is of another IP version than internalIP");
        }
        nat.finish();
    }
    if !items.is_empty() {
        spec.refuse("ipNATs", "1:1 address translation");
    }
}

fn gateway(spec: &mut Fields<'_>, key: &'static str, family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let text = spec.text(key)?;
    match check::address(text) {
        Ok(address) if family(&address) => Some(address),
        Ok(_) => {
            spec.issue(key, "is an address of the other IP version");
            None
        }
        Err(reason) => {
            spec.issue(key, &reason);
            None
        }
    }
}

fn interface<'a>(spec: &mut Fields<'a>) -> Option<&'a str> {
    if spec.text("interfaceName") == Some("*") {
        spec.refuse(
            "interfaceName",
            "endpoints on any interface; a workload has one of its own",
        );
        return None;
    }
    spec.checked("interfaceName", check::interface)
}

/// A MAC address of 48 bits. The longer form cannot be that of a veth, so nothing could ever come from it.
fn mac(spec: &mut Fields<'_>) -> Option<[u8; 6]> {
    let text = spec.text("mac")?;
    match check::mac(text).map(<[u8; 6]>::try_from) {
        Ok(Ok(mac)) => Some(mac),
        Ok(Err(_)) => {
            spec.refuse(
                "mac",
                "addresses of 64 bits; a workload's interface is Ethernet, with 48",
            );
            None
        }
        Err(reason) => {
            spec.issue("mac", &reason);
            None
        }
    }
}

/// Named ports. Two of one name are an error; in force both count.
fn ports(spec: &mut Fields<'_>, workload: bool) -> Vec<EndpointPort> {
    let issues = spec.issues();
    let mut ports = Vec::new();
    let mut names = BTreeSet::new();
    for item in spec.list("ports") {
        let Some(mut fields) = object(&item, issues) else {
            continue;
        };
        let given = fields.text("name");
        let name = fields.checked("name", check::service_name);
        let protocol = rule::endpoint_protocol(&mut fields);
        let port = fields.integer("port", 1..=65535);
        if fields.get("port").is_none() {
            fields.issue("port", "is required");
        }
        // Where the host listens for the workload is not felid's business.
        let host_port = if workload {
            fields.integer("hostPort", 0..=65535).unwrap_or(0)
        } else {
            0
        };
        if workload && let Some(text) = fields.text("hostIP") {
            let exact = check::network_or_address(text).map(|net| net == net.trunc());
            if exact != Ok(true) {
                fields.issue("hostIP", "expected an IP address");
            }
        }
        if given.is_none() && host_port == 0 {
            fields.issue(
                "name",
                if workload {
                    "is required unless there is a hostPort"
                } else {
                    "is required"
                },
            );
        }
        if let Some(name) = name
            && !names.insert(name)
        {
            let value = Value::String(name.to_owned());
            issues.error_in_force(
                fields.at("name"),
                Some(&value),
                "another port has this name; rules match both",
            );
        }
        let port = port.and_then(|port| u16::try_from(port).ok());
        if let (Some(protocol), Some(port)) = (protocol, port) {
            ports.push(EndpointPort {
                name: name.unwrap_or_default().to_owned(),
                protocol,
                port,
                host_port: None,
                host_ip: None,
            });
        }
        fields.finish();
    }
    ports
}

/// `allowSpoofedSourcePrefixes`: checked, but not enforced yet.
fn spoofed_sources(spec: &mut Fields<'_>) {
    let key = "allowSpoofedSourcePrefixes";
    rule::checked_strings(spec, key, |text| check::network_or_address(text).map(|_| ()));
    if spec
        .peek(key)
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
    {
        spec.refuse(key, "source addresses beside the endpoint's own");
    }
}

/// `qosControls`: refused, since nothing would be limited. Zero is no limit.
fn qos(spec: &mut Fields<'_>) {
    let Some(mut qos) = spec.object("qosControls") else {
        return;
    };
    let mut limits = false;
    for key in [
        "ingressBandwidth",
        "ingressBurst",
        "ingressPeakrate",
        "ingressMinburst",
        "egressBandwidth",
        "egressBurst",
        "egressPeakrate",
        "egressMinburst",
        "ingressPacketRate",
        "ingressPacketBurst",
        "egressPacketRate",
        "egressPacketBurst",
        "ingressMaxConnections",
        "egressMaxConnections",
    ] {
        limits |= qos.number(key).is_some_and(|number| number != 0.0);
    }
    limits |= qos.get("dscp").is_some();
    qos.finish();
    if limits {
        spec.refuse("qosControls", "limits of bandwidth, packets and connections");
    }
}

/// `HostEndpoint`: checked only.
pub(super) fn host(mut root: Fields<'_>) {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    if spec.text("node").is_none() {
        spec.issue("node", "is required");
    }
    spec.checked("node", check::subdomain);
    let expected = rule::checked_strings(&mut spec, "expectedIPs", |text| check::address(text).map(|_| ()));
    match spec.text("interfaceName") {
        Some("*") => {}
        Some(_) => {
            spec.checked("interfaceName", check::interface);
        }
        None if expected.is_empty() => spec.issue("interfaceName", "is required unless there are expectedIPs"),
        None => {}
    }
    rule::checked_strings(&mut spec, "profiles", check::subdomain);
    ports(&mut spec, false);
    spec.finish();
    metadata::finish_root(root);
}
