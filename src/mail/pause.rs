//! While the mail server cannot be reached or rejects the log-in, sending is paused, and one mail is tried from time to
//! time.

use crate::base::explain;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first pause; each further one is twice as long, up to the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Whether the mail server accepts this process.
#[derive(Clone, Default)]
pub struct Pause(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whether no attempt has finished yet.
    is_new: bool,
    /// How many attempts have failed in a row.
    failures: u32,
    failed_at: Option<Instant>,
    until: Option<Instant>,
    /// When the unfinished attempts started.
    open: Vec<Instant>,
}

impl State {
    fn is_uncertain(&self) -> bool {
        self.is_new || self.failures > 0
    }
}

/// How long to wait for an attempt before another is made.
const PATIENCE: Duration = Duration::from_secs(60);

/// One attempt; it ends when this is dropped.
pub struct Attempt {
    pause: Pause,
    begun: Instant,
}

impl Attempt {
    /// The server has accepted the site.
    pub fn succeed(self) {
        self.pause.end();
    }

    pub fn fail(&self, cause: &anyhow::Error) {
        self.pause.begin(self.begun, cause);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.pause.state();
        if let Some(place) = state.open.iter().position(|begun| *begun == self.begun) {
            state.open.swap_remove(place);
        }
    }
}

impl Pause {
    /// Before the first attempt. The default is no pause.
    pub fn before_first_try() -> Pause {
        Pause(Arc::new(Mutex::new(State { is_new: true, ..State::default() })))
    }

    pub fn attempt(&self) -> Attempt {
        let begun = Instant::now();
        self.state().open.push(begun);
        Attempt { pause: self.clone(), begun }
    }

    /// An attempt that started at this time failed.
    fn begin(&self, begun: Instant, cause: &anyhow::Error) {
        let mut state = self.state();
        // Other attempts in progress fail for the same reason.
        if state.failed_at.is_some_and(|failed_at| begun <= failed_at) {
            return;
        }
        if state.failures == 0 {
            let most = LONGEST.as_secs() / 60;
            tracing::warn!("sending mail is paused, with an attempt at least every {most} minutes: {}", explain(cause));
        }
        let now = Instant::now();
        (state.failed_at, state.until) = (Some(now), Some(now + length(state.failures)));
        state.failures += 1;
    }

    fn end(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            tracing::info!("the mail server works again, and mails are sent");
        }
        *state = State { open: std::mem::take(&mut state.open), ..State::default() };
    }

    /// Whether a mail may be sent now.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        let is_awaited = state.is_uncertain() && state.open.iter().any(|begun| begun.elapsed() < PATIENCE);
        !is_awaited && state.until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether to try a single mail, because it is unknown whether the server accepts it.
    pub fn is_trying(&self) -> bool {
        self.state().is_uncertain()
    }

    /// How much longer the pause lasts.
    #[cfg(test)]
    fn remaining(&self) -> Duration {
        self.state().until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after this many failures.
fn length(failures: u32) -> Duration {
    LONGEST.min(FIRST * 2u32.pow(failures.min(10)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn pauses_grow_to_five_minutes() {
        let seconds: Vec<u64> = (0..9).map(|failures| length(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(length(u32::MAX), LONGEST);
    }

    #[test]
    fn attempts_that_were_under_way_together_make_one_pause() {
        let pause = Pause::before_first_try();
        assert!(pause.is_over() && pause.is_trying());
        pause.attempt().succeed();
        assert!(!pause.is_trying());
        let attempts: Vec<Attempt> = (0..4).map(|_| pause.attempt()).collect();
        attempts.iter().for_each(|attempt| attempt.fail(&anyhow!("refused")));
        drop(attempts);
        assert!(!pause.is_over() && pause.is_trying());
        assert!(pause.remaining() <= FIRST);
        pause.attempt().fail(&anyhow!("refused"));
        assert!(pause.remaining() > FIRST);
        pause.attempt().succeed();
        assert!(pause.is_over() && !pause.is_trying());
    }

    #[test]
    fn while_the_server_is_tried_nothing_else_is_sent() {
        let pause = Pause::before_first_try();
        let attempt = pause.attempt();
        assert!(!pause.is_over());
        drop(attempt);
        assert!(pause.is_over());
        let (first, second) = (pause.attempt(), pause.attempt());
        first.succeed();
        assert!(pause.is_over(), "now it is known that mails are taken");
        drop(second);
        assert!(pause.state().open.is_empty());
    }
}
