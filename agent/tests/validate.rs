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
    assert!(ran.err.contains("a.yaml:8: error: column 3: not UTF-8"), "{}", ran.err);
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
