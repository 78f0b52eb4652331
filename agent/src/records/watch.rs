//! `felid get --watch`.

use std::collections::BTreeMap;
use std::io::Write;

use felid_datastore::{Listing, Store, StoredResource, WatchEvent};
use felid_model::Kind;
use serde_json::json;

use crate::outcome::Outcome;
use crate::output::{Format, json_line, printable, yaml};

use super::table::{headings, row};
use super::wanted::Wanted;

/// Shows what there is, each as if it were new, and then what changes, until the reader or the
/// datastore is gone.
pub(super) fn watch(
    store: &dyn Store,
    listing: Listing,
    (wanted, found): (&Wanted, Vec<StoredResource>),
    (format, namespaces): (&Format, bool),
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let mut printer = Printer {
        format,
        namespaces,
        kind: None,
        widths: BTreeMap::new(),
    };
    for stored in found {
        printer.print(&WatchEvent::Added(stored), out)?;
    }
    out.flush()?;
    for event in store.watch(listing)? {
        let event = event?;
        if wanted.includes(&event.stored().key) {
            printer.print(&event, out)?;
            out.flush()?;
        }
    }
    Ok(Outcome::Done)
}

struct Printer<'a> {
    format: &'a Format,
    namespaces: bool,
    /// The kind of the last line: another one has other columns.
    kind: Option<Kind>,
    /// Of each column, the longest cell so far.
    widths: BTreeMap<usize, usize>,
}

impl Printer<'_> {
    fn print(&mut self, event: &WatchEvent, out: &mut dyn Write) -> anyhow::Result<()> {
        let stored = event.stored();
        match self.format {
            Format::Json => json_line(out, &json!({"type": event.name(), "object": stored.versioned()})),
            Format::Yaml => {
                writeln!(out, "---")?;
                yaml(out, &json!({"type": event.name(), "object": stored.versioned()}))
            }
            Format::Name => {
                let kind = stored.key.kind.as_str().to_lowercase();
                Ok(writeln!(
                    out,
                    "{} {kind}/{}",
                    event.name(),
                    printable(&stored.key.name)
                )?)
            }
            Format::Table | Format::Wide | Format::Columns(_) => {
                let kind = stored.key.kind;
                let headings = headings(self.format, kind, self.namespaces)?;
                if self.kind.replace(kind) != Some(kind) {
                    self.widths.clear();
                    self.line("EVENT", headings.clone(), out)?;
                }
                self.line(event.name(), row(&headings, stored), out)
            }
        }
    }

    /// One line of a table that is not complete yet: no column gets narrower.
    fn line(&mut self, event: &str, cells: Vec<String>, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut line = format!("{event:<8}");
        for (column, cell) in cells.iter().enumerate() {
            let cell = printable(cell);
            let width = self.widths.entry(column).or_default();
            *width = (*width).max(cell.chars().count());
            line.push_str(&format!("   {cell:<width$}", width = *width));
        }
        Ok(writeln!(out, "{}", line.trim_end())?)
    }
}
