//! `felid validate`.

use std::collections::BTreeMap;
use std::io::Write;

use felid_model::ResourceKey;

use crate::cli::ValidateArgs;
use crate::entry::{Outcome, usage};
use crate::output::{Format, Progress, count, json_line};

use super::input::{self, Names};
use super::judge::{Finding, judge, show};

/// Checks every document and prints every error.
pub fn validate(args: &ValidateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    if args.files.files.is_empty() {
        return Err(usage("validate what? Name files, directories or - with -f"));
    }
    let mut seen: BTreeMap<ResourceKey, String> = BTreeMap::new();
    let (mut good, mut bad, mut warnings) = (0, 0, 0);
    let inputs = input::read(&args.files, Names::Any)?;
    let mut progress = Progress::steps(inputs.len(), "checking files");
    for mut input in inputs {
        for document in &mut input.documents {
            input::set_namespace(document, args.namespace.as_deref());
            let mut judgement = judge(&input.name, document);
            // Two cases on standard input may well have one name; two files of a directory may not.
            if let (true, Some(key)) = (input.in_directory, &judgement.key) {
                let place = format!("{}:{}", input.name, document.line);
                if let Some(first) = seen.get(key) {
                    let reason = format!("the same resource stands in {first}");
                    judgement.errors.push(Finding::new("metadata.name", reason));
                    judgement.valid = false;
                } else {
                    seen.insert(key.clone(), place);
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
