//! The tasks of requests that may change something. Each runs in one of its own, so that a client that disconnects does
//! not stop it half-way.

use crate::base::{Error, Result};
use crate::db::request::{self, Requester, add_statements, run_until};
use anyhow::anyhow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::Instrument;

/// How many run at once. Clients that disconnect make no room for others.
const MOST: usize = 2_000;

pub struct RequestTasks(Arc<Semaphore>);

impl Default for RequestTasks {
    fn default() -> RequestTasks {
        RequestTasks(Arc::new(Semaphore::new(MOST)))
    }
}

impl RequestTasks {
    /// Answers within `limit`. A transaction that is open then still comes to its end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many requests that may change something are under way, or the time has passed.
    ///
    /// # Panics
    /// When `handler` does.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        handler: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let busy = |_| Error::Unavailable(anyhow!("{MOST} requests that may change something are under way"));
        let permit = self.0.clone().try_acquire_owned().map_err(busy)?;
        let handler = request::run(Requester::current(), run_until(limit, handler));
        let handler = async move {
            let _permit = permit;
            handler.await
        };
        match timeout(limit, tokio::spawn(handler.in_current_span())).await {
            Ok(Ok((Some(answer), statements))) => {
                add_statements(statements);
                Ok(answer)
            }
            Ok(Err(failure)) if failure.is_panic() => resume_unwind(failure.into_panic()),
            _ => Err(too_slow()),
        }
    }

    /// Waits until none is under way.
    pub async fn finished(&self) {
        let _all = self.0.acquire_many(MOST as u32).await;
    }
}

pub fn too_slow() -> Error {
    Error::Unavailable(anyhow!("the handler took longer than HANDLER_TIMEOUT"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::TestApp;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use tokio::time::sleep;

    async fn rename(app: &TestApp, before: Duration, during: Duration) -> Result<()> {
        sleep(before).await;
        let rename = app.app.db.write(async |db| {
            sqlx::query("update users set username = 'bob'").execute(db).await?;
            sleep(during).await;
            Ok(())
        });
        rename.await
    }

    async fn is_renamed(app: &TestApp) -> bool {
        app.count("select count(*) from users where username = 'bob'").await == 1
    }

    /// Runs it for half a second at most, and returns whether it was too slow and what has become of it. The answer does not
    /// wait for the end of what is too slow.
    async fn run(before: u64, during: u64) -> (bool, bool) {
        let app = Arc::new(TestApp::new().await);
        app.person("ada").await;
        let (tasks, handler, done) = (RequestTasks::default(), app.clone(), Arc::new(AtomicBool::new(false)));
        let is_done = done.clone();
        let limit = Duration::from_millis(500);
        let handler = async move {
            let renamed = rename(&handler, Duration::from_millis(before), Duration::from_millis(during)).await;
            is_done.store(true, SeqCst);
            renamed
        };
        let answer = tasks.run(limit, handler).await;
        assert_ne!(answer.is_err(), done.load(SeqCst));
        tasks.finished().await;
        (answer.is_err(), is_renamed(&app).await)
    }

    #[tokio::test]
    async fn a_request_has_its_time_and_a_transaction_that_is_open_then_is_finished_and_none_is_begun() {
        assert_eq!(run(0, 0).await, (false, true));
        assert_eq!(run(0, 1000).await, (true, true));
        assert_eq!(run(1000, 0).await, (true, false));
    }

    #[tokio::test]
    async fn a_request_goes_on_when_its_client_hangs_up() {
        let app = Arc::new(TestApp::new().await);
        app.person("ada").await;
        let (tasks, handler) = (RequestTasks::default(), app.clone());
        let handler = async move { rename(&handler, Duration::from_millis(50), Duration::from_millis(50)).await };
        let hung_up = timeout(Duration::from_millis(10), tasks.run(Duration::from_secs(5), handler)).await;
        assert!(hung_up.is_err() && !is_renamed(&app).await);
        tasks.finished().await;
        assert!(is_renamed(&app).await);
    }
}
