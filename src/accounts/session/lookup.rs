//! Batched session look-ups. While a query for sessions is running, new requests wait for the next one, which asks for
//! all of them at once. Nothing is cached: every answer comes from a query that started after its request, so a session
//! that has ended is invalid at once, on every replica.

use super::row::{self, SessionRow};
use crate::base::{Error, Result, Token, TokenHash, Tokens, explain};
use crate::db::database::{RESERVED, within_deadline};
use crate::db::request::add_statements;
use crate::db::{DEADLINE, Database};
use anyhow::anyhow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long an idle worker keeps its connection.
const IDLE: Duration = Duration::from_secs(1);

/// How many may wait. Others get an error at once.
const MOST_WAITING: usize = 10_000;

struct Waiter {
    hashes: Vec<TokenHash>,
    answer: oneshot::Sender<Vec<SessionRow>>,
}

#[derive(Default)]
struct Queue {
    waiters: Mutex<Vec<Waiter>>,
    added: Notify,
}

#[derive(Clone)]
pub struct Lookup(Arc<Queue>);

impl Lookup {
    /// Starts the workers, which run as long as the runtime.
    pub fn start(database: &Database) -> Lookup {
        let queue = Arc::new(Queue::default());
        // More than one, so that a stalled connection does not stop everything.
        for _ in 0..RESERVED {
            tokio::spawn(supervise(queue.clone(), database.clone()));
        }
        Lookup(queue)
    }

    /// The sessions with these tokens and their users, in the same order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be reached or [`DEADLINE`] has passed.
    pub async fn find(&self, tokens: &Tokens) -> Result<Vec<SessionRow>> {
        let hashes = tokens.iter().map(Token::hash).collect();
        let (answer, answered) = oneshot::channel();
        {
            let mut waiters = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            if waiters.len() >= MOST_WAITING {
                return Err(Error::Unavailable(anyhow!("too many requests are waiting for their sessions")));
            }
            waiters.push(Waiter { hashes, answer });
        }
        self.0.added.notify_one();
        let Ok(Ok(rows)) = timeout(DEADLINE, answered).await else {
            return Err(Error::Unavailable(anyhow!("the look-up of a session was not answered")));
        };
        add_statements(1);
        Ok(rows)
    }
}

/// Runs a worker whenever there is something to look up, and restarts it after a failure.
async fn supervise(queue: Arc<Queue>, database: Database) {
    loop {
        queue.added.notified().await;
        let (batches, database) = (queue.clone(), database.clone());
        let failure = match tokio::spawn(async move { work(&batches, &database).await }).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => explain(&anyhow::Error::from(error)),
            Err(panic) => panic.to_string(),
        };
        tracing::warn!("a look-up of sessions failed: {failure}");
        // The next batch starts afresh, at once if a request is waiting.
        if queue.has_waiters() {
            queue.added.notify_one();
        }
    }
}

/// Looks up batches on one connection, until none has come for [`IDLE`]. An error drops its batch, which notifies the
/// waiters.
async fn work(queue: &Queue, database: &Database) -> Result<()> {
    let mut batch = queue.next_batch();
    let mut connection = within_deadline(database.reserved_connection()).await?;
    loop {
        if connection.is_doubtful() {
            connection.release();
            connection = within_deadline(database.reserved_connection()).await?;
        }
        if !batch.is_empty() {
            let hashes: Vec<&TokenHash> = batch.iter().flat_map(|waiter| &waiter.hashes).collect();
            let found = within_deadline(row::find_all(&mut connection, &hashes)).await;
            let rows = found.inspect_err(|error| database.observe(error))?;
            for Waiter { hashes, answer } in batch {
                let row = |hash: &TokenHash| rows.iter().find(|row| row.session.token_hash == *hash).cloned();
                // A client that has disconnected is no longer waiting.
                let _ = answer.send(hashes.iter().filter_map(row).collect());
            }
        } else if timeout(IDLE, queue.added.notified()).await.is_err() {
            connection.release();
            return Ok(());
        }
        // Lets requests that are ready join the next batch.
        yield_now().await;
        batch = queue.next_batch();
    }
}

impl Queue {
    fn has_waiters(&self) -> bool {
        !self.waiters.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn next_batch(&self) -> Vec<Waiter> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // These have given up, most likely because the database was unavailable.
        waiters.retain(|waiter| !waiter.answer.is_closed());
        let mut room = row::MOST_AT_ONCE;
        let fits = |waiter: &&Waiter| match room.checked_sub(waiter.hashes.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let length = waiters.iter().take_while(fits).count();
        waiters.drain(..length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Token;
    use crate::test::{TestApp, Visitor};
    use futures_util::future::join_all;

    async fn crowd(app: &TestApp, people: usize) -> Vec<Visitor> {
        join_all((0..people).map(async |number| app.person(&format!("p{number}")).await)).await
    }

    #[tokio::test]
    async fn many_requests_at_once_take_few_queries_and_each_user_gets_their_own_name() {
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
    async fn a_client_that_disconnects_cancels_nobody_elses_request() {
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
    async fn a_session_that_has_ended_is_invalid_for_every_later_request() {
        let app = TestApp::new().await;
        let crowd = crowd(&app, 10).await;
        let busy = crowd.clone();
        let noise = tokio::spawn(async move {
            loop {
                join_all(busy.iter().map(|person| person.get("/whoami"))).await;
            }
        });
        for _ in 0..50 {
            let name = Token::random().unwrap().text().to_lowercase().replace(['-', '_'], "");
            let ada = app.person(&name[..20]).await;
            // Requests that come just before the end, and with it, may still be hers.
            ada.assert_is(&name[..20]).await;
            let end = app.execute("delete from sessions where id = (select max(id) from sessions)");
            tokio::join!(ada.get("/whoami"), end);
            ada.assert_is("nobody").await;
        }
        noise.abort();
    }
}
