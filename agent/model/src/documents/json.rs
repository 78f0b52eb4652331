//! A JSON reader that knows the line of every field, refuses duplicate keys and tells where a value
//! ends.

use serde_json::{Map, Number, Value};

use super::MAX_DEPTH;
use super::tree::{ValueLines, ValueTree};

/// Byte position in the text and reason.
type Error = (usize, String);

/// Reads the value at the start of `text`; its first line is `line` of the file. Also its length in
/// bytes.
pub(super) fn parse(text: &str, line: usize) -> Result<(ValueTree, usize), Error> {
    let mut reader = JsonReader { text, at: 0, line };
    let tree = reader.value(0)?;
    Ok((tree, reader.at))
}

/// Length of the white space at the start of `text`.
pub(super) fn space(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\t', '\r', '\n']).len()
}

struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> JsonReader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let length = space(rest);
        self.line += rest.bytes().take(length).filter(|byte| *byte == b'\n').count();
        self.at += length;
    }

    /// Skips white space and then `token` if it comes next.
    fn take(&mut self, token: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    fn expected<T>(&mut self, what: &str) -> Result<T, Error> {
        self.skip_space();
        match self.rest().chars().next() {
            Some(found) => Err((self.at, format!("expected {what}, found {found:?}"))),
            None => Err((self.at, format!("expected {what}, found the end"))),
        }
    }

    fn value(&mut self, depth: usize) -> Result<ValueTree, Error> {
        self.skip_space();
        let line = self.line;
        let rest = self.rest();
        match rest.chars().next() {
            Some('{' | '[') if depth >= MAX_DEPTH => Err((self.at, format!("nested more than {MAX_DEPTH} deep"))),
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some('"') => Ok(ValueTree::scalar(Value::String(self.string()?), line)),
            Some('-' | '0'..='9') => self.number(line),
            _ => {
                for (word, value) in [
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("null", Value::Null),
                ] {
                    if rest.starts_with(word) {
                        self.at += word.len();
                        return Ok(ValueTree::scalar(value, line));
                    }
                }
                self.expected("a JSON value")
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<ValueTree, Error> {
        let line = self.line;
        self.at += 1;
        let (mut map, mut children) = (Map::new(), Vec::new());
        if !self.take('}') {
            loop {
                self.skip_space();
                let (key_at, key_line) = (self.at, self.line);
                if !self.rest().starts_with('"') {
                    return self.expected("a field name in double quotes");
                }
                let key = self.string()?;
                if map.contains_key(&key) {
                    return Err((key_at, format!("duplicate key {key:?}")));
                }
                if !self.take(':') {
                    return self.expected("\":\"");
                }
                let mut child = self.value(depth + 1)?;
                child.lines.line = key_line;
                map.insert(key, child.value);
                children.push(child.lines);
                if self.take('}') {
                    break;
                }
                if !self.take(',') {
                    return self.expected("\",\" or \"}\"");
                }
            }
        }
        Ok(ValueTree {
            value: Value::Object(map),
            lines: ValueLines::of(line, children),
        })
    }

    fn array(&mut self, depth: usize) -> Result<ValueTree, Error> {
        let line = self.line;
        self.at += 1;
        let (mut list, mut children) = (Vec::new(), Vec::new());
        if !self.take(']') {
            loop {
                let child = self.value(depth + 1)?;
                list.push(child.value);
                children.push(child.lines);
                if self.take(']') {
                    break;
                }
                if !self.take(',') {
                    return self.expected("\",\" or \"]\"");
                }
            }
        }
        Ok(ValueTree {
            value: Value::Array(list),
            lines: ValueLines::of(line, children),
        })
    }

    /// A string, from its opening quote on.
    fn string(&mut self) -> Result<String, Error> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.bytes().enumerate().skip(1).find(|(_, byte)| {
            let ends = *byte == b'\n' || (!escaped && *byte == b'"');
            escaped = !escaped && *byte == b'\\';
            ends
        });
        let Some(literal) = end
            .and_then(|(i, _)| rest.get(..=i))
            .filter(|literal| literal.ends_with('"'))
        else {
            return Err((self.at, "string is not closed on its line".to_owned()));
        };
        match serde_json::from_str(literal) {
            Ok(text) => {
                self.at += literal.len();
                Ok(text)
            }
            Err(_) => Err((
                self.at,
                "string holds an invalid escape or control character".to_owned(),
            )),
        }
    }

    fn number(&mut self, line: usize) -> Result<ValueTree, Error> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let literal = rest.get(..length).unwrap_or_default();
        match serde_json::from_str::<Number>(literal) {
            Ok(number) => {
                self.at += length;
                Ok(ValueTree::number(number, literal, line))
            }
            Err(_) => Err((
                self.at,
                format!("{:?} is not a number", literal.chars().take(40).collect::<String>()),
            )),
        }
    }
}
