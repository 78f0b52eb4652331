//! Records of Kubernetes, and endpoints of Calico's v1 form: converted, and what comes out decoded.
//! Issues name fields of the record itself. Of pods, namespaces, service accounts, services and
//! endpoint slices only what felid needs is looked at.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::convert::{At, Conversion, Converted, Faults, Reader, convert, convert_kind};
use crate::{EndpointSlice, Kind, LabelMap, Profile, Protocol, Resource, ResourceKey, Severity};

use super::fields::{Fields, Issues};
use super::metadata::Metadata;
use super::ports::NAME_TWICE;
use super::{Decoded, check, decode_with, finished, kubernetes_policy};

/// Label of an endpoint slice that names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A record of Kubernetes.
pub(super) fn decode(kind: Kind, mut root: Fields<'_>, map: &Map<String, Value>) -> Decoded {
    let issues = root.issues();
    let name_check = match kind {
        Kind::Namespace | Kind::Service => check::dns_label,
        _ => check::subdomain,
    };
    let metadata = Metadata::read(&mut root, kind.is_namespaced(), name_check);
    metadata.require_name(issues);
    if kind.is_policy() {
        return kubernetes_policy::decode(kind, &metadata, map, issues);
    }
    let key = metadata.key(kind);
    let resource = key.clone().and_then(|key| match kind {
        Kind::Pod => pod(key, map, issues),
        Kind::Namespace | Kind::ServiceAccount => {
            Some(Resource::Profile(Profile::implied(key, &metadata.labels).into()))
        }
        Kind::EndpointSlice => Some(slice(key, &metadata.labels, map, issues)),
        _ => Some(Resource::Inert(key)),
    });
    finished(kind, key, resource, issues)
}

/// A `workloadEndpoint` of Calico's v1 form.
pub(super) fn endpoint_v1(value: &Value, issues: &Issues) -> Decoded {
    let (mut key, mut resource) = (None, None);
    match convert(value) {
        Conversion::Resource(converted) => {
            (key, resource) = inner(&converted, &converted.resource, issues);
        }
        Conversion::Failed(faults) => issues.adopt_faults(faults),
        Conversion::Nothing(_) => {}
    }
    finished(Kind::WorkloadEndpoint, key, resource, issues)
}

/// Decodes what a record was converted to; its issues become the record's own.
fn inner(converted: &Converted, resource: &Value, issues: &Issues) -> (Option<ResourceKey>, Option<Resource>) {
    let (key, resource, found, bad) = match decode_with(resource, issues.alike()) {
        Decoded::Resource { resource, issues } => (Some(resource.key().clone()), Some(resource), issues, false),
        Decoded::Bad { key, issues, .. } => (key, None, issues, true),
        Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => (None, None, Vec::new(), true),
    };
    for issue in found {
        let field = converted.origin(&issue.field);
        let is_error = issue.severity == Severity::Error;
        if !(is_error && issues.has_error_at(&field)) {
            issues.adopt(issue, field, bad && is_error);
        }
    }
    (key, resource)
}

/// A pod's endpoint; one that is not shown has no effect.
fn pod(key: ResourceKey, map: &Map<String, Value>, issues: &Issues) -> Option<Resource> {
    let mut converted = match convert_kind(Kind::Pod, map) {
        Conversion::Resource(converted) => converted,
        Conversion::Nothing(_) => return Some(Resource::Inert(key)),
        Conversion::Failed(faults) => {
            issues.adopt_faults(faults);
            return None;
        }
    };
    // The name is made of the pod's and the node's, which are checked themselves.
    if let Some(metadata) = converted.resource.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("name");
    }
    let own = Issues::alike(issues);
    let (_, resource) = inner(&converted, &converted.resource, &own);
    let bad = own.is_fatal();
    for issue in own.take() {
        let field = issue.field.clone();
        let said = issue.severity == Severity::Error && issues.has_error_at(&field);
        if issue.reason != NAME_TWICE && !said {
            let fatal = bad && issue.severity == Severity::Error;
            issues.adopt(issue, field, fatal);
        }
    }
    match resource? {
        Resource::WorkloadEndpoint(mut endpoint) => {
            Arc::make_mut(&mut endpoint).key = key;
            Some(Resource::WorkloadEndpoint(endpoint))
        }
        _ => None,
    }
}

/// Addresses and ports behind a service.
fn slice(key: ResourceKey, labels: &LabelMap, map: &Map<String, Value>, issues: &Issues) -> Resource {
    let faults = Faults::default();
    let mut root = Reader::new(map, String::new(), &faults);
    let mut addresses = Vec::new();
    let has_addresses = match root.required_text("addressType") {
        Some("IPv4" | "IPv6") => true,
        Some("FQDN") | None => false,
        Some(_) => {
            root.fault("addressType", "expected IPv4, IPv6 or FQDN");
            false
        }
    };
    for item in root.list("endpoints") {
        let Some(mut endpoint) = item.reader(&faults) else {
            continue;
        };
        for at in endpoint.list("addresses") {
            addresses.extend(address(&at, &faults).filter(|_| has_addresses));
        }
    }
    let mut ports = Vec::new();
    for item in root.list("ports") {
        let Some(mut fields) = item.reader(&faults) else {
            continue;
        };
        let protocol = match fields.text("protocol").unwrap_or("TCP").parse::<Protocol>() {
            Ok(protocol) if protocol.has_ports() => Some(protocol),
            _ => {
                fields.fault("protocol", "expected TCP, UDP or SCTP");
                None
            }
        };
        let is_every = fields.value("port").is_none();
        let number = fields
            .integer("port", 1..=65535)
            .and_then(|port| u16::try_from(port).ok());
        if let (Some(protocol), true) = (protocol, is_every || number.is_some()) {
            ports.push((protocol, number));
        }
    }
    issues.adopt_faults(faults.take());
    let service = labels.get(SERVICE_LABEL).filter(|name| !name.is_empty()).cloned();
    Resource::EndpointSlice(
        EndpointSlice {
            key,
            service,
            addresses,
            ports,
        }
        .into(),
    )
}

/// An address; names of hosts are none.
fn address(at: &At<'_>, faults: &Faults) -> Option<IpAddr> {
    at.text(faults)?
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}
