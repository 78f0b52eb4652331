//! What `felid validate` says: each rule of the language, by records that keep it and records that
//! break it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod endpoints;
mod in_force;
mod meta;
mod policies;
mod pools;
mod rules;

use felid_model::{Decoded, Resource, Severity, decode, documents};

/// Decodes the one document of a text.
fn decoded(text: &str) -> Decoded {
    let mut found = documents(text);
    assert_eq!(found.len(), 1, "{text}");
    decode(&found.remove(0))
}

/// A record of Calico's own, in flow style.
fn record(kind: &str, metadata: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n")
}

/// Fields of the errors in a text, in one line.
fn errors(text: &str) -> String {
    fields(text, Severity::Error)
}

/// Fields of the warnings in a text.
fn warnings(text: &str) -> String {
    fields(text, Severity::Warning)
}

fn fields(text: &str, severity: Severity) -> String {
    let decoded = decoded(text);
    let fields: Vec<&str> = decoded
        .issues()
        .iter()
        .filter(|issue| issue.severity == severity)
        .map(|issue| issue.field.as_str())
        .collect();
    fields.join(" ")
}

/// The resource of a text without errors.
fn resource(text: &str) -> Resource {
    match decoded(text) {
        Decoded::Resource { resource, issues } => {
            let good = issues.iter().all(|issue| issue.severity == Severity::Warning);
            assert!(good, "{text}\n{issues:?}");
            resource
        }
        other => panic!("{text}\n{other:?}"),
    }
}

/// Checks specs of a kind: each with the fields of its errors, none if it is good.
fn check(kind: &str, name: &str, specs: &[(&str, &str)]) {
    for (spec, wanted) in specs {
        let text = record(kind, &format!("name: {name}"), spec);
        assert_eq!(errors(&text), *wanted, "{text}");
        if wanted.is_empty() {
            resource(&text);
        }
    }
}
