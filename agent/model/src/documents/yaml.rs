//! One YAML document, by serde-saphyr, with the line of every field.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Budget, Error, Options, Spanned};

use super::document::SyntaxError;
use super::tree::{ValueLines, ValueTree, Written};
use super::{MAX_DEPTH, plain, words};

/// Parses a text that holds one document. Its first line is `first_line` of the file.
pub(super) fn parse(text: &str, first_line: usize) -> Result<ValueTree, SyntaxError> {
    match plain::parse(text, first_line) {
        Some(tree) => Ok(tree),
        None => parse_slowly(text, first_line),
    }
}

/// The same by the library alone.
pub(super) fn parse_slowly(text: &str, first_line: usize) -> Result<ValueTree, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Spanned<YamlNode>>(text, options(text.len())) {
        Ok(node) => {
            let mut tree = node.value.0;
            tree.lines.line = line(node.referenced.line());
            finish(&tree.value, &mut tree.lines, text, first_line.saturating_sub(1));
            Ok(tree)
        }
        Err(error) => Err(syntax_error(&error, first_line)),
    }
}

/// Limits: what plain text may hold grows with its size; what aliases and merge keys multiply does
/// not.
fn options(size: usize) -> Options {
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = MAX_DEPTH;
    budget.max_events = budget.max_events.max(size.saturating_mul(2));
    budget.max_nodes = budget.max_nodes.max(size.saturating_mul(2));
    budget.max_total_scalar_bytes = budget.max_total_scalar_bytes.max(size.saturating_mul(2));
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    budget.max_merge_keys = 1_000;
    budget.max_recorded_anchor_events = 20_000;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = 20_000;
    options.alias_limits.max_replay_stack_depth = 16;
    options.strict_booleans = true;
    options.reject_unsupported_tags = true;
    options.with_snippet = false;
    options.emit_comments = false;
    options
}

fn line(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX)
}

/// Counts lines from the file's first one, `by` lines above the text's, and looks up how numbers
/// are written.
fn finish(value: &Value, lines: &mut ValueLines, text: &str, by: usize) {
    lines.line = lines.line.saturating_add(by);
    if let (Written::At(range), Value::Number(number)) = (&lines.written, value) {
        lines.written = text
            .get(range.clone())
            .map_or(Written::AsPrinted, |written| Written::of(number, written));
    }
    match value {
        Value::Array(values) => {
            for (value, lines) in values.iter().zip(&mut lines.children) {
                finish(value, lines, text, by);
            }
        }
        Value::Object(values) => {
            for (value, lines) in values.values().zip(&mut lines.children) {
                finish(value, lines, text, by);
            }
        }
        _ => {}
    }
}

/// A value that was read, with the bytes where it stands if it is a number.
fn place(node: Spanned<YamlNode>) -> ValueTree {
    let mut tree = node.value.0;
    if tree.value.is_number() {
        let span = node.defined.span();
        let bytes = span.byte_offset().zip(span.byte_len());
        let range = bytes.and_then(|(start, length)| {
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(length).ok()?)?)
        });
        tree.lines.written = range.map_or(Written::AsPrinted, Written::At);
    }
    tree
}

fn syntax_error(error: &Error, first_line: usize) -> SyntaxError {
    let error = error.without_snippet();
    let location = error.location();
    SyntaxError {
        line: location.map_or(first_line, |at| {
            first_line.saturating_sub(1).saturating_add(line(at.line()).max(1))
        }),
        column: location.map_or(1, |at| line(at.column()).max(1)),
        reason: match own_words(error) {
            Some(own) => own.chars().take(MOST_REASON).collect(),
            None => words::sentence(&error.to_string()),
        },
    }
}

/// Longest message in characters: it may quote the text.
const MOST_REASON: usize = 300;

/// What [`YamlNode`] itself found wrong; it begins with [`OWN`].
fn own_words(error: &Error) -> Option<String> {
    if let Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return Some(format!("the key {key:?} stands here twice"));
    }
    let message = error.to_string();
    let (_, own) = message.split_once(OWN)?;
    // The library appends a place that counts from the document's first line.
    let place = |text: &str| text.chars().all(|c| c.is_ascii_digit() || " ,column:".contains(c));
    match own.rsplit_once(" at line ") {
        Some((reason, tail)) if place(tail) => Some(reason.to_owned()),
        _ => Some(own.to_owned()),
    }
}

/// Begins the reasons that are felid's own.
const OWN: &str = "\u{1}";

/// A value with the lines of what it holds; whoever asks for it knows its own line.
struct YamlNode(ValueTree);

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn scalar<E>(value: impl Into<Value>) -> Result<YamlNode, E> {
        Ok(YamlNode(ValueTree::scalar(value.into(), 0)))
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = YamlNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlNode, E> {
        Self::scalar(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlNode, E> {
        Self::scalar(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlNode, E> {
        Self::scalar(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<YamlNode, E> {
        match Number::from_f64(value) {
            Some(number) => Self::scalar(number),
            None => Err(E::custom(format!("{OWN}a number that is not finite"))),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlNode, E> {
        Self::scalar(value)
    }

    fn visit_string<E>(self, value: String) -> Result<YamlNode, E> {
        Self::scalar(value)
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        Self::scalar(Value::Null)
    }

    fn visit_none<E>(self) -> Result<YamlNode, E> {
        Self::scalar(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode, D::Error> {
        YamlNode::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<YamlNode, A::Error> {
        let (mut values, mut children) = (Vec::new(), Vec::new());
        while let Some(item) = seq.next_element::<Spanned<YamlNode>>()? {
            let at = line(item.referenced.line());
            let ValueTree { value, mut lines } = place(item);
            lines.line = at;
            values.push(value);
            children.push(lines);
        }
        Ok(YamlNode(ValueTree {
            value: Value::Array(values),
            lines: ValueLines::of(0, children),
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlNode, A::Error> {
        let (mut values, mut children) = (Map::new(), Vec::new());
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let ValueTree { value, mut lines } = place(map.next_value::<Spanned<YamlNode>>()?);
            lines.line = line(key.referenced.line());
            if values.contains_key(&key.value) {
                return Err(A::Error::custom(format!(
                    "{OWN}the key {:?} stands here twice",
                    key.value
                )));
            }
            values.insert(key.value, value);
            children.push(lines);
        }
        Ok(YamlNode(ValueTree {
            value: Value::Object(values),
            lines: ValueLines::of(0, children),
        }))
    }
}
