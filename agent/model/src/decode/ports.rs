//! `ports` of endpoints.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::EndpointPort;

use super::check;
use super::fields::{Fields, object};
use super::rule;

/// Whose ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PortOwner {
    /// A workload's, which the host may forward to.
    Workload,
    /// A host's own.
    Host,
}

/// Why a name may not be there twice. Pods may have it so.
pub(super) const NAME_TWICE: &str = "another port has this name; rules match both";

/// Reads them. Two of one name are an error; in force both count.
pub(super) fn read(spec: &mut Fields<'_>, owner: PortOwner) -> Vec<EndpointPort> {
    let issues = spec.issues();
    let mut ports = Vec::new();
    let mut names = BTreeSet::new();
    for item in spec.list("ports") {
        let Some(fields) = object(&item, issues) else { continue };
        ports.extend(port(fields, owner, &mut names));
    }
    ports
}

fn port<'a>(mut fields: Fields<'a>, owner: PortOwner, names: &mut BTreeSet<&'a str>) -> Option<EndpointPort> {
    let given = fields.text("name").is_some();
    let name = fields.checked("name", check::service_name);
    let protocol = rule::endpoint_protocol(&mut fields);
    let port = fields
        .integer("port", 1..=65535)
        .and_then(|port| u16::try_from(port).ok());
    if fields.peek("port").is_none() {
        fields.issue("port", "is required");
    }
    let (mut host_port, mut host_ip) = (None, None);
    if owner == PortOwner::Workload {
        let number = fields
            .integer("hostPort", 0..=65535)
            .and_then(|port| u16::try_from(port).ok());
        host_port = number.filter(|port| *port > 0);
        if let Some(text) = fields.text("hostIP") {
            // A full mask says nothing.
            match check::network_or_address(text) {
                Ok(net) if net.prefix_len() == net.max_prefix_len() => host_ip = Some(net.addr()),
                _ => fields.issue("hostIP", "expected an IP address"),
            }
        }
    }
    if !given && host_port.is_none() {
        let reason = match owner {
            PortOwner::Workload => "is required unless there is a hostPort",
            PortOwner::Host => "is required",
        };
        fields.forbid("name", reason);
    }
    if let Some(name) = name
        && !names.insert(name)
    {
        let value = Value::String(name.to_owned());
        fields
            .issues()
            .error_in_force(fields.at("name"), Some(&value), NAME_TWICE);
    }
    fields.finish();
    Some(EndpointPort {
        name: name.unwrap_or_default().to_owned(),
        protocol: protocol?,
        port: port?,
        host_port,
        host_ip,
    })
}
