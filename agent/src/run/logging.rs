//! Logs on standard error: text or JSON, and a level that can change while the agent runs.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// Changes the level of the running process.
#[derive(Debug, Clone)]
pub struct LogHandle {
    reload: reload::Handle<EnvFilter, Registry>,
}

/// Our own modules at the wanted level; libraries only where they warn, unless everything is wanted.
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
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match format {
        LogFormat::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(ansi))
            .try_init()?,
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(layer).try_init()?;
        }
    }
    Ok(LogHandle { reload })
}

impl LogHandle {
    /// Changes the level.
    pub fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.reload.reload(filter(level)) {
            tracing::error!("the log level stays: {error}");
        }
    }
}
