//! The `--config` file: a YAML (or JSON) map of settings, or a whole `FelixConfiguration` document,
//! of which the spec counts.

use std::path::Path;

use felid_model::{NO_SUCH_SETTING, documents, is_setting_of_felix_alone};
use serde_json::Value;

use super::{Layer, SettingError};

/// Reads the file. What felid cannot follow is an error, since a setting that is silently ignored
/// may open what it should close; settings that only Felix has are told, as in a record.
pub fn read(path: &Path) -> Result<(Layer, Vec<String>), SettingError> {
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
        return Ok((Layer::default(), Vec::new()));
    }
    let document = document(&text).map_err(|reason| fail("", String::new(), reason))?;
    let settings = match &document {
        Value::Null => return Ok((Layer::default(), Vec::new())),
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
                None | Some(Value::Null) => return Ok((Layer::default(), Vec::new())),
                Some(_) => return Err(fail("spec", String::new(), "not a map".to_owned())),
            }
        }
        Value::Object(map) => map,
        _ => return Err(fail("", String::new(), "not a map of settings".to_owned())),
    };
    let (mut layer, mut not_followed) = (Layer::default(), Vec::new());
    for (name, value) in settings {
        if is_setting_of_felix_alone(name) {
            not_followed.push(format!("{}: {NO_SUCH_SETTING}", place(name)));
            continue;
        }
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
    Ok((layer, not_followed))
}

/// The only document of the file.
fn document(text: &str) -> Result<Value, String> {
    let mut found = documents(text).into_iter();
    match (found.next(), found.next()) {
        (None, _) => Ok(Value::Null),
        (Some(document), None) => document.content.map_err(|error| error.to_string()),
        (Some(_), Some(second)) => Err(format!("line {}: a second document; one is expected", second.line)),
    }
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
