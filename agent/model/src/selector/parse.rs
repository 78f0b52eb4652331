//! The parser. It keeps a stack of its own for parentheses, so that no input can exhaust the
//! thread's.
//!
//! After a label only an operator is read: `in in {'in'}` and `has == 'x'` are good. White space is
//! space and tab; it may stand anywhere but before the parenthesis of `has(`, `all(` and `global(`.

use std::collections::BTreeSet;

use super::SelectorError;
use super::ast::Node;

/// Deepest tree.
const MAX_DEPTH: usize = 256;
/// Longest label in characters.
const MAX_LABEL: usize = 512;

/// Parses a whole selector.
pub(super) fn parse(text: &str) -> Result<Node, SelectorError> {
    let mut parser = Parser { text, at: 0 };
    parser.skip_space();
    if parser.rest().is_empty() {
        return Ok(Node::All);
    }
    parser.expression()
}

/// A tree and its depth.
struct ParsedTree {
    node: Node,
    depth: usize,
}

/// A list that is being read: the whole text, or what stands inside one pair of parentheses.
#[derive(Default)]
struct Level {
    /// Byte position of its parenthesis.
    at: usize,
    /// An odd number of `!` stands before its parenthesis.
    negated: bool,
    /// Finished terms of `||`.
    ors: Vec<ParsedTree>,
    /// Terms of the current `&&`.
    ands: Vec<ParsedTree>,
}

struct Parser<'a> {
    text: &'a str,
    /// Byte position.
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Skips `token` if it comes next, after white space.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error<T>(&self, at: usize, reason: impl Into<String>) -> Result<T, SelectorError> {
        let before = self.text.get(..at).unwrap_or(self.text);
        Err(SelectorError {
            column: before.chars().count() + 1,
            reason: reason.into(),
        })
    }

    /// An error at the next token: what was expected there.
    fn expected<T>(&mut self, what: &str) -> Result<T, SelectorError> {
        self.skip_space();
        match self.rest().chars().next() {
            Some(found) => self.error(self.at, format!("expected {what}, found {found:?}")),
            None => self.error(self.at, format!("expected {what}, found the end")),
        }
    }

    fn expression(&mut self) -> Result<Node, SelectorError> {
        // The levels outside the current one.
        let mut outer: Vec<Level> = Vec::new();
        let mut level = Level::default();
        loop {
            let mut negated = false;
            while self.take("!") {
                negated = !negated;
            }
            self.skip_space();
            let at = self.at;
            if self.take("(") {
                outer.push(std::mem::replace(
                    &mut level,
                    Level {
                        at,
                        negated,
                        ..Level::default()
                    },
                ));
                continue;
            }
            let term = ParsedTree {
                node: self.term()?,
                depth: 1,
            };
            level.ands.push(self.negate_if(negated, term, at)?);
            loop {
                if self.take("&&") {
                    break;
                }
                if self.take("||") {
                    let term = self.join(std::mem::take(&mut level.ands), level.at, Node::And)?;
                    level.ors.push(term);
                    break;
                }
                self.skip_space();
                let at_end = self.rest().is_empty();
                match outer.pop() {
                    None if at_end => return Ok(self.close(level)?.node),
                    None => return self.expected("\"&&\", \"||\" or the end"),
                    Some(_) if at_end => {
                        return self.error(level.at, "parenthesis is never closed");
                    }
                    Some(parent) => {
                        if !self.take(")") {
                            return self.expected("\"&&\", \"||\" or \")\"");
                        }
                        let inner = std::mem::replace(&mut level, parent);
                        let (negated, at) = (inner.negated, inner.at);
                        let term = self.close(inner)?;
                        level.ands.push(self.negate_if(negated, term, at)?);
                    }
                }
            }
        }
    }

    fn close(&self, mut level: Level) -> Result<ParsedTree, SelectorError> {
        let last = self.join(level.ands, level.at, Node::And)?;
        level.ors.push(last);
        self.join(level.ors, level.at, Node::Or)
    }

    /// One list of `&&` or `||`; a single term stays what it is.
    fn join(
        &self,
        mut terms: Vec<ParsedTree>,
        at: usize,
        make: fn(Vec<Node>) -> Node,
    ) -> Result<ParsedTree, SelectorError> {
        match (terms.pop(), terms.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                terms.push(last);
                let depth = terms.iter().map(|term| term.depth).max().unwrap_or(0);
                self.deeper(make(terms.into_iter().map(|term| term.node).collect()), depth, at)
            }
            (None, _) => self.error(at, "empty expression"),
        }
    }

    fn negate_if(&self, negated: bool, term: ParsedTree, at: usize) -> Result<ParsedTree, SelectorError> {
        if negated {
            self.deeper(Node::Not(Box::new(term.node)), term.depth, at)
        } else {
            Ok(term)
        }
    }

    fn deeper(&self, node: Node, depth: usize, at: usize) -> Result<ParsedTree, SelectorError> {
        if depth >= MAX_DEPTH {
            return self.error(at, format!("nested more than {MAX_DEPTH} deep"));
        }
        Ok(ParsedTree { node, depth: depth + 1 })
    }

    /// `has(k)`, `all()`, `global()` or a comparison.
    fn term(&mut self) -> Result<Node, SelectorError> {
        self.skip_space();
        let start = self.at;
        if self.take("has(") {
            self.skip_space();
            let key = self.label()?;
            return if self.take(")") {
                Ok(Node::Has(key.into()))
            } else {
                self.expected("\")\" after the label")
            };
        }
        for (token, node) in [("all(", Node::All), ("global(", Node::Global)] {
            if self.take(token) {
                return if self.take(")") {
                    Ok(node)
                } else {
                    self.expected("\")\"")
                };
            }
        }
        let key = self.label()?;
        self.skip_space();
        if self.take("==") {
            Ok(Node::Eq(key.into(), self.string()?))
        } else if self.take("!=") {
            Ok(Node::Ne(key.into(), self.string()?))
        } else if self.words("contains", "") {
            Ok(Node::Contains(key.into(), self.string()?))
        } else if self.words("starts", "with") {
            Ok(Node::StartsWith(key.into(), self.string()?))
        } else if self.words("ends", "with") {
            Ok(Node::EndsWith(key.into(), self.string()?))
        } else if self.words("in", "") {
            Ok(Node::In(key.into(), self.set()?))
        } else if self.words("not", "in") {
            Ok(Node::NotIn(key.into(), self.set()?))
        } else if matches!(key, "all" | "global" | "has") && self.rest().starts_with('(') {
            self.error(start, format!("no space may stand between {key:?} and its parenthesis"))
        } else {
            self.expected(&format!(
                "an operator (==, !=, in, not in, contains, starts with, ends with) after label {key:?}"
            ))
        }
    }

    /// Skips the two words of an operator, white space between them or none.
    fn words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        let found = self.take(first) && (second.is_empty() || self.take(second));
        if !found {
            self.at = start;
        }
        found
    }

    fn label(&mut self) -> Result<&'a str, SelectorError> {
        let rest = self.rest();
        let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let key = rest
            .find(|c| !is_label(c))
            .and_then(|end| rest.get(..end))
            .unwrap_or(rest);
        match key.len() {
            0 => self.expected("a label, has(LABEL), all(), global() or a parenthesis"),
            1..=MAX_LABEL => {
                self.at += key.len();
                Ok(key)
            }
            _ => self.error(self.at, format!("label is longer than {MAX_LABEL} characters")),
        }
    }

    /// A string in either kind of quotes; it ends at the next of its own kind.
    fn string(&mut self) -> Result<Box<str>, SelectorError> {
        self.skip_space();
        let start = self.at;
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return self.expected("a string in quotes");
        };
        self.at += 1;
        match self.rest().split_once(quote) {
            Some((value, _)) => {
                self.at += value.len() + 1;
                Ok(value.into())
            }
            None => self.error(start, "string is never closed"),
        }
    }

    fn set(&mut self) -> Result<BTreeSet<Box<str>>, SelectorError> {
        if !self.take("{") {
            return self.expected("\"{\"");
        }
        let mut values = BTreeSet::new();
        if self.take("}") {
            return Ok(values);
        }
        loop {
            values.insert(self.string()?);
            let comma = self.take(",");
            if self.take("}") {
                return Ok(values);
            }
            if !comma {
                return self.expected("\",\" or \"}\"");
            }
        }
    }
}
