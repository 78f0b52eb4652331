//! `NetworkPolicy` and `GlobalNetworkPolicy`, and their staged forms.

use serde_json::Value;

use crate::{Kind, Policy, ResourceKey, Selector};

use super::check;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::rule::{self, Direction, Owner};

/// Which form is read.
#[derive(Clone, Copy)]
pub(super) struct Form {
    kind: Kind,
    staged: bool,
}

/// `NetworkPolicy`
pub(super) const NAMESPACED: Form = Form {
    kind: Kind::NetworkPolicy,
    staged: false,
};
/// `GlobalNetworkPolicy`
pub(super) const GLOBAL: Form = Form {
    kind: Kind::GlobalNetworkPolicy,
    staged: false,
};
/// `StagedNetworkPolicy`
pub(super) const STAGED: Form = Form {
    kind: Kind::NetworkPolicy,
    staged: true,
};
/// `StagedGlobalNetworkPolicy`
pub(super) const STAGED_GLOBAL: Form = Form {
    kind: Kind::GlobalNetworkPolicy,
    staged: true,
};

/// What was read, as far as it could be.
pub(super) struct Parts {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) key: Option<ResourceKey>,
    pub(super) selector: Option<Selector>,
    pub(super) namespace_selector: Option<Selector>,
    pub(super) policy: Option<Policy>,
}

/// Reads a policy.
pub(super) fn decode(form: Form, mut root: Fields<'_>) -> Parts {
    let Form { kind, staged } = form;
    let global = kind == Kind::GlobalNetworkPolicy;
    let owner = if global {
        Owner::GlobalNetworkPolicy
    } else {
        Owner::NetworkPolicy
    };
    let metadata = Metadata::read(&mut root, !global, |name| check::policy_name(name, !global));
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    if staged {
        staged_action(&mut spec);
    }
    let tier = spec.checked("tier", check::subdomain).unwrap_or("default").to_owned();
    let order = spec.number("order");
    let selector = rule::selector(&mut spec, "selector");
    let selector_bad = selector.is_none() && spec.get("selector").is_some_and(|value| value.as_str() != Some(""));
    let namespace_selector = if global {
        rule::selector(&mut spec, "namespaceSelector")
    } else {
        None
    };
    if spec.text("serviceAccountSelector").is_some() {
        rule::selector(&mut spec, "serviceAccountSelector");
        spec.refuse("serviceAccountSelector", "policies for service accounts");
    }
    let ingress = rule::list(&mut spec, "ingress", Direction::Ingress, owner);
    let egress = rule::list(&mut spec, "egress", Direction::Egress, owner);
    let types = types(&mut spec);
    let hints = rule::checked_strings(&mut spec, "performanceHints", |hint| match hint {
        "AssumeNeededOnEveryNode" => Ok(()),
        _ => Err("expected AssumeNeededOnEveryNode".to_owned()),
    });
    if hints.len() > 1 {
        spec.issue("performanceHints", "holds a hint twice");
    }
    if global {
        host_policies(&mut spec, !egress.is_empty(), types.is_some_and(|(_, egress)| egress));
    }
    spec.finish();
    metadata::finish_root(root);
    let (applies_ingress, applies_egress) = types.unwrap_or(if egress.is_empty() {
        (true, false)
    } else {
        (!ingress.is_empty(), true)
    });
    let key = metadata.key(kind);
    let known_selector = if selector_bad {
        None
    } else {
        Some(selector.unwrap_or_else(Selector::all))
    };
    let policy = key.clone().zip(known_selector.clone()).map(|(key, selector)| Policy {
        key,
        tier,
        order,
        selector,
        namespace_selector: namespace_selector.clone(),
        service_account_selector: None,
        staged: false,
        applies_ingress,
        applies_egress,
        ingress,
        egress,
    });
    Parts {
        kind,
        namespace: metadata.namespace,
        key,
        selector: known_selector,
        namespace_selector,
        policy,
    }
}

/// `types`: whether Ingress and whether Egress is in it; `None` if absent or empty.
fn types(spec: &mut Fields<'_>) -> Option<(bool, bool)> {
    let types = rule::checked_strings(spec, "types", |name| match name {
        "Ingress" | "Egress" => Ok(()),
        _ => Err("expected Ingress or Egress".to_owned()),
    });
    let count = |wanted: &str| types.iter().filter(|name| *name == wanted).count();
    let (ingress, egress) = (count("Ingress"), count("Egress"));
    if ingress > 1 || egress > 1 {
        spec.issue("types", "holds a type twice");
    }
    (ingress + egress > 0).then_some((ingress > 0, egress > 0))
}

/// Fields for policies of host endpoints, which felid does not have. `applyOnForward` changes nothing for workloads; the other
/// two make a policy that no workload ever sees, so a user who selects workloads with it is mistaken: refused, and closed.
fn host_policies(spec: &mut Fields<'_>, egress_rules: bool, egress_type: bool) {
    let apply_on_forward = spec.boolean("applyOnForward");
    let pre_dnat = spec.boolean("preDNAT");
    let do_not_track = spec.boolean("doNotTrack");
    if pre_dnat && do_not_track {
        spec.issue("preDNAT", "may not be true together with doNotTrack");
    }
    if (pre_dnat || do_not_track) && !apply_on_forward {
        spec.issue("applyOnForward", "must be true if preDNAT or doNotTrack is");
    }
    if pre_dnat && egress_rules {
        spec.issue("egress", "a preDNAT policy has no egress rules");
    }
    if pre_dnat && egress_type {
        spec.issue("types", "a preDNAT policy has no type Egress");
    }
    if pre_dnat {
        spec.refuse("preDNAT", "policies before destination NAT");
    }
    if do_not_track {
        spec.refuse("doNotTrack", "untracked policies");
    }
    if apply_on_forward && !pre_dnat && !do_not_track {
        let reason =
            "concerns host endpoints only, which this version of felid does not have; workloads are not affected";
        spec.issues()
            .warning(spec.at("applyOnForward"), Some(&Value::Bool(true)), reason);
    }
}

/// `stagedAction`; with Delete nothing but the tier may stand beside it.
fn staged_action(spec: &mut Fields<'_>) {
    match spec.text("stagedAction") {
        None | Some("Set" | "Learn" | "Ignore") => {}
        Some("Delete") => {
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
                    spec.issue(key, "may not stand beside stagedAction Delete");
                }
            }
        }
        Some(_) => spec.issue("stagedAction", "expected Set, Delete, Learn or Ignore"),
    }
}
