//! The selector language: which labels an endpoint or network set must have.
//!
//! In: text as users write it (`app == 'web' && env in {'prod'}`). Out: a [`Selector`], which
//! evaluates on labels and prints one canonical text for all spellings of the same expression.
//! Labels that are absent make `!=` and `not in` true.

mod ast;
mod parse;
mod requirements;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha224};

use ast::Node;
pub use requirements::Requirement;

/// The label that holds the namespace of an endpoint or network set. What stands in no namespace
/// lacks it.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// The label that holds an endpoint's orchestrator.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
/// The label that holds the name of the service account that an endpoint runs as.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// What the keys of labels begin with that an endpoint inherits from its namespace.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// What the keys of labels begin with that an endpoint inherits from its service account.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// A parsed selector of Calico's selector language. It is cheap to clone; equality and order are
/// those of the canonical text.
///
/// # Examples
///
/// ```
/// use felid_model::{LabelMap, Selector};
///
/// let selector = Selector::parse("app=='web'&&env not in {'test'}")?;
/// assert_eq!(selector.canonical(), r#"(app == "web" && env not in {"test"})"#);
///
/// let labels = LabelMap::from([("app".to_owned(), "web".to_owned())]);
/// assert!(selector.matches(&labels), "an absent label makes `not in` true");
///
/// let error = Selector::parse("app = 'web'").unwrap_err();
/// assert_eq!(error.column, 5);
/// # Ok::<(), felid_model::SelectorError>(())
/// ```
#[derive(Clone)]
pub struct Selector(Arc<Inner>);

struct Inner {
    canonical: Box<str>,
    node: Node,
}

/// A place in which a selector looks labels up.
pub trait Labels {
    /// Returns the value of a label; `None` if it is absent.
    fn get(&self, key: &str) -> Option<&str>;
}

impl Labels for crate::LabelMap {
    fn get(&self, key: &str) -> Option<&str> {
        std::collections::BTreeMap::get(self, key).map(String::as_str)
    }
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct SelectorError {
    /// The column of the fault, in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Selector {
    fn new(node: Node) -> Self {
        Selector(Arc::new(Inner {
            canonical: node.to_string().into_boxed_str(),
            node,
        }))
    }

    /// Parses a selector; an empty text is `all()`. Fails if the text is none, or if it is nested
    /// more than 256 deep.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Selector::new)
    }

    /// Returns `all()`.
    pub fn all() -> Self {
        Selector::new(Node::All)
    }

    /// Returns `key == "value"`. The value is taken as it is. It must not hold both kinds of
    /// quotes, which no name does, or the canonical text would not parse.
    pub fn label_equals(key: &str, value: &str) -> Self {
        Selector::new(Node::Eq(key.into(), value.into()))
    }

    /// Returns `key in {"a", "b"}`. The same holds for the values as for
    /// [`Selector::label_equals`].
    pub fn label_in(key: &str, values: &[String]) -> Self {
        let values = values.iter().map(|value| value.as_str().into()).collect();
        Selector::new(Node::In(key.into(), values))
    }

    /// Returns `has(key)`.
    pub fn has_label(key: &str) -> Self {
        Selector::new(Node::Has(key.into()))
    }

    /// Returns the canonical text, which is the same for all spellings of one expression.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    /// Returns the identity that Felix derives from the canonical text: `s:` and the unpadded
    /// base64url of the SHA-224 of `s:` and the text.
    pub fn uid(&self) -> String {
        let mut hash = Sha224::new();
        hash.update(b"s:");
        hash.update(self.canonical().as_bytes());
        format!("s:{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
    }

    /// Returns whether the labels match. `all()` and `global()` match any labels.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.0.node.matches(labels)
    }

    /// `self && other`. `all()` adds nothing and is left out.
    pub fn and(&self, other: &Selector) -> Selector {
        match (self.is_all(), other.is_all()) {
            (_, true) => self.clone(),
            (true, false) => other.clone(),
            (false, false) => Selector::new(Node::And(vec![self.0.node.clone(), other.0.node.clone()])),
        }
    }

    /// Returns the selector that matches whatever this one does not.
    pub fn negate(&self) -> Selector {
        Selector::new(Node::Not(Box::new(self.0.node.clone())))
    }

    /// Returns whether this is exactly `all()`.
    pub fn is_all(&self) -> bool {
        matches!(self.0.node, Node::All)
    }

    /// Returns whether this is exactly `global()`.
    pub fn is_global(&self) -> bool {
        matches!(self.0.node, Node::Global)
    }

    /// Whether `global()` occurs anywhere in it.
    pub fn mentions_global(&self) -> bool {
        self.0.node.mentions_global()
    }

    /// Every label it names, with `prefix` before it. `all()` and `global()` stay.
    pub fn with_label_prefix(&self, prefix: &str) -> Selector {
        Selector::new(self.0.node.map(&mut |node| match node {
            Node::All => Node::All,
            Node::Global => Node::Global,
            other => other.with_prefix(prefix),
        }))
    }

    /// A namespaceSelector as a selector on endpoints and network sets: labels get the prefix
    /// `pcns.`; `all()` is anything in a namespace, `global()` anything outside.
    pub fn for_namespaces(&self) -> Selector {
        Selector::new(self.0.node.map(&mut |node| match node {
            Node::All => Node::Has(NAMESPACE_LABEL.into()),
            Node::Global => Node::Not(Box::new(Node::Has(NAMESPACE_LABEL.into()))),
            other => other.with_prefix(NAMESPACE_PREFIX),
        }))
    }

    /// Calls `f` with each label the selector looks at; labels may come more than once.
    pub fn for_each_label(&self, f: &mut impl FnMut(&str)) {
        self.0.node.for_each_label(f);
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.canonical() == other.canonical()
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.canonical())
    }
}

/// The canonical text.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.canonical())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Selector::parse(text)
    }
}
