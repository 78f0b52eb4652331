//! `WorkloadEndpoint`.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use crate::names::Identifiers;
use crate::selector::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL};
use crate::{IpNat, Kind, LabelMap, Resource, ResourceKey, WorkloadEndpoint};

use super::check;
use super::entity;
use super::fields::{Fields, object};
use super::metadata::{self, Metadata};
use super::ports::{self, PortOwner};
use super::rule;
use super::simple::Read;

/// `WorkloadEndpoint`.
pub(super) fn workload(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, true, check::subdomain);
    let mut spec = root.object_or_empty("spec");
    let mut name = |key| spec.checked(key, check::identifier).unwrap_or_default().to_owned();
    let mut ids = Identifiers {
        node: name("node"),
        orchestrator: name("orchestrator"),
        endpoint: name("endpoint"),
        workload: name("workload"),
        pod: name("pod"),
        container_id: String::new(),
    };
    let service_account = spec.checked("serviceAccountName", check::identifier).map(str::to_owned);
    let container_id = spec.checked("containerID", check::container_id).map(str::to_owned);
    ids.container_id = container_id.clone().unwrap_or_default();
    let key = key(&root, &metadata, &ids);
    let ip_networks = ip_networks(&mut spec);
    let ip_nats = ip_nats(&mut spec, &ip_networks);
    let (ipv4_gateway, ipv6_gateway) = gateways(&mut spec);
    let profiles = rule::checked_strings(&mut spec, "profiles", check::identifier);
    let interface_name = interface(&mut spec);
    let mac = mac(&mut spec);
    let ports = ports::read(&mut spec, PortOwner::Workload);
    let allow_spoofed_source_prefixes = spoofed_sources(&mut spec);
    let qos_controls = qos(&mut spec);
    let aws_elastic_ips = elastic_ips(&mut spec);
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
            ip_nats,
            aws_elastic_ips,
            allow_spoofed_source_prefixes,
            qos_controls,
            ipv4_gateway,
            ipv6_gateway,
            profiles,
            interface_name,
            mac,
            ports,
        };
        Resource::WorkloadEndpoint(endpoint.into())
    });
    (key, resource)
}

/// `ipv4Gateway` and `ipv6Gateway`.
fn gateways(spec: &mut Fields<'_>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let ipv4 = gateway(spec, "ipv4Gateway", |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let ipv6 = gateway(spec, "ipv6Gateway", |address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    (ipv4, ipv6)
}

/// `awsElasticIPs`, with a warning, since the host does not translate them.
fn elastic_ips(spec: &mut Fields<'_>) -> Vec<IpAddr> {
    let addresses = entity::addresses(spec, "awsElasticIPs");
    if !addresses.is_empty() {
        spec.warn("awsElasticIPs", "only shown: the cloud translates these, not the host");
    }
    addresses
}

/// The name is built from the identifiers; one that is written must be the same.
fn key(root: &Fields<'_>, metadata: &Metadata, ids: &Identifiers) -> Option<ResourceKey> {
    let issues = root.issues();
    let Ok(built) = ids.name(false) else {
        // All that is missing at once, so that a record written by hand needs one round.
        for fault in ids.faults() {
            let field = format!("spec.{}", fault.field);
            if !issues.has_error_at(&field) {
                issues.forbidden(field, None, &fault.reason);
            }
        }
        if let Some(name) = metadata.name.as_ref().filter(|name| !is_endpoint_name(name)) {
            let reason = "cannot be an endpoint's name: those are NODE-ORCHESTRATOR-WORKLOAD-ENDPOINT, with each \"-\" in a part \
                          doubled; leave it out, and it is built from the spec";
            issues.forbidden("metadata.name".to_owned(), Some(&Value::String(name.clone())), reason);
        }
        return metadata.key(Kind::WorkloadEndpoint);
    };
    match &metadata.name {
        Some(name) => {
            if *name != built {
                let value = Value::String(name.clone());
                let reason =
                    format!("does not fit the endpoint: its node, orchestrator, workload and endpoint give {built}");
                issues.forbidden("metadata.name".to_owned(), Some(&value), &reason);
            }
            metadata.key(Kind::WorkloadEndpoint)
        }
        None if metadata.named => None,
        None => {
            if let Err(reason) = check::subdomain(&built) {
                let value = Value::String(built.clone());
                issues.forbidden(
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

/// Whether a name has the four parts that each endpoint's name has.
fn is_endpoint_name(name: &str) -> bool {
    let parts = Identifiers::parse(name);
    parts.is_ok_and(|ids| !ids.endpoint.is_empty())
}

/// Labels that only felid gives are taken away and given.
fn labels(root: &Fields<'_>, metadata: &Metadata, orchestrator: &str) -> LabelMap {
    let mut labels = metadata.inherited_left_out(root.issues());
    if let Some(namespace) = &metadata.namespace {
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
    }
    labels.insert(ORCHESTRATOR_LABEL.to_owned(), orchestrator.to_owned());
    labels
}

/// Addresses of the interface; each once.
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

/// `ipNATs`. Both addresses are plain, of one family, and the internal one is the endpoint's own.
fn ip_nats(spec: &mut Fields<'_>, ip_networks: &[IpNet]) -> Vec<IpNat> {
    let issues = spec.issues();
    let mut nats = Vec::new();
    let mut known: HashMap<IpAddr, IpAddr> = HashMap::new();
    for item in spec.list("ipNATs") {
        let Some(mut fields) = object(&item, issues) else {
            continue;
        };
        let internal = address(&mut fields, "internalIP");
        let external = address(&mut fields, "externalIP");
        if internal.is_some_and(|address| !ip_networks.contains(&IpNet::from(address))) {
            fields.issue("internalIP", "is not one of ipNetworks");
        }
        if let Some((internal, external)) = internal.zip(external) {
            if internal.is_ipv4() != external.is_ipv4() {
                fields.issue("externalIP", "is of another IP version than internalIP");
            }
            if ip_networks.contains(&IpNet::from(external)) {
                fields.warn("externalIP", "is one of ipNetworks: not translated");
            }
            if *known.entry(external).or_insert(internal) != internal {
                let reason = "stands for another address already: the lexically smaller internalIP has it";
                fields.warn("externalIP", reason);
            }
            nats.push(IpNat { internal, external });
        }
        fields.finish();
    }
    nats
}

/// A plain address that must be there.
fn address(fields: &mut Fields<'_>, key: &'static str) -> Option<IpAddr> {
    let reason = match fields.text(key).map(check::address) {
        Some(Ok(address)) => return Some(address),
        Some(Err(reason)) => reason,
        None => "is required".to_owned(),
    };
    fields.issue(key, &reason);
    None
}

fn gateway<A>(spec: &mut Fields<'_>, key: &'static str, of_family: impl Fn(IpAddr) -> Option<A>) -> Option<A> {
    let reason = match check::address(spec.text(key)?).map(of_family) {
        Ok(Some(address)) => return Some(address),
        Ok(None) => "is an address of the other IP version".to_owned(),
        Err(reason) => reason,
    };
    spec.issue(key, &reason);
    None
}

/// The host-side interface. One that cannot exist leaves the endpoint as a peer of others.
fn interface(spec: &mut Fields<'_>) -> Option<String> {
    let key = "interfaceName";
    let Some(given) = spec.text(key) else {
        spec.issue(key, "is required");
        return None;
    };
    if !check::can_be_interface(given) {
        let reason = "no interface can have this name: the endpoint is only a peer of others";
        spec.warn(key, reason);
    }
    spec.checked(key, check::interface).map(str::to_owned)
}

/// What no frame can come from: the address of an endpoint whose own cannot be that of an Ethernet
/// interface.
const NO_MAC: [u8; 6] = [0xff; 6];

/// A MAC address. Those of 64 bits stand for one of 48 if they were made from it (`ff:fe` or
/// `ff:ff` in the middle); no frame can have any other, so that nothing comes from such an
/// endpoint. Leaving it out instead would let every frame pass.
fn mac(spec: &mut Fields<'_>) -> Option<[u8; 6]> {
    let key = "mac";
    let octets = match check::mac(spec.text(key)?) {
        Ok(octets) => octets,
        Err(reason) => {
            spec.issue(key, &reason);
            return None;
        }
    };
    match *octets.as_slice() {
        [a, b, c, d, e, f] => Some([a, b, c, d, e, f]),
        [a, b, c, 0xff, 0xfe | 0xff, d, e, f] => Some([a, b, c, d, e, f]),
        _ => {
            let reason =
                "no Ethernet interface has this address of 64 bits: nothing that comes from the workload passes";
            spec.warn(key, reason);
            Some(NO_MAC)
        }
    }
}

/// Sources beside its own, masked.
fn spoofed_sources(spec: &mut Fields<'_>) -> Vec<IpNet> {
    let issues = spec.issues();
    let mut nets = BTreeSet::new();
    for (at, text) in spec.strings("allowSpoofedSourcePrefixes") {
        match check::network_or_address(text) {
            Ok(net) => {
                nets.insert(net.trunc());
            }
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    nets.into_iter().collect()
}

/// Numbers in `qosControls`; zero is no limit.
const LIMITS: [&str; 14] = [
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
];

/// `qosControls`: whether they limit anything. felid shows them and does not enforce them, and says
/// so.
fn qos(spec: &mut Fields<'_>) -> bool {
    let Some(mut qos) = spec.object("qosControls") else {
        return false;
    };
    let mut limits = false;
    for key in LIMITS {
        limits |= qos.signed(key).is_some_and(|number| number != 0);
    }
    if let Some(dscp) = qos.get("dscp") {
        let number = dscp.as_u64().is_some_and(|number| number <= 255);
        if !number && !dscp.is_string() {
            qos.issue("dscp", "expected a number or a name");
        }
        limits = true;
    }
    qos.finish();
    if limits {
        spec.warn(
            "qosControls",
            "only shown: felid limits neither bandwidth, packets nor connections",
        );
    }
    limits
}
