//! Liveness and readiness: what the pipeline last said of itself.
//!
//! Alive: the pipeline's loop has gone round lately. Ready: in sync, the kernel has been
//! programmed, and nothing is refused.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::text;

/// Reasons that the probes tell; how many more there are is said.
const REASONS: usize = 100;
/// The pipeline may be silent for so long: one round can load thousands of programs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the pipeline says of itself, for the probes.
#[derive(Debug)]
pub struct Health {
    state: Mutex<Readiness>,
    timeout: Duration,
}

#[derive(Debug)]
struct Readiness {
    last_round: Instant,
    /// Reasons not to be ready; empty = ready.
    not_ready: Vec<String>,
    stopped: bool,
    /// What people should know, without anything being wrong with the agent.
    notices: Vec<String>,
    /// Which tables of flows are full now, and who has used up its share.
    full_tables: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(TIMEOUT)
    }
}

impl Health {
    /// Not ready, alive for at least `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let not_ready = vec!["the agent is starting".to_owned()];
        Self {
            state: Mutex::new(Readiness {
                last_round: Instant::now(),
                not_ready,
                stopped: false,
                notices: Vec::new(),
                full_tables: Vec::new(),
            }),
            timeout,
        }
    }

    /// The pipeline went round once more.
    pub fn round(&self) {
        self.lock().last_round = Instant::now();
    }

    /// Why the agent is not ready; empty = it is.
    pub fn set_not_ready(&self, reasons: Vec<String>) {
        let mut state = self.lock();
        // What the pipeline still finishes makes a stopping agent not ready again.
        if !state.stopped {
            state.not_ready = text::shown_list(reasons, REASONS);
        }
    }

    /// The agent is going down.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.not_ready = vec!["the agent is stopping".to_owned()];
    }

    /// Something that people should know; shown with the status from now on.
    pub fn add_notice(&self, notice: String) {
        self.lock().notices.push(text::shown(&notice));
    }

    /// Says which tables of flows are full and which endpoints have used up their shares, as
    /// sentences; shown with the status for as long as they are.
    pub fn set_full_tables(&self, sentences: Vec<String>) {
        self.lock().full_tables = sentences;
    }

    /// What people should know.
    pub fn notices(&self) -> Vec<String> {
        let state = self.lock();
        [&*state.notices, &state.full_tables].concat()
    }

    /// Reasons against readiness.
    pub fn not_ready(&self) -> Vec<String> {
        self.lock().not_ready.clone()
    }

    /// `Err` = the pipeline is stuck; says for how long.
    pub fn alive(&self) -> Result<(), String> {
        let state = self.lock();
        let silent = state.last_round.elapsed();
        if silent <= self.timeout || state.stopped {
            return Ok(());
        }
        Err(format!(
            "the pipeline has made no progress for {:.0} s",
            silent.as_secs_f64()
        ))
    }

    /// `Err` = all the reasons.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        let state = self.lock();
        if state.not_ready.is_empty() {
            Ok(())
        } else {
            Err(state.not_ready.join("\n"))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Readiness> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_every_reason() {
        let health = Health::default();
        assert_eq!(health.alive(), Ok(()));
        assert_eq!(health.ready(), Err("the agent is starting".to_owned()));
        health.set_not_ready(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(health.ready(), Err("a\nb".to_owned()));
        health.set_not_ready(Vec::new());
        assert_eq!(health.ready(), Ok(()));
        health.stop();
        assert_eq!(health.ready(), Err("the agent is stopping".to_owned()));
    }

    #[test]
    fn text_from_outside_cannot_forge_a_line_or_drive_a_terminal() {
        let health = Health::default();
        let forged = "x\nok\n\u{1b}[2J".to_owned();
        health.set_not_ready(vec![forged; 200]);
        let told = health.ready().unwrap_err();
        assert_eq!(told.lines().count(), 101, "a line each, and how many more");
        assert!(
            told.lines()
                .all(|line| line == "x\\nok\\n\\u{1b}[2J" || line == "and 100 more"),
            "{told}"
        );
    }

    #[test]
    fn a_stuck_pipeline_is_neither_alive_nor_ready() {
        let health = Health::new(Duration::from_millis(20));
        health.set_not_ready(Vec::new());
        assert_eq!(health.ready(), Ok(()));
        std::thread::sleep(Duration::from_millis(40));
        assert!(health.alive().is_err() && health.ready().is_err());
        health.round();
        assert_eq!(health.ready(), Ok(()));
    }
}
