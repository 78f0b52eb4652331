//! Progress of long work: on a terminal only, on standard error only, and only once it has taken a
//! while.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is quicker than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(300);

/// A progress bar or spinner, or nothing where nobody watches.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: bool,
}

impl Progress {
    /// For work in so many steps.
    pub fn steps(total: usize, what: &'static str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_length(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self {
            bar,
            began: Instant::now(),
            shown: false,
        }
    }

    /// For work that does not say how far it is.
    pub fn spinner(what: &'static str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_message(what);
        let mut this = Self {
            bar,
            began: Instant::now(),
            shown: false,
        };
        this.show();
        if this.shown {
            this.bar.enable_steady_tick(Duration::from_millis(120));
        }
        this
    }

    fn show(&mut self) {
        if !self.shown && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
    }

    /// One step more is done.
    pub fn step(&mut self) {
        if !self.shown && self.began.elapsed() > PATIENCE {
            self.show();
        }
        self.bar.inc(1);
    }

    /// Says what is being done now.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Removes it, so that what follows stands on a clean line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
