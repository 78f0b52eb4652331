//! What is in force of a record that is not good, and what policy tests make of it.

use felid_model::{Decoded, Issue, Resource, Severity, decode_literal, decode_value};
use serde_json::{Value, json};

fn policy(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

fn has_error(issues: &[Issue]) -> bool {
    issues.iter().any(|issue| issue.severity == Severity::Error)
}

/// Records whose meaning is plain although the schema forbids them.
fn forbidden() -> Vec<Value> {
    let rule = |rule: Value| policy("GlobalNetworkPolicy", json!({"ingress": [rule]}));
    vec![
        rule(json!({"action": "Allow", "destination": {"ports": [80]}})),
        rule(json!({"action": "Allow", "protocol": 47, "destination": {"ports": [80]}})),
        rule(json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "fd00::/8"]}})),
        rule(json!({"action": "Allow", "source": {"nets": ["10.0.0.1", "10.0.0.1/8"]}})),
        rule(json!({"action": "Deny", "source": {"notNets": ["0.0.0.0/0"]}})),
        rule(json!({"action": "Deny", "icmp": {"type": 8}})),
        rule(json!({"action": "Deny", "protocol": "ICMP", "ipVersion": 6})),
        rule(json!({"action": "Deny", "source": {"services": {"name": "s"}, "selector": "has(a)"}})),
        rule(json!({"action": "Deny", "source": {"selector": "global()"}})),
        rule(json!({"action": "Deny", "protocol": "TCP", "source": {"ports": ["A_B"]}})),
        policy("GlobalNetworkPolicy", json!({"types": ["Ingress", "Ingress"]})),
        policy("GlobalNetworkPolicy", json!({"preDNAT": true})),
        policy("StagedNetworkPolicy", json!({"stagedAction": "Delete", "order": 1})),
        policy("Tier", json!({"order": 1, "defaultAction": "Deny"})).tap("kube-admin"),
        policy("NetworkPolicy", json!({})).tap("a.b.C"),
    ]
}

trait Named {
    fn tap(self, name: &str) -> Self;
}

impl Named for Value {
    fn tap(mut self, name: &str) -> Self {
        self["metadata"]["name"] = name.into();
        self
    }
}

#[test]
fn what_the_schema_forbids_is_bad_but_can_be_taken_as_it_stands() {
    for record in forbidden() {
        match decode_value(&record) {
            Decoded::Bad { issues, .. } => assert!(has_error(&issues), "{record}"),
            other => panic!("{record}\n{other:?}"),
        }
        match decode_literal(&record) {
            Decoded::Resource { issues, .. } => assert!(has_error(&issues), "{record}"),
            other => panic!("{record}\n{other:?}"),
        }
    }
    // What cannot be read stays bad.
    for spec in [
        json!({"selector": "a =="}),
        json!({"ingress": [{"action": "allow"}]}),
        json!({"ingress": [{"action": "Allow", "protocol": "TCP", "source": {"ports": ["80:"]}}]}),
        json!({"selektor": "all()"}),
    ] {
        let record = policy("NetworkPolicy", spec);
        assert!(matches!(decode_literal(&record), Decoded::Bad { .. }), "{record}");
    }
}

#[test]
fn literal_networks_are_masked() {
    let record = policy(
        "NetworkPolicy",
        json!({"ingress": [{"action": "Allow", "source": {"nets": ["10.0.0.1", "10.0.0.1/8", "fd00::1/64"]}}]}),
    );
    let Decoded::Resource {
        resource: Resource::Policy(policy),
        ..
    } = decode_literal(&record)
    else {
        panic!()
    };
    let nets: Vec<String> = policy.ingress[0].source.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.1/32", "10.0.0.0/8", "fd00::/64"]);
}

#[test]
fn bad_policies_close_and_staged_ones_do_not() {
    for (kind, spec, closes) in [
        ("NetworkPolicy", json!({"x": 1}), true),
        ("GlobalNetworkPolicy", json!({"order": "1"}), true),
        ("StagedNetworkPolicy", json!({"x": 1}), false),
        ("StagedGlobalNetworkPolicy", json!({"order": "1"}), false),
        // It would never hold for a workload.
        (
            "GlobalNetworkPolicy",
            json!({"doNotTrack": true, "applyOnForward": true, "x": 1}),
            false,
        ),
    ] {
        match decode_value(&policy(kind, spec)) {
            Decoded::Bad { bad_policy, .. } => assert_eq!(bad_policy.is_some(), closes, "{kind}"),
            other => panic!("{other:?}"),
        }
    }
}
