//! The sessions of a user, for people to look at.

use crate::accounts::client::device_name;
use crate::base::{Config, Result};
use crate::db::{Connection, DbRow, ago};
use serde::Serialize;
use sqlx::{FromRow, Row};

/// A session as people see it.
#[derive(Serialize)]
pub struct ListedSession {
    pub id: String,
    /// What it was last used with.
    pub device: String,
    pub address: String,
    pub began: i64,
    pub seen: i64,
}

impl FromRow<'_, DbRow> for ListedSession {
    fn from_row(row: &DbRow) -> sqlx::Result<ListedSession> {
        Ok(ListedSession {
            id: row.try_get("id")?,
            device: device_name(row.try_get("device")?),
            address: row.try_get("address")?,
            began: row.try_get("created_at")?,
            seen: row.try_get("seen_at")?,
        })
    }
}

/// The user's sessions that have not expired, the one that was used last first.
pub async fn of_user(db: &mut Connection, config: &Config, user_id: &str) -> Result<Vec<ListedSession>> {
    let sql = "select id, device, address, created_at, seen_at from sessions \
               where user_id = $1 and created_at > $2 and seen_at > $3 order by seen_at desc, id desc";
    let query = sqlx::query_as(sql).bind(user_id).bind(ago(config.session_lifetime));
    Ok(query.bind(ago(config.session_idle)).fetch_all(db).await?)
}
