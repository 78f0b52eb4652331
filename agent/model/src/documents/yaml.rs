//! One YAML document, by serde-saphyr, with the line of every field.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Budget, Error, Options, Spanned};

use super::{Lines, MAX_DEPTH, SyntaxError, Tree, plain};

/// Parses a text that holds one document. Its first line is `first_line` of the file.
pub(super) fn parse(text: &str, first_line: usize) -> Result<Tree, SyntaxError> {
    match plain::parse(text, first_line) {
        Some(tree) => Ok(tree),
        None => parse_slowly(text, first_line),
    }
}

/// The same by the library alone.
pub(super) fn parse_slowly(text: &str, first_line: usize) -> Result<Tree, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options(text.len())) {
        Ok(node) => {
            let mut tree = node.value.0;
            tree.lines.line = line(node.referenced.line());
            shift(&mut tree.lines, first_line.saturating_sub(1));
            Ok(tree)
        }
        Err(error) => Err(syntax_error(&error, first_line)),
    }
}

/// Limits: what plain text may hold grows with its size; what aliases and merge keys multiply does not.
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

fn shift(lines: &mut Lines, by: usize) {
    lines.line = lines.line.saturating_add(by);
    for child in &mut lines.children {
        shift(child, by);
    }
}

fn syntax_error(error: &Error, first_line: usize) -> SyntaxError {
    let error = error.without_snippet();
    let location = error.location();
    SyntaxError {
        line: location.map_or(first_line, |at| {
            first_line.saturating_sub(1).saturating_add(line(at.line()).max(1))
        }),
        column: location.map_or(1, |at| line(at.column()).max(1)),
        reason: without_place(&error.to_string()).chars().take(MOST_REASON).collect(),
    }
}

/// Longest message in characters: it may quote the text.
const MOST_REASON: usize = 300;

/// The message without its place, which counts from the document's first line, not from the file's.
fn without_place(message: &str) -> &str {
    let place = |text: &str| text.chars().all(|c| c.is_ascii_digit() || " ,column:".contains(c));
    match message.rsplit_once(" at line ") {
        Some((reason, tail)) if place(tail) => reason,
        _ => message,
    }
}

/// A value with the lines of what it holds; whoever asks for it knows its own line.
struct Node(Tree);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn scalar<E>(value: impl Into<Value>) -> Result<Node, E> {
        Ok(Node(Tree::scalar(value.into(), 0)))
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Self::scalar(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Self::scalar(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Self::scalar(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        match Number::from_f64(value) {
            Some(number) => Self::scalar(number),
            None => Err(E::custom("number is not finite")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Self::scalar(value)
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Self::scalar(value)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Self::scalar(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Self::scalar(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let (mut values, mut children) = (Vec::new(), Vec::new());
        while let Some(item) = seq.next_element::<Spanned<Node>>()? {
            let Tree { value, mut lines } = item.value.0;
            lines.line = line(item.referenced.line());
            values.push(value);
            children.push(lines);
        }
        Ok(Node(Tree {
            value: Value::Array(values),
            lines: Lines { line: 0, children },
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (mut values, mut children) = (Map::new(), Vec::new());
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Tree { value, mut lines } = map.next_value::<Node>()?.0;
            lines.line = line(key.referenced.line());
            if values.contains_key(&key.value) {
                return Err(A::Error::custom(format!("duplicate key {:?}", key.value)));
            }
            values.insert(key.value, value);
            children.push(lines);
        }
        Ok(Node(Tree {
            value: Value::Object(values),
            lines: Lines { line: 0, children },
        }))
    }
}
