//! `felid get`.

use std::io::Write;

use anyhow::Context;
use felid_datastore::StoredResource;
use felid_model::Kind;
use serde_json::{Value, json};

use crate::cli::{GetArgs, GlobalArgs};
use crate::outcome::Outcome;
use crate::output::{self, Format, count};

use super::table::{headings, row};
use super::wanted::{Wanted, wanted};
use super::{store, watch};

/// Shows records, and with `--watch` what changes from then on.
pub fn get(global: &GlobalArgs, args: &GetArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.output, true)?;
    let wanted = wanted(args)?;
    let (store, name) = store(global)?;
    let listing = store
        .list()
        .with_context(|| format!("{name}: cannot read the datastore"))?;
    let wanted = wanted.resolved(&listing);
    let (found, missing) = wanted.select(&listing);
    let namespaces = args.all_namespaces || args.namespace.namespace.is_some();
    let errors = listing.problems.errors().count();
    if errors > 0 {
        let text = count(errors, "error", "errors");
        output::error(&format!("{text} in the records: felid validate -f {name} shows them"));
    }
    if args.watch {
        let found = found.into_iter().cloned().collect();
        return watch::watch(&*store, listing, (&wanted, found), (&format, namespaces), out);
    }
    print(&format, &wanted, &found, namespaces, out)?;
    for name in &missing {
        output::error(&format!("resource does not exist: {name}"));
    }
    Ok(if missing.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
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
                let name = format!("{}/{}", stored.key.kind.as_str().to_lowercase(), stored.key.name);
                writeln!(out, "{}", output::printable(&name))?;
            }
            Ok(())
        }
        Format::Table | Format::Wide | Format::Columns(_) => tables(format, wanted, found, namespaces, out),
    }
}

/// As calicoctl: all of a kind is a list object, one name the resource itself, several names an
/// array.
fn structure(wanted: &Wanted, found: &[&StoredResource]) -> Value {
    let items: Vec<Value> = found.iter().map(|stored| stored.versioned()).collect();
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
        let headings = headings(format, kind, namespaces)?;
        let rows: Vec<Vec<String>> = found
            .iter()
            .filter(|stored| stored.key.kind == kind)
            .map(|stored| row(&headings, stored))
            .collect();
        if number > 0 {
            writeln!(out)?;
        }
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        output::table(out, &headings, &rows)?;
    }
    Ok(())
}
