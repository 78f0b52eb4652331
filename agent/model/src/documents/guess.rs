//! What the text of a document that does not parse says of itself, so that its last good version
//! can be found and endpoints that it may concern can be closed. Looks at lines only: right for
//! block YAML and indented JSON, a good guess for the rest.

use crate::recognition::is_unrendered;

/// What was read; `None` where the text does not say it plainly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guess {
    /// `apiVersion`
    pub(crate) api_version: Option<String>,
    /// `kind`
    pub(crate) kind: Option<String>,
    /// `metadata.name`
    pub(crate) name: Option<String>,
    /// `metadata.namespace`
    pub(crate) namespace: Option<String>,
    /// It is a policy, or a list of records or a text of no clear kind with a policy in it.
    pub(crate) maybe_policy: bool,
    /// It has a field that every record has, and hardly anything else.
    pub(crate) says_record: bool,
    /// It holds what a renderer of templates replaces, and not only in comments and quoted texts.
    pub(crate) is_template: bool,
}

/// A line `key: value`.
struct KeyLine<'a> {
    indent: usize,
    key: &'a str,
    value: &'a str,
}

impl Guess {
    /// Reads what can be read.
    pub(crate) fn of(text: &str) -> Guess {
        let is_template = is_unrendered(text);
        let entries: Vec<KeyLine<'_>> = text.lines().flat_map(entries).collect();
        let outermost = |key: &'static str| {
            let all = || entries.iter().enumerate().filter(move |(_, entry)| entry.key == key);
            let least = all().map(|(_, entry)| entry.indent).min()?;
            let mut found = all().filter(|(_, entry)| entry.indent == least);
            // Said twice: a line `---` may be missing between two records.
            found.next().filter(|_| found.next().is_none())
        };
        let value = |entry: &KeyLine<'_>| Some(entry.value.to_owned()).filter(|value| !value.is_empty());
        let text = |key| outermost(key).and_then(|(_, entry)| value(entry));
        let in_metadata = |key: &str| {
            let (start, metadata) = outermost("metadata")?;
            let inside = entries
                .get(start + 1..)?
                .iter()
                .take_while(|entry| entry.indent > metadata.indent);
            let found = inside.filter(|entry| entry.key == key && !entry.value.is_empty());
            found.min_by_key(|entry| entry.indent).and_then(value)
        };
        let kind = text("kind");
        let is_policy = |kind: &str| kind.ends_with("Policy") || kind == "policy";
        let maybe_policy = match kind.as_deref() {
            Some(kind) if !kind.ends_with("List") => is_policy(kind),
            _ => entries
                .iter()
                .any(|entry| entry.key == "kind" && is_policy(entry.value)),
        };
        Guess {
            api_version: text("apiVersion"),
            kind,
            name: in_metadata("name"),
            namespace: in_metadata("namespace"),
            maybe_policy,
            says_record: entries.iter().any(|entry| {
                ["apiVersion", "kind", "metadata", "spec"]
                    .iter()
                    .any(|key| entry.key.eq_ignore_ascii_case(key))
            }),
            is_template,
        }
    }
}

/// The `key: value` pairs of a line; several if it is JSON or flow style, each indented a little
/// more than the one before.
fn entries(line: &str) -> Vec<KeyLine<'_>> {
    let indent = line.len() - line.trim_start_matches([' ', '\t', '-']).len();
    let indent = indent.saturating_mul(4096);
    let trimmed = line.trim();
    if trimmed.starts_with('#') {
        return Vec::new();
    }
    let flow = trimmed.contains(['{', '[', ',']);
    let parts: Vec<&str> = if flow {
        trimmed.split(['{', '[', ',']).collect()
    } else {
        vec![trimmed]
    };
    let mut found = Vec::new();
    for (depth, part) in parts.into_iter().enumerate() {
        if let Some((key, value)) = part.split_once(':') {
            let value = value.split(" #").next().unwrap_or_default();
            let (key, value) = (clean(key), clean(value));
            found.push(KeyLine {
                indent: indent + depth,
                key,
                value,
            });
        }
    }
    found
}

fn clean(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '}' | ']' | '-'))
}
