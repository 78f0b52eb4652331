//! workloadEndpoint of Calico's v1 form.

use serde_json::{Value, json};

use super::{failed, good};

fn endpoint(metadata: Value, spec: Value) -> Value {
    let mut metadata = metadata;
    for (key, value) in [
        ("name", "eth0"),
        ("node", "host"),
        ("orchestrator", "k8s"),
        ("workload", "default.web"),
    ] {
        metadata.as_object_mut().unwrap().entry(key).or_insert(json!(value));
    }
    json!({"apiVersion": "v1", "kind": "workloadEndpoint", "metadata": metadata, "spec": spec})
}

#[test]
fn the_documented_sample() {
    let sample = json!({"apiVersion": "v1", "kind": "workloadEndpoint",
        "metadata": {"name": "eth0", "workload": "default.frontend-5gs43", "orchestrator": "k8s", "node": "rack1-host1",
            "labels": {"app": "frontend", "calico/k8s_ns": "default"}},
        "spec": {"interfaceName": "cali0ef24ba", "mac": "ca:fe:1d:52:bb:e9", "ipNetworks": ["192.168.0.0/32"], "profiles": ["profile1"]}});
    assert_eq!(
        good(sample),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"name": "rack1--host1-k8s-frontend--5gs43-eth0", "namespace": "default", "labels": {
                "app": "frontend", "projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s"}},
            "spec": {"orchestrator": "k8s", "node": "rack1-host1", "pod": "frontend-5gs43", "endpoint": "eth0",
                "ipNetworks": ["192.168.0.0/32"], "profiles": ["profile1"], "interfaceName": "cali0ef24ba", "mac": "ca:fe:1d:52:bb:e9"}})
    );
}

#[test]
fn workloads_by_orchestrator() {
    let ids = |orchestrator: &str, workload: &str| {
        let mut metadata = json!({"orchestrator": orchestrator, "workload": workload, "activeInstanceID": "1337"});
        metadata["labels"] = json!({"a": "b"});
        let wep = good(endpoint(metadata, json!({})));
        assert_eq!(
            wep["metadata"]["labels"]["projectcalico.org/orchestrator"],
            wep["spec"]["orchestrator"]
        );
        let found = ["pod", "containerID", "workload"].map(|key| wep["spec"][key].as_str().unwrap_or("").to_owned());
        (
            wep["metadata"]["name"].clone(),
            wep["metadata"]["namespace"].clone(),
            found,
        )
    };
    let wanted =
        |name: &str, namespace: &str, found: [&str; 3]| (json!(name), json!(namespace), found.map(str::to_owned));
    assert_eq!(
        ids("k8s", "shop.web.0"),
        wanted("host-k8s-web.0-eth0", "shop", ["web.0", "1337", ""])
    );
    assert_eq!(
        ids("cni", "abc.def"),
        wanted("host-cni-abc.def-eth0", "default", ["", "abc.def", ""])
    );
    assert_eq!(
        ids("libnetwork", "x"),
        wanted("host-libnetwork-libnetwork-eth0", "default", ["", "", "libnetwork"])
    );
    assert_eq!(
        ids("openstack", "vm-1"),
        wanted("host-openstack-vm--1-eth0", "default", ["", "", "vm-1"])
    );
    for workload in ["web", ".web", "default.", "default/web"] {
        assert_eq!(
            failed(endpoint(json!({"workload": workload}), json!({}))),
            "metadata.workload"
        );
    }
    for key in ["node", "orchestrator", "workload", "name"] {
        assert_eq!(failed(endpoint(json!({key: ""}), json!({}))), format!("metadata.{key}"));
    }
}

#[test]
fn names_are_normalised() {
    let wep = good(endpoint(
        json!({"node": "Rack_1//Host.-9.", "orchestrator": "openstack", "workload": "My/VM"}),
        json!({}),
    ));
    assert_eq!(wep["spec"]["node"], "rack-1.host.9");
    // Names other than the node's that had to be changed are kept apart by digits of their SHA-1.
    assert_eq!(wep["spec"]["workload"], "my.vm-368b5576");
}

#[test]
fn addresses_profiles_and_labels() {
    let wep = good(endpoint(
        json!({"labels": {"calico/k8s_ns": "shop"}}),
        json!({"ipNetworks": ["fd00::1/128", "10.0.0.1/32", "10.0.0.2"], "profiles": ["k8s_ns.shop", "p2"],
            "ipNATs": [{"internalIP": "fd00::1", "externalIP": "2001::1"}, {"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}],
            "ipv4Gateway": "10.0.0.254", "ipv6Gateway": "FD00::fe", "mac": "CA-FE-1D-52-BB-E9",
            "ports": [{"name": "ep1", "protocol": "tcp", "port": 80}]}),
    ));
    assert_eq!(wep["metadata"]["labels"]["projectcalico.org/namespace"], "shop");
    assert_eq!(
        wep["spec"],
        json!({"orchestrator": "k8s", "node": "host", "pod": "web", "endpoint": "eth0",
            "ipNetworks": ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"],
            "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}, {"internalIP": "fd00::1", "externalIP": "2001::1"}],
            "profiles": ["kns.shop", "p2"], "ports": [{"name": "ep1", "protocol": "TCP", "port": 80}],
            "ipv4Gateway": "10.0.0.254", "ipv6Gateway": "fd00::fe", "mac": "ca:fe:1d:52:bb:e9"})
    );
    let dotted = good(endpoint(json!({}), json!({"mac": "cafe.1d52.bbe9"})));
    assert_eq!(dotted["spec"]["mac"], "ca:fe:1d:52:bb:e9");
}

#[test]
fn faults() {
    let field = |spec: Value| failed(endpoint(json!({}), spec));
    assert_eq!(field(json!({"ipNetworks": ["x"]})), "spec.ipNetworks[0]");
    assert_eq!(
        field(json!({"ipNATs": [{"internalIP": "10.0.0.1"}]})),
        "spec.ipNATs[0].externalIP"
    );
    assert_eq!(field(json!({"ipv4Gateway": "x"})), "spec.ipv4Gateway");
    assert_eq!(field(json!({"profiles": [1]})), "spec.profiles[0]");
    assert_eq!(field(json!({"what": 1})), "spec.what");
    assert_eq!(failed(endpoint(json!({"what": 1}), json!({}))), "metadata.what");
}
