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
