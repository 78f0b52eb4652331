//! `IPPool`: felid follows its prefix. Every other field is checked as Calico does; those that
//! would change something, and that felid leaves to others, are warnings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::{IpPool, Kind, Resource};

use super::check;
use super::entity;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::simple::Read;

/// Fields for those who assign addresses of pools, or announce them by BGP.
const LEFT_TO_OTHERS: [&str; 6] = [
    "allowedUses",
    "assignmentMode",
    "blockSize",
    "disableBGPExport",
    "namespaceSelector",
    "nodeSelector",
];

/// Reads an `IPPool`.
pub(super) fn decode(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let cidr = cidr(&mut spec);
    let disabled = spec.boolean("disabled");
    let masquerades = spec.boolean("natOutgoing");
    let export_disabled = spec.boolean("disableBGPExport");
    let ipip = mode(&mut spec, "ipipMode");
    let vxlan = mode(&mut spec, "vxlanMode");
    if ipip && vxlan {
        spec.forbid("vxlanMode", "may not be on together with ipipMode");
    }
    if ipip && matches!(cidr, Some(IpNet::V6(_))) {
        spec.forbid("ipipMode", "does not go with IPv6");
    }
    block_size(&mut spec, cidr, disabled);
    entity::selector(&mut spec, "nodeSelector");
    entity::selector(&mut spec, "namespaceSelector");
    uses(&mut spec, ipip || vxlan, export_disabled);
    if let Some(assignment) = spec.get("assignmentMode")
        && !matches!(assignment.as_str(), Some("Automatic" | "Manual"))
    {
        spec.issue("assignmentMode", "expected Automatic or Manual");
    }
    if masquerades {
        spec.warn(
            "natOutgoing",
            "has no effect: felid does not masquerade traffic that leaves the pool",
        );
    }
    for (key, on) in [("ipipMode", ipip), ("vxlanMode", vxlan)] {
        if on {
            spec.warn(
                key,
                "has no effect: felid encapsulates nothing, and leaves routes between nodes to others",
            );
        }
    }
    for key in LEFT_TO_OTHERS {
        if spec.get(key).is_some_and(|value| *value != Value::Bool(false)) {
            spec.warn(key, "has no effect: felid assigns and announces no addresses");
        }
    }
    spec.finish();
    metadata::finish_root(root);
    let key = metadata.key(Kind::IpPool);
    let resource = key.clone().zip(cidr);
    let resource = resource.map(|(key, cidr)| Resource::IpPool(IpPool { key, cidr }.into()));
    (key, resource)
}

fn cidr(spec: &mut Fields<'_>) -> Option<IpNet> {
    let key = "cidr";
    let Some(text) = spec.text(key) else {
        spec.issue(key, "is required");
        return None;
    };
    let net = match check::network(text) {
        Ok(net) => net,
        Err(reason) => {
            spec.issue(key, &reason);
            return None;
        }
    };
    if net != net.trunc() {
        spec.forbid(key, &format!("has bits set beyond its mask: write {}", net.trunc()));
    }
    let link_local = match net {
        IpNet::V4(net) => {
            let range = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
            range.contains(&net) || net.contains(&range)
        }
        IpNet::V6(net) => {
            let range = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
            range.contains(&net) || net.contains(&range)
        }
    };
    if link_local {
        spec.forbid(key, "overlaps the link-local range");
    }
    Some(net.trunc())
}

/// Whether encapsulation is on.
fn mode(spec: &mut Fields<'_>, key: &'static str) -> bool {
    match spec.text(key) {
        None | Some("Never") => false,
        Some("Always" | "CrossSubnet") => true,
        Some(_) => {
            spec.issue(key, "expected Never, Always or CrossSubnet");
            false
        }
    }
}

fn block_size(spec: &mut Fields<'_>, cidr: Option<IpNet>, disabled: bool) {
    let key = "blockSize";
    let given = spec.integer(key, 0..=128).filter(|size| *size != 0);
    let Some(cidr) = cidr else { return };
    let (range, usual) = match cidr.addr() {
        IpAddr::V4(_) => (20..=32, 26),
        IpAddr::V6(_) => (116..=128, 122),
    };
    if given.is_some_and(|size| !range.contains(&size)) {
        let reason = format!("expected {} to {} for this IP version", range.start(), range.end());
        spec.forbid(key, &reason);
        return;
    }
    let size = given.unwrap_or(usual);
    if !disabled && u64::from(cidr.prefix_len()) > size {
        spec.forbid("cidr", &format!("is smaller than one block (/{size})"));
    }
}

fn uses(spec: &mut Fields<'_>, encapsulated: bool, export_disabled: bool) {
    let key = "allowedUses";
    let issues = spec.issues();
    let (mut tunnel, mut workload, mut balancer) = (false, false, false);
    for (at, name) in spec.strings(key) {
        match name {
            "Tunnel" => tunnel = true,
            "Workload" => workload = true,
            "LoadBalancer" => balancer = true,
            _ => issues.error(at.path, Some(at.value), "expected Tunnel, Workload or LoadBalancer"),
        }
    }
    let said = |key: &str| spec.peek(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if tunnel && said("namespaceSelector").is_some() {
        spec.forbid("namespaceSelector", "does not go with the use Tunnel");
    }
    if !balancer {
        return;
    }
    if tunnel || workload {
        spec.forbid(key, "LoadBalancer does not go with other uses");
    }
    if encapsulated {
        spec.forbid(key, "LoadBalancer does not go with ipipMode or vxlanMode");
    }
    if export_disabled {
        spec.forbid("disableBGPExport", "does not go with the use LoadBalancer");
    }
    if said("nodeSelector").is_some_and(|text| text != "all()") {
        spec.forbid("nodeSelector", "must be all() with the use LoadBalancer");
    }
}
