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

/// Valid, apart from what this version refuses to enforce.
fn is_valid(decoded: &Decoded) -> bool {
    errors(decoded).iter().all(|issue| issue.is_not_enforced())
}

/// Features in valid cases that this version refuses: a field with this name, or this kind.
fn refused_feature(record: &Value) -> bool {
    const KINDS: [&str; 3] = ["StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "HostEndpoint"];
    const FIELDS: [&str; 6] = [
        "icmp",
        "services",
        "serviceAccounts",
        "preDNAT",
        "doNotTrack",
        "allowSpoofedSourcePrefixes",
    ];
    fn has_field(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(key, value)| {
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
                (FIELDS.contains(&key.as_str()) && !empty) || has_field(value)
            }),
            Value::Array(list) => list.iter().any(has_field),
            _ => false,
        }
    }
    KINDS.contains(&record["kind"].as_str().unwrap_or_default()) || has_field(&record["spec"])
}

fn check(file: &str, field: &str) {
    let cases = cases(file);
    assert!(cases.len() > 20);
    for case in cases {
        let record = &case[field];
        let decoded = decode_value(record);
        let found = errors(&decoded);
        if case["valid"] == true {
            assert!(is_valid(&decoded), "{record}\nis valid, but: {found:?}");
            assert_eq!(
                matches!(decoded, Decoded::Resource { .. }),
                !refused_feature(record),
                "{record}\n{found:?}"
            );
        } else {
            assert!(
                !is_valid(&decoded),
                "{record}\nis not valid, but decodes as {decoded:?}"
            );
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
