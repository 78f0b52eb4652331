//! `felid validate`.

use std::collections::BTreeMap;
use std::io::Write;

use felid_model::{Resource, ResourceKey};

use crate::cli::ValidateArgs;
use crate::outcome::{Outcome, usage};
use crate::output::{Format, Progress, count, json_line};

use super::between;
use super::input::{self, Input};
use super::judge::{Finding, Judgement, judge, show};

/// A document's judgement, and where the document is.
struct Judged {
    judgement: Judgement,
    /// What it is in force as, if it is.
    resource: Option<Resource>,
    /// Positions of the file among the inputs and of the document in the file.
    place: (usize, usize),
}

/// Checks every document and prints every error.
pub fn validate(args: &ValidateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    args.stray.refuse("validate")?;
    if args.files.files.is_empty() {
        return Err(usage("validate what? Name files, directories or - with -f"));
    }
    let mut inputs = input::read_all(&args.files)?;
    let mut judged = judge_all(&mut inputs, args.namespace.as_deref());
    check_directories(&inputs, &mut judged);
    let (mut good, mut bad, mut warnings) = (0, 0, 0);
    for Judged { judgement, .. } in &judged {
        if !judgement.valid {
            bad += 1
        } else if judgement.line > 0 {
            good += 1
        }
        warnings += judgement.warnings.len();
        if json {
            json_line(out, judgement)?;
        } else {
            show(judgement, &mut std::io::stderr())?;
        }
    }
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

/// Judges each document alone, in the order of the inputs. A file that cannot be read stands for
/// one bad document.
fn judge_all(inputs: &mut [Input], namespace: Option<&str>) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut progress = Progress::steps(inputs.len(), "checking files");
    for (file, input) in inputs.iter_mut().enumerate() {
        if let Some(reason) = &input.unreadable {
            judged.push(Judged {
                judgement: Judgement::of_file(&input.name, reason),
                resource: None,
                place: (file, 0),
            });
        }
        if input.is_other {
            judged.push(Judged {
                judgement: Judgement::of_other_file(&input.name),
                resource: None,
                place: (file, 0),
            });
        }
        for document in &mut input.documents {
            input::set_namespace(document, namespace);
        }
        for (n, document) in input.documents.iter().enumerate() {
            let (judgement, resource) = judge(input, document);
            judged.push(Judged {
                judgement,
                resource,
                place: (file, n),
            });
        }
        progress.step();
    }
    progress.finish();
    judged
}

/// Adds what is wrong between the records of directories. Two cases on standard input may well have
/// one name, and a single file need not hold everything that it refers to.
fn check_directories(inputs: &[Input], judged: &mut [Judged]) {
    let mut first: BTreeMap<ResourceKey, usize> = BTreeMap::new();
    let mut resources = Vec::new();
    for n in 0..judged.len() {
        let Some(one) = judged
            .get(n)
            .filter(|one| inputs.get(one.place.0).is_some_and(|input| input.in_directory))
        else {
            continue;
        };
        let Some(key) = one.judgement.key.clone() else { continue };
        if let Some(other) = first.get(&key).and_then(|other| judged.get(*other)) {
            let reason = format!(
                "the same resource stands in {}:{}",
                other.judgement.file, other.judgement.line
            );
            if let Some(one) = judged.get_mut(n) {
                one.add(Finding::new("metadata.name", reason), false);
            }
            continue;
        }
        resources.extend(one.resource.clone());
        first.insert(key, n);
    }
    for between::Between {
        key,
        is_warning,
        mut finding,
    } in between::problems(&resources)
    {
        let Some(one) = first.get(&key).and_then(|n| judged.get_mut(*n)) else {
            continue;
        };
        let document = inputs
            .get(one.place.0)
            .and_then(|input| input.documents.get(one.place.1));
        finding.line = document.map(|document| document.line_of(&finding.field));
        one.add(finding, is_warning);
    }
}

impl Judged {
    fn add(&mut self, finding: Finding, is_warning: bool) {
        if is_warning {
            self.judgement.warnings.push(finding);
        } else {
            self.judgement.errors.push(finding);
            self.judgement.valid = false;
        }
    }
}
