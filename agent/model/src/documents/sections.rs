//! Where the documents of a file begin and end.

use std::ops::Range;

/// Whether a text that begins with neither brace nor bracket is JSON lines all the same: a later
/// line begins with a brace, and nothing speaks for YAML (a marker, a key, or a tag or anchor that
/// belongs to what follows).
pub(super) fn looks_like_json_lines(text: &str) -> bool {
    let start = text.trim_start_matches('\u{feff}');
    let mut lines = start.lines().filter(|line| !is_blank_or_comment(line));
    let tagged = lines
        .next()
        .is_some_and(|line| line.trim_start().starts_with(['!', '&', '%']));
    let speaks_for_yaml = |line: &str| is_marker(line, "---") || is_marker(line, "...") || has_key(line);
    !tagged && lines.any(|line| line.starts_with('{')) && !start.lines().any(speaks_for_yaml)
}

/// Whether a line holds `key:` as in block YAML.
fn has_key(line: &str) -> bool {
    let content = line.trim().trim_start_matches(['-', ' ']);
    // Fields of JSON on lines of their own are indented.
    let json = ['{', '[', '}', ']', '#'];
    let quoted = content.starts_with('"') && line.starts_with([' ', '\t']);
    !quoted && !content.starts_with(json) && (content.ends_with(':') || content.contains(": "))
}

/// A part of the file between two markers.
pub(super) struct FileSection {
    /// With its `---` line and directives: what the YAML parser gets, so that columns are right.
    pub(super) all: Range<usize>,
    /// Without them.
    pub(super) body: Range<usize>,
    /// Line on which `all` begins.
    pub(super) line: usize,
}

/// Whether the line begins with the marker `---` or `...`.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

pub(super) fn chunks(text: &str) -> Vec<FileSection> {
    let start = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let mut chunks = Vec::new();
    let mut current = FileSection {
        all: start..start,
        body: start..start,
        line: 1,
    };
    // So far only directives (`%YAML 1.2`), which belong to the next document.
    let mut only_directives = false;
    let mut empty = true;
    let mut at = start;
    for (number, line) in text.get(start..).unwrap_or_default().split_inclusive('\n').enumerate() {
        let end = at + line.len();
        if is_marker(line, "---") {
            let after = line.get(3..).unwrap_or_default();
            let body = if is_blank_or_comment(after) {
                end
            } else {
                at + 3 + (after.len() - after.trim_start().len())
            };
            if only_directives {
                current.body = body..end;
            } else {
                let next = FileSection {
                    all: at..end,
                    body: body..end,
                    line: number + 1,
                };
                chunks.push(std::mem::replace(&mut current, next));
            }
            (only_directives, empty) = (false, body == end);
        } else if is_marker(line, "...") {
            let next = FileSection {
                all: end..end,
                body: end..end,
                line: number + 2,
            };
            chunks.push(std::mem::replace(&mut current, next));
            (only_directives, empty) = (false, true);
        } else if !is_blank_or_comment(line) {
            // After `---` a percent sign is content.
            let directive = line.starts_with('%') && current.all.start == current.body.start;
            only_directives = directive && (empty || only_directives);
            empty = false;
        }
        at = end;
        (current.all.end, current.body.end) = (end.max(current.all.start), end.max(current.body.start));
    }
    chunks.push(current);
    chunks
}

/// Position of the first character that is neither white space nor in a comment.
pub(super) fn first_content(body: &str) -> Option<usize> {
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        if !is_blank_or_comment(line) {
            return Some(at + (line.len() - line.trim_start().len()));
        }
        at += line.len();
    }
    None
}
