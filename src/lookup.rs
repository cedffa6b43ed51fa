//! Look-ups that travel together. While one query for sessions is under way, the requests that arrive wait for the
//! next, which asks for all of them at once. Nothing is remembered: every answer comes from a query that began
//! after its request did, so a session that has ended is dead at once, on every replica.

use crate::database::{DEADLINE, Database, within_deadline};
use crate::error::{self, Error, Result};
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
    answer: oneshot::Sender<Option<Row>>,
}

#[derive(Default)]
struct Queue {
    waiters: Mutex<Vec<Waiter>>,
    bell: Notify,
}

pub struct Lookup(Arc<Queue>);

impl Lookup {
    /// Starts the workers, which live as long as the runtime.
    pub fn start(database: &Database) -> Lookup {
        let queue = Arc::new(Queue::default());
        for _ in 0..WORKERS {
            let (queue, database) = (queue.clone(), database.clone());
            tokio::spawn(async move {
                loop {
                    queue.bell.notified().await;
                    let (batches, database) = (queue.clone(), database.clone());
                    let failed = match tokio::spawn(async move { answer(&batches, &database).await }).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
                        Err(panic) => panic.to_string(),
                    };
                    tracing::warn!("a look-up of sessions failed: {failed}");
                    // The next batch starts fresh, and at once if somebody waits for it.
                    queue.bell.notify_one();
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
        let Ok(Ok(row)) = timeout(DEADLINE, answered).await else {
            return Err(Error::Unavailable(anyhow!("the look-up of a session was not answered")));
        };
        error::note_statement();
        Ok(row)
    }
}

impl Queue {
    fn batch(&self) -> Vec<Waiter> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiters.len().min(session::MOST_AT_ONCE);
        waiters.drain(..first).collect()
    }
}

/// Answers batch after batch on one connection, until none has come for [`REST`]. An error drops the batch it struck,
/// which tells its waiters.
async fn answer(queue: &Queue, database: &Database) -> Result<()> {
    let mut batch = queue.batch();
    let mut connection = within_deadline(database.connection()).await?;
    loop {
        if !batch.is_empty() {
            let hashes: Vec<&TokenHash> = batch.iter().map(|waiter| &waiter.token_hash).collect();
            let rows = within_deadline(session::rows(&mut connection, &hashes)).await?;
            for Waiter { token_hash, answer } in batch {
                // Who has hung up hears nothing, and nobody else minds.
                let _ = answer.send(rows.iter().find(|row| row.token_hash == token_hash).cloned());
            }
        } else if timeout(REST, queue.bell.notified()).await.is_err() {
            connection.release();
            return Ok(());
        }
        // Whoever is about to ask gets the time to do so.
        yield_now().await;
        batch = queue.batch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{TestApp, Visitor};
    use futures_util::future::join_all;

    async fn crowd(app: &TestApp, people: usize) -> Vec<Visitor> {
        join_all((0..people).map(async |number| app.person(&format!("p{number}")).await)).await
    }

    #[tokio::test]
    async fn many_who_ask_at_once_are_answered_by_few_queries_each_with_their_own_name() {
        let app = TestApp::new().await;
        let crowd = crowd(&app, 40).await;
        let stranger = app.visitor().with_cookie("session_token", &"A".repeat(43));
        let before = app.statements();
        let everybody = crowd.iter().enumerate().map(async |(number, person)| {
            let name = format!("p{number}");
            join_all((0..5).map(|_| person.assert_is(&name))).await;
        });
        tokio::join!(join_all(everybody), stranger.assert_is("nobody"));
        let queries = app.statements() - before;
        assert!(queries <= 20, "{queries} queries for 201 requests");
    }

    #[tokio::test]
    async fn whoever_hangs_up_cancels_nobody() {
        let app = TestApp::new().await;
        let crowd = crowd(&app, 20).await;
        for _ in 0..20 {
            let requests = crowd.iter().enumerate().map(async |(number, person)| {
                if number % 2 == 0 {
                    let _ = timeout(Duration::from_micros(50), person.get("/whoami")).await;
                } else {
                    person.assert_is(&format!("p{number}")).await;
                }
            });
            join_all(requests).await;
        }
    }

    #[tokio::test]
    async fn a_session_that_has_ended_is_dead_to_whoever_asks_afterwards() {
        let app = TestApp::new().await;
        let crowd = crowd(&app, 10).await;
        let busy = crowd.clone();
        let noise = tokio::spawn(async move {
            loop {
                join_all(busy.iter().map(|person| person.get("/whoami"))).await;
            }
        });
        for _ in 0..50 {
            let ada = app
                .person(
                    &crate::token::Token::random().unwrap().text().to_lowercase().replace(['-', '_'], "")
                        [..20],
                )
                .await;
            app.execute("delete from sessions where id = (select max(id) from sessions)").await;
            ada.assert_is("nobody").await;
        }
        noise.abort();
    }
}
