//! `felid get`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, bail};
use felid_datastore::StoredResource;
use felid_model::{Decoded, Kind, ResourceKey, decode};
use serde_json::{Value, json};

use crate::cli::{GetArgs, Places};
use crate::entry::{Outcome, usage};
use crate::output::{self, Format, count};

use super::input::{self, Names};
use super::{columns, describe, directory, kind_and_names};

/// What is asked for.
enum Wanted {
    /// All of a kind, in one namespace or (`None`) everywhere.
    All(Kind, Option<String>),
    /// These.
    Keys(Vec<ResourceKey>),
    /// These names in any namespace.
    Anywhere(Kind, Vec<String>),
}

/// Shows records.
pub fn get(places: &Places, args: &GetArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.output, true)?;
    let wanted = wanted(args)?;
    let directory = directory(places)?;
    let (stored, problems) = felid_datastore::list(&directory)
        .with_context(|| format!("{}: cannot read the datastore", directory.display()))?;
    // Where one resource stands in two files, the first is the one in force.
    let mut by_key: BTreeMap<ResourceKey, StoredResource> = BTreeMap::new();
    for resource in stored {
        by_key.entry(resource.key.clone()).or_insert(resource);
    }
    let mut missing = Vec::new();
    let mut found: Vec<&StoredResource> = match &wanted {
        Wanted::All(kind, namespace) => by_key
            .values()
            .filter(|stored| stored.key.kind == *kind)
            .filter(|stored| namespace.is_none() || stored.key.namespace.as_deref() == namespace.as_deref())
            .collect(),
        Wanted::Keys(keys) => keys
            .iter()
            .filter_map(|key| {
                let found = by_key.get(key);
                if found.is_none() {
                    missing.push(describe(key));
                }
                found
            })
            .collect(),
        Wanted::Anywhere(kind, names) => names
            .iter()
            .flat_map(|name| {
                let found: Vec<_> = by_key
                    .values()
                    .filter(|s| s.key.kind == *kind && *s.key.name == **name)
                    .collect();
                if found.is_empty() {
                    missing.push(format!("{kind}({name})"));
                }
                found
            })
            .collect(),
    };
    if let Wanted::All(Kind::Tier, _) = wanted {
        found.sort_by(|a, b| columns::order(&a.value).total_cmp(&columns::order(&b.value)));
    }
    let namespaces = args.all_namespaces || args.namespace.namespace.is_some();
    print(&format, &wanted, &found, namespaces, out)?;
    let errors = problems.errors().count();
    if errors > 0 {
        let text = count(errors, "error", "errors");
        writeln!(
            std::io::stderr(),
            "felid: {text} in the records: felid validate -f {} shows them",
            directory.display()
        )?;
    }
    for name in &missing {
        writeln!(std::io::stderr(), "felid: resource does not exist: {name}")?;
    }
    Ok(if missing.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

fn wanted(args: &GetArgs) -> anyhow::Result<Wanted> {
    let namespace = args.namespace.namespace.as_deref();
    if !args.files.files.is_empty() {
        if args.kind.is_some() {
            return Err(usage("name a kind or files with -f, not both"));
        }
        let mut keys = Vec::new();
        for mut input in input::read(&args.files, Names::Records)? {
            for document in &mut input.documents {
                input::set_namespace(document, namespace);
                match decode(document) {
                    Decoded::Resource { resource, .. } => keys.push(resource.key().clone()),
                    Decoded::Bad { key: Some(key), .. } => keys.push(key),
                    Decoded::Bad { .. } | Decoded::Foreign { .. } => {
                        bail!("{}:{}: names no record that felid has", input.name, document.line)
                    }
                    Decoded::Empty => {}
                }
            }
        }
        return Ok(Wanted::Keys(keys));
    }
    let Some(kind) = &args.kind else {
        return Err(usage("name a kind, or files with -f"));
    };
    let (kind, names) = kind_and_names(kind, &args.names)?;
    let everywhere = args.all_namespaces && kind.is_namespaced();
    Ok(match (names.is_empty(), everywhere) {
        (true, true) => Wanted::All(kind, None),
        (true, false) if kind.is_namespaced() => Wanted::All(kind, Some(namespace.unwrap_or("default").to_owned())),
        (true, false) => Wanted::All(kind, None),
        (false, true) => Wanted::Anywhere(kind, names),
        (false, false) => Wanted::Keys(
            names
                .iter()
                .map(|name| ResourceKey::new(kind, namespace, name))
                .collect(),
        ),
    })
}

fn print(
    format: &Format,
    wanted: &Wanted,
    found: &[&StoredResource],
    namespaces: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    match format {
        Format::Json => output::json(out, &structure(wanted, found)),
        Format::Yaml => output::yaml(out, &structure(wanted, found)),
        Format::Name => {
            for stored in found {
                writeln!(out, "{}/{}", stored.key.kind.as_str().to_lowercase(), stored.key.name)?;
            }
            Ok(())
        }
        Format::Table | Format::Wide | Format::Columns(_) => tables(format, wanted, found, namespaces, out),
    }
}

/// As calicoctl: all of a kind is a list object, one name the resource itself, several names an array.
fn structure(wanted: &Wanted, found: &[&StoredResource]) -> Value {
    let items: Vec<Value> = found.iter().map(|stored| stored.value.clone()).collect();
    match (wanted, items.as_slice()) {
        (Wanted::All(kind, _), _) => {
            let list = format!("{}List", kind.record_kind());
            json!({"apiVersion": kind.api_version(), "kind": list, "metadata": {}, "items": items})
        }
        (_, [one]) => one.clone(),
        _ => Value::Array(items),
    }
}

/// One table for each kind that is there.
fn tables(
    format: &Format,
    wanted: &Wanted,
    found: &[&StoredResource],
    namespaces: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut kinds: Vec<Kind> = match wanted {
        Wanted::All(kind, _) | Wanted::Anywhere(kind, _) => vec![*kind],
        Wanted::Keys(keys) => keys.iter().map(|key| key.kind).collect(),
    };
    kinds.sort();
    kinds.dedup();
    for (number, kind) in kinds.into_iter().enumerate() {
        let own: Vec<&str> = match format {
            Format::Columns(columns) => {
                let known = columns::all(kind);
                if let Some(unknown) = columns.iter().find(|column| !known.contains(&column.as_str())) {
                    let reason = format!("{kind} has no column {unknown:?}; there are {}", known.join(", "));
                    return Err(usage(reason));
                }
                columns.iter().map(String::as_str).collect()
            }
            _ => columns::headings(kind, *format == Format::Wide).to_vec(),
        };
        let mut headings = own;
        if namespaces && kind.is_namespaced() && !headings.contains(&"NAMESPACE") {
            headings.insert(0, "NAMESPACE");
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .filter(|stored| stored.key.kind == kind)
            .map(|stored| {
                let record = columns::as_calico(&stored.value);
                headings
                    .iter()
                    .map(|heading| columns::cell(heading, &stored.key, &record))
                    .collect()
            })
            .collect();
        if number > 0 {
            writeln!(out)?;
        }
        output::table(out, &headings, &rows)?;
    }
    Ok(())
}
