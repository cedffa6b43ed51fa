//! Finds out on connections of its own whether the database lets itself be connected to and be written.
//!
//! A database that can only be read, after a failover or because its disk is full, goes on being read, while a task tries a
//! write now and then. From the first one that succeeds on, no connection is used that is older than that.

use super::availability::Availability;
use super::connect;
use crate::base::error::refuses_writes;
use crate::base::{Error, Result};
use anyhow::anyhow;
use sqlx::{Connection, Executor};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Between one write that is tried and the next.
const PAUSE: Duration = Duration::from_millis(300);

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the pool may take for a connection before it is found out whether the database refuses connections.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long one failure to connect is the answer for everybody.
const SAME_ANSWER: Duration = Duration::from_millis(100);

/// It writes a row that nothing reads.
const WRITE: &str = "insert into salts (name, value) values ('probe', '') on conflict (name) do update set value = ''";

#[derive(Clone)]
pub struct Probe {
    url: Arc<str>,
    availability: Availability,
    /// The last failure to connect. Whoever holds the lock is trying.
    refused: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Probe {
    pub fn new(url: &str, availability: &Availability) -> Probe {
        Probe { url: url.into(), availability: availability.clone(), refused: Arc::default() }
    }

    /// Whether a transaction failed with this error because the database refuses writes. If so, a task tries until it takes
    /// them again.
    pub fn write_refused(&self, error: &Error) -> bool {
        let Error::Unavailable(cause) = error else { return false };
        let is_refused = cause.downcast_ref().is_some_and(refuses_writes);
        if is_refused && self.availability.refuse_writes() {
            tracing::warn!("the database refuses to be written: {cause:#}");
            let probe = self.clone();
            tokio::spawn(async move { probe.wait_until_writable().await });
        }
        is_refused
    }

    async fn wait_until_writable(&self) {
        while !matches!(timeout(TIMEOUT, self.try_write()).await, Ok(Ok(()))) {
            sleep(PAUSE).await;
        }
        self.availability.accept_writes();
        tracing::info!("the database can be written again");
    }

    async fn try_write(&self) -> Result<()> {
        let mut connection = connect::direct(&self.url).await?;
        connection.execute(WRITE).await?;
        Ok(connection.close().await?)
    }

    /// Ends when the database refuses a connection.
    pub async fn connection_refused(&self) -> Error {
        loop {
            sleep(PATIENCE).await;
            let mut refused = self.refused.lock().await;
            if let Some((at, cause)) = &*refused
                && at.elapsed() < SAME_ANSWER
            {
                return Error::Unavailable(anyhow!(cause.clone()));
            }
            match connect::direct(&self.url).await {
                Ok(connection) => {
                    drop(connection.close().await);
                    drop(refused);
                    sleep(SAME_ANSWER).await;
                }
                Err(cause) => *refused = Some((Instant::now(), format!("{cause:#}"))),
            }
        }
    }
}
