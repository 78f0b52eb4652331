//! The selector language (interface; the parser is being written).
use std::sync::Arc;

/// A parsed selector. Cheap to clone; equality is equality of the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<str>);

/// Where a selector looks labels up.
pub trait Labels {
    /// Value of a label.
    fn get(&self, key: &str) -> Option<&str>;
}

impl Labels for crate::LabelMap {
    fn get(&self, key: &str) -> Option<&str> {
        std::collections::BTreeMap::get(self, key).map(String::as_str)
    }
}

/// Why a selector does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct SelectorError {
    /// 1-based column in characters.
    pub column: usize,
    /// Reason.
    pub reason: String,
}

impl Selector {
    /// Parses a selector; empty text is `all()`.
    pub fn parse(_text: &str) -> Result<Self, SelectorError> {
        unimplemented!()
    }
    /// Canonical text.
    pub fn canonical(&self) -> &str {
        &self.0
    }
    /// `s:` + unpadded base64url of SHA-224 of `s:` + canonical.
    pub fn uid(&self) -> String {
        unimplemented!()
    }
    /// Whether the labels match.
    pub fn matches(&self, _labels: &impl Labels) -> bool {
        unimplemented!()
    }
    /// `self && other`, in canonical form.
    pub fn and(&self, _other: &Selector) -> Selector {
        unimplemented!()
    }
    /// `all()`.
    pub fn all() -> Self {
        unimplemented!()
    }
}
