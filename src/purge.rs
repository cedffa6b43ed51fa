//! What has expired is deleted, now and then and a little at a time. Every replica may do it at any moment: a row that
//! another has deleted is simply not there any more.

use crate::app::App;
use crate::database::{Connection, now};
use crate::error::Result;
use crate::{device, event, session, throttle};
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
