//! Reading the fields of a mapping one by one, with the path to each and a place for what is wrong.

use std::cell::{Cell, RefCell};

use serde_json::{Map, Value};

use crate::convert::Fault;
use crate::{Selector, Severity};

use super::Issue;

/// Most issues of each severity that are kept of one document.
const MOST_ISSUES: usize = 100;

/// What was found in one document.
#[derive(Default)]
pub(super) struct Issues {
    list: RefCell<Vec<Issue>>,
    warnings: Cell<usize>,
    errors: Cell<usize>,
    fatal: Cell<bool>,
    literal: bool,
}

impl Issues {
    /// For a record that is taken as it stands: what the schema forbids although its meaning is
    /// plain does not make it bad.
    pub(super) fn literal() -> Self {
        Issues {
            literal: true,
            ..Issues::default()
        }
    }

    /// For another record that is taken in the same way.
    pub(super) fn alike(&self) -> Self {
        Issues {
            literal: self.literal,
            ..Issues::default()
        }
    }

    /// Whether there is an error at a field.
    pub(super) fn has_error_at(&self, field: &str) -> bool {
        let list = self.list.borrow();
        list.iter()
            .any(|issue| issue.severity == Severity::Error && issue.field == field)
    }

    /// Takes over an issue of another record at a field of this one; `fatal` makes the document
    /// bad.
    pub(super) fn adopt(&self, issue: Issue, field: String, fatal: bool) {
        self.fatal.set(self.fatal.get() || fatal);
        let value = issue.value.map(Value::String);
        self.push(field, value.as_ref(), &issue.reason, issue.severity);
    }

    /// Takes over the faults that kept a record from being converted; each makes the document bad.
    /// A fault at a field that has an error already is not said twice.
    pub(super) fn adopt_faults(&self, faults: Vec<Fault>) {
        for fault in faults {
            if !self.has_error_at(&fault.field) {
                self.error(fault.field, fault.value.as_ref(), &fault.reason);
            }
        }
    }

    /// Whether the record is taken as it stands.
    pub(super) fn is_literal(&self) -> bool {
        self.literal
    }

    fn push(&self, field: String, value: Option<&Value>, reason: &str, severity: Severity) {
        let count = match severity {
            Severity::Warning => &self.warnings,
            Severity::Error => &self.errors,
        };
        count.set(count.get() + 1);
        if count.get() <= MOST_ISSUES {
            let value = value.map(shortened);
            self.list.borrow_mut().push(Issue {
                field,
                value,
                reason: reason.to_owned(),
                line: None,
                severity,
            });
        }
    }

    /// The document is bad.
    pub(super) fn error(&self, field: String, value: Option<&Value>, reason: &str) {
        self.fatal.set(true);
        self.push(field, value, reason, Severity::Error);
    }

    /// The schema forbids what is plain to read: the document is bad unless it is taken as it
    /// stands.
    pub(super) fn forbidden(&self, field: String, value: Option<&Value>, reason: &str) {
        if self.literal {
            self.error_in_force(field, value, reason);
        } else {
            self.error(field, value, reason);
        }
    }

    /// The document is not valid, but in force: the caller has seen to it that nothing is open that
    /// should be closed.
    pub(super) fn error_in_force(&self, field: String, value: Option<&Value>, reason: &str) {
        self.push(field, value, reason, Severity::Error);
    }

    /// Worth knowing.
    pub(super) fn warning(&self, field: String, value: Option<&Value>, reason: &str) {
        self.push(field, value, reason, Severity::Warning);
    }

    /// Whether the document is bad.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal.get()
    }

    /// What was found, in the order of the walk; of very many, how many more.
    pub(super) fn take(&self) -> Vec<Issue> {
        let mut list = self.list.take();
        for (count, severity) in [(&self.warnings, Severity::Warning), (&self.errors, Severity::Error)] {
            if let more @ 1.. = count.get().saturating_sub(MOST_ISSUES) {
                let reason = format!("{more} more like these");
                list.push(Issue {
                    field: String::new(),
                    value: None,
                    reason,
                    line: None,
                    severity,
                });
            }
        }
        list
    }
}

/// A value as messages show it.
fn shortened(value: &Value) -> String {
    const MOST: usize = 80;
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A value with its path.
#[derive(Clone)]
pub(super) struct At<'a> {
    /// Path.
    pub(super) path: String,
    /// Value; never null.
    pub(super) value: &'a Value,
}

/// A mapping that is being read. Fields that nobody asked for are unknown.
pub(super) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
    issues: &'a Issues,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// A mapping at a path.
    pub(super) fn new(map: &'a Map<String, Value>, path: String, issues: &'a Issues) -> Self {
        Fields {
            map: Some(map),
            path,
            issues,
            known: Vec::new(),
        }
    }

    /// Where issues go.
    pub(super) fn issues(&self) -> &'a Issues {
        self.issues
    }

    /// Path of this mapping.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Path of a field.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// An error at a field.
    pub(super) fn issue(&self, key: &str, reason: &str) {
        self.issues.error(self.at(key), self.peek(key), reason);
    }

    /// An error at a field whose meaning is plain, see [`Issues::forbidden`].
    pub(super) fn forbid(&self, key: &str, reason: &str) {
        self.issues.forbidden(self.at(key), self.peek(key), reason);
    }

    /// Something worth knowing of a field.
    pub(super) fn warn(&self, key: &str, reason: &str) {
        self.issues.warning(self.at(key), self.peek(key), reason);
    }

    /// A field, without looking at it as known. Null is absent.
    pub(super) fn peek(&self, key: &str) -> Option<&'a Value> {
        self.map.and_then(|map| map.get(key)).filter(|value| !value.is_null())
    }

    /// A field, known from now on. Null is absent.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.peek(key)
    }

    /// A field that is not absent, whatever it is.
    pub(super) fn value(&mut self, key: &'static str) -> Option<At<'a>> {
        self.get(key).map(|value| At {
            path: self.at(key),
            value,
        })
    }

    /// Text; empty text is absent.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let at = self.value(key)?;
        string(&at, self.issues).filter(|text| !text.is_empty())
    }

    /// Text that passes a check of its form; one that does not is forbidden, and absent unless
    /// records are taken as they stand.
    pub(super) fn checked(&mut self, key: &'static str, check: impl Fn(&str) -> Result<(), String>) -> Option<&'a str> {
        let text = self.text(key)?;
        match check(text) {
            Ok(()) => Some(text),
            Err(reason) => {
                self.forbid(key, &reason);
                Some(text).filter(|_| self.issues.literal)
            }
        }
    }

    /// True or false; absent is false.
    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        match self.get(key) {
            None => false,
            Some(Value::Bool(value)) => *value,
            Some(_) => {
                self.issue(key, "expected true or false");
                false
            }
        }
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        let value = self.get(key)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.issue(key, "expected a number");
        }
        number
    }

    /// A whole number in a range.
    pub(super) fn integer(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(key)?;
        let number = value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            self.issue(
                key,
                &format!("expected a whole number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    /// A whole number of 64 bits.
    pub(super) fn signed(&mut self, key: &'static str) -> Option<i64> {
        let number = self.get(key)?.as_i64();
        if number.is_none() {
            self.issue(key, "expected a whole number");
        }
        number
    }

    /// Items of a list; absent is empty. Null items are errors.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<At<'a>> {
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let items = items.iter().enumerate();
                items
                    .map(|(i, value)| At {
                        path: format!("{}[{i}]", self.at(key)),
                        value,
                    })
                    .collect()
            }
            Some(_) => {
                self.issue(key, "expected a list");
                Vec::new()
            }
        }
    }

    /// Items of a list of texts; others are errors.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<(At<'a>, &'a str)> {
        let items = self.list(key);
        items
            .into_iter()
            .filter_map(|at| string(&at, self.issues).map(|text| (at, text)))
            .collect()
    }

    /// A mapping; `None` if absent.
    pub(super) fn object(&mut self, key: &'static str) -> Option<Fields<'a>> {
        let at = self.value(key)?;
        object(&at, self.issues)
    }

    /// A mapping; absent is empty.
    pub(super) fn object_or_empty(&mut self, key: &'static str) -> Fields<'a> {
        let empty = Fields {
            map: None,
            path: self.at(key),
            issues: self.issues,
            known: Vec::new(),
        };
        self.object(key).unwrap_or(empty)
    }

    /// A mapping of text to text.
    pub(super) fn string_map(&mut self, key: &'static str) -> Vec<(&'a str, At<'a>, &'a str)> {
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Object(map)) => {
                let path = self.at(key);
                let entries = map.iter().map(|(key, value)| {
                    (
                        key,
                        At {
                            path: format!("{path}.{key}"),
                            value,
                        },
                    )
                });
                entries
                    .filter_map(|(key, at)| Some((key.as_str(), at.clone(), string(&at, self.issues)?)))
                    .collect()
            }
            Some(_) => {
                self.issue(key, "expected a mapping of names to texts");
                Vec::new()
            }
        }
    }

    /// A selector; one that does not parse is an error, and absent.
    pub(super) fn selector(&mut self, key: &'static str) -> Option<Selector> {
        let text = self.text(key)?;
        match Selector::parse(text) {
            Ok(selector) => Some(selector),
            Err(error) => {
                self.issue(key, &error.to_string());
                None
            }
        }
    }

    /// Fields that nobody asked for, null ones left out.
    pub(super) fn unknown(&self) -> Vec<&'a str> {
        let map = self.map.into_iter().flatten();
        map.filter(|(key, value)| !value.is_null() && !self.known.contains(&key.as_str()))
            .map(|(key, _)| key.as_str())
            .collect()
    }

    /// Unknown fields are errors.
    pub(super) fn finish(self) {
        for key in self.unknown() {
            self.issue(key, "unknown field");
        }
    }

    /// Unknown fields are warnings.
    pub(super) fn finish_with_warnings(self) {
        for key in self.unknown() {
            self.issues.warning(self.at(key), self.peek(key), "unknown field");
        }
    }
}

/// A value as a mapping.
pub(super) fn object<'a>(at: &At<'a>, issues: &'a Issues) -> Option<Fields<'a>> {
    match at.value {
        Value::Object(map) => Some(Fields::new(map, at.path.clone(), issues)),
        other => {
            issues.error(at.path.clone(), Some(other), "expected a mapping");
            None
        }
    }
}

/// A value as text.
pub(super) fn string<'a>(at: &At<'a>, issues: &Issues) -> Option<&'a str> {
    let reason = match at.value {
        Value::String(text) => return Some(text),
        Value::Number(_) | Value::Bool(_) => "expected text: put it in quotes",
        _ => "expected text",
    };
    issues.error(at.path.clone(), Some(at.value), reason);
    None
}

/// The selector in a field of the `spec` of a resource that is not looked into further; `None` if
/// it is absent or does not parse.
pub(super) fn selector_in(root: &Map<String, Value>, key: &str) -> Option<Selector> {
    let text = root.get("spec")?.get(key)?.as_str()?;
    Selector::parse(text).ok()
}
