//! Finds out, on its own connections, whether the database accepts connections and writes.
//!
//! If a database becomes read-only, after a failover or because its disk is full, reads continue, and a task tries a
//! write from time to time. Once one succeeds, connections that are older than it are no longer used.

use super::availability::Availability;
use super::connect::{self, Mode};
use crate::base::error::refuses_writes;
use crate::base::{Error, Result, explain};
use anyhow::anyhow;
use sqlx::{Connection, Executor};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// The time between two probes.
const PAUSE: Duration = Duration::from_millis(300);

/// How long a probe may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the pool may take to connect before a probe finds out whether the database refuses connections.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long one failure to connect counts for all requests.
const SAME_ANSWER: Duration = Duration::from_millis(100);

/// It writes a row that nothing reads.
const WRITE: &str = "insert into salts (name, value) values ('probe', '') on conflict (name) do update set value = ''";

#[derive(Clone)]
pub struct Probe {
    url: Arc<str>,
    availability: Availability,
    /// The last failure to connect. The holder of the lock is connecting.
    refused: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Probe {
    pub fn new(url: &str, availability: &Availability) -> Probe {
        Probe { url: url.into(), availability: availability.clone(), refused: Arc::default() }
    }

    /// Whether this error means that the database rejects writes. If so, a task probes until it accepts them again.
    pub fn write_refused(&self, error: &Error) -> bool {
        let Error::Unavailable(cause) = error else { return false };
        let is_refused = cause.downcast_ref().is_some_and(refuses_writes);
        if is_refused {
            self.refuse_writes(explain(cause));
        }
        is_refused
    }

    /// The database rejects writes for this reason.
    pub fn refuse_writes(&self, cause: impl Display) {
        if self.availability.refuse_writes() {
            tracing::warn!("the database rejects writes: {cause}");
            let probe = self.clone();
            tokio::spawn(async move { probe.wait_until_writable().await });
        }
    }

    async fn wait_until_writable(&self) {
        while !matches!(timeout(TIMEOUT, self.try_write()).await, Ok(Ok(()))) {
            sleep(PAUSE).await;
        }
        self.availability.accept_writes();
        tracing::info!("the database accepts writes again");
    }

    async fn try_write(&self) -> Result<()> {
        let mut connection = connect::connect(&self.url, Mode::Write).await?;
        connection.execute(WRITE).await?;
        Ok(connection.close().await?)
    }

    /// Returns when the database refuses a connection.
    pub async fn connection_refused(&self) -> Error {
        loop {
            sleep(PATIENCE).await;
            let mut refused = self.refused.lock().await;
            if let Some((at, cause)) = &*refused
                && at.elapsed() < SAME_ANSWER
            {
                return Error::Unavailable(anyhow!(cause.clone()));
            }
            match connect::connect(&self.url, Mode::Write).await {
                Ok(connection) => {
                    drop(connection.close().await);
                    drop(refused);
                    sleep(SAME_ANSWER).await;
                }
                Err(cause) => {
                    *refused = Some((Instant::now(), format!("the database cannot be reached: {}", cause.root_cause())))
                }
            }
        }
    }
}
