//! `felid validate`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::bail;
use felid_model::{Decoded, Document, Issue, ResourceKey, Severity, decode};
use serde::Serialize;

use crate::cli::ValidateArgs;
use crate::entry::Outcome;
use crate::output::{Format, Progress, count, json_line, printable};

use super::input::{self, Names};

/// The judgement of one document, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Judgement {
    valid: bool,
    errors: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Finding>,
    file: String,
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Serialize)]
struct Finding {
    field: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// Checks every document and prints every error.
pub fn validate(args: &ValidateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    if args.files.files.is_empty() {
        bail!("validate what? Name files, directories or - with -f");
    }
    let mut seen: BTreeMap<ResourceKey, String> = BTreeMap::new();
    let (mut good, mut bad, mut warnings) = (0, 0, 0);
    let inputs = input::read(&args.files, Names::Any)?;
    let mut progress = Progress::steps(inputs.len(), "checking files");
    for mut input in inputs {
        for document in &mut input.documents {
            input::set_namespace(document, args.namespace.as_deref());
            let (mut judgement, key) = judge(&input.name, document);
            // Two cases on standard input may well have one name; two files of a directory may not.
            if let (true, Some(key)) = (input.in_directory, key) {
                let place = format!("{}:{}", input.name, document.line);
                if let Some(first) = seen.get(&key) {
                    let reason = format!("the same resource stands in {first}");
                    judgement.errors.push(Finding {
                        field: "metadata.name".to_owned(),
                        reason,
                        value: None,
                        line: None,
                    });
                    judgement.valid = false;
                } else {
                    seen.insert(key, place);
                }
            }
            if judgement.valid {
                good += 1
            } else {
                bad += 1
            }
            warnings += judgement.warnings.len();
            if json {
                json_line(out, &judgement)?;
            } else {
                show(&judgement, &mut std::io::stderr())?;
            }
        }
        progress.step();
    }
    progress.finish();
    if !json {
        let warned = if warnings == 0 {
            String::new()
        } else {
            format!(", {}", count(warnings, "warning", "warnings"))
        };
        writeln!(
            out,
            "{} valid, {bad} invalid{warned}",
            count(good, "document", "documents")
        )?;
    }
    Ok(if bad == 0 { Outcome::Done } else { Outcome::Failed })
}

fn judge(file: &str, document: &Document) -> (Judgement, Option<ResourceKey>) {
    let (key, resource, issues) = match decode(document) {
        Decoded::Resource { resource, issues } => {
            let key = resource.key().clone();
            (Some(key.clone()), Some(key.to_string()), issues)
        }
        Decoded::Bad { kind, key, issues, .. } => {
            let name = key
                .as_ref()
                .map(ToString::to_string)
                .or_else(|| kind.map(|kind| kind.to_string()));
            (key, name, issues)
        }
        Decoded::Foreign {
            api_version,
            kind,
            name,
        } => {
            let reason = format!("felid does nothing with {kind} of {api_version}");
            let issue = finding("kind", reason, None, None);
            let judgement = Judgement {
                valid: true,
                errors: Vec::new(),
                warnings: vec![issue],
                file: file.to_owned(),
                line: document.line,
                resource: Some(format!("{kind}/{name}")),
            };
            return (judgement, None);
        }
        Decoded::Empty => (None, None, Vec::new()),
    };
    let (errors, warnings): (Vec<&Issue>, Vec<&Issue>) =
        issues.iter().partition(|issue| issue.severity == Severity::Error);
    let findings = |issues: Vec<&Issue>| issues.into_iter().map(from_issue).collect::<Vec<_>>();
    let judgement = Judgement {
        valid: errors.is_empty(),
        errors: findings(errors),
        warnings: findings(warnings),
        file: file.to_owned(),
        line: document.line,
        resource,
    };
    (judgement, key)
}

fn from_issue(issue: &Issue) -> Finding {
    finding(&issue.field, issue.reason.clone(), issue.value.clone(), issue.line)
}

fn finding(field: &str, reason: String, value: Option<String>, line: Option<usize>) -> Finding {
    Finding {
        field: field.to_owned(),
        reason,
        value,
        line,
    }
}

/// `FILE:LINE: error: RESOURCE: FIELD "VALUE": REASON`, one line each.
fn show(judgement: &Judgement, out: &mut dyn Write) -> std::io::Result<()> {
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
