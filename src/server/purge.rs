//! Deletes expired rows, and corrects rows that were written while a clock was ahead, a few at a time, with pauses for
//! other writes. Replicas can purge at the same time: a row that another has deleted is simply gone.

use crate::accounts::{device, event, invitation, recovery_code, session::lifecycle, setup_link, stored_token};
use crate::base::{Config, Result, explain};
use crate::db::clock::SKEW;
use crate::db::{Connection, Database, ago, idempotency, now, rate_limit};
use crate::mail::outbox;
use crate::web::App;
use std::time::Duration;
use tokio::time::sleep;

/// Purges every `PURGE_EVERY`, as long as the runtime lives.
pub async fn run(app: App) {
    loop {
        sleep(app.config.purge_every).await;
        // Failures are already in the log.
        if let Ok(rows) = purge(&app).await {
            tracing::debug!(rows, "purged");
        }
    }
}

/// The time between two deletes. SQLite's lock is not fair: a process that took it again at once would keep others from
/// writing, such as the running site during `latchkey purge`.
const PAUSE: Duration = Duration::from_millis(50);

/// Deletes expired rows, and returns how many there were.
///
/// # Errors
/// The last error, after everything else was purged.
pub async fn purge(app: &App) -> anyhow::Result<u64> {
    purge_database(&app.db, &app.config, &app.features.purge).await
}

/// Like [`purge`], without an app; `features` are the statements of the features.
///
/// # Errors
/// As [`purge`].
pub async fn purge_database(db: &Database, config: &Config, features: &[&'static str]) -> anyhow::Result<u64> {
    let (mut purged, mut failure) = (0, None);
    for (sql, time) in statements(config, features) {
        match purge_all(db, sql, time).await.map_err(anyhow::Error::from) {
            Ok(rows) => purged += rows,
            Err(error) => {
                tracing::warn!(sql, "a part of the purge failed: {}", explain(&error));
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(purged), Err)
}

/// Statements that each delete some rows, with the time for each.
fn statements(config: &Config, features: &[&'static str]) -> Vec<(&'static str, i64)> {
    let core = [
        (lifecycle::PURGE_OLD, ago(config.session_lifetime)),
        (lifecycle::PURGE_IDLE, ago(config.session_idle)),
        (event::PURGE, ago(config.events_kept)),
        (rate_limit::PURGE, now()),
        (rate_limit::PURGE_ATTEMPTS, now()),
        (invitation::PURGE, now()),
        (device::PURGE, ago(device::LIFETIME)),
        (stored_token::PURGE, now()),
        (recovery_code::PURGE_SHOWN, ago(recovery_code::SHOWN_FOR)),
        (idempotency::PURGE, now()),
        (outbox::PURGE, now()),
        (lifecycle::CORRECT, now() + SKEW.as_secs() as i64),
        (stored_token::CORRECT, now() + (longest_token_lifetime(config) + SKEW).as_secs() as i64),
    ];
    let features = features.iter().map(|&sql| (sql, now()));
    core.into_iter().chain(features).collect()
}

fn longest_token_lifetime(config: &Config) -> Duration {
    let lifetimes = [config.reset_lifetime, config.verify_lifetime, config.undo_lifetime, config.login_lifetime];
    lifetimes.into_iter().fold(setup_link::LIFETIME, Duration::max)
}

/// Repeats a statement until no rows are left to delete.
async fn purge_all(db: &Database, sql: &'static str, time: i64) -> Result<u64> {
    let mut purged = 0;
    loop {
        let some = async |db: &mut Connection| Ok(sqlx::query(sql).bind(time).execute(db).await?.rows_affected());
        let rows = db.write(some).await?;
        if rows == 0 {
            return Ok(purged);
        }
        purged += rows;
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::now_in_milliseconds;
    use crate::features::Feature;
    use crate::test::TestApp;
    use std::time::Instant;

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
            "update tokens set expires_at = (select created_at from users) + 600 where token_hash = 'valid'",
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
    async fn what_was_written_while_a_clock_was_ahead_lasts_no_longer_than_anything_else_from_then_on() {
        let app = TestApp::new().await;
        app.set_clock_ahead(50 * 365 * 86_400);
        app.person("ada").await;
        app.execute("insert into tokens (token_hash, purpose, expires_at) values ('link', 'test', 9999999999)").await;
        app.set_clock_ahead(0);
        purge(&app.app).await.unwrap();
        let sessions = "select count(*) from sessions";
        assert_eq!(app.count(sessions).await, 1);
        app.set_clock_ahead(9 * 86_400);
        purge(&app.app).await.unwrap();
        assert_eq!(app.count(sessions).await, 0);
        assert_eq!(app.count("select count(*) from tokens").await, 0);
    }

    #[tokio::test]
    async fn a_part_of_the_purge_that_fails_does_not_stop_the_others() {
        let broken = Feature { purge: &["delete from nowhere where 1 <= $1"], ..Feature::named("broken") };
        let whole = Feature { purge: &["delete from leftovers where made_at <= $1"], ..Feature::named("whole") };
        let app = TestApp::with_features(&[], |features| features.extend([broken, whole])).await;
        app.execute("create table leftovers (made_at bigint not null)").await;
        app.execute("insert into leftovers values (1), (2)").await;
        let failure = purge(&app.app).await.expect_err("there is no table of this name");
        assert!(format!("{failure:#}").contains("nowhere"), "{failure:#}");
        assert_eq!(app.count("select count(*) from leftovers").await, 0);
    }

    /// A search through whole tables would keep others from writing for as long.
    #[tokio::test]
    async fn what_has_expired_is_found_by_an_index_of_its_time() {
        let app = TestApp::new().await;
        for (sql, _) in statements(&app.app.config, &app.app.features.purge) {
            let Some(plan) = app.query_plan(sql).await else { return };
            assert!(plan.contains("_at<?)") || plan.contains("_at>?)"), "{sql}\n{plan}");
            assert!(!plan.contains("SCAN"), "{sql}\n{plan}");
        }
    }

    #[tokio::test]
    async fn a_thousand_rows_are_deleted_at_a_time_and_other_processes_write_in_between() {
        let app = TestApp::new().await;
        for (sql, _) in statements(&app.app.config, &app.app.features.purge) {
            assert!(sql.ends_with(" limit 1000)"), "{sql} deletes more");
        }
        app.execute(
            "insert into tokens (token_hash, purpose, expires_at) \
             with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 20000) \
             select cast(cast(n as text) as bytea), 'test', 1 from numbers",
        )
        .await;
        let other = Database::open(&app.app.config).await.unwrap();
        let write = async |db: &mut Connection| Ok(sqlx::query("update salts set name = name").execute(db).await?);
        let writing = async {
            let mut writes = 0;
            while app.count("select count(*) from tokens").await > 0 {
                other.write(write).await.unwrap();
                writes += 1;
            }
            writes
        };
        let started = Instant::now();
        let (purged, writes) = tokio::join!(purge(&app.app), writing);
        assert_eq!(purged.unwrap(), 20000);
        assert!(started.elapsed() >= 19 * PAUSE, "{:?}", started.elapsed());
        assert!(writes >= 10, "only {writes} writes between 20 deletes");
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
