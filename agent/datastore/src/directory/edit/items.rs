//! Where the items of a list stand in its text, and what to write in their places.
//!
//! Knows block sequences of YAML (`- ...` on lines of their own) and arrays of JSON; anything else
//! is left to people. Guesses freely: whoever applies the edits parses the result before it is
//! written.

use std::collections::BTreeMap;
use std::ops::Range;

use felid_model::Document;

use super::json;
use super::text::{Rewrite, as_json, core, is_blank_or_comment, slice};

/// A stretch of the text and what to put in its place.
pub(crate) type Edit = (Range<usize>, String);

/// The edits of one list; `items` are its documents with what to do with them. At least one item
/// stays or is replaced.
pub(crate) fn edits(text: &str, items: &[(&Document, Option<&Rewrite>)], as_written: bool) -> Option<Vec<Edit>> {
    let range = &items.first()?.0.range;
    if slice(text, range).starts_with(['[', '{']) {
        return in_json(text, range.start, items);
    }
    let lines = Lines::of(text);
    let changed = items
        .iter()
        .filter_map(|(document, rewrite)| Some((*document, (*rewrite)?)));
    changed
        .map(|(document, rewrite)| in_yaml(&lines, document, rewrite, as_written))
        .collect()
}

fn in_json(text: &str, start: usize, items: &[(&Document, Option<&Rewrite>)]) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    let mut position = 0;
    for array in json::arrays(text, start)? {
        // Items of this array, of which some go.
        let count = array.len();
        let (mut at, mut kept_end) = (0, None);
        while at < count {
            let (_, rewrite) = items.get(position + at)?;
            let span = array.get(at)?;
            if let Some(Rewrite::Remove) = rewrite {
                let run =
                    (at..count).take_while(|i| matches!(items.get(position + i), Some((_, Some(Rewrite::Remove)))));
                let last = run.last()?;
                // With the comma after them; the last ones with the comma before them.
                let gone = match (array.get(last + 1), kept_end) {
                    (Some(next), _) => span.start..next.start,
                    (None, Some(kept_end)) => kept_end..array.get(last)?.end,
                    (None, None) => span.start..array.get(last)?.end,
                };
                edits.push((gone, String::new()));
                at = last + 1;
                continue;
            }
            if let Some(Rewrite::Replace { value, .. }) = rewrite {
                edits.push((
                    span.clone(),
                    as_json(value, slice(text, span), indent_before(text, span.start)),
                ));
            }
            kept_end = Some(span.end);
            at += 1;
        }
        position += count;
    }
    (position == items.len()).then_some(edits)
}

/// White space at the start of the line, if nothing else stands before this place.
fn indent_before(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    let rest = line.trim_start_matches([' ', '\t']);
    line.get(..line.len() - rest.len()).unwrap_or_default()
}

/// A text by its lines.
struct Lines<'a> {
    text: &'a str,
    /// Where each begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(breaks).filter(|start| *start < text.len());
        Self {
            text,
            starts: starts.collect(),
        }
    }

    /// The line without its break; 0-based.
    fn get(&self, number: usize) -> Option<&'a str> {
        let start = *self.starts.get(number)?;
        Some(slice(self.text, &(start..self.start(number + 1))).trim_end_matches(['\n', '\r']))
    }

    fn start(&self, number: usize) -> usize {
        self.starts.get(number).copied().unwrap_or(self.text.len())
    }

    /// Number of the line with the item's `-`: that of its content, or one above if nothing else
    /// stands behind the `-`.
    fn dash(&self, content: usize) -> Option<usize> {
        let line = self.get(content)?;
        if is_item(line) {
            return Some(content);
        }
        let above = (0..content)
            .rev()
            .find(|number| self.get(*number).is_some_and(|line| !is_blank_or_comment(line)))?;
        self.get(above).filter(|line| is_item(line)).map(|_| above)
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Whether the line begins an item of a block sequence.
fn is_item(line: &str) -> bool {
    line.trim_start_matches(' ')
        .strip_prefix('-')
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

fn in_yaml(lines: &Lines<'_>, document: &Document, rewrite: &Rewrite, as_written: bool) -> Option<Edit> {
    let first = lines.dash(document.line.checked_sub(1)?)?;
    let dash = lines.get(first)?;
    let depth = indent(dash);
    // Everything that is indented more belongs to it; comments only if something of it follows or
    // they are indented too.
    let mut last = first;
    for number in first + 1..lines.starts.len() {
        let line = lines.get(number)?;
        let inside = indent(line) > depth;
        if !line.trim().is_empty() && inside && lines.start(number) < document.range.end {
            last = number;
        } else if !is_blank_or_comment(line) {
            break;
        }
    }
    match rewrite {
        Rewrite::Remove => {
            // A comment right above it is about it.
            let is_its = |number: &usize| {
                lines
                    .get(*number)
                    .is_some_and(|line| line.trim_start().starts_with('#') && indent(line) >= depth)
            };
            let comments = (0..first).rev().take_while(is_its).count();
            Some((lines.start(first - comments)..lines.start(last + 1), String::new()))
        }
        Rewrite::Replace { text, value } => {
            let start = lines.start(first) + depth;
            let end = lines.start(last) + lines.get(last)?.len();
            let behind = dash.get(depth + 1..)?;
            let gap = match behind.trim_start_matches(' ') {
                "" => 1,
                content => (behind.len() - content.len()).max(1),
            };
            let margin = " ".repeat(depth + 1 + gap);
            let new = match text.as_deref().filter(|_| as_written) {
                Some(new) => slice(new, &core(new, &(0..new.len()))).to_owned(),
                None => format!("{value:#}"),
            };
            let mut item = format!("-{}", " ".repeat(gap));
            for (number, line) in new.split('\n').enumerate() {
                if number > 0 {
                    item.push('\n');
                    if !line.trim().is_empty() {
                        item.push_str(&margin);
                    }
                }
                item.push_str(line);
            }
            Some((start..end, item))
        }
    }
}

/// The documents of a list with what to do with them, by the start of the list's text.
pub(crate) fn lists<'a>(
    documents: &[&'a Document],
    rewrites: &'a BTreeMap<usize, Rewrite>,
) -> BTreeMap<usize, Vec<(&'a Document, Option<&'a Rewrite>)>> {
    let mut lists: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for (index, document) in documents.iter().enumerate() {
        if document.item.is_some() {
            lists
                .entry(document.range.start)
                .or_default()
                .push((*document, rewrites.get(&index)));
        }
    }
    lists.retain(|_, items| items.iter().any(|(_, rewrite)| rewrite.is_some()));
    lists
}
