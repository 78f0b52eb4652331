//! Pods.

use std::collections::BTreeMap;

use felid_model::convert::{Conversion, convert};
use serde_json::{Value, json};

use super::{failed, good};

/// A pod with annotations and a status.
fn pod(annotations: Value, status: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
        "spec": {"nodeName": "node1", "containers": null}, "status": status})
}

/// spec.ipNetworks
fn nets(annotations: Value, status: Value) -> Value {
    good(pod(annotations, status))["spec"]["ipNetworks"].clone()
}

#[test]
fn identity_labels_and_annotations() {
    let long = "a".repeat(63);
    let pod = |account: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "my-web", "namespace": "shop", "generateName": "my-", "labels": {
                "app": "web", "pcns.x": "kept", "projectcalico.org/namespace": "forged", "projectcalico.org/orchestrator": "forged"},
                "annotations": {"other": "x", "k8s.v1.cni.cncf.io/network-status": "[{}]", "cni.projectcalico.org/containerID": "abc",
                    "cni.projectcalico.org/hwAddr": "02:00:00:00:00:01"}},
            "spec": {"nodeName": "node-1", "serviceAccountName": account, "containers": [{"image": "x"}], "tolerations": [{}]},
            "status": {"phase": "Running", "conditions": []}})
    };
    let labels = |account: Option<&str>| {
        let mut labels = json!({"app": "web", "pcns.x": "kept", "projectcalico.org/namespace": "shop",
            "projectcalico.org/orchestrator": "k8s"});
        if let Some(account) = account {
            labels["projectcalico.org/serviceaccount"] = json!(account);
        }
        labels
    };
    let wep = good(pod("robot"));
    assert_eq!(
        wep,
        json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"name": "node--1-k8s-my--web-eth0", "namespace": "shop", "generateName": "my-", "labels": labels(Some("robot")),
                "annotations": {"k8s.v1.cni.cncf.io/network-status": "[{}]"}},
            "spec": {"orchestrator": "k8s", "node": "node-1", "containerID": "abc", "pod": "my-web", "endpoint": "eth0",
                "serviceAccountName": "robot", "profiles": ["kns.shop", "ksa.shop.robot"],
                "interfaceName": wep["spec"]["interfaceName"]}})
    );
    // Eleven digits of sha1("shop.my-web").
    assert_eq!(wep["spec"]["interfaceName"].as_str().unwrap().len(), 15);
    let wep = good(pod(&long));
    assert_eq!(wep["metadata"]["labels"], labels(None));
    assert_eq!(wep["spec"]["serviceAccountName"], json!(long));
    assert_eq!(wep["spec"]["profiles"][1], format!("ksa.shop.{long}"));
    assert_eq!(good(pod(&long[1..]))["metadata"]["labels"], labels(Some(&long[1..])));
}

#[test]
fn pods_that_are_not_shown() {
    for (key, value) in [("hostNetwork", json!(true)), ("nodeName", json!(""))] {
        let mut pod = pod(json!({}), json!({"podIP": "not looked at"}));
        pod["spec"][key] = value;
        assert!(matches!(convert(&pod), Conversion::Nothing(_)), "{pod}");
    }
    let mut pod = pod(json!({}), json!({}));
    pod["spec"]["nodeName"] = json!("-node");
    assert_eq!(failed(pod), "spec.nodeName");
}

#[test]
fn addresses_by_their_places() {
    let mut annotations = json!({});
    let mut status = json!({});
    assert_eq!(nets(annotations.clone(), status.clone()), Value::Null);
    // Each place is asked before the ones above it here.
    annotations["vpc.amazonaws.com/pod-ips"] = json!("10.0.0.1,10.0.0.2");
    assert_eq!(
        nets(annotations.clone(), status.clone()),
        json!(["10.0.0.1/32", "10.0.0.2/32"])
    );
    annotations["cni.projectcalico.org/podIP"] = json!("10.0.0.3/32");
    assert_eq!(nets(annotations.clone(), status.clone()), json!(["10.0.0.3/32"]));
    annotations["cni.projectcalico.org/podIPs"] = json!("10.0.0.4/32,FD00:0:0::4");
    assert_eq!(
        nets(annotations.clone(), status.clone()),
        json!(["10.0.0.4/32", "fd00::4/128"])
    );
    status["podIP"] = json!("10.0.0.5");
    assert_eq!(nets(annotations.clone(), status.clone()), json!(["10.0.0.5/32"]));
    status["podIPs"] = json!([]);
    assert_eq!(nets(annotations.clone(), status.clone()), json!(["10.0.0.5/32"]));
    status["podIPs"] = json!([{"ip": "fd00::6"}, {"ip": "10.0.0.6"}]);
    assert_eq!(nets(annotations, status), json!(["fd00::6/128", "10.0.0.6/32"]));
}

#[test]
fn bad_addresses() {
    assert_eq!(
        failed(pod(json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "x"}]}))),
        "status.podIPs[1].ip"
    );
    assert_eq!(failed(pod(json!({}), json!({"podIPs": [{}]}))), "status.podIPs[0].ip");
    assert_eq!(failed(pod(json!({}), json!({"podIP": "10.0.0.256"}))), "status.podIP");
    for text in ["x", "10.0.0.1,", "10.0.0.1, 10.0.0.2", "10.0.0.1/33"] {
        let key = "cni.projectcalico.org/podIPs";
        assert_eq!(
            failed(pod(json!({key: text}), json!({}))),
            format!("metadata.annotations.{key}")
        );
    }
    // Only the singular annotation is one address.
    failed(pod(
        json!({"cni.projectcalico.org/podIP": "10.0.0.1,10.0.0.2"}),
        json!({}),
    ));
}

#[test]
fn finished_pods_lose_their_addresses() {
    let floating = json!({"cni.projectcalico.org/floatingIPs": "[\"1.1.1.1\"]"});
    for phase in ["Succeeded", "Failed", "Completed"] {
        let wep = good(pod(floating.clone(), json!({"phase": phase, "podIP": "10.0.0.1"})));
        assert_eq!(
            (&wep["spec"]["ipNetworks"], &wep["spec"]["ipNATs"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(wep["spec"]["profiles"], json!(["kns.shop"]));
    }
    for phase in ["Pending", "Running", "Unknown"] {
        assert_eq!(
            nets(json!({}), json!({"phase": phase, "podIP": "10.0.0.1"})),
            json!(["10.0.0.1/32"])
        );
    }
    for key in ["cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips"] {
        let mut pod = pod(json!({key: ""}), json!({"phase": "Running", "podIP": "10.0.0.1"}));
        assert_eq!(good(pod.clone())["spec"]["ipNetworks"], json!(["10.0.0.1/32"]));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(good(pod.clone())["spec"]["ipNetworks"], Value::Null);
        pod["metadata"]["annotations"] = json!({});
        assert_eq!(good(pod)["spec"]["ipNetworks"], json!(["10.0.0.1/32"]));
    }
}

#[test]
fn floating_addresses() {
    let nats = |text: &str, ips: &str| {
        let annotations = json!({"cni.projectcalico.org/floatingIPs": text, "cni.projectcalico.org/podIPs": ips});
        good(pod(annotations, json!({})))["spec"]["ipNATs"].clone()
    };
    let nat = |internal: &str, external: &str| json!({"internalIP": internal, "externalIP": external});
    let both = "10.0.0.1,fd00::1";
    assert_eq!(
        nats("[\"1.1.1.1\", \"2001::1\", \"1.1.1.2\"]", both),
        json!([
            nat("10.0.0.1", "1.1.1.1"),
            nat("fd00::1", "2001::1"),
            nat("10.0.0.1", "1.1.1.2")
        ])
    );
    assert_eq!(
        nats("[\"1.1.1.1\", \"2001::1\"]", "10.0.0.1"),
        json!([nat("10.0.0.1", "1.1.1.1")])
    );
    assert_eq!(nats("not JSON", ""), Value::Null);
    assert_eq!(nats("[]", both), Value::Null);
    for bad in ["", "x", "\"1.1.1.1\"", "[1]", "{}"] {
        let key = "cni.projectcalico.org/floatingIPs";
        assert_eq!(
            failed(pod(json!({key: bad}), json!({"podIP": "10.0.0.1"}))),
            format!("metadata.annotations.{key}")
        );
    }
}

#[test]
fn source_prefixes() {
    let key = "cni.projectcalico.org/allowedSourcePrefixes";
    let prefixes = |text: &str| good(pod(json!({key: text}), json!({})))["spec"]["allowSpoofedSourcePrefixes"].clone();
    assert_eq!(
        prefixes("[\"8.8.8.8/32\", \"1.1.1.1/24\", \"fd00::1/64\"]"),
        json!(["8.8.8.8/32", "1.1.1.0/24", "fd00::/64"])
    );
    assert_eq!(prefixes(""), Value::Null);
    for bad in ["[\"\"]", "[\"gumbo\"]", "[\"1.1.1.1\"]", "1.1.1.1/32", "[1]", "{}"] {
        assert_eq!(
            failed(pod(json!({key: bad}), json!({}))),
            format!("metadata.annotations.{key}")
        );
    }
}

#[test]
fn ports() {
    let mut pod = pod(json!({}), json!({}));
    pod["spec"]["containers"] = json!([
        {"ports": [{"name": "a", "containerPort": 1}, {"containerPort": 2}, {"containerPort": 3, "hostPort": 33, "hostIP": "::1"},
            {"name": "zero", "containerPort": 0}, {"name": "none"}]},
        {"ports": [{"name": "a", "containerPort": 4, "protocol": "UDP"}, {"name": "icmp", "containerPort": 5, "protocol": "ICMP"}]},
        {},
        {"ports": null},
    ]);
    pod["spec"]["initContainers"] =
        json!([{"ports": [{"name": "i", "containerPort": 6, "protocol": "SCTP", "hostPort": 0}]}]);
    assert_eq!(
        good(pod.clone())["spec"]["ports"],
        json!([
            {"name": "a", "protocol": "TCP", "port": 1},
            {"protocol": "TCP", "port": 3, "hostPort": 33, "hostIP": "::1"},
            {"name": "a", "protocol": "UDP", "port": 4},
            {"name": "i", "protocol": "SCTP", "port": 6},
        ])
    );
    pod["spec"]["containers"] = json!([{"ports": [{"containerPort": "80"}]}]);
    assert_eq!(failed(pod), "spec.containers[0].ports[0].containerPort");
}

/// `qosControls` for annotations, whose names lack `qos.projectcalico.org/` if they hold no `/`.
fn qos(annotations: &[(&str, &str)]) -> Value {
    let name = |name: &str| {
        if name.contains('/') {
            name.to_owned()
        } else {
            format!("qos.projectcalico.org/{name}")
        }
    };
    let annotations: BTreeMap<String, &str> = annotations.iter().map(|(key, value)| (name(key), *value)).collect();
    good(pod(json!(annotations), json!({})))["spec"]["qosControls"].clone()
}

#[test]
fn limits_are_clamped() {
    let all = |values: [&str; 7]| {
        let names = [
            "Bandwidth",
            "Burst",
            "Peakrate",
            "Minburst",
            "PacketRate",
            "PacketBurst",
            "MaxConnections",
        ];
        let names: Vec<String> = names.iter().map(|name| format!("egress{name}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values).collect();
        let qos = qos(&pairs);
        names.iter().map(|name| qos[name].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        all(["1M", "3M", "5M", "7M", "2k", "1k", "13M"]),
        [1_000_000, 3_000_000, 5_000_000, 7_000_000, 2000, 1000, 13_000_000]
    );
    assert_eq!(
        all(["1", "3", "5", "7", "0", "0", "0"]),
        [1000, 1000, 1010, 1000, 1, 1, 1]
    );
    assert_eq!(
        all(["20P", "40P", "50P", "8Gi", "60P", "70P", "80P"]),
        [
            1_000_000_000_000_000,
            34_359_738_360,
            1_010_000_000_000_000,
            100_000_000,
            10_000,
            10_000,
            4_294_967_295
        ]
    );
}

#[test]
fn limits_need_each_other() {
    assert_eq!(
        qos(&[
            ("ingressBurst", "1M"),
            ("egressPeakrate", "1M"),
            ("egressMinburst", "1M"),
            ("ingressPacketBurst", "5")
        ]),
        Value::Null
    );
    assert_eq!(
        qos(&[
            ("ingressBandwidth", "2M"),
            ("ingressPeakrate", "2M"),
            ("ingressMinburst", "1M")
        ]),
        json!({"ingressBandwidth": 2_000_000, "ingressBurst": 4_294_967_296_u64})
    );
    assert_eq!(
        qos(&[("egressPacketRate", "7")]),
        json!({"egressPacketRate": 7, "egressPacketBurst": 5})
    );
    // A burst that does not parse is as if it were not said.
    assert_eq!(
        qos(&[("egressBandwidth", "1k"), ("egressBurst", "much")]),
        json!({"egressBandwidth": 1000, "egressBurst": 4_294_967_296_u64})
    );
    assert_eq!(qos(&[("egressBandwidth", "much")]), Value::Null);
}

#[test]
fn bandwidth_of_kubernetes() {
    let k8s = ("kubernetes.io/ingress-bandwidth", "1M");
    let limits = |bandwidth: u64| json!({"ingressBandwidth": bandwidth, "ingressBurst": 4_294_967_296_u64});
    assert_eq!(qos(&[k8s]), limits(1_000_000));
    assert_eq!(qos(&[k8s, ("ingressBandwidth", "2M")]), limits(2_000_000));
    assert_eq!(qos(&[k8s, ("ingressBandwidth", "much")]), Value::Null);
}

#[test]
fn dscp() {
    for (text, value) in [
        ("AF11", json!("AF11")),
        ("cs5", json!("CS5")),
        ("Df", json!("DF")),
        ("EF", json!("EF")),
        ("0", json!(0)),
        ("63", json!(63)),
    ] {
        assert_eq!(qos(&[("dscp", text)]), json!({"dscp": value}));
    }
    for text in ["64", "300", "-1", "AF14", "AF1", "CS7", "", "x"] {
        assert_eq!(qos(&[("dscp", text)]), Value::Null, "{text}");
    }
}
