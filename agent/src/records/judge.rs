//! What is good and bad about one document.

use std::io::Write;

use felid_model::{Decoded, Document, Issue, Resource, ResourceKey, Severity, decode};
use serde::Serialize;

use crate::output::printable;

use super::input::{self, Input};

/// The judgement of one document, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Judgement {
    pub(super) valid: bool,
    pub(super) errors: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<Finding>,
    pub(super) file: String,
    /// 1-based; 0 of a file that cannot be read.
    pub(super) line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<String>,
    /// Identity, if it could be read.
    #[serde(skip)]
    pub(super) key: Option<ResourceKey>,
    /// The document is none of felid's business.
    #[serde(skip)]
    pub(super) foreign: bool,
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) field: String,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
}

impl Judgement {
    /// Takes up what the decoder found.
    fn note(&mut self, issues: Vec<Issue>) {
        for issue in issues {
            let Issue {
                field,
                value,
                reason,
                line,
                severity,
            } = issue;
            let finding = Finding {
                field,
                reason,
                value,
                line,
            };
            match severity {
                Severity::Error => self.errors.push(finding),
                Severity::Warning => self.warnings.push(finding),
            }
        }
    }
}

/// Judges a document of a file; also returns what it is in force as, if it is.
///
/// What is no record of felid's is passed over in a directory, as the agent does; whoever names the
/// file itself is told that nobody would read it.
pub(super) fn judge(input: &Input, document: &Document) -> (Judgement, Option<Resource>) {
    let mut judgement = Judgement {
        valid: true,
        errors: Vec::new(),
        warnings: Vec::new(),
        file: input.name.clone(),
        line: document.line,
        resource: None,
        key: None,
        foreign: false,
    };
    let mut in_force = None;
    let issues = match decode(document) {
        Decoded::Resource { resource, issues } => {
            judgement.key = Some(resource.key().clone());
            in_force = Some(resource);
            issues
        }
        Decoded::Bad { kind, key, issues, .. } => {
            judgement.resource = input::raw_name(document).or_else(|| kind.map(|kind| kind.to_string()));
            judgement.key = key;
            issues
        }
        Decoded::Foreign {
            api_version,
            kind,
            name,
        } => {
            judgement.foreign = true;
            judgement.resource = Some(format!("{kind}/{name}"));
            let reason = format!("felid does nothing with {kind} of {api_version}");
            judgement.warnings.push(Finding::new("kind", reason));
            Vec::new()
        }
        Decoded::NotARecord { reason } => {
            judgement.foreign = true;
            let finding = Finding::new("", reason);
            match input.in_directory {
                true => judgement.warnings.push(finding),
                false => judgement.errors.push(finding),
            }
            Vec::new()
        }
        Decoded::Empty => Vec::new(),
    };
    if let Some(key) = &judgement.key {
        judgement.resource = Some(key.to_string());
    }
    judgement.note(issues);
    judgement.valid = judgement.errors.is_empty();
    (judgement, in_force)
}

impl Judgement {
    /// Of a file that was not read, since its name says that it holds no records.
    pub(super) fn of_other_file(file: &str) -> Self {
        let finding = Finding::new("", "not read: by its name it holds no records".to_owned());
        Self {
            valid: true,
            errors: Vec::new(),
            warnings: vec![finding],
            foreign: true,
            ..Self::of_file(file, "")
        }
    }

    /// Of a file that cannot be read, and so of none of its documents.
    pub(super) fn of_file(file: &str, reason: &str) -> Self {
        Self {
            valid: false,
            errors: vec![Finding::new("", reason.to_owned())],
            warnings: Vec::new(),
            file: file.to_owned(),
            line: 0,
            resource: None,
            key: None,
            foreign: false,
        }
    }
}

impl Finding {
    /// A finding about a field as a whole.
    pub(super) fn new(field: &str, reason: String) -> Self {
        Self {
            field: field.to_owned(),
            reason,
            value: None,
            line: None,
        }
    }
}

/// `FILE:LINE: error: RESOURCE: FIELD "VALUE": REASON`, one line each; of a file that cannot be
/// read without a line.
pub(super) fn show(judgement: &Judgement, out: &mut dyn Write) -> std::io::Result<()> {
    let lists = [("error", &judgement.errors), ("warning", &judgement.warnings)];
    for (severity, finding) in lists
        .iter()
        .flat_map(|(severity, list)| list.iter().map(move |finding| (severity, finding)))
    {
        let resource = judgement
            .resource
            .as_ref()
            .map(|resource| format!("{resource}: "))
            .unwrap_or_default();
        let field = match (&finding.field, &finding.value) {
            (field, _) if field.is_empty() => String::new(),
            (field, Some(value)) => format!("{field} {value:?}: "),
            (field, None) => format!("{field}: "),
        };
        let line = match finding.line.unwrap_or(judgement.line) {
            0 => String::new(),
            line => format!(":{line}"),
        };
        let (file, reason) = (&judgement.file, &finding.reason);
        let text = printable(&format!("{file}{line}: {severity}: {resource}{field}{reason}"));
        writeln!(out, "{text}")?;
    }
    Ok(())
}
