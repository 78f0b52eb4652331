//! A value with the lines of its fields and items.

use std::ops::Range;

use serde_json::{Number, Value};

/// Lines of a value and, in the same order, of its fields or items.
#[derive(Clone, Debug, Default)]
pub(super) struct ValueLines {
    pub(super) line: usize,
    pub(super) children: Vec<ValueLines>,
    pub(super) written: Written,
}

/// How a number stands in the file.
#[derive(Clone, Debug, Default)]
pub(super) enum Written {
    /// As its value prints; or the value is no number.
    #[default]
    AsPrinted,
    /// In these bytes of the text that is being parsed: what stands there is still to be looked up.
    At(Range<usize>),
    /// In another way than its value prints: `012`, `1e3`.
    As(Box<str>),
}

impl Written {
    pub(super) fn of(number: &Number, text: &str) -> Self {
        if number.to_string() == text {
            Written::AsPrinted
        } else {
            Written::As(text.into())
        }
    }
}

impl ValueLines {
    /// The lines of a value that is no number.
    pub(super) fn of(line: usize, children: Vec<ValueLines>) -> Self {
        Self {
            line,
            children,
            written: Written::AsPrinted,
        }
    }
}

/// Follows a path as far as it goes. Returns the lines of the last value on the way, and what is
/// left of the path.
pub(super) fn find<'a, 'p>(mut value: &Value, mut lines: &'a ValueLines, path: &'p str) -> (&'a ValueLines, &'p str) {
    let mut rest = path;
    loop {
        let found = match value {
            // Keys may hold dots themselves: the longest one that fits is meant.
            Value::Object(map) => map
                .iter()
                .enumerate()
                .filter_map(|(i, (key, value))| Some((i, value, key, rest.strip_prefix(key.as_str())?)))
                .filter(|(.., tail)| tail.is_empty() || tail.starts_with(['.', '[']))
                .max_by_key(|(_, _, key, _)| key.len())
                .map(|(i, value, _, tail)| (i, value, tail)),
            Value::Array(list) => rest
                .strip_prefix('[')
                .and_then(|tail| tail.split_once(']'))
                .and_then(|(index, tail)| Some((index.parse::<usize>().ok()?, tail)))
                .and_then(|(i, tail)| Some((i, list.get(i)?, tail))),
            _ => None,
        };
        let Some((child, (inner, tail))) =
            found.and_then(|(i, inner, tail)| Some((lines.children.get(i)?, (inner, tail))))
        else {
            return (lines, rest);
        };
        (value, lines, rest) = (inner, child, tail.strip_prefix('.').unwrap_or(tail));
    }
}

/// A parsed value with its lines.
pub(super) struct ValueTree {
    pub(super) value: Value,
    pub(super) lines: ValueLines,
}

impl ValueTree {
    pub(super) fn scalar(value: Value, line: usize) -> Self {
        ValueTree {
            value,
            lines: ValueLines::of(line, Vec::new()),
        }
    }

    /// A number that stands in the file as `text`.
    pub(super) fn number(number: Number, text: &str, line: usize) -> Self {
        let written = Written::of(&number, text);
        let mut tree = ValueTree::scalar(Value::Number(number), line);
        tree.lines.written = written;
        tree
    }
}

/// Replaces a list by its items; whether it was one. Recursion is bounded by the parsers' depth.
pub(super) fn expand(tree: ValueTree, out: &mut Vec<ValueTree>) -> bool {
    let ValueTree { value, lines } = tree;
    match value {
        Value::Array(items) => {
            for (value, lines) in items.into_iter().zip(or_unknown(lines.children)) {
                expand(ValueTree { value, lines }, out);
            }
            true
        }
        Value::Object(mut map) => {
            let kind = map
                .get("kind")
                .and_then(Value::as_str)
                .and_then(|kind| kind.strip_suffix("List"));
            let place = map.iter().position(|(key, value)| key == "items" && value.is_array());
            let (Some(kind), Some(place)) = (kind.map(str::to_owned), place) else {
                out.push(ValueTree {
                    value: Value::Object(map),
                    lines,
                });
                return false;
            };
            let api_version = map.get("apiVersion").cloned();
            let Some(Value::Array(items)) = map.remove("items") else {
                return true;
            };
            let lines = lines
                .children
                .into_iter()
                .nth(place)
                .map(|lines| lines.children)
                .unwrap_or_default();
            for (mut value, lines) in items.into_iter().zip(or_unknown(lines)) {
                if let (Value::Object(item), false) = (&mut value, kind.is_empty()) {
                    item.entry("kind").or_insert_with(|| Value::String(kind.clone()));
                    if let Some(api_version) = &api_version {
                        item.entry("apiVersion").or_insert_with(|| api_version.clone());
                    }
                }
                expand(ValueTree { value, lines }, out);
            }
            true
        }
        value => {
            out.push(ValueTree { value, lines });
            false
        }
    }
}

/// The lines of items, for as many as there may be: a value that was not read here has none.
fn or_unknown(lines: Vec<ValueLines>) -> impl Iterator<Item = ValueLines> {
    lines.into_iter().chain(std::iter::repeat_with(ValueLines::default))
}
