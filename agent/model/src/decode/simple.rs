//! `Profile`, `Tier`, `NetworkSet`, `GlobalNetworkSet`.

use serde_json::Value;

use crate::selector::NAMESPACE_LABEL;
use crate::{Direction, Kind, NetworkSet, Profile, Resource, ResourceKey, Tier};

use super::check;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::rule;
use super::rule_context::RuleOwner;

pub(super) type Read = (Option<ResourceKey>, Option<Resource>);

/// `Profile`.
pub(super) fn profile(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let ingress = rule::list(&mut spec, "ingress", Direction::Ingress, RuleOwner::Profile);
    let egress = rule::list(&mut spec, "egress", Direction::Egress, RuleOwner::Profile);
    let labels_to_apply = metadata::labels(&mut spec, "labelsToApply");
    spec.finish();
    metadata::finish_root(root);
    let key = metadata.key(Kind::Profile);
    let resource = key.clone().map(|key| {
        Resource::Profile(
            Profile {
                key,
                labels_to_apply,
                ingress,
                egress,
            }
            .into(),
        )
    });
    (key, resource)
}

/// Order and default action that the well-known tiers must have.
const WELL_KNOWN_TIERS: [(&str, f64, bool); 3] = [
    ("default", 1_000_000.0, false),
    ("kube-admin", 1_000.0, true),
    ("kube-baseline", 10_000_000.0, true),
];

/// `Tier`.
pub(super) fn tier(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::dns_label);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let order = spec.number("order");
    // An empty text is not absent here.
    let empty = spec.peek("defaultAction").and_then(Value::as_str) == Some("");
    let default_pass = match spec.text("defaultAction") {
        None if !empty => false,
        Some("Deny") => false,
        Some("Pass") => true,
        _ => {
            spec.issue("defaultAction", "expected Deny or Pass");
            false
        }
    };
    let name = metadata.name.as_deref();
    if let Some((name, wanted, pass)) = WELL_KNOWN_TIERS.iter().find(|(known, ..)| Some(*known) == name) {
        if order != Some(*wanted) {
            spec.forbid("order", &format!("tier {name} must have order {wanted}"));
        }
        if default_pass != *pass {
            let action = if *pass { "Pass" } else { "Deny" };
            spec.forbid(
                "defaultAction",
                &format!("tier {name} must have default action {action}"),
            );
        }
    }
    spec.finish();
    metadata::finish_root(root);
    let key = metadata.key(Kind::Tier);
    let resource = key.clone().map(|key| {
        Resource::Tier(
            Tier {
                key,
                order,
                default_pass,
            }
            .into(),
        )
    });
    (key, resource)
}

/// `NetworkSet` and `GlobalNetworkSet`.
pub(super) fn network_set(kind: Kind, mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, kind.is_namespaced(), check::subdomain);
    metadata.require_name(root.issues());
    let issues = root.issues();
    let mut labels = metadata.labels.clone();
    if labels.contains_key(NAMESPACE_LABEL) {
        issues.forbidden(
            format!("metadata.labels.{NAMESPACE_LABEL}"),
            None,
            "is given by felid: it may not be set on network sets",
        );
    }
    if let Some(namespace) = &metadata.namespace {
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
    }
    let mut spec = root.object_or_empty("spec");
    let mut nets = Vec::new();
    for (at, text) in spec.strings("nets") {
        match check::network_or_address(text) {
            Ok(net) => nets.push(net.trunc()),
            Err(reason) => issues.error(at.path, Some(at.value), &reason),
        }
    }
    spec.finish();
    metadata::finish_root(root);
    let key = metadata.key(kind);
    let resource = key
        .clone()
        .map(|key| Resource::NetworkSet(NetworkSet { key, labels, nets }.into()));
    (key, resource)
}
