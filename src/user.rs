//! Users. A user is an id that never changes; everything else about them, the name included,
//! may, so other tables refer to the id.

use crate::auth::User;
use crate::database::{BEHIND_ALL_IDS, Connection, new_id, now};
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::guard::Client;
use crate::throttle::{self, Key};
use std::fmt;
use std::time::Duration;

/// A name as people have it in addresses: 1 to 20 of `0-9a-z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

/// Names that could pass for the people who run the site (RFC 2142 has the mailbox names).
const RESERVED: [&str; 10] = [
    "admin",
    "administrator",
    "root",
    "support",
    "security",
    "postmaster",
    "webmaster",
    "abuse",
    "system",
    "latchkey",
];

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
            return Err("A username has only letters from a to z and digits, without spaces.".into());
        }
        if name.len() > Username::MAX_LENGTH {
            return Err(format!("A username has at most {} characters.", Username::MAX_LENGTH));
        }
        Ok(Username(name))
    }

    /// Refuses the names that would pass for those who run the site, its own among them.
    ///
    /// # Errors
    /// The sentence to show beside the field.
    pub fn unreserved(self, site_name: &str) -> Result<Username, String> {
        let site_name = site_name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        if RESERVED.contains(&&*self.0) || self.0 == site_name {
            return Err("This name is kept for the people who run this site. Please choose another.".into());
        }
        Ok(self)
    }

    /// What to say beside the field when somebody has it.
    pub fn is_taken(&self) -> String {
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

/// Makes a user. `None` when somebody has the name or gave it up lately: the unique index decides, so two who ask at
/// once cannot both have it.
pub async fn create(db: &mut Connection, username: &Username, client: &Client) -> Result<Option<String>> {
    let id = new_id();
    Ok(create_as(db, &id, username, client).await?.then_some(id))
}

/// As [`create`], for whoever had to know the id before. Answers whether the name could be had.
pub async fn create_as(db: &mut Connection, id: &str, username: &Username, client: &Client) -> Result<bool> {
    let sql =
        "insert into users (id, username, created_at) values ($1, $2, $3) on conflict (username) do nothing";
    let made = sqlx::query(sql).bind(id).bind(username.as_str()).bind(now()).execute(&mut *db).await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    // Asked now, because the insert may have waited for whoever was giving the name up.
    if rests(db, username.as_str()).await? {
        sqlx::query("delete from users where id = $1").bind(id).execute(db).await?;
        return Ok(false);
    }
    event::record(db, id, Event::SignedUp, client).await?;
    Ok(true)
}

/// Takes the user's row, so that this and whatever else begins like this follow one another: log-ins, changes and the
/// deletion of one user. Answers whether there is such a user and they may log in.
pub async fn lock(db: &mut Connection, user_id: &str) -> Result<bool> {
    Ok(lock_named(db, user_id).await?.is_some())
}

/// As [`lock`], and answers the name.
pub async fn lock_named(db: &mut Connection, user_id: &str) -> Result<Option<String>> {
    let sql = "update users set id = id where id = $1 and disabled_at is null returning username";
    let row: Option<(String,)> = sqlx::query_as(sql).bind(user_id).fetch_optional(db).await?;
    Ok(row.map(|(username,)| username))
}

/// Gives a user another name; the old one rests. Answers whether it could be had.
pub async fn rename(
    db: &mut Connection,
    user: &User,
    name: &Username,
    rest: Duration,
    client: &Client,
) -> Result<bool> {
    if !lock(db, &user.id).await? {
        return Err(Error::NOT_FOUND);
    }
    // As it is now: another request may have changed it since this one was let in.
    let sql = "select username from users where id = $1";
    let (old,): (String,) = sqlx::query_as(sql).bind(&*user.id).fetch_one(&mut *db).await?;
    // A name that somebody has is not waited for: two who want each other's would wait for ever.
    let sql = "update users set username = $1 where id = $2 \
               and not exists (select 1 from users u where u.username = $1)";
    let renamed = sqlx::query(sql).bind(name.as_str()).bind(&*user.id).execute(&mut *db).await;
    match renamed {
        Ok(renamed) if renamed.rows_affected() > 0 => {}
        Ok(_) => return Ok(false),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if rests(db, name.as_str()).await? {
        sqlx::query(sql).bind(&*old).bind(&*user.id).execute(db).await?;
        return Ok(false);
    }
    throttle::block(db, &resting(&old), rest).await?;
    event::record(db, &*user.id, Event::UsernameChanged, client).await?;
    Ok(true)
}

/// A name that was given up rests, so that nobody takes somebody else's place in links and memories.
fn resting(name: &str) -> Key {
    Key::new("name", name)
}

async fn rests(db: &mut Connection, name: &str) -> Result<bool> {
    throttle::is_blocked(db, &resting(name)).await
}

/// Deletes a user and, by the foreign keys, every row that is theirs; the name rests. What happened stays, without anything
/// that tells who they were.
pub async fn delete(db: &mut Connection, user_id: &str, rest: Duration, client: &Client) -> Result<()> {
    // First, so that what others were about to record of this user is there to be forgotten.
    let sql = "delete from users where id = $1 returning username";
    let gone: Option<(String,)> = sqlx::query_as(sql).bind(user_id).fetch_optional(&mut *db).await?;
    let (username,) = gone.ok_or(Error::NOT_FOUND)?;
    throttle::forget_user(db, user_id).await?;
    throttle::block(db, &resting(&username), rest).await?;
    event::record(db, user_id, Event::Deleted, client).await?;
    event::forget_details(db, user_id).await
}

/// Somebody as other people see them.
#[derive(Debug, serde::Serialize)]
pub struct Member {
    pub id: String,
    pub username: String,
    pub created_at: i64,
}

/// The users who came before `after`, newest first.
pub async fn members(db: &mut Connection, after: Option<&str>, most: i64) -> Result<Vec<Member>> {
    let after = after.unwrap_or(BEHIND_ALL_IDS);
    let sql = "select id, username, created_at from users where id < $1 and disabled_at is null order by id desc limit $2";
    let found: Vec<(String, String, i64)> = sqlx::query_as(sql).bind(after).bind(most).fetch_all(db).await?;
    let member = |(id, username, created_at)| Member { id, username, created_at };
    Ok(found.into_iter().map(member).collect())
}

pub async fn member(db: &mut Connection, username: &Username) -> Result<Option<Member>> {
    let sql = "select id, username, created_at from users where username = $1 and disabled_at is null";
    let found: Option<(String, String, i64)> =
        sqlx::query_as(sql).bind(username.as_str()).fetch_optional(db).await?;
    Ok(found.map(|(id, username, created_at)| Member { id, username, created_at }))
}

pub async fn count(db: &mut Connection) -> Result<i64> {
    let (users,): (i64,) = sqlx::query_as("select count(*) from users").fetch_one(db).await?;
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_anything_but_letters_and_digits_is_refused() {
        assert_eq!(Username::parse("Ada1815").unwrap().as_str(), "ada1815");
        assert!(Username::parse(&"a".repeat(20)).is_ok());
        for wrong in ["", " ada", "ada ", "a b", "Zoë", "a-b", "a\0", "ﬁ", "İ", "ada\n", &"a".repeat(21)]
        {
            assert!(Username::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_of_those_who_run_the_site_are_refused() {
        for name in ["Admin", "root", "postmaster", "latchkey", "acmecorp"] {
            assert!(Username::parse(name).unwrap().unreserved("Acme Corp").is_err(), "{name}");
        }
        assert!(Username::parse("adminton").unwrap().unreserved("Acme Corp").is_ok());
    }
}
