//! One document of a file, and why a text does not parse.

use std::ops::Range;

use serde_json::Value;

use super::guess::Guess;
use super::tree::{ValueLines, Written, find};

/// One resource of a file, whose fields have not been looked at yet.
#[derive(Clone, Debug)]
pub struct Document {
    /// The line of the file on which its content begins, from 1. An item of a list has its own
    /// line.
    pub line: usize,
    /// The bytes of the document in the file, without its `---`. The range may begin in the middle
    /// of a line (`--- {}`). All items of a list have the range of the whole list.
    pub range: Range<usize>,
    /// The position in its list, from 0, if it stands in one.
    pub item: Option<usize>,
    /// The value, or why the text does not parse.
    pub content: Result<Value, SyntaxError>,
    pub(super) lines: ValueLines,
    pub(super) guess: Guess,
}

/// Why a text does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct SyntaxError {
    /// The line in the file, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl Document {
    /// Returns the line of a field from 1, given by its path (`spec.ingress[0].action`), or of its
    /// nearest parent that is there.
    pub fn line_of(&self, path: &str) -> usize {
        let line = match &self.content {
            Ok(value) => find(value, &self.lines, path).0.line,
            Err(error) => error.line,
        };
        if line == 0 { self.line } else { line }
    }

    /// Returns the number at a path as the file writes it, if the value prints in another way.
    pub(crate) fn written(&self, path: &str) -> Option<&str> {
        let (lines, rest) = find(self.content.as_ref().ok()?, &self.lines, path);
        match &lines.written {
            Written::As(text) if rest.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Notes that the text of the document, which is `text`, cannot be read after all.
    pub fn set_unreadable(&mut self, error: SyntaxError, text: &str) {
        self.content = Err(error);
        self.guess = Guess::of(text);
    }

    /// What the text of a document that does not parse says of itself.
    pub(crate) fn guess(&self) -> &Guess {
        &self.guess
    }
}
