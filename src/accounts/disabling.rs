//! Disables and enables accounts. Nothing that belongs to a disabled user works, and what was ended stays so afterwards.

use super::event::{self, Cause, Event};
use super::session::lifecycle;
use super::{actor::Actor, permission, user::User};
use crate::base::{Error, Result};
use crate::db::{Connection, now};
use crate::mail::outbox;

pub const DISABLED: Event = Event::named("disabled", "An administrator disabled your account")
    .caused_by(Cause::Administrator)
    .with_notice(
        "Your account was disabled",
        "An administrator disabled it. You cannot log in, and what was logged in is logged out.",
    )
    .reaching_disabled_users();
pub const ENABLED: Event = Event::named("enabled", "An administrator enabled your account again")
    .caused_by(Cause::Administrator)
    .with_notice("Your account was enabled again", "An administrator enabled it. You can log in as before.");

/// A user, disabled or not. Locks the row as [`super::user::lock`] does.
pub async fn lock_any(db: &mut Connection, user_id: &str) -> Result<Option<User>> {
    let sql = "update users set id = id where id = $1 returning id as user_id, username";
    Ok(sqlx::query_as(sql).bind(user_id).fetch_optional(db).await?)
}

/// Shuts a user out: ends sessions, links and everything else that could let somebody in, and cancels mails that wait.
/// Returns whether the user was not disabled before.
///
/// # Errors
/// [`Error::LastAdmin`] when the site would be left without an administrator; [`Error::NOT_FOUND`] without such a user.
pub async fn disable(db: &mut Connection, user_id: &str, actor: &Actor) -> Result<bool> {
    permission::keep_another_admin(db, user_id).await?;
    lock_any(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "update users set disabled_at = $2 where id = $1 and disabled_at is null";
    if sqlx::query(sql).bind(user_id).bind(now()).execute(&mut *db).await?.rows_affected() == 0 {
        return Ok(false);
    }
    lifecycle::revoke_all(db, user_id).await?;
    sqlx::query("delete from tokens where user_id = $1").bind(user_id).execute(&mut *db).await?;
    outbox::cancel_all(db, user_id).await?;
    event::record(db, user_id, DISABLED.by_actor(actor)).await?;
    Ok(true)
}

/// Lets a user in again. Returns whether the user was disabled.
///
/// # Errors
/// [`Error::NOT_FOUND`] without such a user.
pub async fn enable(db: &mut Connection, user_id: &str, actor: &Actor) -> Result<bool> {
    lock_any(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
    let sql = "update users set disabled_at = null where id = $1 and disabled_at is not null";
    if sqlx::query(sql).bind(user_id).execute(&mut *db).await?.rows_affected() == 0 {
        return Ok(false);
    }
    event::record(db, user_id, ENABLED.by_actor(actor)).await?;
    Ok(true)
}
