//! How far a command is: a bar on standard error where a person watches, otherwise a line every five seconds.

use super::output::say_error;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time between two lines.
const PAUSE: Duration = Duration::from_secs(5);

const BAR: &str = "{bar:40} {human_pos} of {human_len} {msg}";
const COUNT: &str = "{spinner} {human_pos} {msg}";

pub struct Progress {
    /// It draws nothing where standard error is not a terminal.
    bar: ProgressBar,
    /// When the last line was printed.
    said: Mutex<Instant>,
}

impl Progress {
    /// `what` is what is counted, such as `rows`; `total` is how many there are, if that is known.
    pub fn new(what: &'static str, total: Option<u64>) -> Progress {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let style = ProgressStyle::with_template(if total.is_some() { BAR } else { COUNT });
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what);
        Progress { bar, said: Mutex::new(Instant::now()) }
    }

    /// So many more are done.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && said.elapsed() >= PAUSE {
            *said = Instant::now();
            let of = self.bar.length().map(|total| format!(" of {total}")).unwrap_or_default();
            say_error(format!("{}{of} {}", self.bar.position(), self.bar.message()));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
