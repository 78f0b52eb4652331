//! What is wrong with the records at this moment, for status, readiness and logs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that the user wrote is not in force as written.
    Error,
    /// Everything that is enforced is in force as written; the user should know nevertheless.
    Warning,
}

/// What is in force where a problem is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InForce {
    /// The document itself (a warning).
    Document,
    /// The last good version of the resource.
    LastGood,
    /// Nothing: the resource does not exist for felid.
    Nothing,
    /// A policy that cannot be enforced: the endpoints that it may select are closed.
    Closed,
    /// The document of the same resource in this file.
    File(Arc<str>),
    /// Everything as it was before: the place could not be read.
    Unchanged,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InForce::Document => f.write_str("in force as written"),
            InForce::LastGood => f.write_str("the last good version stays in force"),
            InForce::Nothing => f.write_str("nothing is in force"),
            InForce::Closed => f.write_str("the endpoints that it may select are closed"),
            InForce::File(path) => write!(f, "{path} stays in force"),
            InForce::Unchanged => f.write_str("what was in force stays"),
        }
    }
}

/// One thing that is wrong. Ordered by severity, file and line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// File or directory, relative to the datastore's directory; `None` = the datastore as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// 1-based line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// `Kind/name` or `Kind/namespace/name`, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Dotted path of the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The field's value, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What is in force meanwhile.
    pub in_force: InForce,
}

impl Problem {
    /// An error without place; fill in the rest with struct update syntax or the methods.
    pub(crate) fn error(reason: impl Into<String>, in_force: InForce) -> Self {
        Self {
            severity: Severity::Error,
            file: None,
            line: None,
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

    pub(crate) fn at(mut self, file: &Arc<str>, line: Option<usize>) -> Self {
        self.file = Some(Arc::clone(file));
        self.line = line;
        self
    }

    pub(crate) fn of(mut self, resource: impl fmt::Display) -> Self {
        self.resource = Some(resource.to_string());
        self
    }

    /// The same without the line: an edit above a problem does not make a new one of it.
    fn identity(&self) -> Self {
        Self {
            line: None,
            ..self.clone()
        }
    }
}

/// `file:line: resource: field "value": reason (what is in force)`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => write!(f, "{field} {value:?}: ")?,
            (Some(field), None) => write!(f, "{field}: ")?,
            (None, _) => {}
        }
        write!(f, "{} ({})", self.reason, self.in_force)
    }
}

/// Everything that is wrong at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
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

    /// All of them, errors first, then by file and line.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Errors only: while there is one, the datastore is not ready.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Error)
    }

    /// Warnings only.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Warning)
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Logs what is new and what is gone since `earlier`.
    pub(crate) fn log_changes(&self, earlier: &Problems) {
        let old: BTreeSet<Problem> = earlier.list.iter().map(Problem::identity).collect();
        let new: BTreeSet<Problem> = self.list.iter().map(Problem::identity).collect();
        for problem in self.list.iter().filter(|p| !old.contains(&p.identity())) {
            match problem.severity {
                Severity::Error => tracing::error!(target: "felid::datastore", "{problem}"),
                Severity::Warning => tracing::warn!(target: "felid::datastore", "{problem}"),
            }
        }
        for problem in earlier.list.iter().filter(|p| !new.contains(&p.identity())) {
            tracing::info!(target: "felid::datastore", "no longer: {problem}");
        }
    }
}
