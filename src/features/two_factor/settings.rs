//! The variables of this feature.

use crate::base::{Backoff, Env};
use anyhow::Result;

pub struct TwoFactorSettings {
    /// How many wrong codes end a log-in.
    pub attempts: i64,
    /// After the wrong codes of two log-ins, all codes of the user have to wait.
    pub backoff: Backoff,
}

impl TwoFactorSettings {
    /// # Errors
    /// One sentence that says what to set.
    pub fn from_env(env: &Env) -> Result<TwoFactorSettings> {
        let attempts = env.number("TWO_FACTOR_ATTEMPTS", 5, 1..=1000)?;
        let delay = env.duration("TWO_FACTOR_LOCK", "15m")?;
        Ok(TwoFactorSettings { attempts, backoff: Backoff { free: 2 * attempts, delay } })
    }
}

#[cfg(test)]
mod tests {
    use crate::features;

    #[test]
    fn the_site_does_not_start_when_no_attempt_is_allowed() {
        for (name, value, sentence) in [
            ("TWO_FACTOR_ATTEMPTS", "0", "TWO_FACTOR_ATTEMPTS must be a whole number from 1 to 1000"),
            ("TWO_FACTOR_ATTEMPTS", "9223372036854775807", "TWO_FACTOR_ATTEMPTS must be a whole number from 1 to 1000"),
            ("TWO_FACTOR_ATTEMPTS", "-1", "TWO_FACTOR_ATTEMPTS must be a whole number from 1 to 1000"),
            ("TWO_FACTOR_ATTEMPTS", "few", "TWO_FACTOR_ATTEMPTS must be a whole number from 1 to 1000"),
        ] {
            let error = features::all(&[(name, value)].into_iter().collect()).err().unwrap();
            assert_eq!(error.to_string(), sentence);
        }
        let lock = features::all(&[("TWO_FACTOR_LOCK", "0m")].into_iter().collect());
        assert!(lock.err().unwrap().to_string().starts_with("TWO_FACTOR_LOCK must be a duration"));
    }
}
