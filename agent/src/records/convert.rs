//! `felid convert`.

use std::io::Write;

use felid_model::convert::{Conversion, Fault, convert as convert_record};
use felid_model::{Decoded, Document, decode};
use serde_json::{Value, json};

use crate::cli::ConvertArgs;
use crate::outcome::{Outcome, usage};
use crate::output::{Format, json_line, printable, yaml};

use super::input;
use super::judge::{Finding, Judgement, show};

/// What became of one document.
struct Answer {
    resource: Option<Value>,
    /// Why there is no resource, although nothing is wrong.
    nothing: Option<&'static str>,
    errors: Vec<Finding>,
}

/// Converts every document.
pub fn convert(args: &ConvertArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = match args.output.as_str() {
        "yaml" | "yml" => false,
        _ => match Format::parse(&args.output, false) {
            Ok(Format::Json) => true,
            _ => {
                let text = format!("unknown output format {:?}: use yaml or json", args.output);
                return Err(usage(text));
            }
        },
    };
    args.stray.refuse("convert")?;
    if args.files.files.is_empty() {
        return Err(usage("convert what? Name files, directories or - with -f"));
    }
    let (mut failed, mut written) = (false, 0_usize);
    for mut input in input::read(&args.files)? {
        for document in &mut input.documents {
            input::set_namespace(document, args.namespace.as_deref());
            if input.in_directory
                && let Decoded::NotARecord { reason } = decode(document)
            {
                let text = printable(&format!("{}:{}: warning: {reason}", input.name, document.line));
                writeln!(std::io::stderr(), "{text}")?;
                continue;
            }
            let answer = answer(document);
            failed |= !answer.errors.is_empty();
            if json {
                json_line(out, &answer.line())?;
                continue;
            }
            if let Some(resource) = &answer.resource {
                if written > 0 {
                    writeln!(out, "---")?;
                }
                yaml(out, resource)?;
                written += 1;
            }
            explain(&input.name, document, answer)?;
        }
    }
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}

fn answer(document: &Document) -> Answer {
    let record = match &document.content {
        Ok(record) => record,
        Err(error) => {
            let mut finding = Finding::new("", error.reason.clone());
            finding.line = Some(error.line);
            return Answer {
                resource: None,
                nothing: None,
                errors: vec![finding],
            };
        }
    };
    let (resource, nothing, faults) = match convert_record(record) {
        Conversion::Resource(converted) => (Some(converted.resource), None, converted.faults),
        Conversion::Nothing(reason) => (None, Some(reason), Vec::new()),
        Conversion::Failed(faults) => (None, None, faults),
    };
    let finding = |fault: Fault| Finding {
        line: Some(document.line_of(&fault.field)),
        value: fault.value.map(shortened),
        field: fault.field,
        reason: fault.reason,
    };
    Answer {
        resource,
        nothing,
        errors: faults.into_iter().map(finding).collect(),
    }
}

impl Answer {
    /// As `-o json` prints it.
    fn line(&self) -> Value {
        let mut line = serde_json::Map::new();
        if let Some(resource) = &self.resource {
            line.insert("resources".to_owned(), json!([resource]));
        }
        if self.nothing.is_some() {
            line.insert("none".to_owned(), json!(true));
        }
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|error| match error.field.as_str() {
                "" => error.reason.clone(),
                field => format!("{field}: {}", error.reason),
            });
            line.insert("error".to_owned(), json!(errors.collect::<Vec<_>>().join("; ")));
        }
        Value::Object(line)
    }
}

/// Says what is wrong, or why there is nothing.
fn explain(file: &str, document: &Document, answer: Answer) -> std::io::Result<()> {
    let resource = input::raw_name(document);
    if let Some(reason) = answer.nothing {
        let name = resource.as_deref().unwrap_or("this document");
        let line = document.line;
        let text = printable(&format!("{file}:{line}: nothing for {name}: {reason}"));
        writeln!(std::io::stderr(), "{text}")?;
    }
    let judgement = Judgement {
        valid: answer.errors.is_empty(),
        errors: answer.errors,
        warnings: Vec::new(),
        file: file.to_owned(),
        line: document.line,
        resource,
        key: None,
        foreign: false,
    };
    show(&judgement, &mut std::io::stderr())
}

/// A value as messages show it.
fn shortened(value: Value) -> String {
    const MOST: usize = 80;
    let text = match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
