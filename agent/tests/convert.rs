//! `felid convert`, by the built binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;

use common::{felid, with_input};
use serde_json::{Map, Value, json};

/// The cases of a file in `tests/cases`.
fn cases(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The answers to records, one a line.
fn converted(records: &[&Value]) -> Vec<Value> {
    let input: String = records.iter().map(|record| format!("{record}\n")).collect();
    let ran = with_input(&["convert", "-f", "-", "-o", "json"], &input);
    assert_eq!(ran.err, "");
    let answers: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), records.len());
    answers
}

/// What is compared: no identity of the API server, no status; empty, false and hostPort 0 are as
/// absent.
fn comparable(value: &Value) -> Value {
    fn clean(key: &str, value: &Value) -> Option<Value> {
        Some(match value {
            Value::Object(map) => {
                let map: Map<String, Value> = map
                    .iter()
                    .filter_map(|(key, value)| Some((key.clone(), clean(key, value)?)))
                    .collect();
                if map.is_empty() {
                    return None;
                }
                Value::Object(map)
            }
            Value::Array(list) if list.is_empty() => return None,
            Value::Array(list) => list.iter().map(|item| clean("", item).unwrap_or(json!({}))).collect(),
            Value::Null | Value::Bool(false) => return None,
            Value::String(text) if text.is_empty() => return None,
            Value::Number(number) if key == "hostPort" && number.as_u64() == Some(0) => return None,
            other => other.clone(),
        })
    }
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove("status");
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for key in ["uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(key);
        }
    }
    clean("", &value).unwrap()
}

fn check(case: &Value, answer: &Value, wanted: Option<&Value>) {
    if case["none"] == true {
        assert_eq!(answer, &json!({"none": true}), "{case}");
        return;
    }
    if case["error"] == true {
        // A pod that is not scheduled is no error to those who watch it wait.
        assert!(
            answer["error"].is_string() || answer["none"] == true,
            "{case}\n{answer}"
        );
    } else {
        assert!(answer["error"].is_null(), "{case}\n{answer}");
    }
    match wanted {
        Some(wanted) => {
            let resource = &answer["resources"][0];
            assert_eq!(comparable(resource), comparable(wanted), "{case}");
        }
        None => assert!(answer["resources"].is_null(), "{case}\n{answer}"),
    }
}

#[test]
fn cases_of_the_reference() {
    for (file, sources, result) in [
        ("pod_to_wep.json", &["pod"][..], "wep"),
        ("knp_to_policy.json", &["knp"], "policy"),
        ("cnp_to_policy.json", &["cnp"], "policy"),
        ("profile_from_k8s.json", &["namespace", "serviceAccount"], "profile"),
    ] {
        let cases = cases(file);
        let records: Vec<&Value> = cases
            .iter()
            .map(|case| sources.iter().find_map(|source| case.get(*source)).unwrap())
            .collect();
        assert!(!records.is_empty());
        for (case, answer) in cases.iter().zip(converted(&records)) {
            check(case, &answer, case.get(result));
        }
    }
}

#[test]
fn one_line_a_document_whatever_it_is() {
    let input = concat!(
        r#"{"apiVersion":"v1","kind":"List","items":["#,
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}},"#,
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"t"},"spec":{"order":1}}]}"#,
        "\n",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"}}"#,
        "\n",
        "{\"apiVersion\":\n",
        r#"{"apiVersion":"v1","kind":"policy","metadata":{"name":"old"}}"#,
        "\n",
        r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"sa"}}"#,
        "\n",
    );
    let ran = with_input(&["convert", "-f", "-", "-o", "json"], input);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 6, "{}", ran.out);
    assert_eq!(lines[0]["resources"][0]["metadata"]["name"], "kns.a");
    assert_eq!(lines[1]["resources"][0]["spec"], json!({"order": 1}));
    assert_eq!(lines[2], json!({"none": true}));
    assert!(lines[3]["error"].is_string() && lines[3]["resources"].is_null());
    assert!(lines[4]["error"].is_string() && lines[4]["resources"].is_null());
    assert_eq!(lines[5]["resources"][0]["metadata"]["name"], "ksa.default.sa");
}

#[test]
fn yaml_documents_and_what_is_wrong_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("records.yaml");
    std::fs::write(
        &file,
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock:
        cidr: 10.0.0.0/33
  - ports:
    - port: 80
---
apiVersion: v1
kind: Pod
metadata: {name: waiting}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
",
    )
    .unwrap();
    let name = file.display().to_string();
    let ran: common::Ran = felid(&["convert", "-f", &name]).output().unwrap().into();
    assert_eq!(ran.code, Some(1));
    let error = format!("{name}:10: error: NetworkPolicy/web: spec.ingress[0].from[0].ipBlock.cidr \"10.0.0.0/33\": ");
    assert!(ran.err.contains(&error), "{}", ran.err);
    assert!(ran.err.contains(":14: nothing for Pod/waiting: "), "{}", ran.err);
    // What comes out is good, and stays as it is.
    let ran = with_input(&["convert", "-f", "-"], &ran.out);
    let again = with_input(&["convert", "-f", "-"], &ran.out);
    assert_eq!(
        (again.code, again.err.as_str(), again.out),
        (Some(0), "", ran.out.clone())
    );
    let valid = with_input(&["validate", "-f", "-"], &ran.out);
    assert_eq!(valid.out, "2 documents valid, 0 invalid\n", "{}{}", valid.err, ran.out);
}

#[test]
fn nothing_named_is_wrong_usage() {
    let ran: common::Ran = felid(&["convert"]).output().unwrap().into();
    assert_eq!(ran.code, Some(2));
    let ran: common::Ran = felid(&["convert", "-f", "-", "-o", "table"]).output().unwrap().into();
    assert_eq!(ran.code, Some(2));
}
