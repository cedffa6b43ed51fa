//! When and by which browser a session was last seen: noted off the request's path.

use crate::app::App;
use crate::config::Config;
use crate::event::{self, Event};
use crate::guard::Client;
use crate::session::Row;
use crate::throttle::{self, Key, Rate};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How stale `seen_at` may grow: little beside the idle time, and not a write for every page.
pub fn every(config: &Config) -> Duration {
    (config.session_idle / 4).clamp(Duration::from_secs(1), Duration::from_secs(60))
}

/// The sessions whose `seen_at` is being written.
#[derive(Clone, Default)]
pub struct BeingSeen(Arc<Mutex<HashSet<String>>>);

impl BeingSeen {
    /// Whether nobody else is at it.
    fn begin(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_string())
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Writes when and by which browser a session was seen, off the request's path and once for all requests that find the
/// row stale at the same time.
pub fn note(app: &App, row: &Row, client: &Client, elsewhere: bool, now: i64) {
    if !app.being_seen.begin(&row.id) {
        return;
    }
    let (app, row, client) = (app.clone(), row.clone(), client.clone());
    tokio::spawn(async move {
        let noted = app.db.note(async |db| {
            let sql = "update sessions set seen_at = $1, device = $2, address = $3 \
                       where id = $4 and device = $5 and seen_at <= $1";
            let query = sqlx::query(sql).bind(now).bind(client.device()).bind(client.address.to_string());
            let noted = query.bind(&*row.id).bind(&*row.device).execute(&mut *db).await?;
            // Two browsers that take turns are told of now and then, not at each turn.
            let key = Key::new("other_browser", &row.id);
            if elsewhere && noted.rows_affected() > 0 && throttle::take(db, &key, TOLD).await.is_ok() {
                event::record(db, &*row.user.id, Event::OtherBrowser, &client).await?;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(
                "when a session was last seen could not be written: {:#}",
                anyhow::Error::from(error)
            );
        }
        app.being_seen.end(&row.id);
    });
}

/// How often somebody is told that a session of theirs is used by another browser.
const TOLD: Rate = Rate { times: 5, per: Duration::from_secs(60 * 60) };
