//! What becomes of records: every error with its path and line, closed rules, policies that are
//! refused but known.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::{
    Action, BadPolicy, Decoded, Document, Issue, Kind, Policy, Resource, Selector, Severity, WorkloadEndpoint, decode,
    documents,
};

fn only(text: &str) -> Document {
    let mut found = documents(text);
    assert_eq!(found.len(), 1, "{text}");
    found.remove(0)
}

fn decoded(text: &str) -> Decoded {
    decode(&only(text))
}

fn resource(text: &str) -> (Resource, Vec<Issue>) {
    match decoded(text) {
        Decoded::Resource { resource, issues } => (resource, issues),
        other => panic!("{text}\n{other:?}"),
    }
}

fn bad(text: &str) -> (Option<String>, Vec<Issue>, Option<BadPolicy>) {
    match decoded(text) {
        Decoded::Bad {
            key,
            issues,
            bad_policy,
            ..
        } => (key.map(|key| key.to_string()), issues, bad_policy),
        other => panic!("{text}\n{other:?}"),
    }
}

fn policy(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n}}\nspec:\n{spec}")
}

fn read_policy(spec: &str) -> Policy {
    match resource(&policy(spec)).0 {
        Resource::Policy(policy) => policy.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

const ENDPOINT: &str = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  labels: {app: web, pcns.role: x, projectcalico.org/namespace: forged}\nspec:\n  node: node-1\n  orchestrator: k8s\n  pod: web-0\n  endpoint: eth0\n  interfaceName: cali1\n";

fn read_endpoint(more: &str) -> (WorkloadEndpoint, Vec<Issue>) {
    match resource(&format!("{ENDPOINT}{more}")) {
        (Resource::WorkloadEndpoint(endpoint), issues) => (endpoint.as_ref().clone(), issues),
        other => panic!("{other:?}"),
    }
}

#[test]
fn endpoints() {
    let (endpoint, issues) = read_endpoint(
        "  ipNetworks: [10.0.0.1, 10.0.0.1/32, 'fd00::1']\n  ipv4Gateway: 169.254.1.1\n  mac: EE-ee-ee-ee-ee-01\n  profiles: [kns.default]\n  ports:\n  - {name: http, protocol: 6, port: 80}\n  - {protocol: UDP, port: 53, hostPort: 53, hostIP: 1.2.3.4}\n  awsElasticIPs: [1.2.3.4]\n  ipNATs: []\n  qosControls: {ingressBandwidth: 0}\n",
    );
    assert_eq!(
        endpoint.key.to_string(),
        "WorkloadEndpoint/default/node--1-k8s-web--0-eth0"
    );
    let labels: Vec<_> = endpoint.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        labels,
        [
            "app=web",
            "projectcalico.org/namespace=default",
            "projectcalico.org/orchestrator=k8s"
        ]
    );
    let nets: Vec<_> = endpoint.ip_networks.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.1/32", "fd00::1/128"]);
    assert_eq!(endpoint.mac, Some([0xee, 0xee, 0xee, 0xee, 0xee, 1]));
    assert_eq!(endpoint.ports.len(), 2);
    assert_eq!(
        (endpoint.ports[0].protocol.to_string(), endpoint.ports[1].name.as_str()),
        ("TCP".to_owned(), "")
    );
    let told: Vec<_> = issues
        .iter()
        .map(|issue| (issue.field.as_str(), issue.severity, issue.line))
        .collect();
    assert_eq!(
        told,
        [
            ("spec.awsElasticIPs", Severity::Warning, Some(18)),
            ("metadata.labels.pcns.role", Severity::Warning, Some(4))
        ]
    );

    // Two ports of one name are an error to tell, and both in force.
    let (endpoint, issues) =
        read_endpoint("  ports:\n  - {name: a, protocol: TCP, port: 1}\n  - {name: a, protocol: UDP, port: 2}\n");
    assert_eq!(endpoint.ports.len(), 2);
    let errors: Vec<_> = issues
        .iter()
        .filter(|issue| issue.severity == Severity::Error)
        .collect();
    assert_eq!(
        (errors[0].field.as_str(), errors[0].line, errors.len()),
        ("spec.ports[1].name", Some(13), 1)
    );
}

/// Paths of the errors of a record.
fn error_paths(text: &str) -> Vec<String> {
    let decoded = decoded(text);
    let errors = decoded
        .issues()
        .iter()
        .filter(|issue| issue.severity == Severity::Error);
    errors.map(|issue| issue.field.clone()).collect()
}

#[test]
fn paths_of_endpoint_errors() {
    for (more, paths) in [
        (
            "  ipNetworks: [10.0.0.0/8, x, 1.2.3.4/33, '::ffff:1.2.3.4', 7]\n",
            "spec.ipNetworks[4] spec.ipNetworks[0] spec.ipNetworks[1] spec.ipNetworks[2] spec.ipNetworks[3]",
        ),
        ("  ipNetworks: 10.0.0.1\n", "spec.ipNetworks"),
        (
            "  ipv4Gateway: 'fe80::1'\n  ipv6Gateway: 1.2.3.4/32\n",
            "spec.ipv4Gateway spec.ipv6Gateway",
        ),
        ("  mac: 00:11:22:33:44\n", "spec.mac"),
        ("  mac: 0011.2233.44556\n", "spec.mac"),
        ("  mac: 00-11-22:33-44-55\n", "spec.mac"),
        ("  mac: 02:00:5e:10:00:00:00:01\n", ""),
        ("  profiles: [ok, A_b, {}]\n", "spec.profiles[1] spec.profiles[2]"),
        (
            "  ports: [{name: http, protocol: ICMP, port: 0}, 7]\n",
            "spec.ports[0].protocol spec.ports[0].port spec.ports[1]",
        ),
        (
            "  ports: [{protocol: TCP, port: 1}, {name: a}]\n",
            "spec.ports[0].name spec.ports[1].protocol spec.ports[1].port",
        ),
        (
            "  ports: [{name: a, protocol: TCP, port: 1, hostPort: 65536, hostIP: x, foo: 1}]\n",
            "spec.ports[0].hostPort spec.ports[0].hostIP spec.ports[0].foo",
        ),
        (
            "  ipNetworks: [10.0.0.1]\n  ipNATs: [{internalIP: 10.0.0.1, externalIP: 1.1.1.1}]\n",
            "",
        ),
        (
            "  ipNATs: [{internalIP: 10.0.0.1, externalIP: 'fd00::1'}, {}]\n",
            "spec.ipNATs[0].internalIP spec.ipNATs[0].externalIP spec.ipNATs[1].internalIP spec.ipNATs[1].externalIP",
        ),
        (
            "  allowSpoofedSourcePrefixes: [10.0.0.0/8, x]\n",
            "spec.allowSpoofedSourcePrefixes[1]",
        ),
        (
            "  qosControls: {ingressBandwidth: 1000, foo: 1}\n",
            "spec.qosControls.foo",
        ),
        (
            "  containerID: a.b\n  serviceAccountName: A\n",
            "spec.serviceAccountName spec.containerID",
        ),
        ("  colour: red\nextra: 1\nstatus: {}\n", "spec.colour extra"),
    ] {
        assert_eq!(error_paths(&format!("{ENDPOINT}{more}")).join(" "), paths, "{more}");
    }
    for (from, to, paths) in [
        ("node: node-1", "node: ''", "spec.node"),
        ("pod: web-0", "workload: web", "spec.pod"),
        ("interfaceName: cali1", "interfaceName: cali/1", "spec.interfaceName"),
        ("  interfaceName: cali1\n", "", "spec.interfaceName"),
        ("metadata:\n", "metadata:\n  name: other\n", "metadata.name"),
        ("metadata:\n", "metadata:\n  namespace: ../x\n", "metadata.namespace"),
        (
            "app: web",
            "app: -web, a/b/c: d",
            "metadata.labels.app metadata.labels.a/b/c",
        ),
    ] {
        assert_eq!(error_paths(&ENDPOINT.replace(from, to)).join(" "), paths, "{to}");
    }
}

#[test]
fn paths_of_policy_errors() {
    for (spec, paths) in [
        ("  ingress: [{}]", "spec.ingress[0].action"),
        (
            "  ingress: [{action: allow}, 7]",
            "spec.ingress[0].action spec.ingress[1]",
        ),
        ("  egress: [{action: Log}]", ""),
        (
            "  ingress: [{action: Allow, ipVersion: 5}]",
            "spec.ingress[0].ipVersion",
        ),
        (
            "  ingress: [{action: Allow, protocol: tcp, notProtocol: 256}]",
            "spec.ingress[0].protocol spec.ingress[0].notProtocol",
        ),
        (
            "  ingress: [{action: Allow, ipVersion: 6, notProtocol: ICMP}]",
            "spec.ingress[0].notProtocol",
        ),
        (
            "  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, '1:2', http, 0, '2:1', '80:', a_b, -1, 1.5]}}]",
            "spec.ingress[0].destination.ports[3] spec.ingress[0].destination.ports[4] spec.ingress[0].destination.ports[5] spec.ingress[0].destination.ports[6] spec.ingress[0].destination.ports[7] spec.ingress[0].destination.ports[8]",
        ),
        (
            "  ingress: [{action: Allow, source: {ports: [80, http]}}]",
            "spec.ingress[0].source.ports[0]",
        ),
        (
            "  ingress: [{action: Allow, protocol: 47, source: {notPorts: [http]}}]",
            "spec.ingress[0].source.notPorts",
        ),
        (
            "  ingress: [{action: Allow, source: {nets: [10.0.0.1, 10.0.0.1/8, 'x/8', 10.0.0.0/8], notNets: ['::/0']}}]",
            "spec.ingress[0].source.nets[0] spec.ingress[0].source.nets[1] spec.ingress[0].source.nets[2] spec.ingress[0].source.notNets[0] spec.ingress[0].source.notNets",
        ),
        (
            "  ingress: [{action: Allow, source: {nets: [10.0.0.0/8]}, destination: {notNets: ['fd00::/8']}}]",
            "spec.ingress[0].destination.notNets",
        ),
        (
            "  ingress: [{action: Allow, ipVersion: 4, source: {nets: ['fd00::/8']}}]",
            "spec.ingress[0].source.nets",
        ),
        (
            "  ingress: [{action: Allow, source: {selector: 'a ==', notSelector: 'global()', namespaceSelector: 'global() || has(a)'}}]",
            "spec.ingress[0].source.selector spec.ingress[0].source.notSelector spec.ingress[0].source.namespaceSelector",
        ),
        ("  ingress: [{action: Allow, icmp: {type: 8}}]", "spec.ingress[0].icmp"),
        (
            "  ingress: [{action: Allow, protocol: ICMP, icmp: {type: 255, code: 256}}]",
            "spec.ingress[0].icmp.type spec.ingress[0].icmp.code",
        ),
        (
            "  ingress: [{action: Allow, notICMP: {code: 0}}]",
            "spec.ingress[0].notICMP.code",
        ),
        (
            "  ingress: [{action: Allow, http: {methods: [GET]}}]",
            "spec.ingress[0].http",
        ),
        (
            "  egress: [{action: Allow, destination: {services: {}, selector: 'a == \"b\"', ports: [http]}}]",
            "spec.egress[0].destination.services.name spec.egress[0].destination.selector spec.egress[0].destination.ports",
        ),
        (
            "  egress: [{action: Allow, source: {services: {name: a}}}]",
            "spec.egress[0].source.services",
        ),
        (
            "  ingress: [{action: Allow, source: {serviceAccounts: {names: [1], selector: '('}}}]",
            "spec.ingress[0].source.serviceAccounts.names[0] spec.ingress[0].source.serviceAccounts.selector",
        ),
        (
            "  ingress: [{action: Allow, metadata: {annotations: {'...': x, ok: 1}}}]",
            "spec.ingress[0].metadata.annotations.ok spec.ingress[0].metadata.annotations....",
        ),
        ("  types: [Ingress, Ingress, egress]", "spec.types[2] spec.types"),
        (
            "  performanceHints: [AssumeNeededOnEveryNode, AssumeNeededOnEveryNode, X]",
            "spec.performanceHints[2] spec.performanceHints",
        ),
        (
            "  tier: A\n  order: first\n  selector: 7",
            "spec.tier spec.order spec.selector",
        ),
        (
            "  serviceAccountSelector: has(a)\n  doNotTrack: true\n  namespaceSelector: all()",
            "spec.doNotTrack spec.namespaceSelector",
        ),
        ("  ingress: {action: Allow}", "spec.ingress"),
    ] {
        assert_eq!(error_paths(&policy(spec)).join(" "), paths, "{spec}");
    }
    let global = |spec: &str| error_paths(&policy(spec).replace("NetworkPolicy", "GlobalNetworkPolicy")).join(" ");
    assert_eq!(
        global("  preDNAT: true\n  doNotTrack: 1\n  egress: [{action: Deny}]\n  types: [Egress]"),
        "spec.doNotTrack spec.applyOnForward spec.egress spec.types"
    );
    assert_eq!(
        global("  applyOnForward: true\n  namespaceSelector: global()"),
        "spec.namespaceSelector"
    );
    assert_eq!(
        global("  ingress: [{action: Allow, source: {services: {name: a}}}]"),
        "spec.ingress[0].source.services.namespace"
    );
}

#[test]
fn types_are_inferred() {
    for (spec, ingress, egress) in [
        ("  order: 1", true, false),
        ("  ingress: [{action: Allow}]", true, false),
        ("  egress: [{action: Allow}]", false, true),
        ("  ingress: [{action: Allow}]\n  egress: [{action: Allow}]", true, true),
        ("  types: []\n  egress: [{action: Allow}]", false, true),
        ("  types: [Egress]\n  ingress: [{action: Allow}]", false, true),
    ] {
        let policy = read_policy(spec);
        assert_eq!(
            (policy.applies_ingress, policy.applies_egress),
            (ingress, egress),
            "{spec}"
        );
    }
    let policy = read_policy("  order: -1.5\n  tier: sec");
    assert_eq!(
        (policy.order, policy.tier.as_str(), policy.selector.canonical()),
        (Some(-1.5), "sec", "all()")
    );
}

#[test]
fn rules() {
    let policy = read_policy(
        "  ingress:\n  - action: Pass\n    ipVersion: 4\n    protocol: 17\n    notProtocol: SCTP\n    source: {notPorts: [1, '2:3', dns], nets: [10.0.0.0/8]}\n    destination: {notSelector: has(a), selector: \"b == 'c'\", namespaceSelector: global(), notNets: [10.1.0.0/16]}\n    metadata: {annotations: {name: x}}\n    icmp: null\n    notICMP: {}\n",
    );
    assert_eq!(policy.ingress[0].action, Action::Pass);
    assert_eq!(
        policy.ingress[0].to_string(),
        "Pass IPv4 UDP not SCTP from nets [10.0.0.0/8] not ports [1, 2:3, dns] to not nets [10.1.0.0/16] namespaces (global()) selector (b == \"c\") not selector (has(a))"
    );
}

#[test]
fn unknown_fields() {
    // In metadata: a warning.
    let text = policy("  order: 1").replace("{name: p,", "{name: p, colour: red,");
    let (_, issues) = resource(&text);
    assert_eq!(
        (issues[0].field.as_str(), issues[0].severity, issues.len()),
        ("metadata.colour", Severity::Warning, 1)
    );
    // In a rule: an error, and the rule is closed, the document in force.
    let text = policy(
        "  ingress:\n  - action: Allow\n    surce: {}\n    source:\n      sElector: all()\n    protocol: ICMP\n    icmp: {tipe: 1}\n    metadata: {foo: 1}\n  - action: Deny\n",
    );
    let (resource, issues) = resource(&text);
    let Resource::Policy(policy) = resource else {
        panic!("a policy")
    };
    assert_eq!(
        policy.ingress[0].unknown_fields,
        ["icmp.tipe", "metadata.foo", "source.sElector", "surce"]
    );
    assert!(policy.ingress[1].unknown_fields.is_empty());
    let told: Vec<_> = issues
        .iter()
        .map(|issue| (issue.field.as_str(), issue.severity, issue.line))
        .collect();
    assert_eq!(
        told,
        [
            ("spec.ingress[0].icmp.tipe", Severity::Error, Some(11)),
            ("spec.ingress[0].metadata.foo", Severity::Error, Some(12)),
            ("spec.ingress[0].source.sElector", Severity::Error, Some(9)),
            ("spec.ingress[0].surce", Severity::Error, Some(7)),
        ]
    );
    // Elsewhere in a spec: the document is bad.
    assert_eq!(bad(&self::policy("  selektor: all()")).1[0].field, "spec.selektor");
}

#[test]
fn refused_policies_tell_what_they_select() {
    let (key, issues, known) = bad(&policy("  selector: a == 'b'\n  ingress: [{action: Lag}]"));
    let known = known.unwrap();
    assert_eq!(key.as_deref(), Some("NetworkPolicy/n/p"));
    assert_eq!(
        (known.key.to_string(), known.selector),
        ("NetworkPolicy/n/p".to_owned(), Some(Selector::label_equals("a", "b")))
    );
    assert_eq!(known.reason, issues[0].to_string());
    // No selector is all(); one that does not parse may be anything.
    assert_eq!(bad(&policy("  x: 1")).2.unwrap().selector, Some(Selector::all()));
    for selector in ["'a =='", "7", "{}"] {
        assert_eq!(
            bad(&policy(&format!("  selector: {selector}"))).2.unwrap().selector,
            None,
            "{selector}"
        );
    }
    // A bad name: known by another.
    let nameless = |text: &str| {
        let (key, _, known) = bad(text);
        assert_eq!(key, None);
        known.unwrap().key
    };
    let (a, b) = (
        nameless(&policy("  order: 1").replace("name: p", "name: P_")),
        nameless(&policy("  order: 2").replace("name: p,", "")),
    );
    assert!(a != b && a.kind == Kind::NetworkPolicy && a.namespace.as_deref() == Some("n"));
}

#[test]
fn many_issues_are_counted() {
    let many = |count: usize| (0..count).map(|i| format!("k{i}: 1, ")).collect::<String>();
    let text = policy("  order: 1").replace("{name: p,", &format!("{{name: p, {}", many(5_000)));
    let (_, issues) = resource(&text);
    assert_eq!(issues.len(), 101);
    assert_eq!(
        (issues[100].reason.as_str(), issues[100].line),
        ("4900 more like these", Some(1))
    );
    // Errors are never hidden by warnings.
    let (_, issues, _) = bad(&text.replace("  order: 1", "  x: 1"));
    assert_eq!(
        issues.iter().filter(|issue| issue.severity == Severity::Error).count(),
        1
    );
}

/// A record written by hand needs one round: everything that is missing or wrong is told at once.
#[test]
fn an_endpoint_tells_all_that_it_lacks() {
    let head = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n";
    let fields = |text: &str| {
        let (_, issues, _) = bad(&format!("{head}{text}"));
        issues.into_iter().map(|issue| issue.field).collect::<Vec<_>>()
    };
    assert_eq!(
        fields("metadata: {name: web}\nspec: {ipNetworks: [10.0.0.1]}\n"),
        [
            "spec.node",
            "spec.orchestrator",
            "spec.workload",
            "spec.endpoint",
            "metadata.name",
            "spec.interfaceName"
        ]
    );
    // Whatever the orchestrator will be, a pod is named already.
    assert_eq!(
        fields("metadata: {}\nspec: {pod: web, interfaceName: cali1}\n"),
        ["spec.node", "spec.orchestrator", "spec.endpoint"]
    );
    assert_eq!(
        fields("metadata: {}\nspec: {orchestrator: k8s, workload: web, interfaceName: cali1}\n"),
        ["spec.node", "spec.pod", "spec.endpoint"]
    );
    // What is there but bad is told once.
    assert_eq!(
        fields("metadata: {}\nspec: {node: Node, orchestrator: k8s, interfaceName: cali1}\n"),
        ["spec.node", "spec.pod", "spec.endpoint"]
    );
    // A name that may still turn out right is left to the next round.
    assert_eq!(
        fields("metadata: {name: n-k8s-web-eth0}\nspec: {node: n, interfaceName: cali1, endpoint: eth0}\n"),
        ["spec.orchestrator", "spec.workload"]
    );
}

/// Numbers are shown as the file writes them, not as they were read.
#[test]
fn values_are_shown_as_written() {
    let ports = |text: &str| {
        policy(&format!(
            "  ingress:\n  - action: Allow\n    protocol: TCP\n    destination:\n{text}"
        ))
    };
    let shown = |text: &str| {
        let issues = decoded(text).issues().to_vec();
        let values = issues.into_iter().filter_map(|issue| Some((issue.field, issue.value?)));
        values
            .map(|(field, value)| format!("{field} {value}"))
            .collect::<Vec<_>>()
    };
    let at = "spec.ingress[0].destination.ports";
    for (written, list) in [
        ("012.5", "      ports: [012.5]\n"),
        ("0x1FFFF", "      ports:\n      - 0x1FFFF\n"),
        ("1e9", "      ports: [1e9]\n"),
        ("70000", "      ports: [70000]\n"),
        ("-0012", "      ports:\n        - -0012  # a remark\n"),
    ] {
        assert_eq!(shown(&ports(list)), [format!("{at}[0] {written}")], "{list}");
    }
    // Through an alias, too, and in text with characters of several bytes before it.
    let text = policy("  selector: \"a == 'é'\"\n  order: &n 012\n  performanceHints: *n\n");
    assert!(
        shown(&text).contains(&"spec.performanceHints 012".to_owned()),
        "{:?}",
        shown(&text)
    );
    // In JSON.
    let json = r#"{"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [1.0E+9]}}]}}"#;
    assert_eq!(shown(json), [format!("{at}[0] 1.0E+9")]);
}
