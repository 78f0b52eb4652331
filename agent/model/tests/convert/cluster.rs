//! ClusterNetworkPolicy and its older forms.

use serde_json::{Value, json};

use super::{failed, faulty, good};

const K8S: &str = "projectcalico.org/orchestrator == 'k8s'";

fn policy(spec: Value) -> Value {
    let mut spec = spec;
    for (key, value) in [
        ("tier", json!("Admin")),
        ("priority", json!(5)),
        ("subject", json!({"namespaces": {}})),
    ] {
        spec.as_object_mut().unwrap().entry(key).or_insert(value);
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec})
}

fn egress(rule: Value) -> Value {
    good(policy(json!({"egress": [rule]})))["spec"]["egress"].clone()
}

/// What becomes of the rule by its action; this field of it is at fault.
fn bad(rule: Value, field: &str) {
    for (action, wanted) in [
        ("Accept", json!(null)),
        ("Deny", json!([{"action": "Deny"}])),
        ("Pass", json!([{"action": "Deny"}])),
    ] {
        let mut rule = rule.clone();
        rule["action"] = json!(action);
        rule["name"] = json!("named");
        let (policy, fields) = faulty(policy(json!({"egress": [rule]})));
        assert_eq!(policy["spec"]["egress"], wanted, "{rule}");
        let types = if action == "Accept" {
            json!(null)
        } else {
            json!(["Egress"])
        };
        assert_eq!(policy["spec"]["types"], types);
        assert_eq!(fields, [format!("spec.egress[0]{field}")], "{rule}");
    }
}

#[test]
fn tier_order_and_subject() {
    assert_eq!(
        good(policy(json!({}))),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"},
            "spec": {"tier": "kube-admin", "order": 5, "selector": K8S, "namespaceSelector": "all()"}})
    );
    let spec = |spec| good(policy(spec))["spec"].clone();
    assert_eq!(
        spec(json!({"tier": "Baseline", "priority": 0}))["tier"],
        "kube-baseline"
    );
    assert_eq!(spec(json!({"tier": "Baseline", "priority": 0}))["order"], 0);
    let by_pods = spec(json!({"subject": {"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}}));
    assert_eq!(by_pods["selector"], format!("{K8S} && a == 'b'"));
    assert_eq!(by_pods["namespaceSelector"], "all()");
    let by_pods = spec(json!({"subject": {"pods": {"namespaceSelector": {"matchLabels": {"a": "b"}}}}}));
    assert_eq!(
        (&by_pods["selector"], &by_pods["namespaceSelector"]),
        (&json!(K8S), &json!("a == 'b'"))
    );
    assert_eq!(failed(policy(json!({"tier": "Application"}))), "spec.tier");
    assert_eq!(failed(policy(json!({"tier": null}))), "spec.tier");
    assert_eq!(failed(policy(json!({"subject": null}))), "spec.subject");
    assert_eq!(failed(policy(json!({"subject": {}}))), "spec.subject");
    assert_eq!(failed(policy(json!({"subject": {"nodes": {}}}))), "spec.subject.nodes");
    assert_eq!(
        failed(policy(json!({"subject": {"namespaces": {}, "pods": {}}}))),
        "spec.subject.pods"
    );
    assert_eq!(failed(policy(json!({"priority": "5"}))), "spec.priority");
}

#[test]
fn actions_names_and_peers() {
    let to = json!([{"namespaces": {}}, {"pods": {"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}},
        {"networks": ["10.0.0.1/8", "fd00::1/64"]}]);
    for (action, calico) in [("Accept", "Allow"), ("Deny", "Deny"), ("Pass", "Pass")] {
        let rule = |destination| json!({"action": calico, "destination": destination, "metadata": {"annotations": {"name": "x y"}}});
        assert_eq!(
            egress(json!({"name": "x y", "action": action, "to": to})),
            json!([
                rule(json!({"namespaceSelector": "all()"})),
                rule(json!({"selector": K8S, "namespaceSelector": "a == 'b'"})),
                rule(json!({"nets": ["10.0.0.0/8", "fd00::/64"]})),
            ])
        );
    }
}

#[test]
fn groups() {
    let tcp = |port: Value| json!({"tcp": {"destinationPort": port}});
    let rules = egress(json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": [
        {"udp": {}}, tcp(json!({"range": {"start": 90, "end": 91}})), {"destinationNamedPort": "80"}, tcp(json!({"number": 89})),
        {"udp": {"destinationPort": {"number": 5}}}, {"destinationNamedPort": "web"}, {"sctp": {"destinationPort": {"range": {"start": 7, "end": 7}}}}]}));
    let rule = |protocol: Option<&str>, ports: Option<Value>| {
        let mut rule = json!({"action": "Deny"});
        if let Some(protocol) = protocol {
            rule["protocol"] = json!(protocol);
        }
        rule["destination"] = json!({"namespaceSelector": "all()"});
        if let Some(ports) = ports {
            rule["destination"]["ports"] = ports;
        }
        rule
    };
    assert_eq!(
        rules,
        json!([
            rule(None, Some(json!(["80", "web"]))),
            rule(Some("SCTP"), Some(json!([7]))),
            rule(Some("TCP"), Some(json!(["89:91"]))),
            rule(Some("UDP"), None),
        ])
    );
    let everything =
        egress(json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": [tcp(json!({"number": 1})), {}]}));
    assert_eq!(everything, json!([rule(None, None)]));
}

#[test]
fn ingress_peers_are_sources() {
    let rules = good(policy(
        json!({"ingress": [{"action": "Pass", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}]}),
    ));
    assert_eq!(
        rules["spec"]["ingress"],
        json!([{"action": "Pass", "source": {"namespaceSelector": "a == 'b'"}}])
    );
    assert_eq!(rules["spec"]["types"], json!(["Ingress"]));
    // Networks are peers of egress only.
    let (closed, fields) = faulty(policy(
        json!({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]}),
    ));
    assert_eq!(closed["spec"]["ingress"], json!([{"action": "Deny"}]));
    assert_eq!(fields, ["spec.ingress[0].from[0].networks"]);
}

#[test]
fn bad_rules_close() {
    bad(json!({"to": [{"nodes": {"matchLabels": {"a": "b"}}}]}), ".to[0].nodes");
    bad(json!({"to": [{"domainNames": ["example.com"]}]}), ".to[0].domainNames");
    bad(json!({"to": [{}]}), ".to[0]");
    bad(json!({"to": [{"namespaces": null, "pods": null}]}), ".to[0]");
    bad(json!({"to": [{"networks": []}]}), ".to[0]");
    bad(json!({"to": [{"networks": ["10.0.0.0"]}]}), ".to[0].networks[0]");
    bad(json!({"to": []}), ".to");
    bad(json!({}), ".to");
    let to = json!([{"namespaces": {}}]);
    let protocols = |entry: Value| json!({"to": to, "protocols": [entry]});
    bad(
        protocols(json!({"tcp": {"destinationPort": {"range": {"start": 2, "end": 1}}}})),
        ".protocols[0].tcp.destinationPort.range.end",
    );
    bad(
        protocols(json!({"tcp": {"destinationPort": {"number": 65536}}})),
        ".protocols[0].tcp.destinationPort.number",
    );
    bad(
        protocols(json!({"tcp": {"destinationPort": {"number": 0}}})),
        ".protocols[0].tcp.destinationPort.number",
    );
    bad(
        protocols(json!({"tcp": {"sourcePort": {"number": 1}}})),
        ".protocols[0].tcp.sourcePort",
    );
    bad(protocols(json!({"icmp": {}})), ".protocols[0].icmp");
    bad(
        protocols(json!({"destinationNamedPort": "a:b"})),
        ".protocols[0].destinationNamedPort",
    );
    bad(json!({"to": to, "ports": []}), ".ports");
}

#[test]
fn unknown_actions_are_left_out() {
    for action in [json!("Allow"), json!("deny"), json!(""), json!(null)] {
        let (policy, fields) = faulty(policy(
            json!({"ingress": [{"action": action, "from": [{"namespaces": {}}]}]}),
        ));
        assert_eq!(policy["spec"]["ingress"], Value::Null);
        assert_eq!(fields, ["spec.ingress[0].action"]);
    }
}

#[test]
fn the_older_forms() {
    let spec = json!({"priority": 7, "subject": {"namespaces": {}},
        "ingress": [{"name": "n", "action": "Allow", "from": [{"pods": {"podSelector": {}}}], "ports": [
            {"portNumber": {"port": 80}}, {"portNumber": {"port": 53, "protocol": "UDP"}}, {"namedPort": "web"},
            {"portRange": {"start": 81, "end": 82}}]}],
        "egress": [
            {"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}]},
            {"action": "Pass", "to": [{"nodes": {}}]},
            {"action": "Allow", "to": [{"domainNames": ["a.example"]}]},
            {"action": "Accept", "to": [{"namespaces": {}}]}]});
    let source = json!({"selector": K8S, "namespaceSelector": "all()"});
    let metadata = json!({"annotations": {"name": "n"}});
    for (kind, tier, order) in [
        ("AdminNetworkPolicy", "kube-admin", 7),
        ("BaselineAdminNetworkPolicy", "kube-baseline", 1000),
    ] {
        let mut spec = spec.clone();
        if kind.starts_with("Baseline") {
            spec.as_object_mut().unwrap().remove("priority");
        }
        let (policy, fields) = faulty(json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind,
            "metadata": {"name": "default"}, "spec": spec}));
        assert_eq!(policy["kind"], "GlobalNetworkPolicy");
        assert_eq!(
            (&policy["spec"]["tier"], &policy["spec"]["order"]),
            (&json!(tier), &json!(order))
        );
        assert_eq!(
            policy["spec"]["ingress"],
            json!([
                {"action": "Allow", "source": source, "destination": {"ports": ["web"]}, "metadata": metadata},
                {"action": "Allow", "protocol": "TCP", "source": source, "destination": {"ports": ["80:82"]}, "metadata": metadata},
                {"action": "Allow", "protocol": "UDP", "source": source, "destination": {"ports": [53]}, "metadata": metadata},
            ])
        );
        assert_eq!(
            policy["spec"]["egress"],
            json!([{"action": "Deny", "destination": {"nets": ["10.0.0.0/8"]}}, {"action": "Deny"}])
        );
        assert_eq!(policy["spec"]["types"], json!(["Ingress", "Egress"]));
        let at = |rest: &str| format!("spec.egress{rest}");
        assert_eq!(
            fields,
            [at("[1].to[0].nodes"), at("[2].to[0].domainNames"), at("[3].action")]
        );
    }
}
