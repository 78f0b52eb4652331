//! NetworkPolicy of Kubernetes.

use serde_json::{Value, json};

use super::{failed, faulty, good};

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": spec})
}

fn ingress(rule: Value) -> Value {
    policy(json!({"podSelector": {}, "ingress": [rule]}))
}

/// Destination ports of the only rule for these ports.
fn ports(ports: Value) -> Value {
    let rules = good(ingress(json!({"ports": ports})))["spec"]["ingress"].clone();
    assert_eq!(rules.as_array().unwrap().len(), 1, "{rules}");
    rules[0]["destination"]["ports"].clone()
}

/// The rule is left out, and this field is at fault.
fn bad(rule: Value, field: &str) {
    let (policy, fields) = faulty(policy(
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1}]}, rule]}),
    ));
    assert_eq!(policy["spec"]["ingress"].as_array().unwrap().len(), 1, "{policy}");
    assert_eq!(policy["spec"]["types"], json!(["Ingress"]));
    assert_eq!(fields, [format!("spec.ingress[1]{field}")]);
}

#[test]
fn metadata_are_name_and_namespace() {
    assert_eq!(
        good(policy(json!({"podSelector": {}}))),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"tier": "default", "order": 1000, "selector": "projectcalico.org/orchestrator == 'k8s'",
                "types": ["Ingress"]}})
    );
    let mut bare = policy(json!({}));
    bare["metadata"] = json!({"name": "a.b.c"});
    let bare = good(bare);
    assert_eq!(bare["metadata"], json!({"name": "a.b.c", "namespace": "default"}));
    assert_eq!(
        failed(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"})),
        "metadata.name"
    );
}

#[test]
fn the_older_name_is_the_same() {
    let mut old = policy(json!({"podSelector": {}}));
    let new = good(old.clone());
    old["apiVersion"] = json!("extensions/v1beta1");
    assert_eq!(good(old), new);
}

#[test]
fn types() {
    let types = |spec| good(policy(spec))["spec"]["types"].clone();
    assert_eq!(
        types(json!({"policyTypes": ["Egress", "Ingress"]})),
        json!(["Ingress", "Egress"])
    );
    assert_eq!(
        types(json!({"policyTypes": ["Egress"], "ingress": [{}]})),
        json!(["Egress"])
    );
    assert_eq!(
        types(json!({"policyTypes": [], "egress": [{}]})),
        json!(["Ingress", "Egress"])
    );
    assert_eq!(types(json!({"egress": []})), json!(["Ingress"]));
    assert_eq!(
        failed(policy(json!({"policyTypes": ["egress"]}))),
        "spec.policyTypes[0]"
    );
    // Also where the egress rule is bad: the API server has filled it in by then.
    let (kept, _) = faulty(policy(json!({"egress": [{"to": [{"ipBlock": {"cidr": "x"}}]}]})));
    assert_eq!(kept["spec"]["types"], json!(["Ingress", "Egress"]));
    assert!(kept["spec"].get("egress").is_none());
}

#[test]
fn selectors() {
    let selector = |selector| good(policy(json!({"podSelector": selector})))["spec"]["selector"].clone();
    let k8s = "projectcalico.org/orchestrator == 'k8s'";
    assert_eq!(selector(json!(null)), k8s);
    assert_eq!(selector(json!({"matchLabels": {}, "matchExpressions": []})), k8s);
    assert_eq!(
        selector(json!({
            "matchLabels": {"b": "2", "a/x": "1", "c": ""},
            "matchExpressions": [
                {"key": "z", "operator": "In", "values": ["b", "a"]},
                {"key": "y", "operator": "NotIn", "values": ["a"]},
                {"key": "x", "operator": "Exists"},
                {"key": "w", "operator": "DoesNotExist", "values": []},
            ]
        })),
        format!(
            "{k8s} && a/x == '1' && b == '2' && c == '' && z in {{ 'b', 'a' }} && y not in {{ 'a' }} && has(x) && ! has(w)"
        )
    );
    for bad in [
        json!("app == 'x'"),
        json!({"matchLabels": {"a": 1}}),
        json!({"matchLabels": {"a b": "1"}}),
        json!({"matchLabels": {"a": "it's"}}),
        json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        json!({"matchExpressions": [{"operator": "Exists"}]}),
        json!({"matchFields": {}}),
    ] {
        let field = failed(policy(json!({"podSelector": bad})));
        assert!(field.starts_with("spec.podSelector"), "{field}");
    }
}

#[test]
fn peers() {
    let from = |peers| good(ingress(json!({"from": peers})))["spec"]["ingress"].clone();
    let k8s = "projectcalico.org/orchestrator == 'k8s'";
    assert_eq!(from(json!([])), json!([{"action": "Allow"}]));
    assert_eq!(
        from(json!([{}])),
        json!([{"action": "Allow", "source": {"selector": k8s}}])
    );
    assert_eq!(
        from(json!([{"namespaceSelector": {}}, {"podSelector": {"matchLabels": {"a": "b"}}}])),
        json!([
            {"action": "Allow", "source": {"selector": k8s, "namespaceSelector": "all()"}},
            {"action": "Allow", "source": {"selector": format!("{k8s} && a == 'b'")}},
        ])
    );
    assert_eq!(
        from(
            json!([{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "podSelector": null}])
        ),
        json!([{"action": "Allow", "source": {"selector": k8s, "namespaceSelector": "has(a)"}}])
    );
    assert_eq!(
        from(
            json!([{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.9.9/16"]}}, {"ipBlock": {"cidr": "FD00:0::1/64"}}])
        ),
        json!([
            {"action": "Allow", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.9.0.0/16"]}},
            {"action": "Allow", "source": {"nets": ["fd00::/64"]}},
        ])
    );
}

#[test]
fn egress_peers_and_ports_are_both_destinations() {
    let policy = good(policy(json!({"podSelector": {}, "egress": [
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]})));
    let k8s = "projectcalico.org/orchestrator == 'k8s'";
    let rule = |protocol: &str, mut destination: Value| {
        destination["ports"] = json!([53]);
        json!({"action": "Allow", "protocol": protocol, "destination": destination})
    };
    assert_eq!(
        policy["spec"]["egress"],
        json!([
            rule("TCP", json!({"nets": ["10.0.0.0/8"]})),
            rule("TCP", json!({"selector": k8s})),
            rule("UDP", json!({"nets": ["10.0.0.0/8"]})),
            rule("UDP", json!({"selector": k8s})),
        ])
    );
}

#[test]
fn groups_by_protocol() {
    let rules = good(ingress(json!({"ports": [
        {"protocol": "UDP", "port": 1}, {"port": 2}, {"protocol": "SCTP"}, {"protocol": "UDP", "port": "dns"}, {"protocol": "SCTP", "port": 9}]})));
    assert_eq!(
        rules["spec"]["ingress"],
        json!([
            {"action": "Allow", "protocol": "SCTP"},
            {"action": "Allow", "protocol": "TCP", "destination": {"ports": [2]}},
            {"action": "Allow", "protocol": "UDP", "destination": {"ports": [1, "dns"]}},
        ])
    );
    assert_eq!(ports(json!([{"port": 1}, {}])), Value::Null);
    assert_eq!(ports(json!([{}, {"port": 1}])), Value::Null);
}

#[test]
fn ports_of_a_group() {
    let port = |port: Value| json!({"port": port});
    assert_eq!(ports(json!([port(json!("http"))])), json!(["http"]));
    assert_eq!(ports(json!([port(json!("080"))])), json!([80]));
    assert_eq!(ports(json!([port(json!(0))])), json!([0]));
    // One entry stays as it is.
    assert_eq!(ports(json!([{"port": 80, "endPort": 90}])), json!(["80:90"]));
    assert_eq!(ports(json!([{"port": "80", "endPort": 80}])), json!([80]));
    // Without a port it says nothing.
    assert_eq!(ports(json!([{"endPort": 80}])), Value::Null);
    assert_eq!(ports(json!([{"port": null, "endPort": 80}, {"port": 1}])), Value::Null);
    // One number among names stays where it is.
    assert_eq!(
        ports(json!([port(json!(80)), port(json!("b")), port(json!("a"))])),
        json!([80, "b", "a"])
    );
    // Two or more are sorted behind the names, neighbours merged; a range counts as its numbers.
    assert_eq!(
        ports(json!([
            port(json!(82)),
            port(json!("b")),
            port(json!(80)),
            port(json!(81)),
            port(json!("a"))
        ])),
        json!(["b", "a", "80:82"])
    );
    assert_eq!(
        ports(json!([{"port": 80, "endPort": 81}, port(json!("a"))])),
        json!(["a", "80:81"])
    );
    assert_eq!(ports(json!([port(json!(80)), port(json!(80))])), json!([80]));
    assert_eq!(
        ports(
            json!([{"port": 81, "endPort": 90}, port(json!(4)), port(json!(2)), {"port": 80, "endPort": 81}, port(json!(3)), port(json!(9090))])
        ),
        json!(["2:4", "80:90", 9090])
    );
    assert_eq!(
        ports(json!([port(json!(65535)), {"port": 0, "endPort": 65534}])),
        json!(["0:65535"])
    );
}

#[test]
fn bad_rules_are_left_out() {
    let port = |port: Value| json!({"ports": [port]});
    bad(port(json!({"port": 80, "endPort": 79})), ".ports[0].endPort");
    bad(port(json!({"port": 80, "endPort": 65536})), ".ports[0].endPort");
    bad(port(json!({"port": "http", "endPort": 80})), ".ports[0].endPort");
    bad(port(json!({"port": 65536})), ".ports[0].port");
    bad(port(json!({"port": -1})), ".ports[0].port");
    bad(port(json!({"port": 1.5})), ".ports[0].port");
    bad(port(json!({"port": ""})), ".ports[0].port");
    bad(port(json!({"port": "80:90"})), ".ports[0].port");
    bad(port(json!({"port": "x".repeat(129)})), ".ports[0].port");
    bad(port(json!({"port": 80, "protocol": "ICMP"})), ".ports[0].protocol");
    bad(port(json!({"port": 80, "proto": "TCP"})), ".ports[0].proto");
    bad(port(json!("80")), ".ports[0]");
    let peer = |peer: Value| json!({"from": [{"podSelector": {}}, peer]});
    bad(peer(json!({"ipBlock": {"cidr": "10.0.0.1"}})), ".from[1].ipBlock.cidr");
    bad(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
        ".from[1].ipBlock.cidr",
    );
    bad(peer(json!({"ipBlock": {}})), ".from[1].ipBlock.cidr");
    bad(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}})),
        ".from[1].ipBlock.except[0]",
    );
    bad(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
        ".from[1].podSelector",
    );
    bad(peer(json!({"serviceSelector": {}})), ".from[1].serviceSelector");
    bad(
        peer(json!({"podSelector": {"matchLabels": {"a": ["b"]}}})),
        ".from[1].podSelector.matchLabels.a",
    );
    bad(json!({"to": []}), ".to");
    bad(json!("x"), "");
    assert_eq!(ports(json!([{"port": "x".repeat(128)}])), json!(["x".repeat(128)]));
}

#[test]
fn unknown_fields_elsewhere_are_told() {
    let (_, fields) = faulty(policy(json!({"podSelector": {}, "order": 5})));
    assert_eq!(fields, ["spec.order"]);
}
