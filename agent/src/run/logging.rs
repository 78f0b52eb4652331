//! Logs on standard error: text or JSON, and a level that can change while the agent runs.

use std::io::Write;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};
use crate::text;

/// Changes the level of the running process.
#[derive(Debug, Clone)]
pub struct LogHandle {
    reload: reload::Handle<EnvFilter, Registry>,
}

/// Our own modules at the wanted level; libraries only where they warn, unless everything is
/// wanted.
fn filter(level: LogLevel) -> EnvFilter {
    let own = level.filter();
    let others = match level {
        LogLevel::Trace => own,
        _ => own.min(tracing::level_filters::LevelFilter::WARN),
    };
    EnvFilter::new(format!(
        "{others},felid={own},felid_agent={own},felid_datastore={own},felid_dataplane={own},felid_calc={own},felid_compile={own}"
    ))
}

/// Starts logging. Fails only if the process logs already.
pub fn start(format: LogFormat, level: LogLevel) -> anyhow::Result<LogHandle> {
    let (layer, reload) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(layer);
    match format {
        LogFormat::Text => registry
            // Colours are escapes, and there may be none in a line.
            .with(fmt::layer().with_writer(|| OneLine(std::io::stderr())).with_ansi(false))
            .try_init()?,
        LogFormat::Json => {
            let writer = || JsonLine(std::io::stderr());
            let layer = fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(layer).try_init()?;
        }
    }
    Ok(LogHandle { reload })
}

/// Longest line of the log, in characters.
const LONGEST: usize = 8192;

/// Writes each event of the log as one line, whatever text it holds. Events come whole.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        writeln!(self.0, "{}", text::shorten(text.trim_end_matches('\n'), LONGEST))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// The same for events that are JSON, which stays JSON.
struct JsonLine<W>(W);

impl<W: Write> Write for JsonLine<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(text::escape_json(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl LogHandle {
    /// Changes the level.
    pub fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.reload.reload(filter(level)) {
            tracing::error!("the log level stays: {error}");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let mut out = Vec::new();
        let event = "INFO a: \u{1b}[31mred\n2026-01-01 ERROR forged: all is lost\u{202e}\n";
        assert_eq!(OneLine(&mut out).write(event.as_bytes()).unwrap(), event.len());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "INFO a: \\u{1b}[31mred\\n2026-01-01 ERROR forged: all is lost\\u{202e}\n"
        );
        let mut out = Vec::new();
        OneLine(&mut out).write_all(&[b'x'; 3 * LONGEST]).unwrap();
        assert!(out.len() < 2 * LONGEST, "{}", out.len());
    }

    #[test]
    fn an_event_that_is_json_stays_json() {
        let mut out = Vec::new();
        let event = "{\"message\":\"\u{9b}2J\u{2028}\"}\n";
        JsonLine(&mut out).write_all(event.as_bytes()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.is_ascii() && text.ends_with("}\n"), "{text:?}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["message"], "\u{9b}2J\u{2028}");
    }
}
