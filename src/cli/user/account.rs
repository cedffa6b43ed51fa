//! [`Account`]: a user as commands find and print one, disabled or not.

use crate::accounts::Username;
use crate::db::{Connection, Database, DbRow};
use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use sqlx::{FromRow, Row};

#[derive(Serialize)]
pub struct Account {
    pub id: String,
    pub username: String,
    /// In seconds since 1970, as the next one.
    pub created_at: i64,
    pub disabled_at: Option<i64>,
}

impl FromRow<'_, DbRow> for Account {
    fn from_row(row: &DbRow) -> sqlx::Result<Account> {
        Ok(Account {
            id: row.try_get("id")?,
            username: row.try_get("username")?,
            created_at: row.try_get("created_at")?,
            disabled_at: row.try_get("disabled_at")?,
        })
    }
}

/// # Errors
/// When there is no such account; one sentence.
pub async fn find(db: &Database, name: &str) -> Result<Account> {
    let username = Username::parse(name).map_err(|sentence| anyhow!(sentence))?;
    let find = async |db: &mut Connection| {
        let sql = "select id, username, created_at, disabled_at from users where username = $1";
        Ok(sqlx::query_as(sql).bind(username.as_str()).fetch_optional(db).await?)
    };
    let found: Option<Account> = db.read(find).await?;
    found.with_context(|| format!("No user is called {username}."))
}
