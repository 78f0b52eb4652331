//! `felid create`, `apply`, `replace`, `delete`.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, anyhow, bail};
use felid_datastore::{Done, Record, Store, Verb};
use felid_model::{Decoded, Document, ResourceKey, decode};

use crate::cli::{ApplyArgs, CreateArgs, DeleteArgs, FileArgs, GlobalArgs, WriteArgs};
use crate::outcome::{Outcome, usage};
use crate::output::{self, Format, Progress, count, json_line};

use super::input::{self, Input};
use super::judge::{Judgement, judge, show};
use super::{describe, kind_and_names, store};

/// `felid create`.
pub fn create(global: &GlobalArgs, args: &CreateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    args.stray.refuse("create")?;
    write(global, Verb::Create, &args.write, args.skip_exists, out)
}

/// `felid apply`.
pub fn apply(global: &GlobalArgs, args: &ApplyArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    args.stray.refuse("apply")?;
    write(global, Verb::Apply, &args.write, false, out)
}

/// `felid replace`.
pub fn replace(global: &GlobalArgs, args: &ApplyArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    args.stray.refuse("replace")?;
    write(global, Verb::Replace, &args.write, false, out)
}

/// Checks all documents, then writes them file by file.
fn write(
    global: &GlobalArgs,
    verb: Verb,
    args: &WriteArgs,
    skip: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    need_files(&args.files)?;
    let (store, name) = store(global)?;
    let mut inputs = input::read(&args.files)?;
    check(&mut inputs, args.namespace.namespace.as_deref())?;
    let present = if skip { keys(&*store, &name)? } else { BTreeSet::new() };
    let mut progress = Progress::steps(inputs.len(), "writing records");
    for input in &inputs {
        progress.step();
        let text = text(input, |key| !present.contains(key))?;
        if text.trim().is_empty() {
            continue;
        }
        let done = store.write(verb, Record::parse(&text, &input.name)?)?;
        report(&done, json, out)?;
    }
    Ok(Outcome::Done)
}

/// `felid delete`.
pub fn delete(global: &GlobalArgs, args: &DeleteArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.write.output)?;
    let namespace = args.write.namespace.namespace.as_deref();
    let (store, name) = store(global)?;
    let mut wanted: Vec<ResourceKey> = match &args.kind {
        Some(kind) => {
            if !args.write.files.files.is_empty() {
                return Err(usage("name a kind or files with -f, not both"));
            }
            let (kind, names) = kind_and_names(kind, &args.names)?;
            if names.is_empty() {
                return Err(usage(format!("delete which {kind}? Names are missing")));
            }
            names
                .iter()
                .map(|name| ResourceKey::new(kind, namespace, name))
                .collect()
        }
        None => {
            need_files(&args.write.files)?;
            let mut wanted = Vec::new();
            for mut input in input::read(&args.write.files)? {
                for document in &mut input.documents {
                    input::set_namespace(document, namespace);
                    if !is_stranger(input.in_directory, document) {
                        wanted.extend(key_of(&input.name, document)?);
                    }
                }
            }
            wanted
        }
    };
    let present = keys(&*store, &name)?;
    let mut seen = BTreeSet::new();
    wanted.retain(|key| seen.insert(key.clone()));
    let (there, missing): (Vec<ResourceKey>, Vec<ResourceKey>) =
        wanted.into_iter().partition(|key| present.contains(key));
    if !there.is_empty() {
        report(&store.delete(&there)?, json, out)?;
    }
    if args.skip_not_exists || missing.is_empty() {
        return Ok(Outcome::Done);
    }
    for key in &missing {
        output::error(&format!("resource does not exist: {}", describe(key)));
    }
    Ok(Outcome::Failed)
}

fn need_files(files: &FileArgs) -> anyhow::Result<()> {
    if files.files.is_empty() {
        return Err(usage("which records? Name files, directories or - with -f"));
    }
    Ok(())
}

/// Keys of everything in the datastore.
fn keys(store: &dyn Store, name: &str) -> anyhow::Result<BTreeSet<ResourceKey>> {
    let listing = store
        .list()
        .with_context(|| format!("{name}: cannot read the datastore"))?;
    Ok(listing.resources.into_iter().map(|stored| stored.key).collect())
}

/// Gives documents their namespace, and refuses the whole lot if one document is bad: all errors at
/// once.
fn check(inputs: &mut [Input], namespace: Option<&str>) -> anyhow::Result<()> {
    let mut errors = 0;
    for input in inputs {
        if input.is_other {
            show(&Judgement::of_other_file(&input.name), &mut std::io::stderr())?;
        }
        for document in &mut input.documents {
            input::set_namespace(document, namespace);
        }
        for document in &input.documents {
            let (mut judgement, _) = judge(input, document);
            if judgement.foreign && !input.in_directory {
                // Nobody would read it.
                judgement.errors.append(&mut judgement.warnings);
            }
            errors += judgement.errors.len();
            show(&judgement, &mut std::io::stderr())?;
        }
    }
    if errors > 0 {
        bail!("{}: nothing was written", count(errors, "error", "errors"));
    }
    Ok(())
}

/// Whether a document of a directory is no record of felid's, and so is passed over.
fn is_stranger(in_directory: bool, document: &Document) -> bool {
    in_directory && matches!(decode(document), Decoded::Foreign { .. } | Decoded::NotARecord { .. })
}

/// Identity of a document, however bad the rest of it is.
fn key_of(file: &str, document: &Document) -> anyhow::Result<Option<ResourceKey>> {
    match decode(document) {
        Decoded::Resource { resource, .. } => Ok(Some(resource.key().clone())),
        Decoded::Bad { key: Some(key), .. } => Ok(Some(key)),
        Decoded::Bad { .. } | Decoded::Foreign { .. } | Decoded::NotARecord { .. } => {
            Err(anyhow!("{file}:{}: names no record that felid has", document.line))
        }
        Decoded::Empty => Ok(None),
    }
}

/// The text to write: the user's own wherever nothing was added or left out.
fn text(input: &Input, wanted: impl Fn(&ResourceKey) -> bool) -> anyhow::Result<String> {
    let original = felid_model::documents(&input.text);
    let mut same = original.len() == input.documents.len();
    let mut text = String::new();
    for (index, document) in input.documents.iter().enumerate() {
        if is_stranger(input.in_directory, document) {
            same = false;
            continue;
        }
        let Some(key) = key_of(&input.name, document)? else {
            continue;
        };
        if !wanted(&key) {
            same = false;
            continue;
        }
        let before = original.get(index);
        let unchanged = before.is_some_and(|before| before.content == document.content);
        let verbatim = input
            .text
            .get(document.range.clone())
            .filter(|_| unchanged && document.item.is_none());
        same &= unchanged;
        text.push_str("---\n");
        match (verbatim, &document.content) {
            (Some(verbatim), _) => text.push_str(verbatim),
            (None, Ok(content)) => text.push_str(&serde_saphyr::to_string(content)?),
            (None, Err(error)) => bail!("{}: {error}", input.name),
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(if same { input.text.clone() } else { text })
}

fn report(done: &[Done], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for done in done {
        if json {
            let action = format!("{:?}", done.action).to_lowercase();
            json_line(
                out,
                &serde_json::json!({"resource": done.key.to_string(), "action": action, "file": done.file}),
            )?;
        } else {
            writeln!(out, "{}", output::printable(&done.to_string()))?;
        }
    }
    Ok(())
}
