//! From a part of a file to its documents, each by the parser that it is for.

use std::ops::Range;

use super::document::{Document, SyntaxError};
use super::guess::Guess;
use super::sections::FileSection;
use super::tree::{ValueLines, ValueTree, expand};
use super::{json, yaml};

pub(super) struct DocumentCollector<'a> {
    pub(super) found: &'a mut Vec<Document>,
    pub(super) text: &'a str,
}

impl DocumentCollector<'_> {
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

    pub(super) fn yaml(&mut self, chunk: &FileSection, first: usize) {
        match yaml::parse(self.slice(chunk.all.clone()), chunk.line) {
            Ok(tree) => self.tree(tree, chunk.body.clone()),
            Err(error) => {
                let line = chunk.line + self.newlines(chunk.all.start..first);
                self.error(error, line, chunk.body.clone());
            }
        }
    }

    /// Braces: a stream of JSON values, or YAML's flow style unless it is `only_json`.
    pub(super) fn json_or_yaml(&mut self, chunk: &FileSection, first: usize, only_json: bool) {
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
            let next = self.next_json_line(at..end);
            self.error(error, line, at..next);
            line += self.newlines(at..next);
            at = next;
        }
    }

    /// Where the next JSON value begins on a line of its own; the end of the range if there is
    /// none.
    fn next_json_line(&self, range: Range<usize>) -> usize {
        let rest = self.slice(range.clone());
        let mut starts = rest.match_indices('\n').map(|(i, _)| i + 1);
        let next = starts.find(|i| rest.get(*i..).is_some_and(|rest| rest.starts_with(['{', '['])));
        next.map_or(range.end, |i| range.start + i)
    }

    fn error(&mut self, error: SyntaxError, line: usize, range: Range<usize>) {
        let guess = Guess::of(self.slice(range.clone()));
        let lines = ValueLines::default();
        self.found.push(Document {
            line,
            range,
            item: None,
            content: Err(error),
            lines,
            guess,
        });
    }

    fn tree(&mut self, tree: ValueTree, range: Range<usize>) {
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
