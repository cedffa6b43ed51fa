//! Deletes what has expired, a little at a time. Every replica may do it at any moment: a row that another has deleted is
//! simply not there any more.

use crate::accounts::{device, event, session::lifecycle, stored_token};
use crate::base::Result;
use crate::db::{Connection, ago, now, rate_limit};
use crate::mail::outbox;
use crate::web::App;
use tokio::time::sleep;

/// Purges every `PURGE_EVERY`, as long as the runtime lives.
pub async fn run(app: App) {
    loop {
        sleep(app.config.purge_every).await;
        match purge(&app).await {
            Ok(rows) => tracing::debug!(rows, "purged"),
            Err(error) => tracing::warn!("the purge failed: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// Deletes what has expired, and returns how many rows that was.
pub async fn purge(app: &App) -> Result<u64> {
    let core = [
        (lifecycle::PURGE_OLD, ago(app.config.session_lifetime)),
        (lifecycle::PURGE_IDLE, ago(app.config.session_idle)),
        (event::PURGE, ago(app.config.events_kept)),
        (rate_limit::PURGE, now()),
        (device::PURGE, ago(device::LIFETIME)),
        (stored_token::PURGE, now()),
        (outbox::PURGE, now()),
    ];
    let features = app.features.purge.iter().map(|&sql| (sql, now()));
    let mut purged = 0;
    for (sql, time) in core.into_iter().chain(features) {
        loop {
            let some = async |db: &mut Connection| Ok(sqlx::query(sql).bind(time).execute(db).await?.rows_affected());
            let rows = app.db.write(some).await?;
            purged += rows;
            if rows == 0 {
                break;
            }
        }
    }
    Ok(purged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::now_in_milliseconds;
    use crate::test::TestApp;

    #[tokio::test]
    async fn what_has_expired_goes_and_what_has_not_stays() {
        let app = TestApp::new().await;
        let ada = app.person("ada").await;
        let _old = app.browser_of("ada").await;
        app.execute("update sessions set created_at = 1 where id = (select max(id) from sessions)").await;
        let _idle = app.browser_of("ada").await;
        app.execute("update sessions set seen_at = 1 where id = (select max(id) from sessions)").await;
        app.execute("update events set created_at = 1 where kind = 'signed_up'").await;
        app.execute("update devices set seen_at = 1 where id = (select max(id) from devices)").await;
        for row in [
            "insert into mails (id, kind, email, about, created_at, due_at, attempts, failed_at) \
             values ('given up', 'test', 'ada@example.com', '', 1, 1, 9, 1)",
            "insert into mails (id, kind, email, about, created_at, due_at, attempts) \
             values ('waiting', 'test', 'ada@example.com', '', 1, 9999999999, 9)",
            "insert into tokens (token_hash, purpose, expires_at) values ('expired', 'test', 1)",
            "insert into tokens (token_hash, purpose, expires_at) values ('valid', 'test', 9999999999)",
        ] {
            app.execute(row).await;
        }
        assert_eq!(purge(&app.app).await.unwrap(), 6);
        ada.assert_is("ada").await;
        assert_eq!(app.count("select count(*) from mails where id = 'waiting'").await, 1);
        assert_eq!(app.count("select count(*) from tokens").await, 1);
        assert_eq!(purge(&app.app).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn limits_go_when_they_limit_nothing_any_more() {
        let app = TestApp::new().await;
        let key = |name| rate_limit::Key::new("test", name);
        let rate = "1/1h".parse().unwrap();
        let backoff = app.app.config.password_backoff;
        for name in ["over", "under way"] {
            app.app.db.write(async |db| rate_limit::take(db, &key(name), rate).await).await.unwrap();
        }
        app.execute("update limits set free_at = 1 where key = (select key from limits limit 1)").await;
        let attempt = async |db: &mut Connection| {
            rate_limit::attempt(db, &key("tried"), None, backoff, now_in_milliseconds()).await
        };
        app.app.db.write(attempt).await.unwrap();
        assert_eq!(purge(&app.app).await.unwrap(), 1);
        app.execute("update limits set free_at = 1").await;
        assert_eq!(purge(&app.app).await.unwrap(), 2);
    }
}
