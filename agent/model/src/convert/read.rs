//! Reading the fields of a record, with the path to each and a place for what is wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Something wrong with a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Path of the field: `spec.ingress[0].from[1]`; empty for the record as a whole.
    pub field: String,
    /// Its value.
    pub value: Option<Value>,
    /// What is wrong.
    pub reason: String,
    /// It concerns one rule, which was dropped or replaced; the rest of the policy stays.
    pub in_rule: bool,
}

/// What was found wrong, in the order in which it was found.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    /// A fault at a field.
    pub(crate) fn push(&self, field: String, value: Option<&Value>, reason: impl Into<String>) {
        self.0.borrow_mut().push(Fault {
            field,
            value: value.cloned(),
            reason: reason.into(),
            in_rule: false,
        });
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All of them.
    pub(crate) fn take(&self) -> Vec<Fault> {
        self.0.take()
    }

    /// Takes over those of a rule; `consequence` says what became of it.
    pub(crate) fn absorb_rule(&self, rule: &Faults, consequence: &str) {
        let faults = rule.take().into_iter().map(|fault| Fault {
            reason: format!("{}; {consequence}", fault.reason),
            in_rule: true,
            ..fault
        });
        self.0.borrow_mut().extend(faults);
    }
}

/// A value with its path.
#[derive(Clone)]
pub(crate) struct At<'a> {
    /// Path.
    pub(crate) path: String,
    /// Value; null items of lists are here too.
    pub(crate) value: &'a Value,
}

impl<'a> At<'a> {
    /// As a mapping.
    pub(crate) fn reader(&self, faults: &'a Faults) -> Option<Reader<'a>> {
        match self.value {
            Value::Object(map) => Some(Reader::new(map, self.path.clone(), faults)),
            other => {
                faults.push(self.path.clone(), Some(other), "expected a mapping");
                None
            }
        }
    }

    /// As text.
    pub(crate) fn text(&self, faults: &Faults) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            faults.push(self.path.clone(), Some(self.value), "expected text");
        }
        text
    }
}

/// A mapping that is being read. Null fields are absent.
pub(crate) struct Reader<'a> {
    map: &'a Map<String, Value>,
    path: String,
    faults: &'a Faults,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// A mapping at a path.
    pub(crate) fn new(map: &'a Map<String, Value>, path: String, faults: &'a Faults) -> Self {
        Reader {
            map,
            path,
            faults,
            known: Vec::new(),
        }
    }

    /// Where faults go.
    pub(crate) fn faults(&self) -> &'a Faults {
        self.faults
    }

    /// Path of this mapping.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Path of a field.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A fault at a field.
    pub(crate) fn fault(&self, key: &str, reason: impl Into<String>) {
        self.faults.push(self.at(key), self.map.get(key), reason);
    }

    /// A field.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<At<'a>> {
        self.known.push(key);
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(At {
            path: self.at(key),
            value,
        })
    }

    /// Text; empty text is absent.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let at = self.value(key)?;
        at.text(self.faults).filter(|text| !text.is_empty())
    }

    /// Text that must be there.
    pub(crate) fn required_text(&mut self, key: &'static str) -> Option<&'a str> {
        let text = self.text(key);
        if text.is_none() && self.map.get(key).is_none_or(|value| value.is_null() || value == "") {
            self.fault(key, "is required");
        }
        text
    }

    /// True or false; absent is false.
    pub(crate) fn boolean(&mut self, key: &'static str) -> bool {
        let Some(at) = self.value(key) else { return false };
        at.value.as_bool().unwrap_or_else(|| {
            self.fault(key, "expected true or false");
            false
        })
    }

    /// A whole number in a range.
    pub(crate) fn integer(&mut self, key: &'static str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let at = self.value(key)?;
        let number = at.value.as_i64().filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.fault(key, format!("expected a whole number from {least} to {most}"));
        }
        number
    }

    /// Items of a list; absent is empty.
    pub(crate) fn list(&mut self, key: &'static str) -> Vec<At<'a>> {
        let Some(at) = self.value(key) else { return Vec::new() };
        let Value::Array(items) = at.value else {
            self.fault(key, "expected a list");
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items
            .map(|(i, value)| At {
                path: format!("{}[{i}]", at.path),
                value,
            })
            .collect()
    }

    /// A mapping.
    pub(crate) fn object(&mut self, key: &'static str) -> Option<Reader<'a>> {
        let at = self.value(key)?;
        at.reader(self.faults)
    }

    /// A mapping of text to text, sorted by key.
    pub(crate) fn string_map(&mut self, key: &'static str) -> BTreeMap<&'a str, &'a str> {
        let Some(at) = self.value(key) else {
            return BTreeMap::new();
        };
        let Value::Object(map) = at.value else {
            self.fault(key, "expected a mapping of names to texts");
            return BTreeMap::new();
        };
        let mut found = BTreeMap::new();
        for (key, value) in map {
            let inner = At {
                path: format!("{}.{key}", at.path),
                value,
            };
            // As JSON decoders of the API have it, null is the empty text.
            let text = if value.is_null() {
                Some("")
            } else {
                inner.text(self.faults)
            };
            if let Some(text) = text {
                found.insert(key.as_str(), text);
            }
        }
        found
    }

    /// Fields that nobody asked for are faults.
    pub(crate) fn finish(self) {
        for (key, value) in self.map {
            if !value.is_null() && !self.known.contains(&key.as_str()) {
                self.fault(key, "unknown field");
            }
        }
    }
}

/// `metadata` of a record, as far as conversions need it.
pub(super) struct Metadata<'a> {
    pub(super) name: &'a str,
    /// Empty if absent.
    pub(super) namespace: &'a str,
    pub(super) generate_name: &'a str,
    pub(super) labels: BTreeMap<&'a str, &'a str>,
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
    pub(super) is_being_deleted: bool,
}

impl<'a> Metadata<'a> {
    /// Reads it; a name is required.
    pub(super) fn read(root: &mut Reader<'a>) -> Option<Self> {
        let Some(mut metadata) = root.object("metadata") else {
            root.faults().push("metadata.name".to_owned(), None, "is required");
            return None;
        };
        Some(Metadata {
            name: metadata.required_text("name").unwrap_or_default(),
            namespace: metadata.text("namespace").unwrap_or_default(),
            generate_name: metadata.text("generateName").unwrap_or_default(),
            labels: metadata.string_map("labels"),
            annotations: metadata.string_map("annotations"),
            is_being_deleted: metadata.value("deletionTimestamp").is_some(),
        })
    }

    /// Namespace; `default` if absent.
    pub(super) fn namespace_or_default(&self) -> &'a str {
        if self.namespace.is_empty() {
            "default"
        } else {
            self.namespace
        }
    }
}
