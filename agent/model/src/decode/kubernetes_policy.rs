//! Policies of Kubernetes: what they are converted to, under their own names. Rules that cannot be
//! enforced are dropped if they would allow, and deny everything if not; the rest of the policy
//! holds. A policy that cannot be converted closes what it may select.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::convert::{At, Conversion, Converted, Faults, Of, convert_kind, selector};
use crate::{BadPolicy, Kind, Policy, Port, Resource, ResourceKey, Selector, Severity};

use super::fields::Issues;
use super::metadata::Metadata;
use super::{Decoded, Issue, decode_with, digest, with_reason};

/// The lists of rules.
const LISTS: [&str; 2] = ["ingress", "egress"];

/// Reads a policy.
pub(super) fn decode(kind: Kind, metadata: &Metadata, map: &Map<String, Value>, issues: &Issues) -> Decoded {
    let key = metadata.key(kind);
    forms(kind, metadata, map, issues);
    let policy = match convert_kind(kind, map) {
        Conversion::Resource(converted) => policy(*converted, issues),
        Conversion::Failed(faults) => {
            issues.adopt_faults(faults);
            None
        }
        Conversion::Nothing(_) => {
            return match key {
                Some(key) if !issues.is_fatal() => Decoded::Resource {
                    resource: Resource::Inert(key),
                    issues: issues.take(),
                },
                key => Decoded::Bad {
                    kind: Some(kind),
                    key,
                    issues: issues.take(),
                    bad_policy: None,
                },
            };
        }
    };
    if let (Some(mut policy), Some(key), false) = (policy, key.clone(), issues.is_fatal()) {
        policy.key = key;
        policy.staged = kind.is_staged();
        return Decoded::Resource {
            resource: Resource::Policy(policy.into()),
            issues: issues.take(),
        };
    }
    // What is never enforced closes nothing.
    let bad_policy = (!kind.is_staged()).then(|| bad_policy(kind, key.as_ref(), metadata, map));
    with_reason(Decoded::Bad {
        kind: Some(kind),
        key,
        issues: issues.take(),
        bad_policy,
    })
}

/// What the API server would not accept, although its meaning is plain.
fn forms(kind: Kind, metadata: &Metadata, map: &Map<String, Value>, issues: &Issues) {
    if kind == Kind::BaselineAdminNetworkPolicy && metadata.name.as_deref().is_some_and(|name| name != "default") {
        let value = metadata.name.clone().map(Value::String);
        let reason = "the only policy of this kind is named default";
        issues.error_in_force("metadata.name".to_owned(), value.as_ref(), reason);
    }
    if matches!(kind, Kind::AdminNetworkPolicy | Kind::ClusterNetworkPolicy) {
        let priority = map.get("spec").and_then(|spec| spec.get("priority"));
        let priority = priority.filter(|value| !value.is_null());
        let reason = match priority.map(Value::as_i64) {
            None => "is required",
            Some(Some(0..=1000) | None) => return,
            Some(Some(_)) => "expected a whole number from 0 to 1000",
        };
        issues.error_in_force("spec.priority".to_owned(), priority, reason);
    }
}

/// What was converted, as it can be enforced.
fn policy(mut converted: Converted, issues: &Issues) -> Option<Policy> {
    for fault in std::mem::take(&mut converted.faults) {
        if fault.in_rule {
            issues.error_in_force(fault.field, fault.value.as_ref(), &fault.reason);
        } else {
            issues.adopt_faults(vec![fault]);
        }
    }
    // Their own names may have forms that Calico's have not; they are checked themselves.
    if let Some(metadata) = converted.resource.get_mut("metadata") {
        metadata["name"] = json!("converted");
    }
    let types = converted.resource.pointer("/spec/types").cloned().unwrap_or_default();
    let applies = |wanted: &str| {
        types
            .as_array()
            .is_some_and(|types| types.iter().any(|name| name == wanted))
    };
    let mut lists = LISTS.map(|list| rules(&mut converted.resource, list));
    let first = attempt(&mut converted.resource, &lists, issues);
    let (found, bad) = match &first {
        Decoded::Resource { issues, .. } => (issues, false),
        Decoded::Bad { issues, .. } => (issues, true),
        Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => return None,
    };
    let decoded = if close_bad_rules(&mut lists, found, bad, (&converted, issues)) {
        attempt(&mut converted.resource, &lists, issues)
    } else {
        first
    };
    let Decoded::Resource {
        resource: Resource::Policy(policy),
        ..
    } = decoded
    else {
        return None;
    };
    let mut policy = Arc::unwrap_or_clone(policy);
    // Without types a policy of Calico has some all the same.
    policy.applies_ingress = applies("Ingress");
    policy.applies_egress = applies("Egress");
    for (rules, decoded) in lists.iter().zip([&mut policy.ingress, &mut policy.egress]) {
        for (rule, decoded) in rules.iter().filter(|rule| rule.is_kept()).zip(decoded) {
            decoded.destination.nets.extend(&rule.nets);
            let names = rule.port_names.iter().cloned();
            decoded.destination.ports.extend(names.map(Port::Named));
        }
    }
    Some(policy)
}

/// Closes the rules that an error of a bad policy stands in, and takes over all that was found.
/// Says whether any rule was closed, so that the rest of the policy has to be decoded again.
fn close_bad_rules(
    lists: &mut [Vec<Converting>; 2],
    found: &[Issue],
    bad: bool,
    (converted, issues): (&Converted, &Issues),
) -> bool {
    let mut closed = false;
    for issue in found {
        let is_error = issue.severity == Severity::Error;
        let rule = lists
            .iter_mut()
            .zip(LISTS)
            .find_map(|(rules, list)| rules.get_mut(rule_of(&issue.field, list)?));
        let mut issue = issue.clone();
        let field = converted.origin(&issue.field);
        match rule {
            Some(rule) if is_error && bad => {
                let consequence = rule.close();
                issue.reason = format!("{}; {consequence}", issue.reason);
                closed = true;
                issues.adopt(issue, field, false);
            }
            _ => issues.adopt(issue, field, is_error && bad),
        }
    }
    closed
}

/// A rule on its way.
struct Converting {
    /// As it was converted, without what stands below; `None` once it is dropped.
    rule: Option<Value>,
    /// Networks of both families, which a rule of Calico may not have, though they mean what they
    /// say.
    nets: Vec<IpNet>,
    /// Names of ports that are digits, which Calico would take for numbers.
    port_names: Vec<String>,
}

impl Converting {
    fn is_kept(&self) -> bool {
        self.rule.is_some()
    }

    /// Drops a rule that would allow, and makes any other one that denies everything; says so.
    fn close(&mut self) -> &'static str {
        self.nets.clear();
        self.port_names.clear();
        let action = self
            .rule
            .as_ref()
            .and_then(|rule| rule.get("action"))
            .and_then(Value::as_str);
        if matches!(action, None | Some("Allow")) {
            self.rule = None;
            "the rule is left out"
        } else {
            self.rule = Some(json!({"action": "Deny"}));
            "the rule denies everything"
        }
    }
}

/// Takes the rules of a list out of a policy.
fn rules(resource: &mut Value, list: &str) -> Vec<Converting> {
    let Some(Value::Array(rules)) = resource.pointer_mut(&format!("/spec/{list}")).map(Value::take) else {
        return Vec::new();
    };
    rules.into_iter().map(set_aside).collect()
}

/// Takes out of a rule what a rule of Calico may not say in this way.
fn set_aside(mut rule: Value) -> Converting {
    let (mut nets, mut port_names): (Vec<IpNet>, Vec<String>) = (Vec::new(), Vec::new());
    if let Some(destination) = rule.get_mut("destination").and_then(Value::as_object_mut) {
        let listed = destination.get("nets").and_then(Value::as_array);
        let listed = listed.into_iter().flatten();
        nets.extend(listed.filter_map(|net| net.as_str()?.parse::<IpNet>().ok()));
        if nets.iter().all(|net| net.addr().is_ipv4()) || nets.iter().all(|net| net.addr().is_ipv6()) {
            nets.clear();
        } else {
            destination.remove("nets");
        }
        if let Some(ports) = destination.get_mut("ports").and_then(Value::as_array_mut) {
            ports.retain(|port| {
                let name = port
                    .as_str()
                    .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
                port_names.extend(name.map(str::to_owned));
                name.is_none()
            });
        }
    }
    Converting {
        rule: Some(rule),
        nets,
        port_names,
    }
}

/// Decodes the policy with these rules.
fn attempt(resource: &mut Value, lists: &[Vec<Converting>; 2], issues: &Issues) -> Decoded {
    for (rules, list) in lists.iter().zip(LISTS) {
        if let Some(spec) = resource.get_mut("spec").and_then(Value::as_object_mut) {
            let kept: Vec<Value> = rules.iter().filter_map(|rule| rule.rule.clone()).collect();
            spec.insert(list.to_owned(), Value::Array(kept));
        }
    }
    decode_with(resource, issues.alike())
}

/// The position of the rule that a path lies in.
fn rule_of(path: &str, list: &str) -> Option<usize> {
    let rest = path.strip_prefix("spec.")?.strip_prefix(list)?.strip_prefix('[')?;
    rest.split_once(']')?.0.parse().ok()
}

/// What the policy may select. What cannot be read selects more, never less.
fn bad_policy(kind: Kind, key: Option<&ResourceKey>, metadata: &Metadata, map: &Map<String, Value>) -> BadPolicy {
    let spec = map.get("spec");
    let (selector, namespace_selector) = if kind.is_namespaced() {
        let pods = spec.and_then(|spec| spec.get("podSelector"));
        (selected(Of::Pods, pods), None)
    } else {
        let subject = |name: &str| {
            let subject = spec.and_then(|spec| spec.get("subject"))?.get(name);
            subject.filter(|value| !value.is_null())
        };
        match (subject("namespaces"), subject("pods")) {
            (Some(namespaces), None) => (selected(Of::Pods, None), selected(Of::Namespaces, Some(namespaces))),
            (None, Some(both)) if both.is_object() => (
                selected(Of::Pods, both.get("podSelector")),
                selected(Of::Namespaces, both.get("namespaceSelector")),
            ),
            _ => (selected(Of::Pods, None), None),
        }
    };
    let made_up = || format!("unnamed-{}", digest(&Value::Object(map.clone()).to_string()));
    let key = key.cloned().unwrap_or_else(|| match &metadata.namespace {
        None if kind.is_namespaced() => ResourceKey::new(Kind::GlobalNetworkPolicy, None, &made_up()),
        namespace => ResourceKey::new(kind, namespace.as_deref(), &made_up()),
    });
    BadPolicy {
        key,
        selector,
        namespace_selector,
        reason: String::new(),
    }
}

/// The pods that a `podSelector` selects; `None` if it cannot be read.
pub(super) fn pods(selector: Option<&Value>) -> Option<Selector> {
    selected(Of::Pods, selector)
}

/// A label selector; `None` if it cannot be read.
fn selected(of: Of, value: Option<&Value>) -> Option<Selector> {
    let faults = Faults::default();
    let at = value.filter(|value| !value.is_null()).map(|value| At {
        path: String::new(),
        value,
    });
    let text = selector(of, at, &faults);
    Selector::parse(&text).ok().filter(|_| faults.is_empty())
}
