//! Devices: the browsers that a user has logged in with before.
//!
//! A completed log-in sets the cookie `device` to a token. It grants no access. It only shows at the next log-in that
//! this browser is known, so that attackers who guess passwords cannot lock the owner out.

use crate::base::{Result, Token, Tokens};
use crate::db::{Connection, new_id, now};
use std::time::Duration;

/// How long a device is remembered after its last log-in.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The id of the device with one of these tokens that this user has logged in with.
pub async fn find(db: &mut Connection, tokens: &Tokens, user_id: &str) -> Result<Option<String>> {
    let sql = "select max(id) from devices where token_hash in ($1, $2, $3, $4) and user_id = $5";
    let [a, b, c, d] = tokens.hashes();
    let query = sqlx::query_scalar(sql).bind(a).bind(b).bind(c).bind(d);
    Ok(query.bind(user_id).fetch_one(db).await?)
}

/// A device that a user has just logged in with.
pub struct RememberedDevice {
    pub id: String,
    pub token: Token,
    /// Whether the user had logged in before, and never with this browser.
    pub is_new: bool,
}

/// Remembers that a user has logged in with a device, and replaces its `old` tokens by a new one, so that an attacker
/// cannot plant a token in another browser. The `kept` most recently used devices are kept.
pub async fn remember(db: &mut Connection, old: &Tokens, user_id: &str, kept: i64) -> Result<RememberedDevice> {
    let (is_new, token) = (is_new(db, old, user_id).await?, Token::random()?);
    if !old.is_empty() {
        let sql = "update devices set token_hash = $5 where id in \
                   (select max(id) from devices where token_hash in ($1, $2, $3, $4) group by user_id)";
        let [a, b, c, d] = old.hashes();
        let query = sqlx::query(sql).bind(a).bind(b).bind(c).bind(d);
        query.bind(token.hash().to_vec()).execute(&mut *db).await?;
    }
    let sql = "insert into devices (id, token_hash, user_id, seen_at) values ($1, $2, $3, $4) \
               on conflict (token_hash, user_id) do update set seen_at = $4 returning id";
    let query = sqlx::query_scalar(sql).bind(new_id()).bind(token.hash().to_vec()).bind(user_id).bind(now());
    let id = query.fetch_one(&mut *db).await?;
    let sql = "delete from devices where user_id = $1 and id not in \
               (select id from devices where user_id = $1 order by seen_at desc, id desc limit $2)";
    sqlx::query(sql).bind(user_id).bind(kept).execute(db).await?;
    Ok(RememberedDevice { id, token, is_new })
}

async fn is_new(db: &mut Connection, tokens: &Tokens, user_id: &str) -> Result<bool> {
    let sql = "select token_hash from devices where user_id = $1";
    let known: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(user_id).fetch_all(db).await?;
    let hashes = tokens.hashes();
    Ok(!known.is_empty() && !known.iter().any(|known| hashes.contains(known)))
}

pub async fn delete(db: &mut Connection, id: &str) -> Result<()> {
    sqlx::query("delete from devices where id = $1").bind(id).execute(db).await?;
    Ok(())
}

/// Deletes the user's devices that have no session, so that at most one is left after all other sessions have ended.
/// Returns how many there were.
pub async fn delete_without_session(db: &mut Connection, user_id: &str) -> Result<u64> {
    let sql = "delete from devices where user_id = $1 and not exists \
               (select 1 from sessions s where s.device_id = devices.id and s.user_id = $1)";
    Ok(sqlx::query(sql).bind(user_id).execute(db).await?.rows_affected())
}

/// Deletes devices that were last used at `$1` or before.
pub const PURGE: &str =
    "delete from devices where seen_at <= $1 and id in (select id from devices where seen_at <= $1 limit 1000)";
