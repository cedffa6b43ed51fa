//! When and by which browser a session was last used, written in the background.

use super::row::SessionRow;
use crate::accounts::client::Client;
use crate::accounts::event::{self, Event};
use crate::base::{Rate, Result, explain};
use crate::db::Database;
use crate::db::clock::SKEW;
use crate::db::rate_limit::{self, Key};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub const OTHER_BROWSER: Event = Event::named("other_browser", "Session used by another browser");

/// How often the event is recorded for one session, so that two browsers that alternate do not fill the list.
const OTHER_BROWSER_RATE: Rate = Rate { times: 5, per: Duration::from_secs(60 * 60) };

/// How old `seen_at` may get before it is written again: far less than the idle time, but not a write for every page.
pub fn interval(idle: Duration) -> Duration {
    (idle / 4).clamp(Duration::from_secs(1), Duration::from_secs(60))
}

/// Writes `seen_at`, once for all requests that find it outdated at the same time.
#[derive(Clone)]
pub struct LastSeen {
    db: Database,
    /// The sessions that are being written.
    writing: Arc<Mutex<HashSet<String>>>,
}

impl LastSeen {
    pub fn new(db: &Database) -> LastSeen {
        LastSeen { db: db.clone(), writing: Arc::default() }
    }

    /// Writes in the background that `client` has used the session at the time `now`.
    pub fn update(&self, row: &SessionRow, client: &Client, other_browser: bool, now: i64) {
        let id = row.session.id.clone();
        if !self.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return;
        }
        let (last_seen, row, client) = (self.clone(), row.clone(), client.clone());
        tokio::spawn(async move {
            if let Err(error) = last_seen.write(&row, &client, other_browser, now).await {
                tracing::warn!("last use of a session could not be saved: {}", explain(&anyhow::Error::from(error)));
            }
            last_seen.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    async fn write(&self, row: &SessionRow, client: &Client, other_browser: bool, now: i64) -> Result<()> {
        let write = self.db.write_relaxed(async |db| {
            let sql = "update sessions set seen_at = $1, device = $2, address = $3, \
                       created_at = case when created_at > $1 then $1 else created_at end \
                       where id = $4 and device = $5 and (seen_at <= $1 or seen_at > $1 + $6)";
            let query = sqlx::query(sql).bind(now).bind(&*client.user_agent).bind(client.address.to_string());
            let query = query.bind(&*row.session.id).bind(&*row.device).bind(SKEW.as_secs() as i64);
            let written = query.execute(&mut *db).await?;
            let key = Key::new("other_browser", &row.session.id);
            if other_browser
                && written.rows_affected() > 0
                && rate_limit::try_take(db, &key, OTHER_BROWSER_RATE).await?
            {
                event::record(db, &*row.session.user.id, OTHER_BROWSER.by(client)).await?;
            }
            Ok(())
        });
        write.await
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::test::TestApp;
    use std::time::Instant;

    /// Waits until `seen_at` is saved, which happens after the answer.
    pub async fn until_saved(app: &TestApp) {
        let started = Instant::now();
        while app.count("select count(*) from sessions where seen_at < created_at").await > 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "seen_at was never saved");
        }
    }

    #[tokio::test]
    async fn last_use_is_saved_when_the_saved_time_is_old_and_not_for_every_page() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let before = app.statements();
        ada.assert_is("ada").await;
        ada.assert_is("ada").await;
        assert_eq!(app.statements() - before, 2);
        app.execute("update sessions set seen_at = seen_at - 61").await;
        ada.assert_is("ada").await;
        until_saved(&app).await;
    }

    #[tokio::test]
    async fn two_browsers_that_take_turns_in_a_session_are_recorded_five_times_an_hour() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let browsers = [
            ("curl/8", "select count(*) from sessions where device = 'curl/8'"),
            ("Firefox/145", "select count(*) from sessions where device = 'Firefox/145'"),
        ];
        for (browser, saved) in browsers.iter().cycle().take(12) {
            // It is saved after the answer.
            while app.count(saved).await == 0 {
                ada.get_with("/whoami", &[("user-agent", browser)]).await.assert_body("ada");
            }
        }
        assert_eq!(app.count("select count(*) from events where kind = 'other_browser'").await, 5);
    }
}
