//! YAML for people: nothing in it drives a terminal.

use std::io::Write;

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_saphyr::DoubleQuoted;

use crate::text::{escape_yaml, has_hidden};

/// Prints as YAML.
pub fn yaml(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    // Through JSON's data model, so that both formats have the same names and shapes.
    let value: Value = serde_json::to_value(value)?;
    let text = serde_saphyr::to_string(&Node(&value))?;
    let text = escape_yaml(&text);
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(())
}

/// A value whose texts stand within double quotes where something in them has to be escaped.
struct Node<'a>(&'a Value);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) => Text(text).serialize(serializer),
            Value::Array(items) => serializer.collect_seq(items.iter().map(Node)),
            Value::Object(fields) => serializer.collect_map(fields.iter().map(|(key, value)| (Text(key), Node(value)))),
            other => other.serialize(serializer),
        }
    }
}

/// A text that may be a key.
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if has_hidden(self.0) {
            DoubleQuoted(self.0).serialize(serializer)
        } else {
            self.0.serialize(serializer)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_drives_a_terminal_and_it_reads_as_what_it_was() {
        let hidden = "a\u{1b}[31m\u{202e}b\u{200b}\u{e0041}\u{feff}\u{85}\u{2028}\r\t\nend";
        let value = json!({
            "plain": "text", "lines": "one\ntwo\n", "tab": "a\tb", "list": [hidden, {"deep": hidden}],
            (hidden): {"x": 1}, "number": 1.5, "none": null, "quote": "it's \"\u{202e}\"\\",
        });
        let mut out = Vec::new();
        yaml(&mut out, &value).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!has_hidden(&text), "{text:?}");
        let documents = felid_model::documents(&text);
        assert_eq!(documents.len(), 1, "{text}");
        assert_eq!(documents[0].content.as_ref().unwrap(), &value, "{text}");
    }
}
