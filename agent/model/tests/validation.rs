//! Validation against the reference cases.
#![expect(clippy::unwrap_used, reason = "tests")]

use felid_model::{Decoded, Issue, Severity, decode, decode_value, documents};
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/../../tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn errors(decoded: &Decoded) -> Vec<&Issue> {
    decoded
        .issues()
        .iter()
        .filter(|issue| issue.severity == Severity::Error)
        .collect()
}

fn check(file: &str, field: &str) {
    let cases = cases(file);
    assert!(cases.len() > 20);
    for case in cases {
        let record = &case[field];
        let decoded = decode_value(record);
        let found = errors(&decoded);
        if case["valid"] == true {
            assert!(found.is_empty(), "{record}\nis valid, but: {found:?}");
            assert!(matches!(decoded, Decoded::Resource { .. }), "{record}\n{decoded:?}");
        } else {
            assert!(!found.is_empty(), "{record}\nis not valid, but decodes as {decoded:?}");
        }
        // The same by way of a file; every issue names a line of it.
        for text in [serde_json::to_string_pretty(record).unwrap(), record.to_string()] {
            let documents = documents(&text);
            assert_eq!(documents.len(), 1);
            let by_file = decode(&documents[0]);
            assert_eq!(by_file.issues().len(), decoded.issues().len());
            assert!(
                by_file
                    .issues()
                    .iter()
                    .all(|issue| issue.line.is_some_and(|line| line <= text.lines().count()))
            );
        }
    }
}

#[test]
fn reference_cases_of_policies() {
    check("policy_validation.json", "resource");
}

#[test]
fn reference_cases_of_endpoints() {
    check("wep_validation.json", "wep");
}
