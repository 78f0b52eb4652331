//! What is wrong with the records at this moment, for status, readiness and logs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use felid_model::Severity;

/// So many problems that come at once are logged one by one, and so many that go.
const MOST_LOGGED: usize = 100;

/// What is in force while something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InForce {
    /// The document itself is in force: the problem is a warning.
    Document,
    /// The last good version of the resource is in force.
    LastGood,
    /// Nothing is in force: the resource does not exist for felid.
    Nothing,
    /// The policy cannot be enforced, and the endpoints that it may select are closed.
    Closed,
    /// The document of the same resource that stands elsewhere is in force: in this file, or as
    /// this object.
    #[serde(rename = "file")]
    Elsewhere(Arc<str>),
    /// Everything is in force as it was before: the place could not be read.
    Unchanged,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InForce::Document => f.write_str("in force as written"),
            InForce::LastGood => f.write_str("the last good version stays in force"),
            InForce::Nothing => f.write_str("nothing is in force"),
            InForce::Closed => f.write_str("the endpoints that it may select are closed"),
            InForce::Elsewhere(path) => write!(f, "{path} stays in force"),
            InForce::Unchanged => f.write_str("what was in force stays"),
        }
    }
}

/// The place of something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// It is in a text: a file of the directory, a directory, or a stream of lines.
    File {
        /// The path, relative to the datastore's directory; for a stream its name (`stream:-`).
        path: Arc<str>,
        /// The line, from 1; `None` = the whole of it.
        line: Option<usize>,
    },
    /// It is in an object of a datastore that has objects instead of files.
    Object {
        /// `Kind/namespace/name` or `Kind/name`.
        key: Arc<str>,
        /// `metadata.resourceVersion` of the object as it was last read, if it has one.
        resource_version: Option<Arc<str>>,
    },
}

impl Origin {
    /// The same place without what changes with every edit: the line, the resource version.
    fn identity(&self) -> Self {
        match self {
            Origin::File { path, .. } => Origin::File {
                path: Arc::clone(path),
                line: None,
            },
            Origin::Object { key, .. } => Origin::Object {
                key: Arc::clone(key),
                resource_version: None,
            },
        }
    }
}

/// `file:line`, `file`, `Kind/namespace/name@version` or `Kind/namespace/name`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Origin::File { path, line: None } => f.write_str(path),
            Origin::Object {
                key,
                resource_version: Some(version),
            } => write!(f, "{key}@{version}"),
            Origin::Object { key, .. } => f.write_str(key),
        }
    }
}

/// One thing that is wrong with the records. Problems are ordered by severity and origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Whether it is an error or a warning.
    pub severity: Severity,
    /// The place where it stands; `None` if it concerns the datastore as a whole.
    pub origin: Option<Origin>,
    /// The resource as `Kind/name` or `Kind/namespace/name`, as far as it is known.
    pub resource: Option<String>,
    /// The dotted path of the field.
    pub field: Option<String>,
    /// The value of the field, shortened.
    pub value: Option<String>,
    /// What is wrong, for people.
    pub reason: String,
    /// What is in force meanwhile.
    pub in_force: InForce,
}

impl Problem {
    /// An error without place; fill in the rest with struct update syntax or the methods.
    pub(crate) fn error(reason: impl Into<String>, in_force: InForce) -> Self {
        Self {
            severity: Severity::Error,
            origin: None,
            resource: None,
            field: None,
            value: None,
            reason: reason.into(),
            in_force,
        }
    }

    /// A warning without place.
    pub(crate) fn warning(reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(reason, InForce::Document)
        }
    }

    /// It concerns a staged policy, which is only judged: what is enforced is as written.
    pub(crate) const fn only_warn(&mut self) {
        self.severity = Severity::Warning;
    }

    /// The same problem, at this line of this file.
    pub(crate) fn at(self, path: &Arc<str>, line: Option<usize>) -> Self {
        let path = Arc::clone(path);
        self.from(Origin::File { path, line })
    }

    /// The same problem, at this place.
    pub(crate) fn from(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Returns the path of the file and the line in it, if it stands in a file.
    pub fn file(&self) -> Option<(&str, Option<usize>)> {
        match self.origin.as_ref()? {
            Origin::File { path, line } => Some((path, *line)),
            Origin::Object { .. } => None,
        }
    }

    /// Returns the key of the object and its resource version, if it stands in an object.
    pub fn object(&self) -> Option<(&str, Option<&str>)> {
        match self.origin.as_ref()? {
            Origin::Object { key, resource_version } => Some((key, resource_version.as_deref())),
            Origin::File { .. } => None,
        }
    }

    /// What is in force, in words.
    pub fn consequence(&self) -> String {
        match (&self.in_force, &self.field) {
            // The field itself may be what has no effect.
            (InForce::Document, Some(_)) => "the rest of the document is in force".to_owned(),
            _ => self.in_force.to_string(),
        }
    }

    pub(crate) fn of(mut self, resource: impl fmt::Display) -> Self {
        self.resource = Some(resource.to_string());
        self
    }

    /// The same without the line: an edit above a problem does not make a new one of it.
    fn identity(&self) -> Self {
        Self {
            origin: self.origin.as_ref().map(Origin::identity),
            ..self.clone()
        }
    }
}

/// `origin: resource: field "value": reason (what is in force)`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        let is_said = |resource: &str| matches!(&self.origin, Some(Origin::Object { key, .. }) if **key == *resource);
        if let Some(resource) = self.resource.as_deref().filter(|resource| !is_said(resource)) {
            write!(f, "{resource}: ")?;
        }
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => write!(f, "{field} {value:?}: ")?,
            (Some(field), None) => write!(f, "{field}: ")?,
            (None, _) => {}
        }
        write!(f, "{} ({})", self.reason, self.consequence())
    }
}

/// Everything that is wrong at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// Sorts and removes doubles.
    pub(crate) fn new(problems: impl IntoIterator<Item = Problem>) -> Self {
        let sorted: BTreeSet<Problem> = problems.into_iter().collect();
        Self {
            list: sorted.into_iter().collect(),
        }
    }

    /// Returns all of them: errors first, then by file and line.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Returns the errors. While there is one, the datastore is not ready.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Error)
    }

    /// Returns the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Warning)
    }

    /// Returns whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Logs what is new and what is gone since `earlier`.
    pub(crate) fn log_changes(&self, earlier: &Problems) {
        let old: BTreeSet<Problem> = earlier.list.iter().map(Problem::identity).collect();
        let new: BTreeSet<Problem> = self.list.iter().map(Problem::identity).collect();
        let added = self.list.iter().filter(|p| !old.contains(&p.identity()));
        let gone = earlier.list.iter().filter(|p| !new.contains(&p.identity()));
        let (more_added, more_gone) = (added.clone().count(), gone.clone().count());
        for problem in added.take(MOST_LOGGED) {
            match problem.severity {
                Severity::Error => tracing::error!(target: "felid::datastore", "{problem}"),
                Severity::Warning => tracing::warn!(target: "felid::datastore", "{problem}"),
            }
        }
        for problem in gone.take(MOST_LOGGED) {
            tracing::info!(target: "felid::datastore", "no longer: {problem}");
        }
        let more = |count: usize| Some(count.saturating_sub(MOST_LOGGED)).filter(|more| *more > 0);
        if let Some(more) = more(more_added) {
            tracing::error!(target: "felid::datastore", "and {more} more problems with records: felid status shows them");
        }
        if let Some(more) = more(more_gone) {
            tracing::info!(target: "felid::datastore", "and {more} more problems with records are gone");
        }
    }
}
