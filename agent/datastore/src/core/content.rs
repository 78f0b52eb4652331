//! What one source (a file, or an object of an API) holds, as the pure core sees it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use felid_model::{BadPolicy, Kind, Resource, ResourceKey};

use crate::core::problem::{InForce, Origin, Problem, Severity};

/// The name of a source: the path of a file relative to the datastore's directory, or
/// `Kind/namespace/name` of an object.
pub type SourceId = Arc<str>;

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

/// A source as it was last read. It is made of text by [`SourceContent::file`] or
/// [`SourceContent::object`].
#[derive(Clone, Debug, PartialEq)]
pub enum SourceContent {
    /// It could be read.
    Parsed(Docs),
    /// It is there, but it cannot be read, for this reason. What it held before stays in force.
    Unreadable(String),
    /// Whether it is there is not known, since nothing of it can be seen at present (a directory
    /// above it cannot be read, the connection is lost): this is reported once, and not for each
    /// source. What it held before stays in force.
    Unreachable,
}

impl SourceContent {
    pub(crate) fn parsed(docs: Vec<Doc>) -> Self {
        SourceContent::Parsed(Docs::new(docs))
    }

    pub(crate) fn docs(&self) -> &[Doc] {
        match self {
            SourceContent::Parsed(docs) => docs.all(),
            SourceContent::Unreadable(_) | SourceContent::Unreachable => &[],
        }
    }

    /// The documents of one resource, in order.
    pub(crate) fn docs_of(&self, key: &ResourceKey) -> impl Iterator<Item = &Doc> {
        let docs = match self {
            SourceContent::Parsed(docs) => Some(docs),
            SourceContent::Unreadable(_) | SourceContent::Unreachable => None,
        };
        docs.into_iter().flat_map(|docs| docs.of(key))
    }

    /// The same content of a source that is still being written: what it lacks may follow.
    pub(crate) fn unfinished(mut self) -> Self {
        if let SourceContent::Parsed(docs) = &mut self
            && !docs.ambiguity.contains(&Ambiguity::Anything)
        {
            docs.ambiguity.push(Ambiguity::Anything);
        }
        self
    }

    /// Whether the source may hold a document of this kind that could not be recognised as one.
    pub(crate) fn may_contain(&self, kind: Kind) -> bool {
        match self {
            SourceContent::Parsed(docs) => docs.ambiguity.iter().any(|ambiguity| ambiguity.may_be(kind)),
            SourceContent::Unreadable(_) | SourceContent::Unreachable => true,
        }
    }

    /// Whether the source may hold a resource that could not be recognised.
    pub(crate) fn may_contain_anything(&self) -> bool {
        match self {
            SourceContent::Parsed(docs) => docs.ambiguity.iter().any(|ambiguity| *ambiguity != Ambiguity::NoRecord),
            SourceContent::Unreadable(_) | SourceContent::Unreachable => true,
        }
    }
}

/// The documents of a source, in order, and where those of each resource are: a file may hold
/// thousands.
#[derive(Clone, Debug, Default)]
pub struct Docs {
    list: Vec<Doc>,
    places: HashMap<ResourceKey, Vec<usize>>,
    /// What its unrecognised documents may be, each once.
    ambiguity: Vec<Ambiguity>,
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
            if let Some(ambiguity) = doc.ambiguity
                && !docs.ambiguity.contains(&ambiguity)
            {
                docs.ambiguity.push(ambiguity);
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

/// Where a document stands in its source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Position {
    /// On this line of a text, from 1.
    Line(usize),
    /// It is the object, as of this resource version.
    Object(Option<Arc<str>>),
}

impl Position {
    /// The place in this source, for messages.
    pub(crate) fn origin(&self, source: &SourceId) -> Origin {
        match self {
            Position::Line(line) => Origin::File {
                path: Arc::clone(source),
                line: Some(*line),
            },
            Position::Object(version) => Origin::Object {
                key: Arc::clone(source),
                resource_version: version.clone(),
            },
        }
    }
}

/// One document of a source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doc {
    /// Where it begins.
    pub(crate) position: Position,
    /// What it is.
    pub(crate) body: Body,
    /// Present if it may be another resource than it seems, or several: its syntax is broken, or
    /// its key is not readable.
    pub(crate) ambiguity: Option<Ambiguity>,
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
pub(crate) enum Ambiguity {
    /// Any.
    Anything,
    /// Its kind is readable, its name is not.
    Kind(Kind),
    /// It can be read and is no record; but where records were before, it is an accident.
    NoRecord,
}

impl Ambiguity {
    pub(crate) fn may_be(self, kind: Kind) -> bool {
        match self {
            Ambiguity::Anything | Ambiguity::NoRecord => true,
            Ambiguity::Kind(only) => only == kind,
        }
    }
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A resource.
    Good(Resource),
    /// A resource that cannot be accepted; its key may be a guess. For a policy: what it may
    /// select.
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
    pub(crate) position: Position,
    pub(crate) field: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) reason: String,
}

impl Finding {
    pub(crate) fn problem(&self, source: &SourceId, resource: Option<String>, in_force: InForce) -> Problem {
        Problem {
            severity: self.severity,
            origin: Some(self.position.origin(source)),
            resource,
            field: self.field.clone(),
            value: self.value.clone(),
            reason: self.reason.clone(),
            in_force,
        }
    }
}
