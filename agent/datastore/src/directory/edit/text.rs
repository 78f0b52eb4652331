//! Pieces of the text of a file, and what to put in their places.

use std::ops::Range;

use serde_json::Value;

/// What to do with a document.
#[derive(Debug)]
pub(super) enum Rewrite {
    Remove,
    /// Put this in its place; the text as the user wrote it, if there is one.
    Replace {
        text: Option<String>,
        value: Value,
    },
}

pub(super) fn slice<'a>(text: &'a str, range: &Range<usize>) -> &'a str {
    text.get(range.clone()).unwrap_or_default()
}

pub(super) fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The part of a document between the comments and blank lines around it, without its last line
/// break.
pub(super) fn core(text: &str, range: &Range<usize>) -> Range<usize> {
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

pub(super) fn json(value: &Value) -> String {
    format!("{value:#}")
}

/// JSON in place of other JSON: on one line or several as that, and the latter indented as it.
pub(super) fn as_json(value: &Value, old: &str, indent: &str) -> String {
    if old.contains('\n') {
        json(value).replace('\n', &format!("\n{indent}"))
    } else {
        value.to_string()
    }
}
