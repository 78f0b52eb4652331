//! Where things stand in a text that is known to be good JSON.

use std::ops::Range;

/// The arrays of records in the list that begins at `start`, each as the places of its records: the
/// array itself, or `items` of an object whose kind ends in `List`; lists in lists are taken apart.
/// In the order of the records, arrays that hold both records and lists in pieces. `None` = this is
/// no JSON.
pub(crate) fn arrays(text: &str, start: usize) -> Option<Vec<Vec<Range<usize>>>> {
    let mut arrays = Vec::new();
    let reader = Reader { text };
    let array = reader.list(start)?;
    reader.expand(array, &mut arrays, 0)?;
    Some(arrays)
}

/// Deeper lists are not read at all.
const MAX_DEPTH: usize = 32;

struct Reader<'a> {
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn rest(&self, at: usize) -> &'a str {
        self.text.get(at..).unwrap_or_default()
    }

    /// The next place that is no white space.
    fn space(&self, at: usize) -> usize {
        let rest = self.rest(at);
        at + (rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len())
    }

    /// Where the value that begins here ends.
    fn end(&self, at: usize) -> Option<usize> {
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        for (i, byte) in self.rest(at).bytes().enumerate() {
            let end = at + i + 1;
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                if !in_string && depth == 0 {
                    return Some(end);
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return Some(end - 1),
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(end);
                    }
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return Some(end - 1),
                _ => {}
            }
        }
        None
    }

    /// The parts of an object or array that begins here, between its commas.
    fn parts(&self, at: usize) -> Option<Vec<Range<usize>>> {
        let mut parts = Vec::new();
        let mut at = self.space(at + 1);
        while !self.rest(at).starts_with([']', '}']) {
            let mut end = self.end(at)?;
            let colon = self.space(end);
            if self.rest(colon).starts_with(':') {
                end = self.end(self.space(colon + 1))?;
            }
            parts.push(at..end);
            at = self.space(end);
            if self.rest(at).starts_with(',') {
                at = self.space(at + 1);
            }
        }
        Some(parts)
    }

    /// The array of a list: where its values stand. `None` = it is no list.
    fn list(&self, at: usize) -> Option<Vec<Range<usize>>> {
        if self.rest(at).starts_with('[') {
            return self.parts(at);
        }
        if !self.rest(at).starts_with('{') {
            return None;
        }
        let (mut is_list, mut items) = (false, None);
        for field in self.parts(at)? {
            let key_end = self.end(field.start)?;
            let key: String = serde_json::from_str(self.text.get(field.start..key_end)?).ok()?;
            let value = self.space(self.space(key_end) + 1);
            match key.as_str() {
                "kind" => {
                    let kind: serde_json::Value = serde_json::from_str(self.text.get(value..field.end)?).ok()?;
                    is_list = kind.as_str().is_some_and(|kind| kind.ends_with("List"));
                }
                "items" if self.rest(value).starts_with('[') => items = Some(value),
                _ => {}
            }
        }
        items.filter(|_| is_list).and_then(|items| self.parts(items))
    }

    fn expand(&self, array: Vec<Range<usize>>, out: &mut Vec<Vec<Range<usize>>>, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut records = Vec::new();
        for value in array {
            match self.list(value.start) {
                Some(inner) => {
                    out.push(std::mem::take(&mut records));
                    self.expand(inner, out, depth + 1)?;
                }
                None => records.push(value),
            }
        }
        out.push(records);
        Some(())
    }
}
