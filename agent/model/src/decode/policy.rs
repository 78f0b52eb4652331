//! Calico's own policies: `NetworkPolicy`, `GlobalNetworkPolicy` and their staged forms.

use serde_json::Value;

use crate::{Direction, Kind, Policy, Resource, ResourceKey, Rule, Selector};

use super::check;
use super::entity;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::rule;
use super::rule_context::RuleOwner;

/// What was read, as far as it could be.
pub(super) struct DecodedPolicy {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) key: Option<ResourceKey>,
    pub(super) selector: Option<Selector>,
    pub(super) namespace_selector: Option<Selector>,
    pub(super) resource: Option<Resource>,
    /// It concerns no workload, however good or bad it is: nothing is closed for it.
    pub(super) harmless: bool,
}

/// Reads a policy.
pub(super) fn decode(kind: Kind, mut root: Fields<'_>) -> DecodedPolicy {
    let namespaced = kind.is_namespaced();
    let owner = if namespaced {
        RuleOwner::NetworkPolicy
    } else {
        RuleOwner::GlobalNetworkPolicy
    };
    let metadata = Metadata::read(&mut root, namespaced, |name| check::policy_name(name, namespaced));
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let deletes = kind.is_staged() && staged_action(&mut spec);
    let tier = spec.checked("tier", check::identifier).unwrap_or("default").to_owned();
    let order = spec.number("order");
    let selector = selector(&mut spec);
    let namespace_selector = match namespaced {
        true => None,
        false => entity::selector(&mut spec, "namespaceSelector"),
    };
    let service_account_selector = entity::selector(&mut spec, "serviceAccountSelector");
    let ingress = rule::list(&mut spec, "ingress", Direction::Ingress, owner);
    let egress = rule::list(&mut spec, "egress", Direction::Egress, owner);
    let types = types(&mut spec);
    hints(&mut spec);
    let hosts_only =
        !namespaced && host_policies(&mut spec, !egress.is_empty(), types.is_some_and(|(_, egress)| egress));
    spec.finish();
    metadata::finish_root(root);
    let (applies_ingress, applies_egress) = types.unwrap_or_else(|| inferred_types(&ingress, &egress));
    let key = metadata.key(kind);
    let resource = key.clone().zip(selector.clone()).map(|(key, selector)| {
        if deletes || hosts_only {
            return Resource::Inert(key);
        }
        let policy = Policy {
            key,
            tier,
            order,
            selector,
            namespace_selector: namespace_selector.clone(),
            service_account_selector,
            staged: kind.is_staged(),
            applies_ingress,
            applies_egress,
            ingress,
            egress,
        };
        Resource::Policy(policy.into())
    });
    DecodedPolicy {
        kind,
        namespace: metadata.namespace,
        key,
        selector,
        namespace_selector,
        resource,
        harmless: kind.is_staged() || hosts_only,
    }
}

/// `selector`; absent and empty ones select everything, and `None` is one that could not be read.
fn selector(spec: &mut Fields<'_>) -> Option<Selector> {
    let selector = entity::selector(spec, "selector");
    let unreadable = selector.is_none() && spec.get("selector").is_some_and(|value| value.as_str() != Some(""));
    (!unreadable).then(|| selector.unwrap_or_else(Selector::all))
}

/// The directions, ingress and egress, that a policy without `types` applies to: those that it has
/// rules for, and ingress if it has no rules at all.
fn inferred_types(ingress: &[Rule], egress: &[Rule]) -> (bool, bool) {
    if egress.is_empty() {
        (true, false)
    } else {
        (!ingress.is_empty(), true)
    }
}

/// `types`: whether Ingress and whether Egress is in it; `None` if absent or empty.
fn types(spec: &mut Fields<'_>) -> Option<(bool, bool)> {
    let (mut ingress, mut egress) = (0, 0);
    let issues = spec.issues();
    for (at, name) in spec.strings("types") {
        match name {
            "Ingress" => ingress += 1,
            "Egress" => egress += 1,
            _ => issues.error(at.path, Some(at.value), "expected Ingress or Egress"),
        }
    }
    if ingress > 1 || egress > 1 {
        spec.forbid("types", "holds a type twice");
    }
    (ingress + egress > 0).then_some((ingress > 0, egress > 0))
}

/// `performanceHints`: felid keeps every policy at hand anyway.
fn hints(spec: &mut Fields<'_>) {
    let hints = rule::checked_strings(spec, "performanceHints", |hint| match hint {
        "AssumeNeededOnEveryNode" => Ok(()),
        _ => Err("expected AssumeNeededOnEveryNode".to_owned()),
    });
    if hints.len() > 1 {
        spec.forbid("performanceHints", "holds a hint twice");
    }
}

/// Fields for policies of host endpoints, which felid does not have; whether the policy holds for
/// nothing else. `applyOnForward` changes nothing for workloads.
fn host_policies(spec: &mut Fields<'_>, egress_rules: bool, egress_type: bool) -> bool {
    let apply_on_forward = spec.boolean("applyOnForward");
    let pre_dnat = spec.boolean("preDNAT");
    let do_not_track = spec.boolean("doNotTrack");
    if pre_dnat && do_not_track {
        spec.forbid("preDNAT", "may not be true together with doNotTrack");
    }
    if (pre_dnat || do_not_track) && !apply_on_forward {
        spec.forbid("applyOnForward", "must be true if preDNAT or doNotTrack is");
    }
    if pre_dnat && egress_rules {
        spec.forbid("egress", "a preDNAT policy has no egress rules");
    }
    if pre_dnat && egress_type {
        spec.forbid("types", "a preDNAT policy has no type Egress");
    }
    for (key, said) in [("preDNAT", pre_dnat), ("doNotTrack", do_not_track && !pre_dnat)] {
        if said {
            spec.warn(key, "applies to host endpoints only: out of felid's scope");
        }
    }
    if apply_on_forward && !pre_dnat && !do_not_track {
        let reason = "concerns host endpoints, which are out of felid's scope; for workloads it changes nothing";
        spec.warn("applyOnForward", reason);
    }
    pre_dnat || do_not_track
}

/// `stagedAction`: whether it is Delete, which proposes to remove the policy of this name; nothing
/// but the tier may stand beside it.
fn staged_action(spec: &mut Fields<'_>) -> bool {
    match spec.text("stagedAction") {
        None | Some("Set" | "Learn" | "Ignore") => return false,
        Some("Delete") => {}
        Some(_) => {
            spec.issue("stagedAction", "expected Set, Delete, Learn or Ignore");
            return false;
        }
    }
    for key in [
        "order",
        "selector",
        "namespaceSelector",
        "serviceAccountSelector",
        "ingress",
        "egress",
        "types",
        "performanceHints",
        "doNotTrack",
        "preDNAT",
        "applyOnForward",
    ] {
        let empty = match spec.peek(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if !empty {
            spec.forbid(key, "may not stand beside stagedAction Delete");
        }
    }
    true
}
