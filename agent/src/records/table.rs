//! Rows of the tables of `felid get`.

use felid_datastore::StoredResource;
use felid_model::Kind;

use crate::outcome::usage;
use crate::output::Format;

use super::columns;

/// The columns of a kind's table.
pub(super) fn headings(format: &Format, kind: Kind, namespaces: bool) -> anyhow::Result<Vec<String>> {
    let mut headings: Vec<String> = match format {
        Format::Columns(columns) => {
            let known = columns::all(kind);
            if let Some(unknown) = columns.iter().find(|column| !known.contains(&column.as_str())) {
                let reason = format!("{kind} has no column {unknown:?}; there are {}", known.join(", "));
                return Err(usage(reason));
            }
            columns.clone()
        }
        _ => {
            let own = columns::headings(kind, *format == Format::Wide);
            own.iter().map(|heading| (*heading).to_owned()).collect()
        }
    };
    if namespaces && kind.is_namespaced() && !headings.iter().any(|heading| heading == "NAMESPACE") {
        headings.insert(0, "NAMESPACE".to_owned());
    }
    Ok(headings)
}

/// One resource's row of a table.
pub(super) fn row(headings: &[String], stored: &StoredResource) -> Vec<String> {
    let record = columns::as_calico(&stored.value);
    headings
        .iter()
        .map(|heading| columns::cell(heading, &stored.key, &record))
        .collect()
}
