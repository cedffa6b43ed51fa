//! Users. Other tables refer to a user's id, which never changes.

use super::client::Client;
use super::event::{self, Cause, Event, NewEvent};
use super::permission;
use crate::base::{Error, Result};
use crate::db::rate_limit::{self, Key};
use crate::db::{Connection, DbRow, new_id, now};
use sqlx::{FromRow, Row};
use std::fmt;
use std::time::Duration;

pub const SIGNED_UP: Event = Event::named("signed_up", "Signed up");
pub const USERNAME_CHANGED: Event = Event::named("username_changed", "Username changed")
    .with_notice("Your username was changed", "Nobody else can take your old name for a while.");
pub const DELETED: Event = Event::named("deleted", "Account deleted");
pub const DELETED_BY_ADMIN: Event =
    Event::named("deleted_by_admin", "An administrator deleted the account").caused_by(Cause::Administrator);

/// A user. As an argument of a handler: the user who is logged in.
#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub username: String,
}

/// From the columns `user_id` and `username`.
impl FromRow<'_, DbRow> for User {
    fn from_row(row: &DbRow) -> sqlx::Result<User> {
        Ok(User { id: row.try_get("user_id")?, username: row.try_get("username")? })
    }
}

/// A username, as in the address of a profile: 1 to 20 of `0-9a-z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

/// Names that could be mistaken for the operators of the site (RFC 2142 has the mailbox names).
const RESERVED: [&str; 10] =
    ["admin", "administrator", "root", "support", "security", "postmaster", "webmaster", "abuse", "system", "latchkey"];

impl Username {
    pub const MAX_LENGTH: usize = 20;

    /// # Errors
    /// The sentence to show beside the field.
    pub fn parse(text: &str) -> Result<Username, String> {
        let name = text.to_ascii_lowercase();
        if name.is_empty() {
            return Err("Please choose a username.".into());
        }
        if !name.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            return Err("A username can only have letters from a to z and digits, without spaces.".into());
        }
        if name.len() > Username::MAX_LENGTH {
            return Err(format!("A username can have at most {} characters.", Username::MAX_LENGTH));
        }
        Ok(Username(name))
    }

    /// Rejects names that could be mistaken for the operators, including the site's name.
    ///
    /// # Errors
    /// The sentence to show beside the field.
    pub fn unreserved(self, site_name: &str) -> Result<Username, String> {
        let site_name = site_name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        if RESERVED.contains(&&*self.0) || self.0 == site_name {
            return Err("This name is reserved for the people who run this site. Please choose another.".into());
        }
        Ok(self)
    }

    /// The message to show next to the field when the name is taken.
    pub fn taken(&self) -> String {
        format!("The name {self} is taken. Please choose another.")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Creates a user and returns the id. `None` if the name is taken or reserved: the unique index decides, so of two
/// simultaneous requests only one gets it.
pub async fn create(db: &mut Connection, username: &Username, client: &Client) -> Result<Option<String>> {
    let id = new_id();
    Ok(create_with_id(db, &id, username, client).await?.then_some(id))
}

/// Like [`create`], with an id that was needed before the account exists. Returns whether the name was free.
pub async fn create_with_id(db: &mut Connection, id: &str, username: &Username, client: &Client) -> Result<bool> {
    let sql = "insert into users (id, username, created_at) values ($1, $2, $3) on conflict (username) do nothing";
    let created = sqlx::query(sql).bind(id).bind(username.as_str()).bind(now()).execute(&mut *db).await?;
    if created.rows_affected() == 0 {
        return Ok(false);
    }
    // Checked now, because the insert may have waited for a user who was giving the name up.
    if is_reserved(db, username.as_str(), id).await? {
        sqlx::query("delete from users where id = $1").bind(id).execute(db).await?;
        return Ok(false);
    }
    event::record(db, id, SIGNED_UP.by(client)).await?;
    Ok(true)
}

/// Whether nobody has this name, and nobody has given it up a short while ago. Only [`create`] decides.
pub async fn is_free(db: &mut Connection, username: &Username) -> Result<bool> {
    let sql = "select count(*) from users where username = $1";
    let users: i64 = sqlx::query_scalar(sql).bind(username.as_str()).fetch_one(&mut *db).await?;
    Ok(users == 0 && !is_reserved(db, username.as_str(), "").await?)
}

/// The user with this name, if allowed to log in.
pub async fn find(db: &mut Connection, username: &Username) -> Result<Option<User>> {
    let sql = "select id as user_id, username from users where username = $1 and disabled_at is null";
    Ok(sqlx::query_as(sql).bind(username.as_str()).fetch_optional(db).await?)
}

/// Locks the user's row until the transaction ends. Log-ins, changes and the deletion of a user start with this, so
/// they take turns. `None` if there is no such user, or the user is disabled.
pub async fn lock(db: &mut Connection, user_id: &str) -> Result<Option<User>> {
    let sql = "update users set id = id where id = $1 and disabled_at is null returning id as user_id, username";
    Ok(sqlx::query_as(sql).bind(user_id).fetch_optional(db).await?)
}

/// Changes a user's name, and reserves the old one for a while. Returns whether the new name was free.
pub async fn rename(
    db: &mut Connection,
    user_id: &str,
    name: &Username,
    reserved_for: Duration,
    client: &Client,
) -> Result<bool> {
    // The current name: another request may have changed it since this one was authorized.
    let User { username: old, .. } = lock(db, user_id).await?.ok_or(Error::NOT_FOUND)?;
    // Does not wait for a name that is taken: two users who want each other's names would deadlock.
    let sql = "update users set username = $1 where id = $2 \
               and not exists (select 1 from users u where u.username = $1)";
    let renamed = sqlx::query(sql).bind(name.as_str()).bind(user_id).execute(&mut *db).await;
    match renamed {
        Ok(renamed) if renamed.rows_affected() > 0 => {}
        Ok(_) => return Ok(false),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if is_reserved(db, name.as_str(), user_id).await? {
        sqlx::query(sql).bind(&*old).bind(user_id).execute(db).await?;
        return Ok(false);
    }
    rate_limit::block(db, &reservation(&old), user_id, reserved_for).await?;
    event::record(db, user_id, USERNAME_CHANGED.by(client)).await?;
    Ok(true)
}

/// An old name is reserved for its former owner, so that nobody else takes over links and reputation.
fn reservation(name: &str) -> Key {
    Key::new("name", name)
}

async fn is_reserved(db: &mut Connection, name: &str, user_id: &str) -> Result<bool> {
    rate_limit::is_blocked(db, &reservation(name), user_id).await
}

/// Deletes a user and, through foreign keys, everything that belongs to them, and reserves the name. Events are kept,
/// without anything that identifies the user.
///
/// # Errors
/// [`Error::LastAdmin`] when the site would be left without an administrator; [`Error::NOT_FOUND`] without such a user.
pub async fn delete(
    db: &mut Connection,
    user_id: &str,
    reserved_for: Duration,
    deleted_by: NewEvent<'_>,
) -> Result<()> {
    permission::keep_another_admin(db, user_id).await?;
    // First, so that events that others were about to record exist when they are anonymized.
    let sql = "delete from users where id = $1 returning username";
    let deleted: Option<String> = sqlx::query_scalar(sql).bind(user_id).fetch_optional(&mut *db).await?;
    let username = deleted.ok_or(Error::NOT_FOUND)?;
    rate_limit::reset_user(db, user_id).await?;
    rate_limit::block(db, &reservation(&username), user_id, reserved_for).await?;
    event::record(db, user_id, deleted_by).await?;
    event::anonymize(db, user_id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_anything_but_letters_and_digits_is_refused() {
        assert_eq!(Username::parse("Ada1815").unwrap().as_str(), "ada1815");
        assert!(Username::parse(&"a".repeat(20)).is_ok());
        for wrong in ["", " ada", "ada ", "a b", "Zoë", "a-b", "a\0", "ﬁ", "İ", "ada\n", &"a".repeat(21)] {
            assert!(Username::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_people_who_run_the_site_are_refused() {
        for name in ["Admin", "root", "postmaster", "latchkey", "acmecorp"] {
            assert!(Username::parse(name).unwrap().unreserved("Acme Corp").is_err(), "{name}");
        }
        assert!(Username::parse("adminton").unwrap().unreserved("Acme Corp").is_ok());
    }
}
