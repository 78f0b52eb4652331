//! Changing some documents of a file's text and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use felid_model::{Document, documents};
use serde_json::Value;

/// What to do with a document.
#[derive(Debug)]
pub(crate) enum Rewrite {
    Remove,
    /// Put this in its place; the text as the user wrote it, if there is one.
    Replace {
        text: Option<String>,
        value: Value,
    },
}

/// The text of a file after rewriting documents by their positions; `None` = no document is left. Fails if the result would not be
/// exactly the other documents and the new ones.
pub(crate) fn rewrite(
    text: &str,
    old: &[&Document],
    rewrites: &BTreeMap<usize, Rewrite>,
) -> Result<Option<String>, String> {
    let expected: Vec<Result<&Value, &str>> = old
        .iter()
        .enumerate()
        .filter_map(|(index, document)| match rewrites.get(&index) {
            Some(Rewrite::Remove) => None,
            Some(Rewrite::Replace { value, .. }) => Some(Ok(value)),
            None => Some(
                document
                    .content
                    .as_ref()
                    .map_err(|_| slice(text, &document.range).trim()),
            ),
        })
        .collect();
    if expected.is_empty() {
        return Ok(None);
    }
    for as_written in [true, false] {
        let result = apply(text, old, rewrites, as_written);
        let found = documents(&result);
        let same = found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(found, expected)| match (&found.content, expected) {
                    (Ok(found), Ok(expected)) => found == *expected,
                    (Err(_), Err(expected)) => slice(&result, &found.range).trim() == *expected,
                    _ => false,
                });
        if same {
            return Ok(Some(result));
        }
    }
    Err("the document cannot be changed without touching others; edit the file by hand".to_owned())
}

fn slice<'a>(text: &'a str, range: &Range<usize>) -> &'a str {
    text.get(range.clone()).unwrap_or_default()
}

fn apply(text: &str, old: &[&Document], rewrites: &BTreeMap<usize, Rewrite>, as_written: bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut copied = 0;
    for (index, rewrite) in rewrites {
        let Some(document) = old.get(*index) else { continue };
        let (range, new) = match rewrite {
            Rewrite::Remove => (whole(text, document, *index == 0), String::new()),
            Rewrite::Replace { text: new, value } => {
                let range = core(text, &document.range);
                let is_json = slice(text, &range).starts_with(['{', '[']);
                let new = match new.as_deref().filter(|_| as_written && !is_json) {
                    Some(new) => slice(new, &core(new, &(0..new.len()))).to_owned(),
                    None => json(value),
                };
                // Right behind `---` only flow style may begin.
                let mid_line = !text
                    .get(..range.start)
                    .unwrap_or_default()
                    .trim_end_matches([' ', '\t'])
                    .ends_with('\n')
                    && range.start > 0;
                let gap = if mid_line && !new.starts_with(['{', '[']) {
                    "\n"
                } else {
                    ""
                };
                (range, format!("{gap}{new}"))
            }
        };
        if range.start < copied {
            continue;
        }
        result.push_str(slice(text, &(copied..range.start)));
        result.push_str(&new);
        copied = range.end;
    }
    result.push_str(slice(text, &(copied..text.len())));
    result
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The part of a document between the comments and blank lines around it, without its last line break.
fn core(text: &str, range: &Range<usize>) -> Range<usize> {
    let body = slice(text, range);
    let mut start = 0;
    for line in body.split_inclusive('\n') {
        if !is_blank_or_comment(line) {
            break;
        }
        start += line.len();
    }
    let mut end = body.len();
    for line in body.get(start..).unwrap_or_default().split_inclusive('\n').rev() {
        // A comment that is indented may be the text of a block scalar.
        let outside = line.trim().is_empty() || line.starts_with('#');
        if !outside {
            end -= line.len() - line.trim_end_matches(['\n', '\r']).len();
            break;
        }
        end -= line.len();
    }
    range.start + start..range.start + end.max(start)
}

/// The part of the file that goes when a document goes: with its `---` line, and for JSON with the space after it. The
/// comment at the head of a file stays if a blank line sets it off.
fn whole(text: &str, document: &Document, first: bool) -> Range<usize> {
    let range = document.range.clone();
    let body = slice(text, &range);
    let before = text.get(..range.start).unwrap_or_default();
    if body.starts_with(['{', '[']) && !before.trim_end_matches([' ', '\t']).ends_with("---") {
        let after = text.get(range.end..).unwrap_or_default();
        return range.start..range.end + (after.len() - after.trim_start().len());
    }
    // The marker's line, if the document has one: what stands between the line break before it and the body.
    let line = before
        .strip_suffix('\n')
        .unwrap_or(before)
        .rfind('\n')
        .map_or(0, |at| at + 1);
    if before.get(line..).is_some_and(|line| line.starts_with("---")) {
        return line..range.end;
    }
    let core = core(text, &range);
    let head = slice(text, &(range.start..core.start));
    let kept = if first {
        head.rfind("\n\n").map_or(0, |at| at + 2)
    } else {
        0
    };
    range.start + kept..range.end
}

fn json(value: &Value) -> String {
    format!("{value:#}")
}

/// The text of a file for one new document.
pub(crate) fn text_for_new_file(written: Option<&str>, value: &Value) -> Result<String, String> {
    let candidates = [written.map(str::to_owned), Some(json(value))];
    for candidate in candidates.into_iter().flatten() {
        let candidate = format!("{}\n", candidate.trim_end());
        let found = documents(&candidate);
        if let [document] = found.as_slice()
            && document.content.as_ref() == Ok(value)
        {
            return Ok(candidate);
        }
    }
    Err("the document cannot be written by itself".to_owned())
}
