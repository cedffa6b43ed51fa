//! Links that make the first administrator. While a site has none, each start prints one; all of them work until there is
//! one.

use super::permission::{ADMIN, has_admin_besides, lock_admins};
use super::stored_token::{self, NewToken};
use crate::base::{Error, Result, Token};
use crate::db::{Connection, now};
use std::time::Duration;

const PURPOSE: &str = "setup";

pub const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The token of a new link. `None` if the site has an administrator.
pub async fn issue(db: &mut Connection) -> Result<Option<Token>> {
    if has_admin_besides(db, "").await? {
        return Ok(None);
    }
    let token = Token::random()?;
    stored_token::insert(db, &token.hash(), NewToken { purpose: PURPOSE, lifetime: LIFETIME, ..NewToken::default() })
        .await?;
    Ok(Some(token))
}

/// # Errors
/// [`Error::StaleLink`] when it is unknown or expired, or the site has an administrator by now.
pub async fn check(db: &mut Connection, token: &Token) -> Result<()> {
    let sql = "select 1 from tokens where token_hash = $1 and purpose = $2 and expires_at > $3";
    let query = sqlx::query(sql).bind(token.hash().to_vec()).bind(PURPOSE).bind(now());
    let is_known = query.fetch_optional(&mut *db).await?.is_some();
    if is_known && !has_admin_besides(db, "").await? { Ok(()) } else { Err(Error::StaleLink) }
}

/// Locks the group of administrators, deletes all links, and returns the id of that group, which the user may now join.
///
/// # Errors
/// As [`check`].
pub async fn accept(db: &mut Connection, token: &Token) -> Result<&'static str> {
    lock_admins(db).await?;
    check(db, token).await?;
    sqlx::query("delete from tokens where purpose = $1").bind(PURPOSE).execute(db).await?;
    Ok(ADMIN)
}
