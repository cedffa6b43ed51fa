//! Log-outs that the database could not record: this process ends these sessions as soon as it can, and rejects them
//! until then. A restart forgets them.

use super::lifecycle;
use crate::accounts::client::Client;
use crate::base::{TokenHash, TokenHashes};
use crate::db::Database;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// How many are remembered.
const MOST: usize = 1_000;

/// How many are ended in one transaction.
const AT_ONCE: usize = 100;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct LateLogOuts {
    db: Database,
    waiting: Arc<Mutex<Vec<(TokenHashes, Client)>>>,
}

impl LateLogOuts {
    pub fn new(db: &Database) -> LateLogOuts {
        LateLogOuts { db: db.clone(), waiting: Arc::default() }
    }

    pub fn contains(&self, token_hash: &TokenHash) -> bool {
        self.waiting().iter().any(|(hashes, _)| hashes.iter().any(|hash| hash == token_hash))
    }

    /// Remembers a log-out, unless there are too many.
    pub fn add(&self, hashes: TokenHashes, client: &Client) {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST || waiting.iter().any(|(other, _)| *other == hashes) {
            return;
        }
        waiting.push((hashes, client.clone()));
        if waiting.len() == 1 {
            let log_outs = self.clone();
            tokio::spawn(async move { log_outs.run().await });
        }
    }

    /// Retries until none is left.
    async fn run(&self) {
        loop {
            let some: Vec<_> = self.waiting().iter().take(AT_ONCE).cloned().collect();
            if some.is_empty() {
                return;
            }
            let ended = self.db.write(async |db| {
                for (hashes, client) in &some {
                    lifecycle::log_out(db, hashes, client).await?;
                }
                Ok(())
            });
            match ended.await {
                Ok(()) => self.waiting().retain(|(waiting, _)| some.iter().all(|(ended, _)| ended != waiting)),
                // The error is in the log already, with the request.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(TokenHashes, Client)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
