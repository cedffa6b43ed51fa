//! Spreads the responses to refused requests over time, so that a flood of clients that retry at once does not take all
//! processor time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The time between two such responses during a flood. A single one does not wait.
const INTERVAL: Duration = Duration::from_micros(250);

/// The longest wait.
const MOST: Duration = Duration::from_secs(2);

pub struct Pace(Mutex<Instant>);

impl Pace {
    pub fn new() -> Pace {
        Pace(Mutex::new(Instant::now()))
    }

    /// Waits until it is this response's turn.
    pub async fn wait(&self) {
        sleep_until(self.turn()).await;
    }

    fn turn(&self) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = (*next).clamp(now, now + MOST);
        *next = turn + INTERVAL;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_is_answered_at_once_and_a_crowd_one_after_the_other() {
        let (pace, begun) = (Pace::new(), Instant::now());
        assert!(pace.turn() <= Instant::now());
        let waits: Vec<f64> = (0..20_000).map(|_| (pace.turn() - begun).as_secs_f64()).collect();
        assert!((0.99..1.9).contains(&waits[4000]), "{} s", waits[4000]);
        // Without a limit the last of them would wait for five seconds.
        assert!(waits[19_999] < 3.5, "{} s", waits[19_999]);
        std::thread::sleep(MOST + INTERVAL);
        assert!(pace.turn() <= Instant::now(), "the crowd is gone");
    }
}
