//! The YAML that records are mostly written in, read quickly: block mappings and lists, flow
//! collections on one line, plain and quoted scalars without escapes. Whatever is not plainly that,
//! and all that is wrong, is left to the YAML library; so a text has one meaning, and errors have
//! one wording. Tests hold the two against each other.

use serde_json::{Map, Number, Value};

use super::tree::{ValueLines, ValueTree};

/// Longer documents are left to the library, with its limits.
const MAX_SIZE: usize = 64 << 10;
/// Deeper ones, too.
const MAX_DEPTH: usize = 16;

/// Reads a text that holds one document, whose first line is `first_line` of the file. `None` =
/// left to the library.
pub(super) fn parse(text: &str, first_line: usize) -> Option<ValueTree> {
    let plain = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    if text.len() > MAX_SIZE || !text.bytes().all(plain) {
        return None;
    }
    let mut lines = Vec::with_capacity(32);
    let mut marked = false;
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start_matches(' ');
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if line.starts_with("---") {
            if marked || !lines.is_empty() || line.trim_end() != "---" {
                return None;
            }
            marked = true;
            continue;
        }
        lines.push(YamlLine {
            indent: line.len() - content.len(),
            content: content.trim_end_matches(' '),
            number: first_line + number,
        });
    }
    let mut reader = PlainYamlReader { lines, at: 0 };
    let first = reader.lines.first()?;
    if !is_key(first.content) {
        return None;
    }
    let (indent, number) = (first.indent, first.number);
    let mut tree = reader.mapping(indent, 0)?;
    tree.lines.line = number;
    // What is left stands less far to the right than the first line.
    (reader.at == reader.lines.len()).then_some(tree)
}

/// A line with something on it.
struct YamlLine<'a> {
    indent: usize,
    content: &'a str,
    /// In the file.
    number: usize,
}

struct PlainYamlReader<'a> {
    lines: Vec<YamlLine<'a>>,
    at: usize,
}

/// Whether a line begins with a key that this reader knows.
fn is_key(content: &str) -> bool {
    key(content).is_some()
}

/// The key at the start of a line, and what follows its colon.
fn key(content: &str) -> Option<(&str, &str)> {
    let (key, rest) = content.split_once(':')?;
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-');
    let fits = key.bytes().next()?.is_ascii_alphabetic() && key.bytes().all(name) && !is_word(key);
    (fits && (rest.is_empty() || rest.starts_with(' '))).then(|| (key, rest.trim_start_matches(' ')))
}

/// Whether some version of YAML takes the word for something else than text.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 11] = [
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf",
    ];
    text.len() <= 5 && WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

impl<'a> PlainYamlReader<'a> {
    fn peek(&self) -> Option<&YamlLine<'a>> {
        self.lines.get(self.at)
    }

    /// Whether the next line belongs to what stands at `indent`, and is as far to the right as it.
    fn has_line_at(&self, indent: usize) -> bool {
        self.peek().is_some_and(|line| line.indent == indent)
    }

    /// A block mapping whose keys stand at `indent`. The place of its first key may be behind a
    /// dash.
    fn mapping(&mut self, indent: usize, depth: usize) -> Option<ValueTree> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let (mut map, mut children) = (Map::new(), Vec::new());
        while self.has_line_at(indent) {
            let line = self.peek()?;
            let number = line.number;
            let (key, rest) = key(line.content)?;
            self.at += 1;
            let mut child = if rest.is_empty() {
                self.below(indent, depth, true)?
            } else {
                self.on_line(rest, indent, number, depth)?
            };
            child.lines.line = number;
            if map.insert(key.to_owned(), child.value).is_some() {
                return None;
            }
            children.push(child.lines);
        }
        // A line further to the right would belong to the last scalar.
        if self.peek().is_some_and(|line| line.indent > indent) {
            return None;
        }
        Some(ValueTree {
            value: Value::Object(map),
            lines: ValueLines::of(0, children),
        })
    }

    /// What stands on the lines below a key or a dash at `indent`: a collection further to the
    /// right (of a key also a list right below it), or nothing.
    fn below(&mut self, indent: usize, depth: usize, of_key: bool) -> Option<ValueTree> {
        let Some(line) = self.peek() else {
            return Some(ValueTree::scalar(Value::Null, 0));
        };
        let (at, is_item) = (line.indent, is_item(line.content));
        if is_item && (at > indent || (of_key && at == indent)) {
            self.list(at, depth + 1)
        } else if at > indent {
            if is_key(line.content) {
                self.mapping(at, depth + 1)
            } else {
                None
            }
        } else {
            Some(ValueTree::scalar(Value::Null, 0))
        }
    }

    /// A block list whose dashes stand at `indent`.
    fn list(&mut self, indent: usize, depth: usize) -> Option<ValueTree> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let (mut list, mut children) = (Vec::new(), Vec::new());
        while let Some(line) = self.lines.get_mut(self.at) {
            if line.indent != indent || !is_item(line.content) {
                break;
            }
            let number = line.number;
            let rest = line.content.get(1..)?;
            let content = rest.trim_start_matches(' ');
            if content.is_empty() || is_item(content) {
                // Nothing on the line, or a list in a list.
                return None;
            }
            let mut child = if is_key(content) {
                // A mapping that begins behind the dash: as if its first key stood on a line of its
                // own.
                line.indent = indent + 1 + (rest.len() - content.len());
                line.content = content;
                let at = line.indent;
                self.mapping(at, depth + 1)?
            } else {
                self.at += 1;
                self.on_line(content, indent, number, depth)?
            };
            child.lines.line = number;
            list.push(child.value);
            children.push(child.lines);
        }
        if self.peek().is_some_and(|line| line.indent > indent) {
            return None;
        }
        Some(ValueTree {
            value: Value::Array(list),
            lines: ValueLines::of(0, children),
        })
    }

    /// A value that stands on the rest of a line, and goes on on no other.
    fn on_line(&self, text: &str, indent: usize, number: usize, depth: usize) -> Option<ValueTree> {
        if self.peek().is_some_and(|line| line.indent > indent) {
            return None;
        }
        if text.starts_with(['{', '[']) {
            let mut flow = FlowReader { rest: text, number };
            let tree = flow.value(depth + 1)?;
            return flow.rest.is_empty().then_some(tree);
        }
        let value = match quoted(text) {
            Some((value, "")) => Value::String(value.to_owned()),
            Some(_) => return None,
            None => plain(text)?,
        };
        Some(ValueTree::scalar(value, number))
    }
}

fn is_item(content: &str) -> bool {
    content == "-" || content.starts_with("- ")
}

/// A quoted scalar without escapes at the start of a text, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let (value, rest) = text.get(1..)?.split_once(quote)?;
    let escaped = value.contains('\\') && quote == '"' || rest.starts_with(quote);
    (!escaped).then_some((value, rest))
}

/// A scalar without quotes that cannot be taken for two things.
fn plain(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if text.contains([':', '#', '\\']) {
        return None;
    }
    if first.is_ascii_alphabetic() || first == b'/' {
        return (!is_word(text)).then(|| Value::String(text.to_owned()));
    }
    if !first.is_ascii_digit() {
        return None;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(text) {
        let number = (text.len() < 19 && (first != b'0' || text.len() == 1)).then(|| text.parse::<u64>().ok());
        return Some(Value::Number(Number::from(number??)));
    }
    // A network: two dots at least, and a slash.
    let (address, length) = text.split_once('/')?;
    (address.split('.').count() == 4 && address.split('.').all(digits) && digits(length))
        .then(|| Value::String(text.to_owned()))
}

/// Reads a flow collection on one line.
struct FlowReader<'a> {
    rest: &'a str,
    number: usize,
}

impl FlowReader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn take(&mut self, token: char) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<ValueTree> {
        if depth >= MAX_DEPTH {
            return None;
        }
        self.space();
        let (open, number) = (self.rest, self.number);
        if self.take('{') {
            return self.mapping(depth);
        }
        if self.take('[') {
            return self.list(depth);
        }
        if let Some((value, rest)) = quoted(open) {
            self.rest = rest;
            return Some(ValueTree::scalar(Value::String(value.to_owned()), number));
        }
        let end = open.find([',', '[', ']', '{', '}']).unwrap_or(open.len());
        let (text, rest) = open.split_at_checked(end)?;
        self.rest = rest;
        Some(ValueTree::scalar(plain(text.trim_end_matches(' '))?, number))
    }

    fn mapping(&mut self, depth: usize) -> Option<ValueTree> {
        let (mut map, mut children) = (Map::new(), Vec::new());
        if !self.take('}') {
            loop {
                self.space();
                let (key, rest) = key(self.rest)?;
                self.rest = rest;
                let mut child = self.value(depth + 1)?;
                child.lines.line = self.number;
                if map.insert(key.to_owned(), child.value).is_some() {
                    return None;
                }
                children.push(child.lines);
                if self.take('}') {
                    break;
                }
                if !self.take(',') {
                    return None;
                }
            }
        }
        Some(ValueTree {
            value: Value::Object(map),
            lines: ValueLines::of(self.number, children),
        })
    }

    fn list(&mut self, depth: usize) -> Option<ValueTree> {
        let (mut list, mut children) = (Vec::new(), Vec::new());
        if !self.take(']') {
            loop {
                let mut child = self.value(depth + 1)?;
                child.lines.line = self.number;
                list.push(child.value);
                children.push(child.lines);
                if self.take(']') {
                    break;
                }
                if !self.take(',') {
                    return None;
                }
            }
        }
        Some(ValueTree {
            value: Value::Array(list),
            lines: ValueLines::of(self.number, children),
        })
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::yaml;
    use super::*;

    const RECORDS: [&str; 4] = [
        "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  namespace: default\n  labels: {app: web, tier: front}\n\
         spec:\n  node: node1\n  pod: p-1\n  interfaceName: cali000001\n  mac: 'aa:bb:cc:dd:ee:ff'\n  ipNetworks: ['10.0.0.1/32', \"fd00::1/128\"]\n  \
         profiles: [open]\n  ports:\n    - {name: http, protocol: TCP, port: 80}\n",
        "kind: NetworkPolicy\nmetadata: {name: a, namespace: default}\nspec:\n  order: 10\n  selector: app == 'a' && has(b)\n  types: [Ingress]\n  \
         ingress:\n    - action: Allow\n      protocol: TCP\n      source: {selector: app == 'b', nets: [10.0.0.0/8]}\n      \
         destination:\n        ports: [80, 8000]\n    # a comment\n    - action: Deny\n  egress:\n  - action: Pass\n",
        "a:\n- 1\n-   b: c\n    d:\nb:\n\n  c: {}\n  d: [ ]\n  e: [[a], {b: c}]\n",
        "kind: GlobalNetworkSet\nmetadata:\n  name: x\n  labels:\n    a/b.c-d: 'true'\n    num: 0\nspec:\n  nets:\n    - 10.0.0.0/8\n    - '::/0'\n    - text here\n",
    ];

    fn flat(lines: &ValueLines, out: &mut Vec<usize>) {
        out.push(lines.line);
        for child in &lines.children {
            flat(child, out);
        }
    }

    fn places(tree: &ValueTree) -> Vec<usize> {
        let mut out = Vec::new();
        flat(&tree.lines, &mut out);
        out
    }

    /// Whether the text is read here; if so, as the library reads it.
    fn agrees(text: &str) -> bool {
        let Some(here) = parse(text, 7) else { return false };
        match yaml::parse_slowly(text, 7) {
            Ok(there) => {
                assert_eq!(here.value, there.value, "{text}");
                // The order of keys, which comparison of maps does not see.
                assert_eq!(here.value.to_string(), there.value.to_string(), "{text}");
                assert_eq!(places(&here), places(&there), "{text}");
            }
            Err(error) => panic!("{error}:\n{text}"),
        }
        true
    }

    #[test]
    fn records_are_read_here() {
        for text in RECORDS {
            assert!(agrees(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_library() {
        for text in [
            "a: b: c",
            "a: 'b''c'",
            "a: \"\\n\"",
            "a: |\n  b",
            "a: &x b",
            "a: *x",
            "a: !!str 1",
            "<<: {a: b}",
            "a: b\n  c",
            "a: 1.5",
            "a: 0x10",
            "a: 010",
            "a: true",
            "a: ~",
            "a: b #c",
            "a: yes",
            "a: 'b' c",
            "a: {b}",
            "a: [b,]",
            "a: {b: c,}",
            "a:\n- - b",
            "a: 1\na: 2",
            "a:\n  b: 1\n c: 2",
            "a: {b: c",
            "? a",
            "a:b",
            "a: 12:30",
            "a:\tb",
            "a: \u{e9}",
            "a: .inf",
            "- a",
            "a: -1",
            "a: 1_000",
            "a: 10.0.0.1",
        ] {
            assert!(parse(text, 1).is_none(), "{text}");
        }
    }

    /// More with `PROPTEST_CASES`.
    fn thorough() -> ProptestConfig {
        let default = ProptestConfig::default();
        ProptestConfig {
            cases: default.cases.max(2048),
            ..default
        }
    }

    proptest! {
        #![proptest_config(thorough())]

        #[test]
        fn damaged_records_mean_the_same(
            which in 0..RECORDS.len(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, "[ a-c0-9:{}\\[\\],'\"#&*!|>%@`~<=?/.\\n-]{0,3}"), 0..4),
        ) {
            let mut text = RECORDS[which].to_owned();
            for (place, kind, piece) in edits {
                let at = place.index(text.len() + 1);
                match kind {
                    0 => text.insert_str(at, &piece),
                    1 => text.replace_range(at..(at + piece.len()).min(text.len()), &piece),
                    2 => text.replace_range(at..(at + 2).min(text.len()), ""),
                    // Whole lines, in and out.
                    _ => {
                        let lines: Vec<&str> = text.lines().collect();
                        let line = place.index(lines.len().max(1));
                        let kept: Vec<&str> = lines
                            .iter()
                            .enumerate()
                            .filter(|(n, _)| *n != line || piece.len() > 1)
                            .flat_map(|(n, text)| std::iter::repeat_n(*text, if n == line { piece.len() } else { 1 }))
                            .collect();
                        text = kept.join("\n");
                    }
                }
                if text.is_empty() {
                    break;
                }
            }
            agrees(&text);
        }

        #[test]
        fn small_texts_mean_the_same(text in "(---\n)?[a-c]: ?[ a-c0-9:{}\\[\\],'\"#&~/.\\n-]{0,24}") {
            agrees(&text);
        }
    }
}
