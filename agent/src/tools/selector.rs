//! `felid selector`.

use std::io::Write;

use felid_model::{LabelMap, Selector, SelectorError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::SelectorArgs;
use crate::outcome::{Outcome, usage, usage_shown};
use crate::output::{Format, json_line};

use super::lines;

/// Longest stretch of a selector that is shown before and after the place of an error, in
/// characters.
const SHOWN: usize = 60;

/// A line of standard input; other fields are somebody else's.
#[derive(Deserialize)]
struct Question {
    selector: String,
    labels: Option<LabelMap>,
}

/// Says whether a selector matches labels.
pub fn selector(args: &SelectorArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let Some(text) = &args.selector else {
        return lines::answer(out, |question| Ok(answer(&question)));
    };
    let json = Format::is_json(&args.output)?;
    let labels = labels(&args.labels)?;
    let selector =
        Selector::parse(text).map_err(|error| usage_shown(format!("bad selector, {error}"), pointed(text, &error)))?;
    let matches = selector.matches(&labels);
    if json {
        json_line(
            out,
            &json!({"match": matches, "canonical": selector.canonical(), "uid": selector.uid()}),
        )?;
    } else {
        writeln!(out, "{matches}")?;
    }
    Ok(Outcome::Done)
}

fn answer(question: &Question) -> Value {
    match (Selector::parse(&question.selector), &question.labels) {
        (Ok(selector), Some(labels)) => json!({"match": selector.matches(labels)}),
        (Ok(selector), None) => json!({"canonical": selector.canonical(), "uid": selector.uid()}),
        (Err(error), _) => json!({"error": error.to_string(), "column": error.column}),
    }
}

fn labels(given: &[String]) -> anyhow::Result<LabelMap> {
    let mut labels = LabelMap::new();
    for label in given {
        let Some((key, value)) = label.split_once('=') else {
            return Err(usage(format!("label {label:?} has no value: write KEY=VALUE")));
        };
        if let Some(other) = labels.insert(key.to_owned(), value.to_owned())
            && other != value
        {
            return Err(usage(format!(
                "label {key:?} is given twice, as {other:?} and {value:?}"
            )));
        }
    }
    Ok(labels)
}

/// The selector, and below it a caret at the place of the error.
fn pointed(text: &str, error: &SelectorError) -> Vec<String> {
    let place = error.column.saturating_sub(1);
    let from = place.saturating_sub(SHOWN);
    // A character a column, whatever it is.
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let before: String = text.chars().skip(from).take(place - from).map(shown).collect();
    let after: String = text.chars().skip(place).take(SHOWN).map(shown).collect();
    let cut = |cut: bool| if cut { "…" } else { "" };
    let head = format!("  {}{before}", cut(from > 0));
    let tail = cut(text.chars().nth(place + SHOWN).is_some());
    let gap = " ".repeat(head.chars().count());
    vec![format!("{head}{after}{tail}"), format!("{gap}^")]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let error = Selector::parse(text).unwrap_err();
        pointed(text, &error)
    }

    #[test]
    fn a_caret_stands_below_the_place() {
        assert_eq!(shown("a = 'x'"), ["  a = 'x'", "    ^"]);
        assert_eq!(shown("a\t==\n'x'"), ["  a == 'x'", "      ^"]);
        assert_eq!(shown("é == 'é'"), ["  é == 'é'", "  ^"]);
        assert_eq!(shown("a == 'é' &"), ["  a == 'é' &", "           ^"]);
        assert_eq!(shown("a =="), ["  a ==", "      ^"]);
        let long = format!(
            "{}x = 'y' && {}has(z)",
            "has(a) && ".repeat(20),
            "has(b) && ".repeat(20)
        );
        let lines = shown(&long);
        assert!(lines[0].starts_with("  …") && lines[0].ends_with('…'), "{lines:?}");
        let caret = lines[1].chars().count();
        assert!(
            lines[0]
                .chars()
                .skip(caret - 1)
                .collect::<String>()
                .starts_with("= 'y'"),
            "{lines:?}"
        );
    }
}
