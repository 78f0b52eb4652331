//! `felid test` by the reference evaluator: what it prints, and how it ends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Ran, felid, with_input};

const CASE: &str = r#"
name: web
namespaces: [{name: shop}]
pods:
- {namespace: shop, name: web, labels: {app: web}, ips: [10.0.0.1, "fd00::1"], ports: [{name: http, port: 80}]}
- {namespace: shop, name: db, labels: {app: db}, ips: [10.0.0.2, "fd00::2"], profiles: []}
external: [{name: world, ips: [8.8.8.8]}]
resources:
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {name: web, namespace: shop}
  spec:
    selector: app == 'web'
    ingress:
    - {action: Deny, source: {selector: app == 'nobody'}}
    - {action: Allow, protocol: TCP, destination: {ports: [http]}}
expect:
- {from: world, to: shop/web, protocol: TCP, port: 80, allowed: true}
- {from: world, to: shop/web, protocol: TCP, port: 81, allowed: true}
- {from: shop/web, to: world, protocol: UDP, port: 53, allowed: true}
- {from: shop/web, to: host, protocol: UDP, port: 53, allowed: false}
- {from: host, to: shop/db, protocol: 253, ip: v6, allowed: true}
- {from: shop/db, to: shop/web, protocol: TCP, port: 80, allowed: true}
- {from: shop/web, to: world, protocol: ICMP, allowed: false}
steps:
- delete: [{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: web, namespace: shop}}]
  apply:
  - {apiVersion: v1, kind: Pod, metadata: {name: new, namespace: shop}, spec: {containers: []}, status: {podIPs: [{ip: 10.0.0.3}]}}
  expect:
  - {from: shop/new, to: shop/web, protocol: TCP, port: 81, allowed: true}
- delete: [{apiVersion: v1, kind: Namespace, metadata: {name: shop}}]
"#;

#[test]
fn names_what_fails_and_what_decided() {
    let ran = with_input(&["test", "-", "-o", "json"], CASE);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        report,
        serde_json::json!({"cases": 1, "expectations": 8, "failed": [
            {"case": "web", "step": 0, "expectation": 1, "got": false, "decided_by": "default-deny"},
            {"case": "web", "step": 0, "expectation": 5, "got": false, "decided_by": "default-deny"},
            {"case": "web", "step": 0, "expectation": 6, "got": true, "decided_by": "Profile/kns.shop rule 0"},
        ]})
    );
    let ran = with_input(&["test", "-"], CASE);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out
            .contains("web: expect[1]: world -> shop/web TCP port 81 (IPv4): expected allowed, got denied"),
        "{}",
        ran.out
    );
    assert!(ran.out.ends_with("1 case, 8 expectations, 3 failed\n"), "{}", ran.out);
}

#[test]
fn wrong_usage_ends_with_two() {
    for (arguments, input) in [
        (&["test"][..], ""),
        (&["test", "-", "--engine", "guess"], CASE),
        (&["test", "-"], ""),
        (&["test", "-"], "- 1\n"),
        (&["test", "-", "-o", "xml"], CASE),
    ] {
        let ran = with_input(arguments, input);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.err);
    }
    let ran: Ran = felid(&["test", "/nonexistent"]).output().unwrap().into();
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_case_that_makes_no_sense_is_told() {
    let ran = with_input(
        &["test", "-"],
        "name: x\nexpect:\n- {from: a/b, to: host, protocol: TCP, port: 1, allowed: true}\n",
    );
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("case \"x\"") && ran.err.contains("expect[0]") && ran.err.contains("\"a/b\""),
        "{}",
        ran.err
    );
}

/// Nor does one that is no case.
#[test]
fn a_case_that_does_not_decode_stops_no_other() {
    let bad = "name: family
expect: [{from: a/b, to: host, protocol: TCP, port: 1, ip: v5, allowed: true}]
---
name: protocol
expect: [{from: a/b, to: host, protocol: 300, allowed: true}]
---
expect: []
";
    let ran = with_input(&["test", "-", "-o", "json"], &format!("{bad}---{CASE}"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["cases"], &report["expectations"]), (&4.into(), &8.into()));
    let impossible = report["impossible"].as_array().unwrap();
    let names: Vec<_> = impossible.iter().map(|one| one["case"].as_str().unwrap()).collect();
    assert_eq!(names, ["family", "protocol", ""]);
    assert!(
        impossible
            .iter()
            .all(|one| one["step"].is_null() && one["expectation"].is_null())
    );
    assert_eq!(report["failed"].as_array().unwrap().len(), 3);
    let ran = with_input(&["test", "-"], bad);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
}

/// As in files of records.
#[test]
fn lists_stand_for_their_items() {
    let case = r#"
name: lists
namespaces: [{name: x}]
pods: [{namespace: x, name: a, ips: [10.0.0.1]}, {namespace: x, name: b, ips: [10.0.0.2]}]
resources:
- apiVersion: v1
  kind: List
  items:
  - {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {types: [Ingress]}}
expect: [{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: false}]
steps:
- delete:
  - apiVersion: projectcalico.org/v3
    kind: NetworkPolicyList
    items: [{metadata: {name: p, namespace: x}}]
  expect: [{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: true}]
- apply:
  - kind: List
    apiVersion: v1
    items:
    - {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: g}, spec: {types: [Ingress]}}
  expect: [{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: false}]
"#;
    let ran = with_input(&["test", "-"], case);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
}

/// It takes no other expectation of its case away.
#[test]
fn an_impossible_expectation_stands_alone() {
    let case = r#"
name: web
namespaces: [{name: shop}]
pods: [{namespace: shop, name: web, ips: [10.0.0.1]}, {namespace: shop, name: db, ips: [10.0.0.2]}]
external: [{name: world, ips: [8.8.8.8]}]
expect:
- {from: world, to: shop/web, protocol: TCP, port: 80, ip: v6, allowed: true}
- {from: world, to: host, protocol: TCP, port: 80, allowed: true}
- {from: world, to: shop/web, protocol: TCP, allowed: true}
- {from: world, to: shop/web, protocol: TCP, port: 80, allowed: false}
steps:
- delete: [{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop}}]
  expect:
  - {from: world, to: shop/db, protocol: TCP, port: 80, allowed: true}
  - {from: world, to: shop/web, protocol: TCP, port: 80, allowed: true}
"#;
    let ran = with_input(&["test", "-", "-o", "json"], case);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["expectations"], 6);
    let places = |key: &str| -> Vec<(u64, u64)> {
        let list = report[key].as_array().unwrap().iter();
        list.map(|one| (one["step"].as_u64().unwrap(), one["expectation"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(places("failed"), [(0, 3)]);
    assert_eq!(places("impossible"), [(0, 0), (0, 1), (0, 2), (1, 0)]);
    assert_eq!(report["impossible"][0]["case"], "web");
    assert_eq!(report["impossible"][0]["reason"], "from: world has no IPv6 address");
    let ran = with_input(&["test", "-"], case);
    assert!(
        ran.out.ends_with("1 case, 6 expectations, 1 failed, 4 impossible\n"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("step 1: expect[0] is impossible"), "{}", ran.err);
}

/// It stops no other.
#[test]
fn other_cases_go_on() {
    let bad = "name: bad\nnamespaces: [{name: x}]\npods: [{namespace: x, name: a-}]\nexpect: [{from: x/a-, to: host, protocol: TCP, port: 1, allowed: true}]\n";
    let ran = with_input(&["test", "-", "-o", "json"], &format!("{bad}---{CASE}"));
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("case \"bad\" cannot be carried out: pod x/a-"),
        "{}",
        ran.err
    );
    assert!(ran.out.starts_with("{\"cases\":2,\"expectations\":8,"), "{}", ran.out);
}

/// The reference cases, and the users' example.
#[test]
fn the_reference_cases_hold() {
    let root = format!("{}/..", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(format!("{root}/tests/cases/policy-tests"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.push(format!("{root}/examples/policy-tests/shop.yaml").into());
    assert!(files.len() > 4);
    let ran: Ran = felid(&["test"]).args(files).output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert_eq!(ran.err, "");
}

/// Records that a schema refuses are judged as they stand; what nobody can read closes what it may
/// select.
#[test]
fn records_are_not_validated_first() {
    let case = r#"
name: literal
namespaces: [{name: x}]
pods:
- {namespace: x, name: a, labels: {a: a}, ips: [10.0.0.1, "fd00::1"]}
- {namespace: x, name: b, labels: {b: b}, ips: [10.0.0.2, "fd00::2"]}
- {namespace: x, name: c, labels: {c: c}, ips: [10.0.0.9, "fd00::9"]}
- {namespace: x, name: d, ips: [10.0.0.3, "fd00::3"]}
resources:
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {name: mixed, namespace: x}
  spec:
    selector: has(a)
    ingress:
    - {action: Allow, source: {nets: [10.0.0.2/32, "fd00::3/128"]}}
    - {action: Allow, source: {notNets: [0.0.0.0/0, "fd00::3/128"]}}
- apiVersion: projectcalico.org/v3
  kind: GlobalNetworkPolicy
  metadata: {name: torn}
  spec:
    selector: has(c)
    ingress: [{action: Allow, protocol: 300}]
expect:
- {from: x/b, to: x/a, protocol: UDP, port: 1, ip: v4, allowed: true}
- {from: x/d, to: x/a, protocol: UDP, port: 1, ip: v4, allowed: false}
- {from: x/b, to: x/a, protocol: UDP, port: 1, ip: v6, allowed: true}
- {from: x/d, to: x/a, protocol: UDP, port: 1, ip: v6, allowed: true}
- {from: x/a, to: x/c, protocol: UDP, port: 1, ip: v4, allowed: false}
- {from: x/a, to: x/b, protocol: UDP, port: 1, ip: v4, allowed: true}
"#;
    let ran = with_input(&["test", "-"], case);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(
        ran.err.contains("GlobalNetworkPolicy/torn cannot be read"),
        "{}",
        ran.err
    );
}

/// A mistyped key would leave out what it was to say: the case is not carried out, and the message
/// says where and what.
#[test]
fn unknown_keys_fail_with_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("typo.yaml");
    let place = "namespaces: [{name: x}]\npods: [{namespace: x, name: a, ips: [10.0.0.1]}, {namespace: x, name: b, ips: [10.0.0.2]}]\n";
    let good = "{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: true}";
    for (text, line, message) in [
        (
            format!("name: t\n{place}expects:\n- {good}\n"),
            4,
            "expects: unknown field",
        ),
        (
            format!(
                "name: t\n{place}expect:\n- {{from: x/a, to: x/b, protocol: TCP, prt: 1, port: 1, allowed: true}}\n"
            ),
            5,
            "expect[0].prt: unknown field",
        ),
        (
            format!("name: t\n{place}steps:\n- aply: []\n  expect: [{good}]\n"),
            5,
            "steps[0].aply: unknown field",
        ),
        (
            format!("name: t\n{place}expect: [{good}]\nexternal:\n- {{name: e, ips: [8.8.8.8], port: 1}}\n"),
            6,
            "external[0].port: unknown field",
        ),
        (
            format!("name: t\nnamespaces:\n- name: x\n  label: {{}}\npods: []\nexpect: [{good}]\n"),
            4,
            "namespaces[0].label: unknown field",
        ),
        (
            format!("name: t\npods:\n- namespace: x\n  name: a\n  hostNetwork: true\nexpect: [{good}]\n"),
            5,
            "pods[0].hostNetwork: unknown field",
        ),
        (
            format!(
                "name: t\npods:\n- namespace: x\n  name: a\n  ports:\n  - {{port: 1, protocl: TCP}}\nexpect: [{good}]\n"
            ),
            6,
            "pods[0].ports[0].protocl: unknown field",
        ),
    ] {
        std::fs::write(&path, &text).unwrap();
        let ran: Ran = felid(&["test", &path.display().to_string()]).output().unwrap().into();
        assert_eq!(ran.code, Some(1), "{text}\n{}{}", ran.out, ran.err);
        let whole = format!("{}:{line}: {message}", path.display());
        assert!(ran.err.contains(&whole), "{whole:?} in {}", ran.err);
    }
    // All of them at once.
    std::fs::write(&path, format!("name: t\nexpcts: []\nexpect: [{good}]\nstep: []\n")).unwrap();
    let ran: Ran = felid(&["test", &path.display().to_string()]).output().unwrap().into();
    assert!(
        ran.err.contains("typo.yaml:2: expcts") && ran.err.contains("typo.yaml:4: step"),
        "{}",
        ran.err
    );
}

/// Values of a wrong type are told in words of the format, with their place.
#[test]
fn wrong_values_fail_with_file_line_and_field() {
    for (expectation, message) in [
        (
            "{from: x/a, to: x/b, protocol: TCP, port: http, allowed: true}",
            "-:4: expect[1].port \"http\": expected a whole number from 0 to 65535",
        ),
        (
            "{from: x/a, to: x/b, protocol: TCP, port: 70000, allowed: true}",
            "-:4: expect[1].port \"70000\": expected a whole number from 0 to 65535",
        ),
        (
            "{from: x/a, to: x/b, protocol: TPC, port: 1, allowed: true}",
            "-:4: expect[1].protocol \"TPC\": expected TCP, ",
        ),
        (
            "{from: x/a, to: x/b, protocol: TCP, port: 1, ip: v5, allowed: true}",
            "-:4: expect[1].ip \"v5\": expected v4 or v6",
        ),
        (
            "{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: 'yes'}",
            "-:4: expect[1].allowed \"yes\": expected true or false",
        ),
        (
            "{from: x/a, to: x/b, protocol: TCP, port: 1}",
            "-:4: expect[1].allowed: is required",
        ),
        ("7", "-:4: expect[1] \"7\": expected a mapping"),
    ] {
        let text = format!(
            "name: t\nexpect:\n- {{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: true}}\n- {expectation}\n"
        );
        let ran = with_input(&["test", "-"], &text);
        assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
        assert!(ran.err.contains(message), "{message:?} in {}", ran.err);
    }
}

/// What expects nothing tests nothing.
#[test]
fn cases_without_expectations_fail() {
    for case in [
        "name: none\n",
        "name: none\nexpect: []\n",
        "name: none\nexpect: null\nsteps: [{apply: []}, {expect: []}]\n",
    ] {
        let ran = with_input(&["test", "-"], &format!("# a remark\n{case}"));
        assert_eq!(ran.code, Some(1), "{case}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(": expect: is missing or empty"), "{case}: {}", ran.err);
        // Others of the file are carried out.
        let ran = with_input(&["test", "-", "-o", "json"], &format!("{case}---{CASE}"));
        let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&report["cases"], &report["expectations"]), (&2.into(), &8.into()));
        assert_eq!(report["impossible"].as_array().unwrap().len(), 1);
    }
}

/// Pods are converted as `felid convert`, `explain` and the agent convert them: who has ended has
/// no address, and whoever gets that address next is not taken for it.
#[test]
fn pods_that_have_ended_are_no_peers() {
    let pod = |name: &str, labels: &str, metadata: &str, spec: &str, status: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, labels: {{{labels}}}{metadata}}}, \
             spec: {{nodeName: node1, containers: [{{name: c}}]{spec}}}, status: {{{status}}}}}"
        )
    };
    let job = |metadata: &str, spec: &str, phase: &str| {
        pod(
            "job",
            "role: job",
            metadata,
            spec,
            &format!("phase: {phase}, podIPs: [{{ip: 10.0.0.5}}, {{ip: 'fd00::5'}}]"),
        )
    };
    let case = |job: &str| {
        format!(
            r#"
name: ended
namespaces: [{{name: x}}]
pods:
- {{namespace: x, name: db, labels: {{role: db}}, ips: [10.0.0.1, "fd00::1"]}}
external: [{{name: reused, ips: [10.0.0.5, "fd00::5"]}}]
resources:
- {{apiVersion: v1, kind: Pod, metadata: {{name: job, namespace: x, labels: {{role: job}}}}, spec: {{nodeName: node1, containers: [{{name: c}}]}}, status: {{phase: Running, podIPs: [{{ip: 10.0.0.5}}, {{ip: "fd00::5"}}]}}}}
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {{name: p, namespace: x}}
  spec: {{selector: role == 'db', types: [Ingress], ingress: [{{action: Allow, source: {{selector: role == 'job'}}}}]}}
expect:
- {{from: x/job, to: x/db, protocol: TCP, port: 1, allowed: true}}
- {{from: x/job, to: x/db, protocol: TCP, port: 1, ip: v6, allowed: true}}
steps:
- apply: [{job}]
  expect:
  - {{from: reused, to: x/db, protocol: TCP, port: 1, allowed: false}}
  - {{from: reused, to: x/db, protocol: TCP, port: 1, ip: v6, allowed: false}}
"#
        )
    };
    let annotations = ", deletionTimestamp: '2026-01-01T00:00:00Z', annotations: {cni.projectcalico.org/podIP: ''}";
    for (what, job, gone) in [
        ("succeeded", job("", "", "Succeeded"), true),
        ("failed", job("", "", "Failed"), true),
        ("deleted", job(annotations, "", "Running"), true),
        ("on the host's network", job("", ", hostNetwork: true", "Running"), true),
        ("still running", job("", "", "Running"), false),
        (
            "being deleted",
            job(", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "Running"),
            false,
        ),
    ] {
        let ran = with_input(&["test", "-"], &case(&job));
        assert_eq!(ran.code, Some(i32::from(!gone)), "{what}: {}{}", ran.out, ran.err);
    }
    // As an end of an expectation it reaches nobody, and nobody reaches it, whoever asks.
    let ended = case(&job("", "", "Succeeded"))
        + r#"  - {from: x/job, to: x/db, protocol: TCP, port: 1, allowed: false}
  - {from: x/db, to: x/job, protocol: TCP, port: 1, ip: v6, allowed: false}
  - {from: host, to: x/job, protocol: TCP, port: 1, allowed: false}
  - {from: x/job, to: host, protocol: TCP, port: 1, allowed: false}
"#;
    let ran = with_input(&["test", "-"], &ended);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    // On the host's network it is the host.
    let host = case(&job("", ", hostNetwork: true", "Running"))
        + "  - {from: x/job, to: x/db, protocol: TCP, port: 1, allowed: false}\n";
    let ran = with_input(&["test", "-"], &host);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("x/job is on the host's network"), "{}", ran.err);
}

/// `apply` of a pod that exists replaces its labels; what the record does not say stays, and what
/// it says holds.
#[test]
fn pods_keep_what_a_record_leaves_out() {
    let case = r#"
name: labels
namespaces: [{name: x}]
pods:
- {namespace: x, name: web, labels: {app: web}, serviceAccount: robot, ips: [10.0.0.1], ports: [{name: http, port: 80}]}
- {namespace: x, name: a, ips: [10.0.0.2]}
resources:
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {name: p, namespace: x}
  spec:
    selector: app == 'web'
    ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {name: robots, namespace: x}
  spec:
    selector: app == 'other'
    serviceAccountSelector: projectcalico.org/name == 'robot'
    ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]
expect:
- {from: x/a, to: x/web, protocol: TCP, port: 80, allowed: true}
- {from: x/a, to: x/web, protocol: TCP, port: 81, allowed: false}
steps:
- apply: [{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: x, labels: {app: other}}}]
  expect:
  - {from: x/a, to: x/web, protocol: TCP, port: 80, allowed: true}
  - {from: x/a, to: x/web, protocol: TCP, port: 81, allowed: false}
- apply: [{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: x, labels: {app: other}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 81}]}]}, status: {podIP: 10.0.0.3}}]
  expect:
  - {from: x/a, to: x/web, protocol: TCP, port: 80, allowed: false}
  - {from: x/a, to: x/web, protocol: TCP, port: 81, allowed: true}
"#;
    let ran = with_input(&["test", "-"], case);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
}
