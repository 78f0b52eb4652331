//! What is good and bad about one document.

use std::io::Write;

use felid_model::{Decoded, Document, Issue, ResourceKey, Severity, decode};
use serde::Serialize;

use crate::output::printable;

use super::input;

/// The judgement of one document, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Judgement {
    pub(super) valid: bool,
    pub(super) errors: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<Finding>,
    pub(super) file: String,
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

/// Judges a document of a file.
pub(super) fn judge(file: &str, document: &Document) -> Judgement {
    let mut judgement = Judgement {
        valid: true,
        errors: Vec::new(),
        warnings: Vec::new(),
        file: file.to_owned(),
        line: document.line,
        resource: None,
        key: None,
        foreign: false,
    };
    let issues = match decode(document) {
        Decoded::Resource { resource, issues } => {
            judgement.key = Some(resource.key().clone());
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
        Decoded::Empty => Vec::new(),
    };
    if let Some(key) = &judgement.key {
        judgement.resource = Some(key.to_string());
    }
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
            Severity::Error => judgement.errors.push(finding),
            Severity::Warning => judgement.warnings.push(finding),
        }
    }
    judgement.valid = judgement.errors.is_empty();
    judgement
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

/// `FILE:LINE: error: RESOURCE: FIELD "VALUE": REASON`, one line each.
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
        let line = finding.line.unwrap_or(judgement.line);
        writeln!(
            out,
            "{}:{line}: {severity}: {}",
            judgement.file,
            printable(&format!("{resource}{field}{}", finding.reason))
        )?;
    }
    Ok(())
}
