//! Pending log-ins: the first factor is verified and the second is not, so there is no session yet.

use super::stored_token::{self, NewToken};
use super::user::{self, User};
use crate::base::{Result, Token, Tokens};
use crate::db::{Connection, DbRow, now};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, Row};
use std::time::Duration;

const PURPOSE: &str = "login";

/// A log-in that waits for its second factor. As an argument of a handler whose route is `Access::PendingLogin`: the
/// pending log-in of this browser.
#[derive(Clone)]
pub struct PendingLogin {
    token_hash: Vec<u8>,
    pub user: User,
    pub choices: Choices,
}

/// The choices made with the first factor.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Choices {
    /// Whether the session outlives the browser.
    pub stay: bool,
    /// The path to go to afterwards.
    pub next: String,
}

impl FromRow<'_, DbRow> for PendingLogin {
    fn from_row(row: &DbRow) -> sqlx::Result<PendingLogin> {
        let choices = serde_json::from_str(row.try_get("data")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(PendingLogin { token_hash: row.try_get("token_hash")?, user: User::from_row(row)?, choices })
    }
}

/// The newest of those with these tokens.
pub async fn find(db: &mut Connection, tokens: &Tokens) -> Result<Option<PendingLogin>> {
    let sql = "select t.token_hash, t.data, u.id as user_id, u.username from tokens t join users u on u.id = t.user_id \
               where t.token_hash in ($1, $2, $3, $4) and t.purpose = $5 and t.expires_at > $6 and u.disabled_at is null \
               order by t.expires_at desc limit 1";
    let [a, b, c, d] = tokens.hashes();
    let query = sqlx::query_as(sql).bind(a).bind(b).bind(c).bind(d);
    Ok(query.bind(PURPOSE).bind(now()).fetch_optional(db).await?)
}

/// Starts a pending log-in, and returns the token for the browser's cookie.
pub async fn start(db: &mut Connection, user_id: &str, choices: &Choices, lifetime: Duration) -> Result<Token> {
    let token = Token::random()?;
    let data = serde_json::to_string(choices).context("choices are JSON")?;
    let new = NewToken { purpose: PURPOSE, user_id: Some(user_id), data: Some(&data), lifetime, ..NewToken::default() };
    stored_token::insert(db, &token.hash(), new).await?;
    Ok(token)
}

impl PendingLogin {
    /// Locks the user's row and this one, before a factor that works once is verified. Returns whether it still exists.
    pub async fn lock(&self, db: &mut Connection) -> Result<bool> {
        let sql = "update tokens set wrong = wrong where token_hash = $1 and purpose = $2";
        let query = sqlx::query(sql).bind(&*self.token_hash).bind(PURPOSE);
        Ok(user::lock(db, &self.user.id).await?.is_some() && query.execute(db).await?.rows_affected() > 0)
    }

    /// Deletes it. Returns whether it still existed: of several requests that complete it at once, only one does.
    pub async fn consume(&self, db: &mut Connection) -> Result<bool> {
        stored_token::delete(db, &self.token_hash, PURPOSE).await
    }

    /// Counts a wrong factor, and returns whether the log-in continues: after `most` it is deleted.
    pub async fn count_wrong(&self, db: &mut Connection, most: i64) -> Result<bool> {
        let sql = "update tokens set wrong = wrong + 1 where token_hash = $1 and purpose = $2 returning wrong";
        let query = sqlx::query_scalar(sql).bind(&*self.token_hash).bind(PURPOSE);
        let wrong: Option<i64> = query.fetch_optional(&mut *db).await?;
        let goes_on = wrong.is_some_and(|wrong| wrong < most);
        if !goes_on {
            self.consume(db).await?;
        }
        Ok(goes_on)
    }
}

pub async fn delete(db: &mut Connection, tokens: &Tokens) -> Result<()> {
    for token in tokens.iter() {
        stored_token::delete(db, &token.hash(), PURPOSE).await?;
    }
    Ok(())
}

/// Deletes all pending log-ins of this user, and returns how many there were.
pub async fn delete_all(db: &mut Connection, user_id: &str) -> Result<u64> {
    stored_token::delete_all(db, user_id, PURPOSE).await
}
