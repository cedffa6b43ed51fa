//! The table `tokens`: all secrets that expire and are stored as hashes. Links in mails, pending log-ins, and whatever
//! else features issue for a limited time.

use crate::base::Result;
use crate::db::{Connection, now};
use std::time::Duration;

/// A token that is about to be stored. Only the purpose and the lifetime are required.
#[derive(Default)]
pub struct NewToken<'a> {
    /// Its purpose. A token for one purpose is invalid for any other.
    pub purpose: &'a str,
    pub lifetime: Duration,
    pub user_id: Option<&'a str>,
    pub email: Option<&'a str>,
    pub event_id: Option<&'a str>,
    /// The hash of something that must be presented with it, such as the browser's own token.
    pub binding: Option<Vec<u8>>,
    /// Whatever is needed when it is used.
    pub data: Option<&'a str>,
}

pub async fn insert(db: &mut Connection, hash: &[u8], new: NewToken<'_>) -> Result<()> {
    let sql = "insert into tokens (token_hash, purpose, user_id, email, event_id, binding, data, wrong, expires_at) \
               values ($1, $2, $3, $4, $5, $6, $7, 0, $8)";
    let query = sqlx::query(sql).bind(hash).bind(new.purpose).bind(new.user_id).bind(new.email);
    let query = query.bind(new.event_id).bind(new.binding).bind(new.data);
    query.bind(now() + new.lifetime.as_secs() as i64).execute(db).await?;
    Ok(())
}

/// Deletes a token that has a binding, and returns its data. Of several requests at once, only one gets it.
pub async fn take(db: &mut Connection, hash: &[u8], purpose: &str, binding: &[u8]) -> Result<Option<String>> {
    let sql = "delete from tokens where token_hash = $1 and purpose = $2 and binding = $3 and expires_at > $4 \
               returning data";
    let query = sqlx::query_scalar(sql).bind(hash).bind(purpose).bind(binding).bind(now());
    Ok(query.fetch_optional(db).await?)
}

/// Deletes a token. Returns whether it existed and had not expired.
pub async fn delete(db: &mut Connection, hash: &[u8], purpose: &str) -> Result<bool> {
    let sql = "delete from tokens where token_hash = $1 and purpose = $2 and expires_at > $3";
    let deleted = sqlx::query(sql).bind(hash).bind(purpose).bind(now()).execute(db).await?;
    Ok(deleted.rows_affected() > 0)
}

/// Deletes all of a user's tokens for this purpose, and returns how many there were.
pub async fn delete_all(db: &mut Connection, user_id: &str, purpose: &str) -> Result<u64> {
    let sql = "delete from tokens where user_id = $1 and purpose = $2";
    Ok(sqlx::query(sql).bind(user_id).bind(purpose).execute(db).await?.rows_affected())
}

/// Deletes expired tokens; `$1` is the time.
pub const PURGE: &str =
    "delete from tokens where token_hash in (select token_hash from tokens where expires_at <= $1 limit 1000)";

/// Corrects tokens that were stored while a clock was ahead; `$1` is the latest possible time.
pub const CORRECT: &str = "update tokens set expires_at = $1 where expires_at > $1 and token_hash in \
     (select token_hash from tokens where expires_at > $1 limit 1000)";
