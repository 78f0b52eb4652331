//! `felid get`, `apply`, `create`, `replace`, `delete` on directories, by the built binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::records::{BESIDE_RECORDS, SHOP};
use common::{felid, on, with_input};
use serde_json::Value;
use tempfile::TempDir;

fn shop() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("shop.yaml"), SHOP).unwrap();
    directory
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn tables_have_calicoctls_columns() {
    let dir = shop();
    let table = |arguments: &[&str]| {
        let ran = on(dir.path(), arguments);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        ran.out
    };
    assert_eq!(
        lines(&table(&["get", "WEPs", "-n", "shop"])),
        [
            "NAMESPACE   WORKLOAD   NODE    NETWORKS                  INTERFACE",
            "shop        web        node1   10.0.0.1/32,fd00::1/128   caliweb",
            "shop        db         node2   10.0.0.2/32               calidb",
        ]
    );
    assert_eq!(
        lines(&table(&["get", "workloadendpoint", "-A", "-o", "wide"]))[0],
        "NAMESPACE   NAME                 WORKLOAD   NODE    NETWORKS                  INTERFACE   PROFILES   NATS   ELASTICIPS   HOSTPORTS"
    );
    assert_eq!(
        lines(&table(&["get", "np", "-A", "-o", "wide"])),
        [
            "NAMESPACE   NAME    TIER      ORDER   SELECTOR",
            "default     other   default   <nil>   all()",
            "shop        web     default   100     app == 'web'",
        ]
    );
    assert_eq!(lines(&table(&["get", "policy"])), ["NAME    TIER", "other   default"]);
    assert_eq!(
        lines(&table(&["get", "GlobalNetworkPolicies", "-o", "wide"])),
        [
            "NAME   TIER       ORDER   SELECTOR",
            "deny   security   <nil>   has(bad)"
        ]
    );
    assert_eq!(
        lines(&table(&["get", "profiles", "-o", "wide"])),
        ["NAME       LABELS", "kns.shop   pcns.name=shop,pcns.team=a"]
    );
    assert_eq!(
        lines(&table(&["get", "tiers"])),
        ["NAME       ORDER", "audit      5", "security   10"]
    );
    assert_eq!(
        lines(&table(&["get", "gnetsets", "-o", "wide"])),
        ["NAME     NETS", "office   198.51.100.0/24,203.0.113.7/32"]
    );
    assert_eq!(
        lines(&table(&[
            "get",
            "wep",
            "-n",
            "shop",
            "-o",
            "custom-columns=name,orchestrator"
        ]))[1],
        "shop        node1-k8s-web-eth0   k8s"
    );
    assert_eq!(
        lines(&table(&["get", "np", "-A", "-o", "name"])),
        ["networkpolicy/other", "networkpolicy/web"]
    );
    assert_eq!(lines(&table(&["get", "netsets", "-A"])), ["NAMESPACE   NAME"]);
}

#[test]
fn json_and_yaml_are_the_records_themselves() {
    let dir = shop();
    let one: Value =
        serde_json::from_str(&on(dir.path(), &["get", "np", "web", "-n", "shop", "-o", "json"]).out).unwrap();
    assert_eq!(
        (one["kind"].as_str(), one["spec"]["selector"].as_str()),
        (Some("NetworkPolicy"), Some("app == 'web'"))
    );
    let list: Value = serde_json::from_str(&on(dir.path(), &["get", "tiers", "-o", "json"]).out).unwrap();
    assert_eq!(
        (list["kind"].as_str(), list["items"].as_array().unwrap().len()),
        (Some("TierList"), 2)
    );
    let yaml = on(
        dir.path(),
        &["get", "wep", "-n", "shop", "node1-k8s-web-eth0", "-o", "yaml"],
    )
    .out;
    assert!(
        yaml.starts_with("apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n"),
        "{yaml}"
    );

    // What get prints, apply takes, and nothing changes.
    for kind in ["wep", "np", "gnp", "tier", "profile", "gnetset"] {
        let yaml = on(dir.path(), &["get", kind, "-A", "-o", "yaml"]).out;
        let other = tempfile::tempdir().unwrap();
        let applied = with_input(
            &[
                "apply",
                "-f",
                "-",
                "--datastore",
                &format!("dir:{}", other.path().display()),
            ],
            &yaml,
        );
        assert_eq!(applied.code, Some(0), "{kind}: {}", applied.err);
        assert_eq!(on(other.path(), &["get", kind, "-A", "-o", "yaml"]).out, yaml, "{kind}");
    }
}

#[test]
fn unknown_names_and_kinds_are_failures() {
    let dir = shop();
    let ran = on(dir.path(), &["get", "np", "web", "nothing", "-n", "shop", "-o", "name"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "networkpolicy/web\n", "what exists is shown all the same");
    assert_eq!(ran.err, "felid: resource does not exist: NetworkPolicy(shop/nothing)\n");
    let ran = on(dir.path(), &["get", "bgppeers"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err
            .starts_with("felid: resource type \"bgppeers\" is not supported"),
        "{}",
        ran.err
    );
    assert_eq!(
        on(&dir.path().join("none"), &["get", "tiers"]).code,
        Some(1),
        "no such directory"
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let many: String = (0..200)
        .map(|i| {
            format!(
                "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: t{i}}}\nspec: {{order: {i}}}\n"
            )
        })
        .collect();
    std::fs::write(dir.path().join("t.yaml"), many).unwrap();
    let mut child = felid(&[
        "get",
        "tiers",
        "-o",
        "yaml",
        "--datastore",
        &format!("dir:{}", dir.path().display()),
    ])
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::piped())
    .spawn()
    .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(0), "")
    );
}

const POLICY: &str = "# a comment that stays\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: api\nspec:\n  selector: app == 'api'\n";

#[test]
fn the_verbs_differ_in_what_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let datastore = format!("dir:{}", dir.path().display());
    let run = |verb: &str, more: &[&str], input: &str| {
        let mut arguments = vec![verb, "-f", "-", "--datastore", &datastore];
        arguments.extend(more);
        with_input(&arguments, input)
    };
    assert_eq!(run("replace", &[], POLICY).code, Some(1), "nothing to replace");
    let created = run("create", &["-n", "shop"], POLICY);
    assert_eq!((created.code, created.err.as_str()), (Some(0), ""));
    assert_eq!(
        created.out,
        "NetworkPolicy/shop/api created (NetworkPolicy.shop.api.yaml)\n"
    );
    assert_eq!(run("create", &["-n", "shop"], POLICY).code, Some(1), "it exists");
    assert_eq!(run("create", &["-n", "shop", "--skip-exists"], POLICY).code, Some(0));
    let other = POLICY.replace("'api'", "'API'");
    assert_eq!(run("replace", &["-n", "shop"], &other).code, Some(0));
    let got = on(dir.path(), &["get", "np", "-n", "shop", "-o", "wide"]).out;
    assert!(got.contains("app == 'API'"), "{got}");
    let json = run("apply", &["-o", "json"], POLICY);
    let done: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        (done["resource"].as_str(), done["action"].as_str()),
        (Some("NetworkPolicy/default/api"), Some("created"))
    );

    let delete = |more: &[&str]| {
        let mut arguments = vec!["delete"];
        arguments.extend(more);
        on(dir.path(), &arguments)
    };
    assert_eq!(
        delete(&["np", "api", "-n", "shop"]).out,
        "NetworkPolicy/shop/api deleted (NetworkPolicy.shop.api.yaml)\n"
    );
    let again = delete(&["np", "api", "-n", "shop"]);
    assert_eq!(
        (again.code, again.err.as_str()),
        (Some(1), "felid: resource does not exist: NetworkPolicy(shop/api)\n")
    );
    assert_eq!(delete(&["np", "api", "-n", "shop", "--skip-not-exists"]).code, Some(0));
    let names = on(dir.path(), &["get", "np", "-A", "-o", "name"]).out;
    assert_eq!(
        delete(&["np", names.trim()]).code,
        Some(0),
        "what get -o name prints, delete takes"
    );
    assert_eq!(lines(&on(dir.path(), &["get", "np", "-A"]).out).len(), 1);
}

#[test]
fn bad_documents_stop_everything_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a.yaml"), POLICY).unwrap();
    std::fs::write(files.path().join("b.yaml"), POLICY.replace("app ==", "app =")).unwrap();
    let ran = on(dir.path(), &["apply", "-f", &files.path().display().to_string()]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err
            .contains("b.yaml:7: error: NetworkPolicy/default/api: spec.selector"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.ends_with("felid: 1 error: nothing was written\n"),
        "{}",
        ran.err
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let foreign = with_input(
        &[
            "apply",
            "-f",
            "-",
            "--datastore",
            &format!("dir:{}", dir.path().display()),
        ],
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
    );
    assert_eq!(foreign.code, Some(1), "{}", foreign.err);
}

#[test]
fn places_may_stand_before_the_command() {
    let dir = shop();
    let datastore = format!("dir:{}", dir.path().display());
    let ran: common::Ran = felid(&["--datastore", &datastore, "--run-dir", "/nonexistent", "get", "tiers"])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran: common::Ran = felid(&["get", "tiers"])
        .env("FELID_DATASTORE", &datastore)
        .output()
        .unwrap()
        .into();
    assert_eq!(lines(&ran.out).len(), 3);
}

#[test]
fn wide_tables_say_who_translates() {
    let directory = tempfile::tempdir().unwrap();
    let record = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-web-eth0, namespace: shop}
spec:
  orchestrator: k8s
  node: node1
  pod: web
  endpoint: eth0
  ipNetworks: [10.0.0.1/32]
  interfaceName: caliweb
  ipNATs: [{internalIP: 10.0.0.1, externalIP: 203.0.113.10}]
  awsElasticIPs: [198.51.100.7]
  ports:
  - {name: http, protocol: TCP, port: 8080, hostPort: 80, hostIP: 192.0.2.1}
  - {protocol: UDP, port: 53, hostPort: 53}
  - {name: metrics, protocol: TCP, port: 9090}
";
    std::fs::write(directory.path().join("web.yaml"), record).unwrap();
    let ran = on(
        directory.path(),
        &[
            "get",
            "wep",
            "-n",
            "shop",
            "-o",
            "custom-columns=NATS,ELASTICIPS,HOSTPORTS",
        ],
    );
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(
        lines(&ran.out)[1],
        "shop        {10.0.0.1 203.0.113.10}   198.51.100.7 (by AWS)   192.0.2.1:80->8080/TCP,53->53/UDP (by portmap)"
    );
}

/// An endpoint is found by each of its names, as by the commands that ask the agent.
#[test]
fn endpoints_are_found_by_all_their_names() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("web.yaml"),
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
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop}
spec: {nodeName: node1}
status: {podIP: 10.0.0.2}
",
    )
    .unwrap();
    let name = "workloadendpoint/node1-k8s-web--0-eth0\n";
    for asked in [
        "shop/web-0",
        "cali1",
        "10.0.0.1",
        "203.0.113.7",
        "shop/node1-k8s-web--0-eth0",
    ] {
        let ran = on(dir.path(), &["get", "wep", asked, "-o", "name"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), name), "{asked}: {}", ran.err);
    }
    for arguments in [
        &["web-0", "-n", "shop"][..],
        &["web-0", "-A"],
        &["wep/node1-k8s-web--0-eth0", "-n", "shop"],
    ] {
        let ran = on(dir.path(), &[&["get", "wep", "-o", "name"], arguments].concat());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(0), name),
            "{arguments:?}: {}",
            ran.err
        );
    }
    let ran = on(dir.path(), &["get", "pod", "10.0.0.2", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "pod/db-0\n"), "{}", ran.err);
    for asked in ["web-0", "dev/web-0", "10.0.0.2", "tier/web-0"] {
        let ran = on(dir.path(), &["get", "wep", asked, "-o", "name"]);
        assert_ne!(ran.code, Some(0), "{asked}: {}", ran.out);
    }
}

#[test]
fn apply_passes_over_what_stands_beside_records() {
    let from = tempfile::tempdir().unwrap();
    for (name, text) in BESIDE_RECORDS {
        std::fs::write(from.path().join(name), text).unwrap();
    }
    let store = tempfile::tempdir().unwrap();
    let path = from.path().display().to_string();
    for verb in ["apply", "get", "delete"] {
        let mut arguments = vec![verb, "-f", &path];
        if verb == "get" {
            arguments.extend(["-o", "name"]);
        }
        let ran = on(store.path(), &arguments);
        assert_eq!(ran.code, Some(0), "{verb}: {}{}", ran.out, ran.err);
        assert!(
            ran.out.contains("good") && ran.out.lines().count() == 1,
            "{verb}: {}",
            ran.out
        );
        if verb == "apply" {
            assert!(ran.err.contains("README.md: warning: not read"), "{}", ran.err);
            assert!(
                ran.err.contains("values.yaml:1: warning: it is no record"),
                "{}",
                ran.err
            );
        }
    }
    // Nothing but the record would be written of a file that is named.
    let values = from.path().join("values.yaml").display().to_string();
    assert_eq!(on(store.path(), &["apply", "-f", &values]).code, Some(1));
}
