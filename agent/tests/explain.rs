//! `felid explain` on records: the walk on both sides, and how ends are named.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Ran, felid};
use serde_json::Value;

fn explain(arguments: &[&str]) -> Ran {
    let root = format!("{}/../examples", env!("CARGO_MANIFEST_DIR"));
    let mut command = felid(&["explain"]);
    command.args(arguments).current_dir(root);
    command.output().unwrap().into()
}

fn json(arguments: &[&str]) -> Value {
    let ran = explain(&[arguments, &["-o", "json"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

/// Whoever may run the compiled programs sees them agree.
fn agrees(report: &Value) {
    let compiled = &report["compiled"];
    if compiled["run"] == true {
        assert_eq!(compiled["allowed"], report["allowed"], "{report:#}");
    } else {
        assert!(compiled["reason"].is_string());
    }
}

#[test]
fn every_rule_of_both_sides_is_told() {
    let report = json(&[
        "--from",
        "shop/frontend",
        "--to",
        "shop/database",
        "--port",
        "5432",
        "-f",
        "shop",
    ]);
    assert_eq!(report["allowed"], false);
    assert_eq!(
        report["decidedBy"], report["sides"][0]["decidedBy"],
        "egress of the frontend is what denies: {report:#}"
    );
    let sides = report["sides"].as_array().unwrap();
    assert_eq!(
        sides
            .iter()
            .map(|side| side["side"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["egress", "ingress"]
    );
    let rules: Vec<&Value> = sides
        .iter()
        .flat_map(|side| side["tiers"].as_array().unwrap())
        .flat_map(|tier| tier["policies"].as_array().unwrap())
        .flat_map(|policy| policy["rules"].as_array().unwrap())
        .collect();
    assert!(
        rules
            .iter()
            .any(|rule| rule["found"] == "mismatch" && rule["field"].is_string() && rule["reason"].is_string())
    );
    agrees(&report);
    let report = json(&[
        "--from",
        "10.65.0.20",
        "--to",
        "shop/database",
        "--port",
        "5432",
        "-f",
        "shop",
    ]);
    assert_eq!(report["allowed"], true, "the API reaches the database: {report:#}");
    assert!(report["decidedBy"].as_str().unwrap().starts_with("NetworkPolicy/shop/"));
    agrees(&report);
}

#[test]
fn kubernetes_records_and_the_host() {
    let pods = std::fs::read_to_string(format!(
        "{}/../examples/kubernetes/pods.yaml",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap();
    assert!(pods.contains("name: db-0"));
    let namespace = pods
        .lines()
        .find_map(|line| line.trim().strip_prefix("namespace: "))
        .unwrap();
    let db = format!("{namespace}/db-0");
    let report = json(&[
        "--from",
        "203.0.113.9",
        "--to",
        &db,
        "--port",
        "5432",
        "-f",
        "kubernetes",
    ]);
    assert_eq!(report["allowed"], false, "{report:#}");
    agrees(&report);
    let report = json(&["--from", "host", "--to", &db, "--port", "5432", "-f", "kubernetes"]);
    assert_eq!(
        (report["allowed"].as_bool(), report["decidedBy"].as_str()),
        (Some(true), Some("host"))
    );
    agrees(&report);
    let report = json(&["--from", &db, "--to", "host", "--protocol", "icmp", "-f", "kubernetes"]);
    assert_eq!(report["allowed"], false, "{report:#}");
    agrees(&report);
}

#[test]
fn text_says_what_matched_and_what_did_not() {
    let ran = explain(&[
        "--from",
        "192.0.2.1",
        "--to",
        "shop/frontend",
        "--port",
        "80",
        "-f",
        "shop",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for part in [
        "TCP 192.0.2.1 port 40000 -> 10.65.0.10 port 80",
        "ingress of WorkloadEndpoint/shop/",
        "MATCHES",
        "no: source.selector",
        "\nverdict: allowed by NetworkPolicy/shop/frontend rule 0\n",
        "compiled programs",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in {}", ran.out);
    }
}

#[test]
fn what_cannot_be_explained() {
    for (arguments, code) in [
        (
            &["--from", "shop/nobody", "--to", "shop/api", "--port", "1", "-f", "shop"][..],
            1,
        ),
        (
            &["--from", "1.1.1.1", "--to", "2.2.2.2", "--port", "1", "-f", "shop"],
            1,
        ),
        (
            &["--from", "shop/api", "--to", "shop/api", "--port", "1", "-f", "shop"],
            1,
        ),
        (&["--from", "shop/api", "--to", "shop/database", "-f", "shop"], 2),
        (
            &[
                "--from",
                "shop/api",
                "--to",
                "shop/database",
                "--protocol",
                "carrier-pigeon",
                "-f",
                "shop",
            ],
            2,
        ),
        (&["--from", "shop/api", "--port", "1", "-f", "shop"], 2),
    ] {
        let ran = explain(arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.err);
    }
}

/// Every name of a workload means the same workload: its resource, pod, interface, own and external
/// addresses.
#[test]
fn ends_are_known_by_all_their_names() {
    let decided = |to: &str, files: &str| {
        let report = json(&["--from", "198.51.100.9", "--to", to, "--port", "443", "-f", files]);
        let side = &report["sides"][0];
        (side["endpoint"].clone(), report["decidedBy"].clone())
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.yaml");
    std::fs::write(
        &path,
        "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {namespace: shop}
spec:
  node: node1
  orchestrator: k8s
  pod: web-0
  endpoint: eth0
  interfaceName: cali1
  ipNetworks: [10.0.0.1/32]
  ipNATs: [{internalIP: 10.0.0.1, externalIP: 203.0.113.7}]
  profiles: []
",
    )
    .unwrap();
    let files = path.display().to_string();
    let first = decided("shop/web-0", &files);
    assert_eq!(first.0, "WorkloadEndpoint/shop/node1-k8s-web--0-eth0");
    for name in [
        "web-0",
        "shop/node1-k8s-web--0-eth0",
        "cali1",
        "10.0.0.1",
        "203.0.113.7",
    ] {
        assert_eq!(decided(name, &files), first, "{name}");
    }
    let ran = explain(&["--from", "1.1.1.1", "--to", "shop/cali1", "--port", "1", "-f", &files]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("\"shop/cali1\" is no address"), "{}", ran.err);
}

/// What the host may always reach is an endpoint that is in force; an interface without one is
/// closed for it, too.
#[test]
fn the_host_does_not_reach_an_endpoint_that_is_not_in_force() {
    let endpoint = |name: &str, interface: &str, address: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{namespace: shop}}\nspec: {{node: node1, orchestrator: k8s, pod: {name}, endpoint: eth0, interfaceName: {interface}, ipNetworks: [{address}], profiles: []}}\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.yaml");
    // Both claim one interface: the first by name has it.
    let records = [
        endpoint("first", "cali1", "10.0.0.1/32"),
        endpoint("second", "cali1", "10.0.0.2/32"),
        endpoint("third", "cali3", "10.0.0.3/32"),
    ];
    std::fs::write(&path, records.concat()).unwrap();
    let files = path.display().to_string();
    for (name, allowed, decided_by) in [
        ("shop/first", true, "host"),
        ("shop/second", false, "default-deny"),
        ("shop/third", true, "host"),
    ] {
        let arguments = ["--from", "host", "--to", name, "--port", "80", "-f", &files];
        let report = json(&arguments);
        let told = (&report["allowed"], &report["decidedBy"]);
        assert_eq!(told, (&Value::from(allowed), &Value::from(decided_by)), "{report:#}");
        agrees(&report);
        let text = explain(&arguments).out;
        let says = text.contains("no endpoint of this record is in force");
        assert_eq!(says, !allowed, "{text}");
        let always = text.contains("the host may always reach its own workloads");
        assert_eq!(always, allowed, "{text}");
    }
    // The other way round, and with another workload at the other end.
    for (from, to) in [("shop/second", "host"), ("shop/third", "shop/second")] {
        let report = json(&["--from", from, "--to", to, "--port", "80", "-f", &files]);
        assert_eq!(report["allowed"], false, "{report:#}");
        assert_eq!(report["decidedBy"], "default-deny", "{report:#}");
        agrees(&report);
    }
}
