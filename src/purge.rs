//! What has expired is deleted, now and then and a little at a time. Every replica may do it at any moment: a row that
//! another has deleted is simply not there any more.

use crate::app::App;
use crate::database::{Connection, now};
use crate::error::Result;
use crate::{device, event, half_way, mail, session, throttle, token};
use std::time::Duration;
use tokio::time::sleep;

/// Purges every `PURGE_EVERY`, for as long as the runtime lives.
pub async fn forever(app: App) {
    loop {
        sleep(app.config.purge_every).await;
        match purge(&app).await {
            Ok(rows) => tracing::debug!(rows, "purged"),
            Err(error) => tracing::warn!("the purge failed: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// Deletes what has expired, and answers how many rows that were.
pub async fn purge(app: &App) -> Result<u64> {
    let ago = |time: Duration| now() - time.as_secs() as i64;
    let core = [
        (session::PURGE_OLD, ago(app.config.session_lifetime)),
        (session::PURGE_IDLE, ago(app.config.session_idle)),
        (event::PURGE, ago(app.config.events_kept)),
        (throttle::PURGE, now()),
        (device::PURGE, now()),
        (token::PURGE, now()),
        (half_way::PURGE, now()),
        (mail::PURGE, now()),
    ];
    let features = app.features.iter().flat_map(|feature| feature.purge).map(|&sql| (sql, now()));
    let mut purged = 0;
    for (sql, time) in core.into_iter().chain(features) {
        loop {
            let some = async |db: &mut Connection| {
                Ok(sqlx::query(sql).bind(time).execute(db).await?.rows_affected())
            };
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
        assert_eq!(purge(&app.app).await.unwrap(), 4);
        ada.assert_is("ada").await;
        assert_eq!(purge(&app.app).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn limits_go_when_they_limit_nothing_any_more() {
        let app = TestApp::new().await;
        let key = |name| throttle::Key::new("test", name);
        let rate = "1/1h".parse().unwrap();
        let slow = app.app.config.password_slowdown;
        for name in ["over", "under way"] {
            app.app.db.write(async |db| throttle::take(db, &key(name), rate).await).await.unwrap();
        }
        app.execute("update limits set free_at = 1 where key = (select key from limits limit 1)").await;
        let attempt = async |db: &mut Connection| {
            throttle::attempt(db, &key("tried"), None, slow, throttle::milliseconds()).await
        };
        app.app.db.write(attempt).await.unwrap();
        assert_eq!(purge(&app.app).await.unwrap(), 1);
        app.execute("update limits set free_at = 1").await;
        assert_eq!(purge(&app.app).await.unwrap(), 2);
    }
}
