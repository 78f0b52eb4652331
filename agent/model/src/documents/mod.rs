//! From the text of a file to its documents.
//!
//! In: a YAML stream, or JSON (one value, several in a row, or one a line). Out: one [`Document`] for each resource, with its
//! place in the file, or what is wrong with it. Lists (`kind: List`, `kind: XList`, arrays) are expanded to their items. A
//! document that does not parse hides no other; JSON lines may begin with lines that are no records. YAML is cut at lines that begin with `---`, JSON is taken up again at the next
//! line that begins with a brace. Nothing here recurses or grows without bound, whatever the text.

mod guess;
mod json;
mod plain;
mod yaml;

use std::ops::Range;

use serde_json::Value;

pub(crate) use guess::Guess;

/// Deepest nesting of mappings and lists that is read. Records need ten; the YAML library takes 40 KiB of stack a level in debug
/// builds.
const MAX_DEPTH: usize = 32;

/// One resource of a file, not yet understood.
#[derive(Clone, Debug)]
pub struct Document {
    /// 1-based line of the file on which its content begins (an item's own line for items of lists).
    pub line: usize,
    /// Bytes of the document in the file, without its `---`. May begin in the middle of a line (`--- {}`). All items of a list
    /// have the range of the whole list.
    pub range: Range<usize>,
    /// Position in its list, if it stands in one.
    pub item: Option<usize>,
    /// What it says.
    pub content: Result<Value, SyntaxError>,
    lines: Lines,
    guess: Guess,
}

/// Why a document does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct SyntaxError {
    /// 1-based line in the file.
    pub line: usize,
    /// 1-based column in characters.
    pub column: usize,
    /// Reason.
    pub reason: String,
}

/// Lines of a value and, in the same order, of its fields or items.
#[derive(Clone, Debug, Default)]
struct Lines {
    line: usize,
    children: Vec<Lines>,
}

/// A parsed value with its lines.
struct Tree {
    value: Value,
    lines: Lines,
}

impl Tree {
    fn scalar(value: Value, line: usize) -> Self {
        Tree {
            value,
            lines: Lines {
                line,
                children: Vec::new(),
            },
        }
    }
}

impl Document {
    /// Line of a field, given by its path (`spec.ingress[0].action`), or of its nearest parent that is there.
    pub fn line_of(&self, path: &str) -> usize {
        let (Ok(mut value), mut lines, mut rest) = (self.content.as_ref(), &self.lines, path) else {
            return self.content.as_ref().err().map_or(self.line, |error| error.line);
        };
        loop {
            let found = match value {
                // Keys may hold dots themselves: the longest one that fits is meant.
                Value::Object(map) => map
                    .iter()
                    .enumerate()
                    .filter_map(|(i, (key, value))| Some((i, value, key, rest.strip_prefix(key.as_str())?)))
                    .filter(|(.., tail)| tail.is_empty() || tail.starts_with(['.', '[']))
                    .max_by_key(|(_, _, key, _)| key.len())
                    .map(|(i, value, _, tail)| (i, value, tail)),
                Value::Array(list) => rest
                    .strip_prefix('[')
                    .and_then(|tail| tail.split_once(']'))
                    .and_then(|(index, tail)| Some((index.parse::<usize>().ok()?, tail)))
                    .and_then(|(i, tail)| Some((i, list.get(i)?, tail))),
                _ => None,
            };
            let Some((child, (inner, tail))) =
                found.and_then(|(i, inner, tail)| Some((lines.children.get(i)?, (inner, tail))))
            else {
                return if lines.line == 0 { self.line } else { lines.line };
            };
            (value, lines, rest) = (inner, child, tail.strip_prefix('.').unwrap_or(tail));
        }
    }

    /// What the text of a document that does not parse says of itself.
    pub(crate) fn guess(&self) -> &Guess {
        &self.guess
    }
}

/// Splits a file into documents. Documents without content (blank, comments only) are left out.
pub fn documents(text: &str) -> Vec<Document> {
    let mut found = Vec::new();
    let json_lines = looks_like_json_lines(text);
    for chunk in chunks(text) {
        let body = text.get(chunk.body.clone()).unwrap_or_default();
        let Some(first) = first_content(body) else { continue };
        let mut out = Output {
            found: &mut found,
            text,
        };
        if body.get(first..).is_some_and(|rest| rest.starts_with(['{', '['])) {
            out.json_or_yaml(&chunk, chunk.body.start + first, false);
        } else if json_lines {
            out.json_or_yaml(&chunk, chunk.body.start + first, true);
        } else {
            out.yaml(&chunk, chunk.body.start + first);
        }
    }
    found
}

/// Whether a text that begins with neither brace nor bracket is JSON lines all the same: a later line begins with a brace, and nothing
/// speaks for YAML (a marker, a key, or a tag or anchor that belongs to what follows).
fn looks_like_json_lines(text: &str) -> bool {
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
struct Chunk {
    /// With its `---` line and directives: what the YAML parser gets, so that columns are right.
    all: Range<usize>,
    /// Without them.
    body: Range<usize>,
    /// Line on which `all` begins.
    line: usize,
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

fn chunks(text: &str) -> Vec<Chunk> {
    let start = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let mut chunks = Vec::new();
    let mut current = Chunk {
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
                let next = Chunk {
                    all: at..end,
                    body: body..end,
                    line: number + 1,
                };
                chunks.push(std::mem::replace(&mut current, next));
            }
            (only_directives, empty) = (false, body == end);
        } else if is_marker(line, "...") {
            let next = Chunk {
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
fn first_content(body: &str) -> Option<usize> {
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        if !is_blank_or_comment(line) {
            return Some(at + (line.len() - line.trim_start().len()));
        }
        at += line.len();
    }
    None
}

struct Output<'a> {
    found: &'a mut Vec<Document>,
    text: &'a str,
}

impl Output<'_> {
    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    fn newlines(&self, range: Range<usize>) -> usize {
        self.slice(range).bytes().filter(|byte| *byte == b'\n').count()
    }

    /// 1-based column of a byte.
    fn column(&self, at: usize) -> usize {
        let before = self.slice(0..at);
        before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1
    }

    fn yaml(&mut self, chunk: &Chunk, first: usize) {
        match yaml::parse(self.slice(chunk.all.clone()), chunk.line) {
            Ok(tree) => self.tree(tree, chunk.body.clone()),
            Err(error) => {
                let line = chunk.line + self.newlines(chunk.all.start..first);
                self.error(error, line, chunk.body.clone());
            }
        }
    }

    /// Braces: a stream of JSON values, or YAML's flow style unless it is `only_json`.
    fn json_or_yaml(&mut self, chunk: &Chunk, first: usize, only_json: bool) {
        let (mut at, end) = (first, chunk.body.end);
        let mut line = chunk.line + self.newlines(chunk.all.start..first);
        while at < end {
            let (error_at, reason) = match json::parse(self.slice(at..end), line) {
                Ok((tree, length)) => {
                    let after = at + length;
                    let next = after + json::space(self.slice(after..end));
                    let followed = !matches!(self.slice(next..end).bytes().next(), None | Some(b'{' | b'['));
                    if followed
                        && !only_json
                        && at == first
                        && let Ok(tree) = yaml::parse(self.slice(chunk.all.clone()), chunk.line)
                    {
                        return self.tree(tree, chunk.body.clone());
                    }
                    // What follows on lines of its own is another document, however bad.
                    if !followed || self.slice(after..next).contains('\n') {
                        if tree.value.is_null() {
                            // Empty documents are YAML's: a line of JSON shall be a record.
                            let (column, reason) = (self.column(at), "expected a record, found null".to_owned());
                            self.error(SyntaxError { line, column, reason }, line, at..after);
                        } else {
                            self.tree(tree, at..after);
                        }
                        line += self.newlines(at..next);
                        at = next;
                        continue;
                    }
                    (after, "expected the end of the JSON value".to_owned())
                }
                Err((offset, reason)) => (at + offset, reason),
            };
            if at == first && !only_json {
                let looks_like_json = self
                    .slice(at + 1..end)
                    .trim_start()
                    .starts_with(['"', '}', '{', '[', ']']);
                match yaml::parse(self.slice(chunk.all.clone()), chunk.line) {
                    Ok(tree) => return self.tree(tree, chunk.body.clone()),
                    Err(error) if !looks_like_json => return self.error(error, line, chunk.body.clone()),
                    Err(_) => {}
                }
            }
            let error = SyntaxError {
                line: line + self.newlines(at..error_at),
                column: self.column(error_at),
                reason,
            };
            // The next value begins on a line of its own.
            let rest = self.slice(at..end);
            let starts = rest.match_indices('\n').map(|(i, _)| i + 1);
            let next = starts
                .into_iter()
                .find(|i| rest.get(*i..).is_some_and(|rest| rest.starts_with(['{', '['])));
            let next = next.map_or(end, |i| at + i);
            self.error(error, line, at..next);
            line += self.newlines(at..next);
            at = next;
        }
    }

    fn error(&mut self, error: SyntaxError, line: usize, range: Range<usize>) {
        let guess = Guess::of(self.slice(range.clone()));
        let lines = Lines::default();
        self.found.push(Document {
            line,
            range,
            item: None,
            content: Err(error),
            lines,
            guess,
        });
    }

    fn tree(&mut self, tree: Tree, range: Range<usize>) {
        if tree.value.is_null() {
            return;
        }
        let mut items = Vec::new();
        let listed = expand(tree, &mut items);
        self.found
            .extend(items.into_iter().enumerate().map(|(i, tree)| Document {
                line: tree.lines.line,
                range: range.clone(),
                item: listed.then_some(i),
                content: Ok(tree.value),
                lines: tree.lines,
                guess: Guess::default(),
            }));
    }
}

/// The records that a value stands for: the items of a list, or itself.
pub fn list_items(value: Value) -> Vec<Value> {
    let mut items = Vec::new();
    expand(Tree::scalar(value, 0), &mut items);
    items.into_iter().map(|tree| tree.value).collect()
}

/// Replaces a list by its items; whether it was one. Recursion is bounded by the parsers' depth.
fn expand(tree: Tree, out: &mut Vec<Tree>) -> bool {
    let Tree { value, lines } = tree;
    match value {
        Value::Array(items) => {
            for (value, lines) in items.into_iter().zip(or_unknown(lines.children)) {
                expand(Tree { value, lines }, out);
            }
            true
        }
        Value::Object(mut map) => {
            let kind = map
                .get("kind")
                .and_then(Value::as_str)
                .and_then(|kind| kind.strip_suffix("List"));
            let place = map.iter().position(|(key, value)| key == "items" && value.is_array());
            let (Some(kind), Some(place)) = (kind.map(str::to_owned), place) else {
                out.push(Tree {
                    value: Value::Object(map),
                    lines,
                });
                return false;
            };
            let api_version = map.get("apiVersion").cloned();
            let Some(Value::Array(items)) = map.remove("items") else {
                return true;
            };
            let lines = lines
                .children
                .into_iter()
                .nth(place)
                .map(|lines| lines.children)
                .unwrap_or_default();
            for (mut value, lines) in items.into_iter().zip(or_unknown(lines)) {
                if let (Value::Object(item), false) = (&mut value, kind.is_empty()) {
                    item.entry("kind").or_insert_with(|| Value::String(kind.clone()));
                    if let Some(api_version) = &api_version {
                        item.entry("apiVersion").or_insert_with(|| api_version.clone());
                    }
                }
                expand(Tree { value, lines }, out);
            }
            true
        }
        value => {
            out.push(Tree { value, lines });
            false
        }
    }
}

/// The lines of items, for as many as there may be: a value that was not read here has none.
fn or_unknown(lines: Vec<Lines>) -> impl Iterator<Item = Lines> {
    lines.into_iter().chain(std::iter::repeat_with(Lines::default))
}
