//! Records of Kubernetes, and endpoints of Calico's v1 form, as they are read everywhere.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::{
    Action, Decoded, EndpointPort, Issue, Policy, Port, Profile, Protocol, Resource, Severity, WorkloadEndpoint,
    decode, decode_literal, decode_value, documents,
};
use serde_json::{Value, json};

fn decoded(text: &str) -> (Resource, Vec<Issue>) {
    let mut found = documents(text);
    assert_eq!(found.len(), 1, "{text}");
    match decode(&found.remove(0)) {
        Decoded::Resource { resource, issues } => (resource, issues),
        other => panic!("{text}\n{other:?}"),
    }
}

/// A record without issues.
fn good(text: &str) -> Resource {
    let (resource, issues) = decoded(text);
    assert_eq!(issues, [], "{text}");
    resource
}

fn policy(resource: Resource) -> Policy {
    match resource {
        Resource::Policy(policy) => (*policy).clone(),
        other => panic!("{other:?}"),
    }
}

fn endpoint(resource: Resource) -> WorkloadEndpoint {
    match resource {
        Resource::WorkloadEndpoint(endpoint) => (*endpoint).clone(),
        other => panic!("{other:?}"),
    }
}

fn profile(resource: Resource) -> Profile {
    match resource {
        Resource::Profile(profile) => (*profile).clone(),
        other => panic!("{other:?}"),
    }
}

/// Line, field and severity of each issue.
fn places(issues: &[Issue]) -> Vec<(usize, &str, Severity)> {
    issues
        .iter()
        .map(|issue| (issue.line.unwrap(), issue.field.as_str(), issue.severity))
        .collect()
}

/// The errors of a record that is bad.
fn bad(text: &str) -> Vec<Issue> {
    let mut found = documents(text);
    match decode(&found.remove(0)) {
        Decoded::Bad { issues, .. } => issues,
        other => panic!("{text}\n{other:?}"),
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  labels:
    app: web
    pcns.forged: x
  annotations:
    cni.projectcalico.org/floatingIPs: '[\"1.1.1.1\"]'
  managedFields: [{manager: kubelet}]
spec:
  nodeName: node-1
  serviceAccountName: robot
  dnsPolicy: ClusterFirst
  containers:
  - name: a
    ports:
    - {name: http, containerPort: 80}
    - {containerPort: 81}
  - name: b
    ports:
    - {name: http, containerPort: 8080, hostPort: 8081, hostIP: 192.0.2.1}
status:
  phase: Running
  podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]
  conditions: [{type: Ready}]
";

#[test]
fn pods_are_endpoints_under_their_own_names() {
    let (resource, issues) = decoded(POD);
    let endpoint = endpoint(resource);
    assert_eq!(endpoint.key.to_string(), "Pod/shop/web-0");
    assert_eq!(
        (endpoint.node.as_str(), endpoint.orchestrator.as_str()),
        ("node-1", "k8s")
    );
    assert_eq!(endpoint.profiles, ["kns.shop", "ksa.shop.robot"]);
    assert_eq!(endpoint.ip_networks.len(), 2);
    assert_eq!(endpoint.ip_nats.len(), 1);
    assert_eq!(endpoint.interface_name.len(), 15);
    let labels: Vec<&str> = endpoint.labels.keys().map(String::as_str).collect();
    assert_eq!(
        labels,
        [
            "app",
            "projectcalico.org/namespace",
            "projectcalico.org/orchestrator",
            "projectcalico.org/serviceaccount"
        ]
    );
    // Pods may have a name twice, for containers of their own.
    let port = |port, host_port, host_ip: Option<&str>| EndpointPort {
        name: "http".to_owned(),
        protocol: Protocol(6),
        port,
        host_port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    assert_eq!(
        endpoint.ports,
        [port(80, None, None), port(8080, Some(8081), Some("192.0.2.1"))]
    );
    assert!(
        issues.iter().all(|issue| issue.severity == Severity::Warning),
        "{issues:?}"
    );
    assert!(
        places(&issues).contains(&(8, "metadata.labels.pcns.forged", Severity::Warning)),
        "{issues:?}"
    );
}

#[test]
fn pods_without_an_interface_of_their_own_have_no_effect() {
    for (from, to) in [
        ("nodeName: node-1", "dnsConfig: {}"),
        ("nodeName: node-1", "nodeName: node-1\n  hostNetwork: true"),
    ] {
        let (resource, _) = decoded(&POD.replace(from, to));
        assert!(
            matches!(&resource, Resource::Inert(key) if key.to_string() == "Pod/shop/web-0"),
            "{resource:?}"
        );
    }
    let (resource, _) = decoded(&POD.replace("phase: Running", "phase: Failed"));
    let endpoint = endpoint(resource);
    assert!(endpoint.ip_networks.is_empty() && endpoint.ip_nats.is_empty());
}

#[test]
fn pods_with_faults() {
    let issues = bad(&POD
        .replace("{ip: 10.0.0.1}", "{ip: 10.0.0.256}")
        .replace("name: web-0", "name: Web"));
    let errors: Vec<_> = places(&issues);
    assert!(errors.contains(&(4, "metadata.name", Severity::Error)), "{issues:?}");
    assert!(
        !errors.iter().any(|(_, field, _)| field.starts_with("spec.pod")),
        "{issues:?}"
    );
    let issues = bad(&POD.replace("{ip: 10.0.0.1}", "{ip: 10.0.0.256}"));
    assert_eq!(places(&issues), [(26, "status.podIPs[0].ip", Severity::Error)]);
    let issues = bad(&POD.replace("{name: http, containerPort: 80}", "{name: HTTP_1, containerPort: 80}"));
    assert!(
        places(&issues).contains(&(19, "spec.containers[0].ports[0]", Severity::Error)),
        "{issues:?}"
    );
}

#[test]
fn namespaces_and_service_accounts_imply_profiles() {
    let long = "a".repeat(63);
    let implied = profile(good(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{long}: x}}}}\nspec: {{finalizers: [kubernetes]}}\nstatus: {{phase: Active}}\n"
    )));
    assert_eq!(
        (implied.key.to_string().as_str(), implied.key.profile_name().as_str()),
        ("Namespace/shop", "kns.shop")
    );
    assert_eq!(implied.labels_to_apply[&format!("pcns.{long}")], "x");
    assert_eq!(implied.labels_to_apply["pcns.projectcalico.org/name"], "shop");
    for rules in [&implied.ingress, &implied.egress] {
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].action, Action::Allow);
    }
    let implied = profile(good(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot.1, namespace: shop, labels: {a: b}}\nautomountServiceAccountToken: false\n",
    ));
    assert_eq!(implied.key.to_string(), "ServiceAccount/shop/robot.1");
    assert_eq!(implied.key.profile_name(), "ksa.shop.robot.1");
    assert_eq!(implied.labels_to_apply.len(), 2);
    assert!(implied.ingress.is_empty() && implied.egress.is_empty());
    let issues = bad("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a.b\n  labels:\n    x: {}\n");
    assert_eq!(
        places(&issues),
        [
            (4, "metadata.name", Severity::Error),
            (6, "metadata.labels.x", Severity::Error)
        ]
    );
}

#[test]
fn services_and_their_endpoints() {
    let service =
        good("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web}}\n");
    assert!(matches!(&service, Resource::Inert(key) if key.to_string() == "Service/shop/web"));
    let slice = good(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod}}
- {addresses: [10.0.0.2, 10.0.0.3], conditions: {ready: false}}
ports:
- {name: a, port: 80, protocol: TCP}
- {name: b, port: null, protocol: UDP}
- {port: 5}
",
    );
    let Resource::EndpointSlice(slice) = slice else {
        panic!("{slice:?}")
    };
    assert_eq!(slice.key.to_string(), "EndpointSlice/shop/web-x");
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!(slice.addresses.len(), 3);
    assert_eq!(
        slice.ports,
        [(Protocol(6), Some(80)), (Protocol(17), None), (Protocol(6), Some(5))]
    );
    let issues = bad(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\nports:\n- {port: 0}\n",
    );
    assert_eq!(places(&issues), [(6, "ports[0].port", Severity::Error)]);
}

#[test]
fn policies_keep_their_names_and_have_only_the_types_they_say() {
    let named = policy(good(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a.b.c, namespace: shop}\nspec:\n  podSelector: {}\n  policyTypes: [Egress]\n",
    ));
    assert_eq!(named.key.to_string(), "KubernetesNetworkPolicy/shop/a.b.c");
    assert_eq!((named.tier.as_str(), named.order), ("default", Some(1000.0)));
    assert_eq!(
        (named.applies_ingress, named.applies_egress, named.staged),
        (false, true, false)
    );
    let empty = policy(good(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: x}\nspec: {tier: Baseline, priority: 3, subject: {namespaces: {}}}\n",
    ));
    assert_eq!(empty.key.to_string(), "ClusterNetworkPolicy/x");
    assert_eq!((empty.tier.as_str(), empty.order), ("kube-baseline", Some(3.0)));
    assert_eq!((empty.applies_ingress, empty.applies_egress), (false, false));
    let staged = policy(good(
        "apiVersion: projectcalico.org/v3\nkind: StagedKubernetesNetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {stagedAction: Set, podSelector: {}, ingress: [{}]}\n",
    ));
    assert_eq!(staged.key.to_string(), "StagedKubernetesNetworkPolicy/shop/x");
    assert_eq!((staged.staged, staged.ingress.len()), (true, 1));
    let deletes = good(
        "apiVersion: projectcalico.org/v3\nkind: StagedKubernetesNetworkPolicy\nmetadata: {name: x}\nspec: {stagedAction: Delete, podSelector: {}}\n",
    );
    assert!(matches!(deletes, Resource::Inert(_)));
    let issues = bad(
        "apiVersion: projectcalico.org/v3\nkind: StagedKubernetesNetworkPolicy\nmetadata: {name: x}\nspec: {stagedAction: Delete, ingress: [{}]}\n",
    );
    assert_eq!(places(&issues), [(4, "spec.ingress", Severity::Error)]);
}

#[test]
fn bad_rules_leave_the_rest_in_force() {
    let (resource, issues) = decoded(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: x, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock:
        cidr: 10.0.0.0/40
  - ports:
    - port: 80
  - ports:
    - port: 0
  - ports:
    - port: Not_A_Name
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [\"fd00::/8\"]}
  - ports:
    - port: web
",
    );
    let policy = policy(resource);
    let ports: Vec<&[Port]> = policy
        .ingress
        .iter()
        .map(|rule| rule.destination.ports.as_slice())
        .collect();
    assert_eq!(ports, [&[Port::Range(80, 80)][..], &[Port::Named("web".to_owned())]]);
    assert!(policy.ingress.iter().all(|rule| rule.source.nets.is_empty()));
    assert_eq!(
        places(&issues),
        [
            (9, "spec.ingress[0].from[0].ipBlock.cidr", Severity::Error),
            (12, "spec.ingress[2].ports", Severity::Error),
            (14, "spec.ingress[3].ports", Severity::Error),
            (17, "spec.ingress[4].from[0]", Severity::Error),
        ],
        "{issues:?}"
    );
    assert!(
        issues
            .iter()
            .all(|issue| issue.reason.ends_with("the rule is left out")),
        "{issues:?}"
    );
}

#[test]
fn bad_rules_of_cluster_policies_close() {
    let (resource, issues) = decoded(
        "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: x}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - action: Pass
    to: [{domainNames: [example.com]}]
  - action: Deny
    to: [{namespaces: {}}]
    protocols: [{destinationNamedPort: A_b}]
  - action: Accept
    to: [{namespaces: {}}]
    protocols: [{destinationNamedPort: A_b}]
  - action: Accept
    to: [{networks: [10.0.0.0/8, \"fd00::/8\"]}]
    protocols: [{destinationNamedPort: \"80\"}, {destinationNamedPort: http}]
",
    );
    let policy = policy(resource);
    let actions: Vec<Action> = policy.egress.iter().map(|rule| rule.action).collect();
    assert_eq!(actions, [Action::Deny, Action::Deny, Action::Allow]);
    let closed = &policy.egress[1];
    assert!(closed.destination == closed.source && closed.destination.ports.is_empty());
    // Networks of both families in one peer are one rule.
    assert_eq!(policy.egress[2].destination.nets.len(), 2);
    // A name of digits is a name all the same.
    let names = ["http", "80"].map(|name| Port::Named(name.to_owned()));
    assert_eq!(policy.egress[2].destination.ports, names);
    assert_eq!(
        places(&issues),
        [
            (10, "spec.egress[0].to[0].domainNames", Severity::Error),
            (13, "spec.egress[1].protocols", Severity::Error),
            (16, "spec.egress[2].protocols", Severity::Error),
        ],
        "{issues:?}"
    );
    assert!(policy.applies_egress && !policy.applies_ingress);
}

#[test]
fn what_the_api_server_would_not_accept() {
    let record = |kind: &str, name: &str, priority: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  subject: {{namespaces: {{}}}}\n{priority}\n"
        )
    };
    for (kind, name, priority, place) in [
        ("AdminNetworkPolicy", "x", "", (4, "spec.priority")),
        ("AdminNetworkPolicy", "x", "  priority: 1001", (6, "spec.priority")),
        ("AdminNetworkPolicy", "x", "  priority: -1", (6, "spec.priority")),
        ("BaselineAdminNetworkPolicy", "x", "", (3, "metadata.name")),
    ] {
        let (resource, issues) = decoded(&record(kind, name, priority));
        assert!(matches!(resource, Resource::Policy(_)));
        let (line, field) = place;
        assert_eq!(places(&issues), [(line, field, Severity::Error)]);
    }
    good(&record("AdminNetworkPolicy", "x", "  priority: 1000"));
    good(&record("BaselineAdminNetworkPolicy", "default", ""));
    // Nothing else is the order of a baseline policy.
    bad(&record("BaselineAdminNetworkPolicy", "default", "  priority: 1"));
}

#[test]
fn what_is_taken_literally_stands() {
    let record = |ports: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "X"},
            "spec": {"podSelector": {}, "ingress": [{"ports": ports}]}})
    };
    let odd = record(json!([{"port": "Not_A_Name"}]));
    assert!(matches!(decode_value(&odd), Decoded::Bad { .. }));
    let Decoded::Resource { resource, .. } = decode_literal(&odd) else {
        panic!("{odd}")
    };
    assert_eq!(resource.key().to_string(), "KubernetesNetworkPolicy/default/X");
    assert!(policy(resource).ingress.len() <= 1);
}

#[test]
fn endpoints_of_the_v1_form() {
    let text = "apiVersion: v1
kind: workloadEndpoint
metadata:
  name: eth0
  workload: default.frontend-5gs43
  orchestrator: k8s
  node: rack1-host1
  labels:
    app: frontend
    calico/k8s_ns: default
spec:
  interfaceName: cali0ef24ba
  mac: ca:fe:1d:52:bb:e9
  ipNetworks:
  - 192.168.0.0/32
  profiles:
  - profile1
";
    let endpoint = endpoint(good(text));
    assert_eq!(
        endpoint.key.to_string(),
        "WorkloadEndpoint/default/rack1--host1-k8s-frontend--5gs43-eth0"
    );
    assert_eq!(endpoint.mac, Some([0xca, 0xfe, 0x1d, 0x52, 0xbb, 0xe9]));
    assert_eq!(endpoint.pod.as_deref(), Some("frontend-5gs43"));
    for (from, to, place) in [
        ("192.168.0.0/32", "192.168.0.0/24", (15, "spec.ipNetworks[0]")),
        ("cali0ef24ba", "cali/0ef24ba", (12, "spec.interfaceName")),
        ("ca:fe:1d:52:bb:e9", "ca:fe", (13, "spec.mac")),
        ("default.frontend-5gs43", "frontend-5gs43", (5, "metadata.workload")),
        ("default.frontend-5gs43", "Shop.frontend", (5, "metadata.workload")),
        ("app: frontend", "app: {}", (9, "metadata.labels.app")),
        ("profiles:", "profile:", (16, "spec.profile")),
    ] {
        let issues = bad(&text.replace(from, to));
        let (line, field) = place;
        assert!(
            places(&issues).contains(&(line, field, Severity::Error)),
            "{to}: {issues:?}"
        );
    }
}

/// Every record of the policy tests is read, whatever its form.
#[test]
fn records_of_the_policy_tests() {
    let directory = format!("{}/../../tests/cases/policy-tests", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let cases = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
        for case in &cases {
            let steps = case["steps"].as_array().into_iter().flatten();
            let lists = [&case["resources"]].into_iter().chain(steps.map(|step| &step["apply"]));
            for record in lists.filter_map(Value::as_array).flatten() {
                match decode_literal(record) {
                    Decoded::Resource { .. } => count += 1,
                    other => panic!("{record}\n{other:?}"),
                }
            }
        }
    }
    assert!(count > 100, "{count}");
}
