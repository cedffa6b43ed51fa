//! Counts of attempts that could not be decided, because the database failed or time ran out. They are given back as
//! soon as possible, and before this process counts anything else. A restart forgets them, and then they count.

use super::connection::Connection;
use super::database::Database;
use crate::base::{Error, Result};
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How many are remembered.
const MOST: usize = 10_000;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a request waits for refunds of others, because of which it could be refused.
const PATIENCE: Duration = Duration::from_millis(300);

/// Gives a count back. It may run again after it succeeded, if the outcome was unknown.
type Refund = Arc<dyn for<'a> Fn(&'a mut Connection) -> BoxFuture<'a, Result<()>> + Send + Sync>;

#[derive(Clone)]
pub struct Refunds {
    db: Database,
    owed: Arc<Mutex<VecDeque<Refund>>>,
    /// Held by the task that is giving back.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A count whose outcome is not known yet. Unless it is kept, it is given back when this is dropped.
#[must_use]
pub struct Counted {
    refunds: Refunds,
    refund: Refund,
    is_kept: AtomicBool,
}

impl Counted {
    /// The attempt was decided, so it counts.
    pub fn keep(&self) {
        self.is_kept.store(true, Relaxed);
    }

    /// Runs the work that was counted, and keeps the count if the work decides anything, even that the attempt was
    /// wrong. A repeat decides nothing.
    ///
    /// # Errors
    /// As `work`.
    pub async fn decide<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = work.await;
        if !matches!(answer, Err(Error::Unavailable(_) | Error::Fault(_) | Error::Repeated)) {
            self.keep();
        }
        answer
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_kept.load(Relaxed) {
            self.refunds.add(self.refund.clone());
        }
    }
}

impl Refunds {
    pub fn new(db: &Database) -> Refunds {
        Refunds { db: db.clone(), owed: Arc::default(), turn: Arc::default() }
    }

    pub fn counted(
        &self,
        refund: impl for<'a> Fn(&'a mut Connection) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
    ) -> Counted {
        Counted { refunds: self.clone(), refund: Arc::new(refund), is_kept: AtomicBool::new(false) }
    }

    /// Gives back everything that is owed, if possible at once, so that no request is refused because of it.
    pub async fn settle(&self) {
        if !self.owed().is_empty() {
            let refunds = self.clone();
            // In a task, so that a slow transaction is not cut off.
            let settled = tokio::spawn(async move { refunds.give_back().await });
            let _ = timeout(PATIENCE, settled).await;
        }
    }

    /// Remembers a refund, unless there are too many.
    fn add(&self, refund: Refund) {
        let mut owed = self.owed();
        if owed.len() >= MOST {
            return;
        }
        owed.push_back(refund);
        if let (1, Ok(runtime)) = (owed.len(), Handle::try_current()) {
            let refunds = self.clone();
            runtime.spawn(async move {
                while !refunds.give_back().await {
                    sleep(PAUSE).await;
                }
            });
        }
    }

    /// Gives back one after the other until one has to wait. Returns whether none is left.
    async fn give_back(&self) -> bool {
        let _turn = self.turn.lock().await;
        loop {
            let Some(refund) = self.owed().front().cloned() else { return true };
            match self.db.write_relaxed(async |db| refund(db).await).await {
                Err(Error::Unavailable(_)) => {
                    // Another may not have to wait.
                    self.owed().rotate_left(1);
                    return false;
                }
                Err(error) => tracing::error!("a count could not be given back: {:#}", anyhow::Error::from(error)),
                Ok(()) => {}
            }
            self.owed().pop_front();
        }
    }

    fn owed(&self) -> MutexGuard<'_, VecDeque<Refund>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
