//! The expression tree: evaluation, canonical text, rewriting.

use std::collections::BTreeSet;
use std::fmt;

use super::Labels;

type Text = Box<str>;

/// An expression. Its depth is bounded by the parser, so plain recursion is safe.
#[derive(Clone)]
pub(super) enum Node {
    /// `all()`
    All,
    /// `global()`
    Global,
    /// `has(k)`
    Has(Text),
    /// `k == "v"`
    Eq(Text, Text),
    /// `k != "v"`
    Ne(Text, Text),
    /// `k contains "v"`
    Contains(Text, Text),
    /// `k starts with "v"`
    StartsWith(Text, Text),
    /// `k ends with "v"`
    EndsWith(Text, Text),
    /// `k in {"v", "w"}`
    In(Text, BTreeSet<Text>),
    /// `k not in {"v", "w"}`
    NotIn(Text, BTreeSet<Text>),
    /// `!x`
    Not(Box<Node>),
    /// `(x && y)`, two or more
    And(Vec<Node>),
    /// `(x || y)`, two or more
    Or(Vec<Node>),
}

impl Node {
    /// Whether the labels match.
    pub(super) fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        let test = |key: &str, f: &dyn Fn(&str) -> bool| labels.get(key).is_some_and(f);
        match self {
            Node::All | Node::Global => true,
            Node::Has(key) => labels.get(key).is_some(),
            Node::Eq(key, value) => test(key, &|have| have == &**value),
            Node::Ne(key, value) => !test(key, &|have| have == &**value),
            Node::Contains(key, value) => test(key, &|have| have.contains(&**value)),
            Node::StartsWith(key, value) => test(key, &|have| have.starts_with(&**value)),
            Node::EndsWith(key, value) => test(key, &|have| have.ends_with(&**value)),
            Node::In(key, values) => test(key, &|have| values.contains(have)),
            Node::NotIn(key, values) => !test(key, &|have| values.contains(have)),
            Node::Not(inner) => !inner.matches(labels),
            Node::And(list) => list.iter().all(|node| node.matches(labels)),
            Node::Or(list) => list.iter().any(|node| node.matches(labels)),
        }
    }

    /// Whether `global()` occurs.
    pub(super) fn mentions_global(&self) -> bool {
        match self {
            Node::Global => true,
            Node::Not(inner) => inner.mentions_global(),
            Node::And(list) | Node::Or(list) => list.iter().any(Node::mentions_global),
            _ => false,
        }
    }

    /// The label of a leaf.
    fn key(&self) -> Option<&Text> {
        match self {
            Node::Has(key)
            | Node::Eq(key, _)
            | Node::Ne(key, _)
            | Node::Contains(key, _)
            | Node::StartsWith(key, _)
            | Node::EndsWith(key, _)
            | Node::In(key, _)
            | Node::NotIn(key, _) => Some(key),
            Node::All | Node::Global | Node::Not(_) | Node::And(_) | Node::Or(_) => None,
        }
    }

    /// Calls `f` with each label.
    pub(super) fn for_each_label(&self, f: &mut impl FnMut(&str)) {
        match self {
            Node::Not(inner) => inner.for_each_label(f),
            Node::And(list) | Node::Or(list) => list.iter().for_each(|node| node.for_each_label(f)),
            leaf => leaf.key().into_iter().for_each(|key| f(key)),
        }
    }

    /// The same tree with every leaf replaced.
    pub(super) fn map(&self, f: &mut impl FnMut(&Node) -> Node) -> Node {
        match self {
            Node::Not(inner) => Node::Not(Box::new(inner.map(f))),
            Node::And(list) => Node::And(list.iter().map(|node| node.map(f)).collect()),
            Node::Or(list) => Node::Or(list.iter().map(|node| node.map(f)).collect()),
            leaf => f(leaf),
        }
    }

    /// A leaf with `prefix` before its label.
    pub(super) fn with_prefix(&self, prefix: &str) -> Node {
        let mut node = self.clone();
        match &mut node {
            Node::Has(key)
            | Node::Eq(key, _)
            | Node::Ne(key, _)
            | Node::Contains(key, _)
            | Node::StartsWith(key, _)
            | Node::EndsWith(key, _)
            | Node::In(key, _)
            | Node::NotIn(key, _) => *key = format!("{prefix}{key}").into_boxed_str(),
            Node::All | Node::Global | Node::Not(_) | Node::And(_) | Node::Or(_) => {}
        }
        node
    }
}

/// A value in quotes that it does not hold itself.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

/// Prints `open`, the items with `separator` between them, `close`.
fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    [open, separator, close]: [&str; 3],
) -> fmt::Result {
    f.write_str(open)?;
    for (i, item) in items.enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    f.write_str(close)
}

/// The canonical text.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, values: &BTreeSet<Text>| {
            list(f, values.iter().map(|value| Quoted(value)), ["{", ", ", "}"])
        };
        match self {
            Node::All => f.write_str("all()"),
            Node::Global => f.write_str("global()"),
            Node::Has(key) => write!(f, "has({key})"),
            Node::Eq(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Node::Ne(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Node::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Node::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Node::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Node::In(key, values) => {
                write!(f, "{key} in ")?;
                set(f, values)
            }
            Node::NotIn(key, values) => {
                write!(f, "{key} not in ")?;
                set(f, values)
            }
            Node::Not(inner) => write!(f, "!{inner}"),
            Node::And(items) => list(f, items.iter(), ["(", " && ", ")"]),
            Node::Or(items) => list(f, items.iter(), ["(", " || ", ")"]),
        }
    }
}
