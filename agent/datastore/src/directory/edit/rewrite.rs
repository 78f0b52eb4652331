//! Changing some documents of a file's text and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use felid_model::{Document, documents};
use serde_json::Value;

use super::items::{self, Edit};
use super::text::{Rewrite, core, json, slice};

/// The text of a file after rewriting documents by their positions; `None` = no document is left.
/// Fails if the result would not be exactly the other documents and the new ones.
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
        let Some(result) = apply(text, old, rewrites, as_written) else {
            continue;
        };
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
    Err(
        "the document cannot be changed without touching others, because of how the file is written; edit it by hand"
            .to_owned(),
    )
}

/// The text with the rewrites; `None` = nobody knows where one of them stands.
fn apply(text: &str, old: &[&Document], rewrites: &BTreeMap<usize, Rewrite>, as_written: bool) -> Option<String> {
    let mut edits: Vec<Edit> = Vec::new();
    for (index, rewrite) in rewrites {
        let document = old.get(*index).filter(|document| document.item.is_none());
        edits.extend(document.map(|document| edit(text, document, rewrite, *index == 0, as_written)));
    }
    let first = old.first().map(|document| document.range.start);
    for (start, list) in items::lists(old, rewrites) {
        let all_go = list.iter().all(|(_, rewrite)| matches!(rewrite, Some(Rewrite::Remove)));
        match list.first() {
            // A list without items is no list.
            Some((document, _)) if all_go => edits.push((whole(text, document, first == Some(start)), String::new())),
            _ => edits.extend(items::edits(text, &list, as_written)?),
        }
    }
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut result = String::with_capacity(text.len());
    let mut copied = 0;
    for (range, new) in edits {
        if range.start < copied {
            return None;
        }
        result.push_str(slice(text, &(copied..range.start)));
        result.push_str(&new);
        copied = range.end;
    }
    result.push_str(slice(text, &(copied..text.len())));
    Some(result)
}

/// What becomes of a document that is no item of a list.
fn edit(text: &str, document: &Document, rewrite: &Rewrite, first: bool, as_written: bool) -> Edit {
    let (new, value) = match rewrite {
        Rewrite::Remove => return (whole(text, document, first), String::new()),
        Rewrite::Replace { text, value } => (text, value),
    };
    let range = core(text, &document.range);
    let is_json = slice(text, &range).starts_with(['{', '[']);
    let new = match new.as_deref().filter(|_| as_written && !is_json) {
        Some(new) => slice(new, &core(new, &(0..new.len()))).to_owned(),
        None => json(value),
    };
    // Right behind `---` only flow style may begin.
    let before = text.get(..range.start).unwrap_or_default();
    let mid_line = !before.trim_end_matches([' ', '\t']).ends_with('\n') && range.start > 0;
    let gap = if mid_line && !new.starts_with(['{', '[']) {
        "\n"
    } else {
        ""
    };
    (range, format!("{gap}{new}"))
}

/// The part of the file that goes when a document goes: with its `---` line, and for JSON with the
/// space after it. The comment at the head of a file stays if a blank line sets it off.
fn whole(text: &str, document: &Document, first: bool) -> Range<usize> {
    let range = document.range.clone();
    let body = slice(text, &range);
    let before = text.get(..range.start).unwrap_or_default();
    if body.starts_with(['{', '[']) && !before.trim_end_matches([' ', '\t']).ends_with("---") {
        let after = text.get(range.end..).unwrap_or_default();
        return range.start..range.end + (after.len() - after.trim_start().len());
    }
    // The marker's line, if the document has one: what stands between the line break before it and
    // the body.
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
