//! Acts that happen once, although they are asked for twice. The first transaction of such a request takes the act's row,
//! so if it is rolled back, nothing is taken. `web/once.rs` says which requests ask for the same act.

use super::clock::{SKEW, now};
use super::connection::Connection;
use super::engine::DbRow;
use crate::base::{Error, Result, TokenHash};
use sqlx::{FromRow, Row};
use std::cell::Cell;

/// For how many seconds the same request counts as a repeat.
const LIFETIME: i64 = 10;

/// What has become of an act in one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    #[default]
    NotDone,
    Done,
    /// Another request has done it, or is about to.
    Repeated,
}

struct Act {
    hash: TokenHash,
    outcome: Cell<Outcome>,
}

tokio::task_local! {
    static ACT: Act;
}

/// Runs the work of a request that may do the act with this hash.
pub async fn run<T>(hash: TokenHash, work: impl Future<Output = T>) -> (T, Outcome) {
    let work = async { (work.await, ACT.with(|act| act.outcome.get())) };
    ACT.scope(Act { hash, outcome: Cell::default() }, work).await
}

/// Begins a transaction: takes the row of the request's act, if it has one and has not taken it before. On Postgres this
/// waits for the end of another transaction that has taken it; on SQLite transactions follow one another.
///
/// # Errors
/// [`Error::Repeated`] when another request has taken it.
pub async fn take(db: &mut Connection) -> Result<()> {
    let act = ACT.try_with(|act| (act.hash, act.outcome.get()));
    let Some((hash, _)) = act.ok().filter(|(_, outcome)| *outcome != Outcome::Done) else { return Ok(()) };
    // What expires later than that was written by a clock that was wrong.
    let sql = "insert into idempotency_keys (key_hash, expires_at) values ($1, $2) on conflict (key_hash) do update \
               set expires_at = $2, answer = null \
               where idempotency_keys.expires_at <= $3 or idempotency_keys.expires_at > $4";
    let query = sqlx::query(sql).bind(hash.to_vec()).bind(now() + LIFETIME).bind(now()).bind(latest());
    if query.execute(db).await?.rows_affected() > 0 {
        return Ok(());
    }
    set_outcome(Outcome::Repeated);
    Err(Error::Repeated)
}

/// The transaction that has taken the row was committed.
pub fn set_done() {
    set_outcome(Outcome::Done);
}

fn set_outcome(outcome: Outcome) {
    let _ = ACT.try_with(|act| act.outcome.set(outcome));
}

fn latest() -> i64 {
    now() + LIFETIME + SKEW.as_secs() as i64
}

/// An act that was done.
pub struct DoneAct {
    /// Sealed. `None` until its request is answered.
    pub answer: Option<Vec<u8>>,
    expires_at: i64,
}

impl DoneAct {
    /// Whether it was done so long ago that the same request means another act.
    pub fn has_expired(&self) -> bool {
        self.expires_at <= now() || self.expires_at > latest()
    }
}

impl FromRow<'_, DbRow> for DoneAct {
    fn from_row(row: &DbRow) -> sqlx::Result<DoneAct> {
        Ok(DoneAct { answer: row.try_get("answer")?, expires_at: row.try_get("expires_at")? })
    }
}

pub async fn find(db: &mut Connection, hash: &TokenHash) -> Result<Option<DoneAct>> {
    let sql = "select answer, expires_at from idempotency_keys where key_hash = $1";
    Ok(sqlx::query_as(sql).bind(hash.to_vec()).fetch_optional(db).await?)
}

/// Keeps the answer for repeats.
pub async fn set_answer(db: &mut Connection, hash: &TokenHash, answer: &[u8]) -> Result<()> {
    let sql = "update idempotency_keys set answer = $2 where key_hash = $1";
    sqlx::query(sql).bind(hash.to_vec()).bind(answer).execute(db).await?;
    Ok(())
}

/// Keeps the answer of an act that was done also for repeats with this hash.
pub async fn add_answer(db: &mut Connection, hash: &TokenHash, answer: &[u8]) -> Result<()> {
    let sql = "insert into idempotency_keys (key_hash, expires_at, answer) values ($1, $2, $3) \
               on conflict (key_hash) do nothing";
    sqlx::query(sql).bind(hash.to_vec()).bind(now() + LIFETIME).bind(answer).execute(db).await?;
    Ok(())
}

/// The act may be done again at once.
pub async fn forget(db: &mut Connection, hash: &TokenHash) -> Result<()> {
    sqlx::query("delete from idempotency_keys where key_hash = $1").bind(hash.to_vec()).execute(db).await?;
    Ok(())
}

/// Deletes what has expired at the time `$1`, and what a clock wrote that was ahead.
pub const PURGE: &str = "delete from idempotency_keys where key_hash in \
     (select key_hash from idempotency_keys where expires_at <= $1 or expires_at > $1 + 3600 limit 1000)";
