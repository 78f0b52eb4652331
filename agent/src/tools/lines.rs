//! Questions as JSON lines: one answer a line, in order, and no question hides another.

use std::io::{BufRead, BufReader, IsTerminal, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::outcome::Outcome;
use crate::output::json_line;

/// Read at a time.
const CHUNK: usize = 1 << 16;

/// An answer in which something is wrong with the question.
#[derive(Debug, Serialize)]
struct NoQuestion {
    error: String,
}

/// Answers each line of standard input. A line that is no question is answered with `{"error"}`,
/// and fails the command once everything is answered.
pub(super) fn answer<Q: DeserializeOwned>(
    out: &mut dyn Write,
    answer: impl FnMut(Q) -> Result<Value, String>,
) -> anyhow::Result<Outcome> {
    let input = std::io::stdin().lock();
    if input.is_terminal() {
        writeln!(
            std::io::stderr(),
            "felid: reading JSON lines from standard input; --help explains them"
        )?;
    }
    answer_lines(BufReader::with_capacity(CHUNK, input), out, answer)
}

fn answer_lines<Q: DeserializeOwned>(
    mut input: BufReader<impl std::io::Read>,
    out: &mut dyn Write,
    mut answer: impl FnMut(Q) -> Result<Value, String>,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Done;
    let mut line = Vec::new();
    loop {
        // Whoever asks may wait for the answer before the next question.
        if !input.buffer().contains(&b'\n') {
            out.flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(outcome);
        }
        let question = serde_json::from_slice(&line).map_err(|error| no_question(&error));
        match question.and_then(&mut answer) {
            Ok(value) => json_line(out, &value)?,
            Err(error) => {
                outcome = Outcome::Failed;
                json_line(out, &NoQuestion { error })?;
            }
        }
    }
}

/// The line is always the first one: only the column says where.
fn no_question(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("no question: {reason} (column {})", error.column())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Says what has been flushed.
    #[derive(Default)]
    struct Sink {
        written: Vec<u8>,
        flushed: usize,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.written.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.flushed = self.written.len();
            Ok(())
        }
    }

    #[test]
    fn an_answer_for_each_line() {
        let text = b"1\n\n[1]\n \"x\" \r\n{\xff}\n2".as_slice();
        let mut out = Sink::default();
        let outcome = answer_lines(BufReader::new(text), &mut out, |number: u8| match number {
            1 => Ok(Value::from(number)),
            _ => Err("not one".to_owned()),
        });
        assert_eq!(outcome.unwrap(), Outcome::Failed);
        let lines: Vec<Value> = out
            .written
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(
            (&lines[0], &lines[5]["error"]),
            (&Value::from(1), &Value::from("not one"))
        );
        assert!(lines[1..5].iter().all(|line| line["error"].is_string()));
        assert_eq!(out.flushed, out.written.len());
    }

    #[test]
    fn answers_do_not_wait_for_more_questions() {
        /// Gives a line at a time and checks that the one before was answered.
        struct Source<'a>(Vec<&'static str>, &'a std::cell::Cell<usize>);
        impl std::io::Read for Source<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let Some(line) = self.0.pop() else { return Ok(0) };
                self.1.set(self.1.get() + 1);
                buffer[..line.len()].copy_from_slice(line.as_bytes());
                Ok(line.len())
            }
        }
        struct Flushes<'a>(Vec<usize>, &'a std::cell::Cell<usize>);
        impl Write for Flushes<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                self.0.push(self.1.get());
                Ok(())
            }
        }
        let reads = std::cell::Cell::new(0);
        let mut out = Flushes(Vec::new(), &reads);
        let source = Source(vec!["3\n", "1\n2\n"], &reads);
        answer_lines(BufReader::new(source), &mut out, |number: u8| Ok(Value::from(number))).unwrap();
        assert_eq!(out.0, [0, 1, 2], "before each read, what was asked is answered");
    }
}
