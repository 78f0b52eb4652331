//! Text that came from outside, made fit to be shown.
//!
//! In: text of records, file names, other processes' names. Out: the same on one line, without
//! anything that drives a terminal or hides what stands there, and no longer than a reader needs.
//! Every place where text is shown to people uses it: log, readiness, status, listings, metrics.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest text of one thing, in characters.
pub(crate) const LONGEST: usize = 1024;

/// Returns whether a character must not be shown as it is: control characters, separators of lines
/// and paragraphs, characters that change the direction of writing, and those that are not seen.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Returns whether anything in the text must not be shown as it is, ends of lines apart.
pub(crate) fn has_hidden(text: &str) -> bool {
    text.chars().any(|c| is_hidden(c) && c != '\n')
}

/// Returns the text with what must not be shown as it is escaped, as `\n` or `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Returns JSON text with what must not be shown as it is escaped as JSON has it. Line ends between
/// values stay.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    escape_within(json, |escaped, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    })
}

/// Returns YAML text with what must not be shown as it is escaped as YAML has it within double
/// quotes, where all of it must stand. Ends of lines stay.
pub(crate) fn escape_yaml(yaml: &str) -> Cow<'_, str> {
    escape_within(yaml, |escaped, c| {
        let _ = write!(escaped, "\\U{:08x}", u32::from(c));
    })
}

/// Replaces what must not be shown as it is, ends of lines apart.
fn escape_within(text: &str, replace: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !has_hidden(text) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) && c != '\n' {
            replace(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Returns the text escaped and shortened to so many characters; what was cut off is said.
pub(crate) fn shorten(text: &str, longest: usize) -> String {
    let escaped = escape(text);
    match escaped.char_indices().nth(longest) {
        None => escaped.into_owned(),
        Some((end, _)) => {
            let more = escaped[end..].chars().count();
            format!("{}... ({more} more characters)", &escaped[..end])
        }
    }
}

/// Returns the text of one thing as people are shown it.
pub(crate) fn shown(text: &str) -> String {
    shorten(text, LONGEST)
}

/// Returns reasons as people are shown them: so many at most, and how many more there are.
pub(crate) fn shown_list(reasons: Vec<String>, most: usize) -> Vec<String> {
    let more = reasons.len().saturating_sub(most);
    let told = reasons.iter().take(most).map(|reason| shown(reason));
    let rest = (more > 0).then(|| format!("and {more} more"));
    told.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal_or_forges_a_line() {
        assert_eq!(escape("plain ä 漢"), "plain ä 漢");
        assert_eq!(escape("a\nERROR forged"), "a\\nERROR forged");
        assert_eq!(escape("\u{1b}[31m\u{9b}2J\u{7f}\r"), "\\u{1b}[31m\\u{9b}2J\\u{7f}\\r");
        assert_eq!(
            escape("\u{202e}txt\u{2066}\u{200b}\u{2028}"),
            "\\u{202e}txt\\u{2066}\\u{200b}\\u{2028}"
        );
    }

    #[test]
    fn json_stays_json() {
        let text = "{\n  \"a\": \"\u{9b}2J\u{202e}\u{e0041}\"\n}";
        let escaped = escape_json(text);
        assert!(escaped.chars().all(|c| c == '\n' || !is_hidden(c)), "{escaped:?}");
        let value: serde_json::Value = serde_json::from_str(&escaped).unwrap_or_default();
        assert_eq!(value["a"], "\u{9b}2J\u{202e}\u{e0041}");
    }

    #[test]
    fn length_is_limited_and_said() {
        let long = "x".repeat(LONGEST + 5);
        let text = shown(&long);
        assert!(text.ends_with("... (5 more characters)"), "{text}");
        assert_eq!(shown(&"x".repeat(LONGEST)).len(), LONGEST);
        let list = shown_list(vec!["a\nb".to_owned(), "c".to_owned(), "d".to_owned()], 2);
        assert_eq!(list, ["a\\nb", "c", "and 1 more"]);
    }
}
