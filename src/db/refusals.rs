//! Refusals by rate limits that this process remembers, so that repeated requests need no SQL statement.

use super::limit_key::Key;
use crate::base::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many are remembered. Beyond that, the database is asked.
const MOST: usize = 100_000;

/// How long a refusal is remembered that another process may lift.
pub const SHORT: Duration = Duration::from_secs(2);

#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    refused: HashMap<Key, Refusal>,
    /// When expired refusals were last removed because there were too many.
    cleared_at: Option<Instant>,
}

struct Refusal {
    until: Instant,
    remembered_until: Instant,
}

impl Refusals {
    /// Checks whether a refusal by this limit is remembered.
    ///
    /// # Errors
    /// [`Error::TooMany`] when one is.
    pub fn check(&self, key: &Key) -> Result<()> {
        let now = Instant::now();
        match self.state().refused.get(key) {
            Some(refusal) if refusal.remembered_until > now => Err(Error::TooMany(refusal.until - now)),
            _ => Ok(()),
        }
    }

    /// Returns the result unchanged. If it is [`Error::TooMany`], it is remembered, for at most this long.
    pub fn remember<T>(&self, key: &Key, at_most: Duration, answer: Result<T>) -> Result<T> {
        if let Err(Error::TooMany(wait)) = answer {
            let now = Instant::now();
            let mut state = self.state();
            if state.has_room(now) {
                let refusal = Refusal { until: now + wait, remembered_until: now + wait.min(at_most) };
                state.refused.insert(key.clone(), refusal);
            }
        }
        answer
    }

    pub fn forget(&self, key: &Key) {
        self.state().refused.remove(key);
    }

    #[cfg(test)]
    pub fn forget_all(&self) {
        self.state().refused.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&mut self, now: Instant) -> bool {
        let is_full = self.refused.len() >= MOST;
        // At most once a second, because it goes through all of them.
        if is_full && self.cleared_at.is_none_or(|cleared_at| now - cleared_at > Duration::from_secs(1)) {
            self.refused.retain(|_, refusal| refusal.remembered_until > now);
            self.cleared_at = Some(now);
        }
        self.refused.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn key(number: usize) -> Key {
        Key::new("test", &number.to_string())
    }

    fn refuse(refusals: &Refusals, number: usize, wait: Duration, at_most: Duration) {
        let answer: Result<()> = refusals.remember(&key(number), at_most, Err(Error::TooMany(wait)));
        assert!(matches!(answer, Err(Error::TooMany(_))));
    }

    #[test]
    fn a_refusal_says_how_long_it_lasts_even_if_it_is_forgotten_earlier() {
        let refusals = Refusals::default();
        refuse(&refusals, 1, LONG, Duration::from_millis(500));
        match refusals.check(&key(1)) {
            Err(Error::TooMany(wait)) => assert!(wait > LONG - Duration::from_secs(1), "{wait:?}"),
            other => panic!("{other:?}"),
        }
        assert!(refusals.check(&key(2)).is_ok());
        std::thread::sleep(Duration::from_millis(510));
        assert!(refusals.check(&key(1)).is_ok());
    }

    #[test]
    fn what_is_allowed_or_fails_for_another_reason_is_not_remembered() {
        let refusals = Refusals::default();
        refusals.remember(&key(1), LONG, Ok(())).unwrap();
        refusals.remember(&key(1), LONG, Err::<(), _>(Error::NOT_FOUND)).unwrap_err();
        assert!(refusals.check(&key(1)).is_ok());
        refuse(&refusals, 1, LONG, LONG);
        refusals.forget(&key(1));
        assert!(refusals.check(&key(1)).is_ok());
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for_until_some_are_over() {
        let refusals = Refusals::default();
        for number in 0..MOST {
            refuse(&refusals, number, if number == 0 { Duration::ZERO } else { LONG }, LONG);
        }
        refuse(&refusals, MOST, LONG, LONG);
        refuse(&refusals, MOST + 1, LONG, LONG);
        assert!(refusals.check(&key(MOST)).is_err(), "the one that was over has left its room to it");
        assert!(refusals.check(&key(MOST + 1)).is_ok());
        assert!(refusals.check(&key(MOST - 1)).is_err());
    }
}
