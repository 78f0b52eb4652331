//! Writes the reference cases of `tests/cases` and the records of `examples` into the corpora, one
//! file a case.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Longer cases make the fuzzer slow.
const LONGEST_CASE: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = root.join("..");
    let read = |name: &str| -> Result<Vec<Value>, Box<dyn Error>> {
        let path = repository.join("tests/cases").join(name);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    };
    let write = |target: &str, inputs: Vec<String>| -> Result<(), Box<dyn Error>> {
        let folder = root.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        for (i, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("case-{i:04}")), input)?;
        }
        println!("{}: {} inputs", folder.display(), inputs.len());
        Ok(())
    };

    let selectors = read("selectors.json")?;
    write(
        "selector",
        selectors
            .iter()
            .filter_map(|case| case["selector"].as_str())
            .map(str::to_owned)
            .collect(),
    )?;

    let mut records = Vec::new();
    for (file, field) in [("policy_validation.json", "resource"), ("wep_validation.json", "wep")] {
        records.extend(read(file)?.iter().map(|case| as_yaml(&case[field])));
    }
    for entry in fs::read_dir(repository.join("examples"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.path().extension().is_some_and(|extension| extension == "yaml") {
            records.push(fs::read_to_string(entry.path())?);
        }
    }
    let lines = |value: &Value| format!("{}\n{}\n", json!({"apply": value}), json!({"delete": value}));
    let mut streams = vec!["{\"resync\": true}\n{\"inSync\": true}\n".to_owned()];
    for (file, field) in [("policy_validation.json", "resource"), ("wep_validation.json", "wep")] {
        streams.extend(read(file)?.iter().map(|case| lines(&case[field])));
    }
    write("stream", streams)?;
    let mut cases = vec![fs::read_to_string(repository.join("examples/policy-tests/shop.yaml"))?];
    let own = fs::read_to_string(repository.join("tests/data/policy-tests.yaml"))?;
    cases.extend(own.split("\n---\n").map(str::to_owned));
    for file in ["calico_fv.json", "k8s_e2e_netpol.json"] {
        let each = read(&format!("policy-tests/{file}"))?;
        cases.extend(each.iter().map(as_yaml).filter(|text| text.len() < LONGEST_CASE));
    }
    write("cases", cases)?;
    write("yaml", records)
}

/// Block style, so that mutations meet the indentation of real files.
fn as_yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let nested = value.as_object().is_some_and(|map| !map.is_empty())
                    || value.as_array().is_some_and(|list| !list.is_empty());
                if nested {
                    text.push_str(&format!("{pad}{key}:\n"));
                    block(value, indent + 1, text);
                } else {
                    text.push_str(&format!("{pad}{key}: {value}\n"));
                }
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                text.push_str(&format!("{pad}-\n"));
                block(item, indent + 1, text);
            }
        }
        other => text.push_str(&format!("{pad}{other}\n")),
    }
}
