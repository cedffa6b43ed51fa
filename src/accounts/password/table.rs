//! The table of password hashes. A user without a row has no password.

use crate::accounts::address::Email;
use crate::accounts::event::Event;
use crate::accounts::user::{User, Username};
use crate::base::Result;
use crate::db::{Connection, DbRow};
use sqlx::{FromRow, Row};

pub const CHANGED: Event = Event::named("password_changed", "Password changed")
    .with_notice("Your password was changed", "Your old password no longer works.");
pub const RESET: Event = Event::named("password_reset", "New password chosen with a link")
    .with_notice("A new password was chosen", "It was set without the old one, which no longer works.");

/// A query for the number of passwords, one or none, of the user with the id `$1`.
pub const COUNT: &str = "select count(*) from passwords where user_id = $1";

/// A user and the hash of the password.
pub struct Account {
    pub user: User,
    pub hash: String,
}

impl FromRow<'_, DbRow> for Account {
    fn from_row(row: &DbRow) -> sqlx::Result<Account> {
        Ok(Account { user: User::from_row(row)?, hash: row.try_get("hash")? })
    }
}

/// The normal form of what was typed as a username or e-mail address, whether or not it exists.
pub fn normalize(name: &str) -> String {
    Email::parse(name).map_or_else(|_| name.to_ascii_lowercase(), |email| email.as_str().to_string())
}

/// The account with this username or confirmed e-mail address, unless it is disabled or has no password.
pub async fn find(db: &mut Connection, name: &str) -> Result<Option<Account>> {
    let (sql, name) = match (Username::parse(name), Email::parse(name)) {
        (Ok(username), _) => (BY_USERNAME, username.as_str().to_string()),
        (_, Ok(email)) => (BY_EMAIL, email.as_str().to_string()),
        _ => return Ok(None),
    };
    Ok(sqlx::query_as(sql).bind(name).fetch_optional(db).await?)
}

const BY_USERNAME: &str = "select u.id as user_id, u.username, p.hash from users u join passwords p on p.user_id = u.id \
     where u.username = $1 and u.disabled_at is null";

const BY_EMAIL: &str = "select u.id as user_id, u.username, p.hash from addresses a join users u on u.id = a.user_id \
     join passwords p on p.user_id = u.id \
     where a.email = $1 and a.confirmed_at is not null and u.disabled_at is null";

/// When the user last chose a password after signing up, as far as events are kept.
pub async fn changed_at(db: &mut Connection, user_id: &str) -> Result<Option<i64>> {
    let sql = "select max(created_at) from events where user_id = $1 and kind in ($2, $3)";
    let query = sqlx::query_scalar(sql).bind(user_id).bind(CHANGED.kind).bind(RESET.kind);
    Ok(query.fetch_one(db).await?)
}

pub async fn hash_of(db: &mut Connection, user_id: &str) -> Result<Option<String>> {
    let sql = "select hash from passwords where user_id = $1";
    Ok(sqlx::query_scalar(sql).bind(user_id).fetch_optional(db).await?)
}

pub async fn set(db: &mut Connection, user_id: &str, hash: &str) -> Result<()> {
    let sql = "insert into passwords (user_id, hash) values ($1, $2) on conflict (user_id) do update set hash = $2";
    sqlx::query(sql).bind(user_id).bind(hash).execute(db).await?;
    Ok(())
}

/// Replaces a hash. Returns whether the user still had the old one.
pub async fn replace(db: &mut Connection, user_id: &str, old: &str, new: &str) -> Result<bool> {
    let sql = "update passwords set hash = $1 where user_id = $2 and hash = $3";
    let replaced = sqlx::query(sql).bind(new).bind(user_id).bind(old).execute(db).await?;
    Ok(replaced.rows_affected() > 0)
}

pub async fn remove(db: &mut Connection, user_id: &str) -> Result<()> {
    sqlx::query("delete from passwords where user_id = $1").bind(user_id).execute(db).await?;
    Ok(())
}
