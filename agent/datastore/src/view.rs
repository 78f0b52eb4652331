//! What one file of the directory holds, as the pure core sees it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use felid_model::{BadPolicy, Kind, Resource, ResourceKey};

use crate::problem::{InForce, Problem, Severity};

/// Path of a file relative to the datastore's directory.
pub(crate) type FilePath = Arc<str>;

/// First half of the SHA-256 of a document's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Digest(pub(crate) u128);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        let hash = sha2::Sha256::digest(bytes);
        let mut half = [0; 16];
        half.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self(u128::from_be_bytes(half))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A file as it was last read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum View {
    /// It could be read.
    Parsed(Docs),
    /// It is there, but cannot be read: why.
    Unreadable(String),
    /// Whether it is there is not known, since a directory above it cannot be read (which is reported once, for the directory).
    Held,
}

impl View {
    pub(crate) fn parsed(docs: Vec<Doc>) -> Self {
        View::Parsed(Docs::new(docs))
    }

    pub(crate) fn docs(&self) -> &[Doc] {
        match self {
            View::Parsed(docs) => docs.all(),
            View::Unreadable(_) | View::Held => &[],
        }
    }

    /// The documents of one resource, in order.
    pub(crate) fn docs_of(&self, key: &ResourceKey) -> impl Iterator<Item = &Doc> {
        let docs = match self {
            View::Parsed(docs) => Some(docs),
            View::Unreadable(_) | View::Held => None,
        };
        docs.into_iter().flat_map(|docs| docs.of(key))
    }

    /// Whether the file may hold a document of this kind that could not be recognised as one.
    pub(crate) fn may_hide(&self, kind: Kind) -> bool {
        match self {
            View::Parsed(docs) => docs.hides.iter().any(|hides| hides.may_be(kind)),
            View::Unreadable(_) | View::Held => true,
        }
    }

    /// Whether the file may hold a resource that could not be recognised.
    pub(crate) fn may_hide_anything(&self) -> bool {
        match self {
            View::Parsed(docs) => !docs.hides.is_empty(),
            View::Unreadable(_) | View::Held => true,
        }
    }
}

/// The documents of a file, in order, and where those of each resource are: a file may hold thousands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Docs {
    list: Vec<Doc>,
    places: HashMap<ResourceKey, Vec<usize>>,
    /// What its unrecognised documents may be, each once.
    hides: Vec<Hides>,
}

impl PartialEq for Docs {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Docs {
    fn new(list: Vec<Doc>) -> Self {
        let mut docs = Self {
            list,
            ..Self::default()
        };
        for (place, doc) in docs.list.iter().enumerate() {
            if let Some(key) = doc.key() {
                docs.places.entry(key.clone()).or_default().push(place);
            }
            if let Some(hides) = doc.hides
                && !docs.hides.contains(&hides)
            {
                docs.hides.push(hides);
            }
        }
        docs
    }

    pub(crate) fn all(&self) -> &[Doc] {
        &self.list
    }

    fn of(&self, key: &ResourceKey) -> impl Iterator<Item = &Doc> {
        let places = self.places.get(key).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|place| self.list.get(*place))
    }

    /// Takes the text of the resource's document with this digest, or copies it.
    pub(crate) fn text(&mut self, key: &ResourceKey, digest: Digest, take: bool) -> Option<Arc<str>> {
        let list = &self.list;
        let place = self
            .places
            .get(key)?
            .iter()
            .find(|place| list.get(**place).is_some_and(|doc| doc.digest == digest))?;
        let doc = self.list.get_mut(*place)?;
        if take { doc.text.take() } else { doc.text.clone() }
    }
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doc {
    /// 1-based line of its beginning.
    pub(crate) line: usize,
    /// What it is.
    pub(crate) body: Body,
    /// Present if it may be another resource than it seems, or several: its syntax is broken, or its key is not readable.
    pub(crate) hides: Option<Hides>,
    /// What is wrong with it.
    pub(crate) findings: Vec<Finding>,
    /// Digest of its text.
    pub(crate) digest: Digest,
    /// Its text, until it was written to the journal.
    pub(crate) text: Option<Arc<str>>,
}

impl Doc {
    pub(crate) fn key(&self) -> Option<&ResourceKey> {
        match &self.body {
            Body::Good(resource) => Some(resource.key()),
            Body::Bad { key, .. } => Some(key),
            Body::Unreadable { .. } | Body::Foreign(_) => None,
        }
    }
}

/// Which kinds of resources a document may be that cannot be recognised for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hides {
    /// Any.
    Anything,
    /// Its kind is readable, its name is not.
    Kind(Kind),
}

impl Hides {
    pub(crate) fn may_be(self, kind: Kind) -> bool {
        match self {
            Hides::Anything => true,
            Hides::Kind(only) => only == kind,
        }
    }
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A resource.
    Good(Resource),
    /// A resource that cannot be accepted; its key may be a guess. For a policy: what it may select.
    Bad {
        key: ResourceKey,
        policy: Option<Arc<BadPolicy>>,
    },
    /// Not even its key could be read. For what is recognisably a policy: what it may select.
    Unreadable { policy: Option<Arc<BadPolicy>> },
    /// A kind that is none of felid's business.
    Foreign(String),
}

/// What is wrong with a document, or with a field of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) line: usize,
    pub(crate) field: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) reason: String,
}

impl Finding {
    pub(crate) fn problem(&self, file: &FilePath, resource: Option<String>, in_force: InForce) -> Problem {
        Problem {
            severity: self.severity,
            file: Some(Arc::clone(file)),
            line: Some(self.line),
            resource,
            field: self.field.clone(),
            value: self.value.clone(),
            reason: self.reason.clone(),
            in_force,
        }
    }
}
