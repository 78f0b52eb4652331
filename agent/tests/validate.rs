//! `felid validate`, by the built binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{felid, with_input};
use serde_json::Value;

const BAD: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: Bad_Name
spec:
  selector: \"app = 'x'\"
  ingress:
  - action: allow
    protocol: TCP
    destination:
      ports: [70000]
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: good}
spec: {order: 5}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
";

#[test]
fn every_error_at_once_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, BAD).unwrap();
    let ran: common::Ran = felid(&["validate", "-f", &file.display().to_string()])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, Some(1));
    let at = |line: usize, rest: &str| {
        let prefix = format!("{}:{line}: {rest}", file.display());
        assert!(
            ran.err.lines().any(|line| line.starts_with(&prefix)),
            "{prefix} in\n{}",
            ran.err
        );
    };
    at(4, "error: NetworkPolicy/Bad_Name: metadata.name \"Bad_Name\": ");
    at(6, "error: NetworkPolicy/Bad_Name: spec.selector \"app = 'x'\": ");
    at(8, "error: NetworkPolicy/Bad_Name: spec.ingress[0].action \"allow\": ");
    at(11, "error: NetworkPolicy/Bad_Name: spec.ingress[0].destination.ports");
    at(18, "warning: Deployment/web: ");
    assert_eq!(ran.out, "2 documents valid, 1 invalid, 1 warning\n");
}

#[test]
fn json_is_one_line_a_document_in_order() {
    let input = concat!(
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"a"},"spec":{"order":1}}"#,
        "\n",
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"b"},"spec":{"order":"x"}}"#,
        "\n",
        "{\"apiVersion\":\n",
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"a"},"spec":{"order":1}}"#,
        "\n",
    );
    let ran = with_input(&["validate", "-f", "-", "-o", "json"], input);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let valid: Vec<bool> = lines.iter().map(|line| line["valid"].as_bool().unwrap()).collect();
    assert_eq!(valid, [true, false, false, true], "{}", ran.out);
    assert_eq!(lines[1]["errors"][0]["field"], "spec.order");
    assert!(lines[1]["errors"][0]["reason"].is_string());
}

/// A line that is no record is answered like any other.
#[test]
fn json_lines_that_are_no_records_are_answered() {
    let tier = r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"a"},"spec":{"order":1}}"#;
    for input in [
        format!("null\n{tier}\nnull\n{tier}\n"),
        format!("x\n{tier}\nx\n{tier}\n"),
    ] {
        let ran = with_input(&["validate", "-f", "-", "-o", "json"], &input);
        let lines = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let valid: Vec<bool> = lines.map(|line| line["valid"].as_bool().unwrap()).collect();
        assert_eq!(valid, [false, true, false, true], "{}", ran.out);
        let ran = with_input(&["convert", "-f", "-", "-o", "json"], &input);
        let lines = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let bad: Vec<bool> = lines.map(|line| line.get("error").is_some()).collect();
        assert_eq!(bad, [true, false, true, false], "{}", ran.out);
    }
}

/// The reference cases, as one stream of JSON lines.
#[test]
fn reference_cases_by_json_lines() {
    for (file, field) in [("policy_validation.json", "resource"), ("wep_validation.json", "wep")] {
        let path = format!("{}/../tests/cases/{file}", env!("CARGO_MANIFEST_DIR"));
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let input: String = cases.iter().map(|case| format!("{}\n", case[field])).collect();
        let ran = with_input(&["validate", "-f", "-", "-o", "json"], &input);
        assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
        let lines: Vec<Value> = ran
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), cases.len());
        for (case, line) in cases.iter().zip(&lines) {
            assert_eq!(case["valid"], line["valid"], "{case}\n{line}");
            assert_eq!(
                line["errors"].as_array().unwrap().is_empty(),
                case["valid"] == true,
                "{line}"
            );
        }
    }
}

#[test]
fn each_document_has_a_line_however_bad() {
    let tier = |name: &str| {
        format!(r#"{{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{{"name":"{name}"}},"spec":{{}}}}"#)
    };
    let list = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{},{}]}}"#,
        tier("a"),
        tier("B")
    );
    let input = [
        tier("a").as_str(),
        "no json",
        "{",
        "7",
        "{}",
        "[]",
        &list,
        &tier("a"),
        "",
    ]
    .join("\n");
    let ran = with_input(&["validate", "-f", "-", "-o", "json"], &input);
    let valid: Vec<bool> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["valid"].as_bool().unwrap())
        .collect();
    // A record, three that are none, an empty array, the two of the list, and the first once more.
    assert_eq!(valid, [true, false, false, false, true, false, true], "{}", ran.out);
}

#[test]
fn bytes_that_are_no_text_spoil_their_own_document() {
    let tier = |name: &str| format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\n");
    let mut bytes = tier("a").into_bytes();
    bytes.extend(format!("---\n{}", tier("b")).bytes());
    bytes.extend(b"# \xff\n---\n");
    bytes.extend(tier("c").bytes());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    std::fs::write(&file, bytes).unwrap();
    let ran: common::Ran = felid(&["validate", "-f", &file.display().to_string()])
        .output()
        .unwrap()
        .into();
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(1), "2 documents valid, 1 invalid\n")
    );
    assert!(
        ran.err.contains("a.yaml:8: error: Tier/b: column 3: not UTF-8"),
        "{}",
        ran.err
    );
}

#[test]
fn good_records_are_quiet() {
    let ran = with_input(&["validate", "-f", "-"], common::records::SHOP);
    assert_eq!(
        (ran.code, ran.err.as_str(), ran.out.as_str()),
        (Some(0), "", "9 documents valid, 0 invalid\n")
    );
}

#[test]
fn one_resource_in_two_files_of_a_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tier = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {order: 5}\n";
    std::fs::create_dir(dir.path().join("deep")).unwrap();
    std::fs::write(dir.path().join("a.yaml"), tier).unwrap();
    std::fs::write(dir.path().join("deep/any-name"), tier).unwrap();
    let ran: common::Ran = felid(&["validate", "-f", &dir.path().display().to_string()])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err
            .contains("deep/any-name:1: error: Tier/a: metadata.name: the same resource stands in "),
        "{}",
        ran.err
    );
}

#[test]
fn nothing_to_check_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let empty: common::Ran = felid(&["validate", "-f", &path]).output().unwrap().into();
    assert_eq!(empty.code, Some(1));
    let skipped: common::Ran = felid(&["validate", "-f", &path, "--skip-empty"])
        .output()
        .unwrap()
        .into();
    assert_eq!(skipped.code, Some(0));
    let missing: common::Ran = felid(&["validate", "-f", "/nonexistent.yaml"]).output().unwrap().into();
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("/nonexistent.yaml"), "{}", missing.err);
}

fn in_directory(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let path = dir.path().display().to_string();
    (dir, path)
}

fn validate(path: &str) -> common::Ran {
    felid(&["validate", "-f", path]).output().unwrap().into()
}

/// What cannot be read is one error of many, in a directory and among files.
#[test]
fn a_dangling_link_hides_no_other_error() {
    let (dir, path) = in_directory(&[("a.yaml", BAD), ("z.yaml", "kind: Tier\n")]);
    std::os::unix::fs::symlink("/nonexistent/b", dir.path().join("m.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
    let ran = validate(&path);
    assert_eq!(ran.code, Some(1));
    for part in [
        "a.yaml:4: error: NetworkPolicy/Bad_Name: ",
        "m.yaml: error: a link to /nonexistent/b: ",
        "loop.yaml: error: a link to loop.yaml: ",
        "z.yaml:1: error: ",
    ] {
        assert!(ran.err.contains(part), "{part:?} in {}", ran.err);
    }
    assert_eq!(ran.out, "2 documents valid, 4 invalid, 1 warning\n");
    let ran: common::Ran = felid(&[
        "validate",
        "-f",
        "/nonexistent.yaml",
        "-f",
        &format!("{path}/a.yaml"),
        "-o",
        "json",
    ])
    .output()
    .unwrap()
    .into();
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4, "{}", ran.out);
    assert_eq!(
        (&lines[0]["valid"], &lines[0]["file"]),
        (&false.into(), &"/nonexistent.yaml".into())
    );
    // Nothing of it is written: there the first is the end.
    let (_store, store) = in_directory(&[]);
    let ran = common::on(std::path::Path::new(&store), &["apply", "-f", &path]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(std::fs::read_dir(&store).unwrap().next().is_none());
}

#[test]
fn a_file_without_its_option_gets_a_hint() {
    for command in ["validate", "convert", "apply", "create", "replace"] {
        let ran: common::Ran = felid(&[command, "shop.yaml", "b.yaml"]).output().unwrap().into();
        assert_eq!(ran.code, Some(2), "{command}: {}", ran.err);
        let hint = format!("files are named with -f: felid {command} -f shop.yaml");
        assert!(ran.err.contains(&hint), "{command}: {}", ran.err);
    }
    let (dir, _) = in_directory(&[("shop.yaml", BAD)]);
    for command in ["get", "delete"] {
        let ran: common::Ran = felid(&[command, "shop.yaml", "x"])
            .current_dir(dir.path())
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, Some(2), "{command}: {}", ran.err);
        assert!(ran.err.contains("files are named with -f"), "{command}: {}", ran.err);
    }
}

fn endpoint(name: &str, interface: &str, address: &str, node: &str, profile: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{namespace: x}}\nspec:\n  node: {node}\n  orchestrator: k8s\n  \
         pod: {name}\n  endpoint: eth0\n  interfaceName: {interface}\n  ipNetworks: ['{address}']\n  profiles: [{profile}]\n"
    )
}

/// Records that are good alone may be bad together: whoever checks a directory hears of it.
#[test]
fn errors_between_records_are_errors_of_the_directory() {
    let profile = "---\napiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: open}\n";
    let policy = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: secure.p, namespace: x}\nspec:\n  tier: secure\n";
    let staged = "---\napiVersion: projectcalico.org/v3\nkind: StagedNetworkPolicy\nmetadata: {name: secure.s, namespace: x}\nspec:\n  tier: secure\n";
    let tier = "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: secure}\nspec: {order: 5}\n";
    let web = endpoint("web", "cali1", "10.0.0.1", "n", "open");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: y}\nspec: {nodeName: n, serviceAccountName: robot}\nstatus: {podIP: 10.0.0.7}\n";
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n";
    let account = "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot, namespace: y}\n";
    let whole = [profile, &web].concat();
    let cases: [(&str, String, Option<&str>); 12] = [
        ("good", whole.clone(), None),
        (
            "tier",
            [&whole, policy].concat(),
            Some(":22: error: NetworkPolicy/x/secure.p: spec.tier \"secure\": no such tier"),
        ),
        ("tier that is there", [&whole, policy, tier].concat(), None),
        (
            "profile",
            web.clone(),
            Some("WorkloadEndpoint/x/n-k8s-web-eth0: spec.profiles \"open\": no such profile"),
        ),
        (
            "interface",
            [whole.clone(), endpoint("zed", "cali1", "10.0.0.2", "n", "open")].concat(),
            Some("x/n-k8s-zed-eth0: spec.interfaceName \"cali1\": WorkloadEndpoint/x/n-k8s-web-eth0 of the same node"),
        ),
        (
            "interface of another node",
            [whole.clone(), endpoint("zed", "cali1", "10.0.0.2", "m", "open")].concat(),
            None,
        ),
        (
            "address",
            [whole.clone(), endpoint("zed", "cali2", "10.0.0.1", "n", "open")].concat(),
            Some("x/n-k8s-zed-eth0: spec.ipNetworks \"10.0.0.1\": WorkloadEndpoint/x/n-k8s-web-eth0 of the same node"),
        ),
        ("pod", [pod, namespace, account].concat(), None),
        (
            "pod without namespace",
            [pod, account].concat(),
            Some("Pod/y/p: metadata.namespace \"kns.y\": no record of the namespace"),
        ),
        ("pod without account", [pod, namespace].concat(), None),
        (
            "finished pod",
            pod.replace("{podIP: 10.0.0.7}", "{phase: Failed, podIP: 10.0.0.1}") + &whole + namespace + account,
            None,
        ),
        ("not staged", [&whole, staged, tier].concat(), None),
    ];
    for (what, text, error) in cases {
        let (_dir, path) = in_directory(&[("records.yaml", &text)]);
        let ran = validate(&path);
        assert_eq!(ran.code, Some(i32::from(error.is_some())), "{what}: {}", ran.err);
        match error {
            None => assert!(!ran.err.contains("error: "), "{what}: {}", ran.err),
            Some(error) => assert!(ran.err.contains(error), "{what}: {}", ran.err),
        }
        // A file alone need not hold everything.
        let ran = validate(&format!("{path}/records.yaml"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{what}");
    }
    // A staged policy is not enforced: that it is not judged is worth a warning.
    let (_dir, path) = in_directory(&[("records.yaml", &[&whole, staged].concat())]);
    let ran = validate(&path);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err
            .contains("warning: StagedNetworkPolicy/x/secure.s: spec.tier \"secure\": no such tier"),
        "{}",
        ran.err
    );
    // What one directory refers to may stand in another.
    let (_one, one) = in_directory(&[("a.yaml", &[&whole, policy].concat())]);
    let (_other, other) = in_directory(&[("b.yaml", tier)]);
    let ran: common::Ran = felid(&["validate", "-f", &one, "-f", &other]).output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn what_stands_beside_records_is_a_warning_in_a_directory() {
    let files = common::records::BESIDE_RECORDS;
    let (dir, path) = in_directory(&files);
    let ran = validate(&path);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for (name, _) in &files[1..] {
        let told = |line: &str| line.contains(name) && line.contains(": warning: ");
        assert!(ran.err.lines().any(told), "{name}: {}", ran.err);
    }
    // Who names such a file himself is told that it is none.
    let alone = validate(&dir.path().join("values.yaml").display().to_string());
    assert_eq!(alone.code, Some(1), "{}", alone.err);
    assert!(alone.err.contains("it is no record"), "{}", alone.err);
}
