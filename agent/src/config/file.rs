//! The `--config` file: a YAML (or JSON) map of settings, or a whole `FelixConfiguration` document, of which the spec counts.

use std::path::Path;

use serde_json::Value;

use super::{Layer, SettingError};

/// Reads the file; every problem is fatal, since a setting that is silently ignored may open what it should close.
pub fn read(path: &Path) -> Result<Layer, SettingError> {
    let place = |rest: &str| {
        if rest.is_empty() {
            path.display().to_string()
        } else {
            format!("{}: {rest}", path.display())
        }
    };
    let fail = |rest: &str, value: String, reason: String| SettingError {
        place: place(rest),
        value,
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail("", String::new(), error.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Layer::default());
    }
    let document: Value = serde_saphyr::from_str(&text).map_err(|error| fail("", String::new(), error.to_string()))?;
    let settings = match &document {
        Value::Null => return Ok(Layer::default()),
        Value::Object(map) if map.contains_key("kind") => {
            if map.get("kind").and_then(Value::as_str) != Some("FelixConfiguration") {
                return Err(fail(
                    "kind",
                    String::new(),
                    "only a FelixConfiguration can be a configuration file".to_owned(),
                ));
            }
            match map.get("spec") {
                Some(Value::Object(spec)) => spec,
                None | Some(Value::Null) => return Ok(Layer::default()),
                Some(_) => return Err(fail("spec", String::new(), "not a map".to_owned())),
            }
        }
        Value::Object(map) => map,
        _ => return Err(fail("", String::new(), "not a map of settings".to_owned())),
    };
    let mut layer = Layer::default();
    for (name, value) in settings {
        let text = scalar(value).ok_or_else(|| {
            fail(
                name,
                value.to_string(),
                "not a value that this setting can have".to_owned(),
            )
        })?;
        layer
            .set(name, &text, &place(name))
            .map_err(|reason| fail(name, text.clone(), reason))?;
    }
    Ok(layer)
}

/// Text of a value as a flag would have it: lists with commas, maps as `name=value` with commas.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(items) => items
            .iter()
            .map(scalar)
            .collect::<Option<Vec<_>>>()
            .map(|items| items.join(",")),
        Value::Object(map) => {
            let pairs = map
                .iter()
                .map(|(name, value)| scalar(value).map(|value| format!("{name}={value}")));
            pairs.collect::<Option<Vec<_>>>().map(|pairs| pairs.join(","))
        }
        Value::Null => None,
    }
}
