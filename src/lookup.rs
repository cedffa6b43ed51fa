//! Look-ups that travel together. While one query for sessions is under way, the requests that arrive wait for the
//! next, which asks for all of them at once. Nothing is remembered: every answer comes from a query that began
//! after its request did, so a session that has ended is dead at once, on every replica.

use crate::database::{Connection, DEADLINE, Database, count_statement, within_deadline};
use crate::error::{Error, Result};
use crate::session::{self, Row};
use crate::token::TokenHash;
use anyhow::anyhow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

/// Two, so that one connection that stalls does not stop other people's pages.
const WORKERS: usize = 2;

/// How long a worker without work keeps its connection.
const REST: Duration = Duration::from_secs(1);

struct Waiter {
    token_hash: TokenHash,
    answer: oneshot::Sender<Result<Option<Row>>>,
}

#[derive(Default)]
struct Queue {
    waiters: Mutex<Vec<Waiter>>,
    bell: Notify,
}

#[derive(Clone)]
pub struct Lookup(Arc<Queue>);

impl Lookup {
    /// Starts the workers, which live as long as the runtime.
    pub fn start(database: &Database) -> Lookup {
        let queue = Arc::new(Queue::default());
        for _ in 0..WORKERS {
            let (queue, database) = (queue.clone(), database.clone());
            tokio::spawn(async move {
                loop {
                    let worker = tokio::spawn(work(queue.clone(), database.clone()));
                    if let Err(panic) = worker.await {
                        tracing::error!("a look-up worker ended and is started again: {panic}");
                    }
                }
            });
        }
        Lookup(queue)
    }

    /// The session with this token and its user, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database is away or [`DEADLINE`] has passed.
    pub async fn find(&self, token_hash: TokenHash) -> Result<Option<Row>> {
        let (answer, answered) = oneshot::channel();
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(Waiter { token_hash, answer });
        self.0.bell.notify_one();
        match timeout(DEADLINE, answered).await {
            Ok(Ok(answer)) => {
                count_statement();
                answer
            }
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable(anyhow!("the session look-up was not answered"))),
        }
    }
}

impl Queue {
    fn batch(&self) -> Vec<Waiter> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiters.len().min(session::MOST_AT_ONCE);
        waiters.drain(..first).collect()
    }
}

async fn work(queue: Arc<Queue>, database: Database) {
    loop {
        queue.bell.notified().await;
        let mut connection = within_deadline(database.connection()).await;
        loop {
            // Whoever is about to ask gets the time to do so.
            yield_now().await;
            let batch = queue.batch();
            if !batch.is_empty() {
                let answered = match &mut connection {
                    Ok(connection) => answer(connection, batch).await,
                    Err(error) => refuse(batch, error),
                };
                if !answered {
                    // The next batch starts fresh, and at once if somebody waits for it.
                    break queue.bell.notify_one();
                }
            } else if timeout(REST, queue.bell.notified()).await.is_err() {
                break connection.into_iter().for_each(Connection::release);
            }
        }
    }
}

/// Answers a batch with one query, and whether the connection can be used again.
async fn answer(connection: &mut Connection, batch: Vec<Waiter>) -> bool {
    let hashes: Vec<&TokenHash> = batch.iter().map(|waiter| &waiter.token_hash).collect();
    match within_deadline(session::rows(connection, &hashes)).await {
        Ok(rows) => {
            for Waiter { token_hash, answer } in batch {
                // Who has hung up hears nothing, and nobody else minds.
                let _ = answer.send(Ok(rows.iter().find(|row| row.token_hash == token_hash).cloned()));
            }
            true
        }
        Err(error) => refuse(batch, &error),
    }
}

fn refuse(batch: Vec<Waiter>, error: &Error) -> bool {
    for Waiter { answer, .. } in batch {
        let _ = answer.send(Err(Error::Unavailable(anyhow!("the session look-up failed: {error:?}"))));
    }
    false
}
