//! Workload and host endpoints.

use std::net::IpAddr;

use felid_model::{HostEndpoint, Resource, WorkloadEndpoint};

use crate::{check, errors, record, resource, warnings};

const OWN: &str = "node: node1, orchestrator: k8s, pod: pod1, endpoint: eth0";

fn endpoint(spec: &str) -> String {
    record(
        "WorkloadEndpoint",
        "labels: {app: web}",
        &format!("{OWN}, interfaceName: cali1, {spec}"),
    )
}

fn read(spec: &str) -> WorkloadEndpoint {
    match resource(&endpoint(spec)) {
        Resource::WorkloadEndpoint(endpoint) => endpoint.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

fn judged(specs: &[(&str, &str)]) {
    for (spec, wanted) in specs {
        assert_eq!(errors(&endpoint(spec)), *wanted, "{spec}");
    }
}

#[test]
fn names_are_built_from_and_checked_against_the_identifiers() {
    for (name, ids) in [
        (
            "node1-k8s-my--nginx--b1337a-eth0",
            "node: node1, orchestrator: k8s, pod: my-nginx-b1337a, endpoint: eth0",
        ),
        (
            "rack1--host1-cni-abc-eth0",
            "node: rack1-host1, orchestrator: cni, containerID: abc, endpoint: eth0",
        ),
        (
            "n-libnetwork-libnetwork-ep",
            "node: n, orchestrator: libnetwork, workload: w, endpoint: ep",
        ),
        (
            "node1-nomad-job.alloc--1-eth0",
            "node: node1, orchestrator: nomad, workload: job.alloc-1, endpoint: eth0",
        ),
    ] {
        let spec = format!("{ids}, interfaceName: cali1");
        for metadata in [format!("name: {name}"), String::new()] {
            let key = resource(&record("WorkloadEndpoint", &metadata, &spec))
                .key()
                .to_string();
            assert_eq!(key, format!("WorkloadEndpoint/default/{name}"));
        }
        for other in [format!("{name}x"), name.replace("--", "-") + "-", "a".to_owned()] {
            let found = errors(&record("WorkloadEndpoint", &format!("name: {other}"), &spec));
            assert!(
                found.split(' ').all(|field| field == "metadata.name") && !found.is_empty(),
                "{other}: {found}"
            );
        }
    }
    for (ids, field) in [
        ("orchestrator: k8s, pod: p, endpoint: e", "spec.node"),
        ("node: n, pod: p, endpoint: e", "spec.orchestrator"),
        ("node: n, orchestrator: k8s, workload: w, endpoint: e", "spec.pod"),
        ("node: n, orchestrator: cni, pod: p, endpoint: e", "spec.containerID"),
        ("node: n, orchestrator: x, pod: p, endpoint: e", "spec.workload"),
        ("node: n, orchestrator: k8s, pod: p", "spec.endpoint"),
    ] {
        for metadata in ["", "name: n-k8s-p-e"] {
            let text = record("WorkloadEndpoint", metadata, &format!("{ids}, interfaceName: cali1"));
            assert_eq!(errors(&text), field);
        }
    }
    // Upper case may stand in a containerID, but not in a name.
    let text = record(
        "WorkloadEndpoint",
        "",
        "node: n, orchestrator: cni, containerID: ABC, endpoint: e, interfaceName: c",
    );
    assert_eq!(errors(&text), "metadata.name");
}

#[test]
fn identifiers_are_subdomains() {
    judged(&[
        ("serviceAccountName: a.b, workload: a.b-c, containerID: aB-9", ""),
        ("profiles: [kns.default, a.b.c, ksa.default.x]", ""),
        ("serviceAccountName: Default", "spec.serviceAccountName"),
        ("workload: a/b", "spec.workload"),
        ("containerID: -a", "spec.containerID"),
        ("containerID: a-", "spec.containerID"),
        ("containerID: a.b", "spec.containerID"),
        ("containerID: a_b", "spec.containerID"),
        (
            "profiles: [a_b, A, .a]",
            "spec.profiles[0] spec.profiles[1] spec.profiles[2]",
        ),
        ("profiles: ['']", "spec.profiles[0]"),
    ]);
    for (good, bad, fields) in [
        ("node: node1", "node: Node", "spec.node"),
        ("orchestrator: k8s", "orchestrator: k8_s", "spec.orchestrator"),
        ("pod: pod1", "pod: Pod", "spec.pod"),
        ("endpoint: eth0", "endpoint: eth_0", "spec.endpoint"),
    ] {
        let found = errors(&endpoint("").replace(good, bad));
        assert!(found.split(' ').any(|field| field == fields), "{bad}: {found}");
    }
}

#[test]
fn interfaces() {
    let named = |name: &str| endpoint("").replace("interfaceName: cali1", &format!("interfaceName: {name}"));
    for good in ["Valid_Iface.0-9", "a", "abcdefghijklmno"] {
        let text = named(good);
        assert_eq!(
            (errors(&text), warnings(&text)),
            (String::new(), String::new()),
            "{good}"
        );
    }
    // Valid, but never there.
    for odd in ["'*'", "all", "default", "..", "."] {
        let text = named(odd);
        assert_eq!(
            (errors(&text).as_str(), warnings(&text).as_str()),
            ("", "spec.interfaceName"),
            "{odd}"
        );
        resource(&text);
    }
    for bad in [
        "abcdefghijklmnop",
        "a/b",
        "'a:b'",
        "'a&b'",
        "'a#b'",
        "''",
        "null",
        "'a b'",
        "'**'",
    ] {
        assert_eq!(errors(&named(bad)), "spec.interfaceName", "{bad}");
    }
}

#[test]
fn addresses() {
    judged(&[
        ("ipNetworks: [10.0.0.1, 10.0.0.2/32, 'fd00::1', 'fd00::2/128']", ""),
        ("ipNetworks: []", ""),
        ("ipNetworks: [10.0.0.0/24]", "spec.ipNetworks[0]"),
        ("ipNetworks: ['fd00::/64']", "spec.ipNetworks[0]"),
        (
            "ipNetworks: [x, '', 10.0.0.1/33]",
            "spec.ipNetworks[0] spec.ipNetworks[1] spec.ipNetworks[2]",
        ),
        ("ipv4Gateway: 169.254.1.1, ipv6Gateway: 'fe80::1'", ""),
        ("ipv4Gateway: '', ipv6Gateway: null", ""),
        ("ipv4Gateway: 'fe80::1'", "spec.ipv4Gateway"),
        ("ipv4Gateway: 169.254.1.1/32", "spec.ipv4Gateway"),
        ("ipv6Gateway: 1.2.3.4", "spec.ipv6Gateway"),
        ("ipv6Gateway: 'fe80::1/128'", "spec.ipv6Gateway"),
        ("ipv6Gateway: nope", "spec.ipv6Gateway"),
        (
            "allowSpoofedSourcePrefixes: [8.8.8.8, 8.8.8.8/32, 10.0.0.1/8, 'fd00::/8', 10.0.0.0/8]",
            "",
        ),
        (
            "allowSpoofedSourcePrefixes: [8.8.8.8/33]",
            "spec.allowSpoofedSourcePrefixes[0]",
        ),
        (
            "allowSpoofedSourcePrefixes: [abcd]",
            "spec.allowSpoofedSourcePrefixes[0]",
        ),
        ("awsElasticIPs: [1.2.3.4]", ""),
        ("awsElasticIPs: [1.2.3.4/32]", "spec.awsElasticIPs[0]"),
    ]);
    let read = read(
        "ipNetworks: [10.0.0.1, 10.0.0.1/32], allowSpoofedSourcePrefixes: [10.0.0.1/8, 8.8.8.8], awsElasticIPs: [1.2.3.4], ipv4Gateway: 169.254.1.1",
    );
    let text = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(text(&read.ip_networks), "10.0.0.1/32");
    assert_eq!(text(&read.allow_spoofed_source_prefixes), "8.8.8.8/32 10.0.0.0/8");
    assert_eq!(read.aws_elastic_ips, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
}

#[test]
fn nats() {
    let with = |nats: &str| endpoint(&format!("ipNetworks: [10.0.0.1, 'fd00::1'], ipNATs: [{nats}]"));
    for (nats, wanted) in [
        ("{internalIP: 10.0.0.1, externalIP: 172.16.0.1}", ""),
        (
            "{internalIP: 'fd00::1', externalIP: 'fd01::1'}, {internalIP: 10.0.0.1, externalIP: 1.1.1.1}",
            "",
        ),
        (
            "{internalIP: 10.0.0.1, externalIP: 1.1.1.1}, {internalIP: 10.0.0.1, externalIP: 1.1.1.2}",
            "",
        ),
        ("", ""),
        (
            "{internalIP: 10.0.0.1, externalIP: 'fd01::1'}",
            "spec.ipNATs[0].externalIP",
        ),
        (
            "{internalIP: 10.0.0.2, externalIP: 1.1.1.1}",
            "spec.ipNATs[0].internalIP",
        ),
        (
            "{internalIP: 10.0.0.1/32, externalIP: 1.1.1.1}",
            "spec.ipNATs[0].internalIP",
        ),
        (
            "{internalIP: 10.0.0.1, externalIP: 1.1.1.1/32}",
            "spec.ipNATs[0].externalIP",
        ),
        ("{internalIP: 10.0.0.1, externalIP: x}", "spec.ipNATs[0].externalIP"),
        ("{internalIP: 10.0.0.1}", "spec.ipNATs[0].externalIP"),
        ("{externalIP: 1.1.1.1}", "spec.ipNATs[0].internalIP"),
        ("{internalIP: 10.0.0.1, externalIP: 1.1.1.1, x: 1}", "spec.ipNATs[0].x"),
        ("7", "spec.ipNATs[0]"),
    ] {
        assert_eq!(errors(&with(nats)), wanted, "{nats}");
    }
    let nats = read("ipNetworks: [10.0.0.1], ipNATs: [{internalIP: 10.0.0.1, externalIP: 1.1.1.1}]").ip_nats;
    assert_eq!(
        (nats.len(), nats[0].internal.to_string(), nats[0].external.to_string()),
        (1, "10.0.0.1".to_owned(), "1.1.1.1".to_owned())
    );
    for bad in [
        "ipNetworks: [10.0.0.1, 10.0.0.2], ipNATs: [{internalIP: 10.0.0.1, externalIP: 10.0.0.2}]",
        "ipNetworks: [10.0.0.1, 10.0.0.2], \
         ipNATs: [{internalIP: 10.0.0.1, externalIP: 1.1.1.1}, {internalIP: 10.0.0.2, externalIP: 1.1.1.1}]",
    ] {
        assert_eq!(errors(&endpoint(bad)), "", "Calico takes it");
        assert!(warnings(&endpoint(bad)).ends_with(".externalIP"), "{bad}");
    }
    // No networks at all.
    let text = endpoint("ipNATs: [{internalIP: 10.0.0.1, externalIP: 1.1.1.1}]");
    assert_eq!(errors(&text), "spec.ipNATs[0].internalIP");
}

#[test]
fn mac_addresses() {
    for (text, octets) in [
        ("ca:fe:1d:52:bb:e9", [0xca, 0xfe, 0x1d, 0x52, 0xbb, 0xe9]),
        ("CA-FE-1D-52-BB-E9", [0xca, 0xfe, 0x1d, 0x52, 0xbb, 0xe9]),
        ("cafe.1d52.bbe9", [0xca, 0xfe, 0x1d, 0x52, 0xbb, 0xe9]),
        // Made from 48 bits.
        ("02:00:5e:ff:fe:00:00:01", [2, 0, 0x5e, 0, 0, 1]),
        ("0200.5eff.ff00.0001", [2, 0, 0x5e, 0, 0, 1]),
        // No frame has any other: nothing passes.
        ("02-00-5e-10-00-00-00-01", [0xff; 6]),
    ] {
        assert_eq!(read(&format!("mac: '{text}'")).mac, Some(octets), "{text}");
    }
    assert_eq!(read("mac: ''").mac, None);
    assert_eq!(warnings(&endpoint("mac: '02:00:5e:10:00:00:00:01'")), "spec.mac");
    for bad in [
        "ca:fe:1d:52:bb",
        "ca:fe:1d:52:bb:zz",
        "ca:fe:1d:52:bb:e9:00",
        "ca:fe-1d:52-bb:e9",
        "cafe1d52bbe9",
        "caf.e1d5.2bbe",
        "c:fe:1d:52:bb:e9",
        "ca:fe:1d:52:bb:e9:",
        "cafe.1d52",
        "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01",
    ] {
        judged(&[(&format!("mac: '{bad}'"), "spec.mac")]);
    }
}

/// What both kinds of endpoints say of their ports.
const PORTS: [(&str, &str); 16] = [
    ("{name: http, protocol: TCP, port: 80}", ""),
    (
        "{name: a-valid-port, protocol: UDP, port: 1}, {name: b, protocol: SCTP, port: 65535}",
        "",
    ),
    (
        "{name: a, protocol: 6, port: 80}, {name: b, protocol: '17', port: 80}, {name: c, protocol: 132, port: 80}",
        "",
    ),
    ("{protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: '', protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: a_b, protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: HTTP, protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: '80', protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: abcdefghijklmnop, protocol: TCP, port: 80}", "ports[0].name"),
    ("{name: a, port: 80}", "ports[0].protocol"),
    ("{name: a, protocol: tcp, port: 80}", "ports[0].protocol"),
    (
        "{name: a, protocol: 1, port: 80}, {name: b, protocol: UDPLite, port: 80}",
        "ports[0].protocol ports[1].protocol",
    ),
    ("{name: a, protocol: TCP}", "ports[0].port"),
    ("{name: a, protocol: TCP, port: 0}", "ports[0].port"),
    ("{name: a, protocol: TCP, port: 65536}", "ports[0].port"),
    ("{name: a, protocol: TCP, port: '80'}", "ports[0].port"),
];

#[test]
fn ports() {
    for (ports, wanted) in PORTS {
        for text in [
            endpoint(&format!("ports: [{ports}]")),
            record(
                "HostEndpoint",
                "name: a",
                &format!("node: n, interfaceName: eth0, ports: [{ports}]"),
            ),
        ] {
            assert_eq!(errors(&text).replace("spec.", ""), wanted, "{text}");
        }
    }
    // A name twice: an error, and both are in force.
    let twice = "ports: [{name: a, protocol: TCP, port: 1}, {name: a, protocol: UDP, port: 2}]";
    for text in [
        endpoint(twice),
        record(
            "HostEndpoint",
            "name: a",
            &format!("node: n, interfaceName: eth0, {twice}"),
        ),
    ] {
        assert_eq!(errors(&text), "spec.ports[1].name");
        match crate::decoded(&text) {
            felid_model::Decoded::Resource { resource, .. } => match resource {
                Resource::WorkloadEndpoint(endpoint) => assert_eq!(endpoint.ports.len(), 2),
                Resource::HostEndpoint(endpoint) => assert_eq!(endpoint.ports.len(), 2),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
    judged(&[
        ("ports: [{protocol: TCP, port: 80, hostPort: 8080}]", ""),
        (
            "ports: [{name: '', protocol: TCP, port: 80, hostPort: 0, hostIP: ''}]",
            "spec.ports[0].name",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 0, hostIP: ''}]",
            "",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 65535, hostIP: 1.2.3.4}]",
            "",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 65536}]",
            "spec.ports[0].hostPort",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: -1}]",
            "spec.ports[0].hostPort",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 80, hostIP: 'fd00::1'}]",
            "",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 80, hostIP: nope}]",
            "spec.ports[0].hostIP",
        ),
        (
            "ports: [{name: a, protocol: TCP, port: 80, hostPort: 80, hostIP: 10.0.0.0/8}]",
            "spec.ports[0].hostIP",
        ),
        ("ports: [{name: a, protocol: TCP, port: 80, x: 1}]", "spec.ports[0].x"),
    ]);
    let port = read("ports: [{name: a, protocol: TCP, port: 80, hostPort: 81, hostIP: 1.2.3.4}]")
        .ports
        .remove(0);
    assert_eq!(
        (port.port, port.host_port, port.host_ip),
        (80, Some(81), Some("1.2.3.4".parse().unwrap()))
    );
}

#[test]
fn qos_controls_are_shown() {
    for (spec, limits) in [
        ("qosControls: {ingressBandwidth: 1000, egressPacketRate: 5}", true),
        ("qosControls: {dscp: EF}", true),
        ("qosControls: {dscp: 46}", true),
        ("qosControls: {ingressBandwidth: 0}", false),
        ("qosControls: {}", false),
        ("qosControls: null", false),
    ] {
        assert_eq!(read(spec).qos_controls, limits, "{spec}");
        let told = if limits { "spec.qosControls" } else { "" };
        assert_eq!(warnings(&endpoint(spec)), told);
    }
    judged(&[
        (
            "qosControls: {ingressBandwidth: 1.5}",
            "spec.qosControls.ingressBandwidth",
        ),
        (
            "qosControls: {ingressBandwidth: '1'}",
            "spec.qosControls.ingressBandwidth",
        ),
        ("qosControls: {other: 1}", "spec.qosControls.other"),
        ("qosControls: {dscp: 256}", "spec.qosControls.dscp"),
        ("qosControls: 7", "spec.qosControls"),
    ]);
}

#[test]
fn labels_that_only_felid_gives() {
    let text = record(
        "WorkloadEndpoint",
        "namespace: n, labels: {app: web, projectcalico.org/namespace: forged, projectcalico.org/orchestrator: forged, pcns.a: x, pcsa.b: y, projectcalico.org/network: blue, projectcalico.org/network-namespace: nets, projectcalico.org/network-interface: net1, projectcalico.org/network-attachment: green, projectcalico.org/network-attachment-namespace: nets}",
        &format!("{OWN}, interfaceName: cali1"),
    );
    assert_eq!(warnings(&text), "metadata.labels.pcns.a metadata.labels.pcsa.b");
    let Resource::WorkloadEndpoint(endpoint) = resource(&text) else {
        panic!()
    };
    let labels: Vec<String> = endpoint
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        labels,
        [
            "app=web",
            "projectcalico.org/namespace=n",
            "projectcalico.org/network=blue",
            "projectcalico.org/network-attachment=green",
            "projectcalico.org/network-attachment-namespace=nets",
            "projectcalico.org/network-interface=net1",
            "projectcalico.org/network-namespace=nets",
            "projectcalico.org/orchestrator=k8s",
        ]
    );
}

#[test]
fn host_endpoints() {
    check(
        "HostEndpoint",
        "a",
        &[
            ("node: n, interfaceName: eth0", ""),
            ("node: n, interfaceName: '*'", ""),
            ("node: n, expectedIPs: [1.2.3.4, 'fd00::1']", ""),
            (
                "node: n, interfaceName: eth0, expectedIPs: [1.2.3.4], profiles: [a.b]",
                "",
            ),
            ("interfaceName: eth0", "spec.node"),
            ("node: '', interfaceName: eth0", "spec.node"),
            ("node: N, interfaceName: eth0", "spec.node"),
            ("node: n", "spec.interfaceName"),
            ("node: n, interfaceName: ''", "spec.interfaceName"),
            ("node: n, expectedIPs: []", "spec.interfaceName"),
            ("", "spec.node spec.interfaceName"),
            ("node: n, interfaceName: 'a:b'", "spec.interfaceName"),
            ("node: n, expectedIPs: [1.2.3.0/24]", "spec.expectedIPs[0]"),
            ("node: n, expectedIPs: [x]", "spec.expectedIPs[0]"),
            ("node: n, interfaceName: eth0, profiles: [.a]", "spec.profiles[0]"),
            (
                "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 1, hostPort: 1}]",
                "spec.ports[0].hostPort",
            ),
        ],
    );
    let text = record(
        "HostEndpoint",
        "name: a, labels: {role: node, pcns.x: y}",
        "node: n, interfaceName: eth0, expectedIPs: [1.2.3.4], profiles: [p], ports: [{name: a, protocol: TCP, port: 22}]",
    );
    assert_eq!(warnings(&text), "kind metadata.labels.pcns.x");
    let Resource::HostEndpoint(endpoint) = resource(&text) else {
        panic!()
    };
    let HostEndpoint {
        labels,
        expected_ips,
        profiles,
        ports,
        ..
    } = endpoint.as_ref();
    assert_eq!(
        (labels.len(), expected_ips.len(), profiles.len(), ports[0].port),
        (1, 1, 1, 22)
    );
}
