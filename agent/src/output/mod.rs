//! How results look: tables as calicoctl prints them, YAML, JSON, names.

mod progress;
mod yaml;

use std::io::Write;

use comfy_table::{Row, Table, presets};
use serde::Serialize;

use crate::outcome::usage;

pub use progress::Progress;
pub use yaml::yaml;

/// Output format of commands that list things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// Names, one a line.
    Name,
    /// These columns.
    Columns(Vec<String>),
}

impl Format {
    /// Reads `-o`. `names` and `columns` say whether this command has those forms.
    pub fn parse(text: &str, records: bool) -> anyhow::Result<Self> {
        Ok(match text {
            "table" | "ps" => Self::Table,
            "wide" => Self::Wide,
            "yaml" | "yml" => Self::Yaml,
            "json" => Self::Json,
            "name" if records => Self::Name,
            _ => match text.strip_prefix("custom-columns=") {
                Some(columns) if records && !columns.is_empty() => {
                    Self::Columns(columns.split(',').map(|column| column.trim().to_uppercase()).collect())
                }
                _ => {
                    let more = if records { ", name or custom-columns=..." } else { "" };
                    return Err(usage(format!(
                        "unknown output format {text:?}: use table, wide, yaml, json{more}"
                    )));
                }
            },
        })
    }

    /// Reads `-o` of commands that say what they did: whether it is JSON.
    pub fn is_json(text: &str) -> anyhow::Result<bool> {
        match text {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err(usage(format!("unknown output format {text:?}: use text or json"))),
        }
    }
}

/// Prints a table: columns three spaces apart, never wrapped, nothing at line ends.
pub fn table(out: &mut dyn Write, headings: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty();
    table.set_header(headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(Row::from(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints as indented JSON.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", crate::text::escape_json(&text))?;
    Ok(())
}

/// Prints as one line of JSON.
pub fn json_line(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    let text = crate::text::escape_json(&text);
    writeln!(out, "{text}")?;
    Ok(())
}

/// Returns the text with what would drive the reader's terminal or break a table escaped.
pub fn printable(text: &str) -> String {
    crate::text::escape(text).into_owned()
}

/// `1` -> `1 policy`, `2` -> `2 policies`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A warning for people, on standard error.
pub fn warn(text: &str) {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(std::io::stderr(), "warning: {}", printable(text));
}

/// Something that failed, for people, on standard error; the rest goes on.
pub fn error(text: &str) {
    // As above.
    let _ = writeln!(std::io::stderr(), "felid: {}", printable(text));
}

/// A line that belongs to the error before it.
pub fn below_error(line: &str) {
    // As above.
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}
