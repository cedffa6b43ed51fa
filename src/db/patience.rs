//! Waits for a database that is silent, busy or locked when it is opened, for a limited time, and logs it.

use anyhow::{Result, bail};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long to wait in all.
const LONGEST: Duration = Duration::from_secs(30);

/// How often to log what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Patience {
    until: Instant,
}

impl Patience {
    pub fn new() -> Patience {
        Patience { until: Instant::now() + LONGEST }
    }

    /// Retries until the database is no longer busy. `what` follows the words "waiting for".
    ///
    /// # Errors
    /// The error of `attempt`, unless it means "try again later"; one sentence when it has taken too long.
    pub async fn wait_for<T>(&self, what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let (mut say_at, mut reason) = (Instant::now() + SAY_EVERY, String::new());
        while Instant::now() < self.until {
            let mut attempt = pin!(attempt());
            let done = loop {
                match timeout_at(say_at.min(self.until), attempt.as_mut()).await {
                    Err(_) if say_at < self.until => tracing::warn!("waiting for {what}"),
                    done => break done,
                }
                say_at += SAY_EVERY;
            };
            match done.map(|done| done.map_err(|error| (busy(&error), error))) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err((None, error))) => return Err(error),
                Ok(Err((Some(busy), _))) => reason = busy,
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        bail!("gave up after waiting {} s for {what}{reason}", LONGEST.as_secs())
    }
}

/// If the database can be reached and is busy: its reason, after a colon, if that adds anything.
fn busy(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref()? {
        sqlx::Error::PoolTimedOut => Some(String::new()),
        sqlx::Error::Database(cause) => match (cause.code()?.as_ref(), cause.message()) {
            // Postgres: too many connections, starting up.
            ("53300" | "57P03", message) => Some(format!(": {message}")),
            // Postgres: a statement or its lock took too long.
            ("57014" | "55P03", _) => Some(String::new()),
            (code, _) if code.len() == 5 => None,
            // SQLITE_BUSY, SQLITE_LOCKED and SQLITE_PROTOCOL, which are also the low byte of their extended codes.
            (code, _) => code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6 | 15)).then(String::new),
        },
        _ => None,
    }
}
